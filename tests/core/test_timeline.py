from tests.builders import at, make_node, make_pool, make_request, make_timeline, span

from leasehold.core.request import NEVER
from leasehold.core.timeline import Head, Moment, Timeline


def started(moment: Moment) -> list[str]:
    return [start.uid for start in moment.starts]


def let_time_go(line: Timeline, until: str) -> dict[str, str]:
    """Let everybody leave when they must, and tell who starts when, in minutes after noon."""
    found = {}
    while True:
        known = [t for t in (line.next_end(), line.next_promise()) if t is not None and t > line.now]
        if not known or min(known) > at(until):
            return found
        line.now = min(known)
        for uid in line.due():
            line.end(uid)
        for uid in started(line.run(line.now)):
            found[uid] = f"{(line.now - at()) // 60_000}m"


def test_room_is_free_again_when_a_lease_ends_early() -> None:
    line = make_timeline()
    line.submit(make_request("long", cpu="16", span="2h"))
    line.submit(make_request("next", cpu="16", span="1h"))
    moment = line.run(at())
    assert started(moment) == ["long"]
    assert moment.head == Head("next", at("2h"))
    assert (line.held, line.waiting) == (1, 1)
    line.end("long")
    line.end("long")
    assert started(line.run(at("5m"))) == ["next"]
    assert line.next_end() == at("1h5m")


def test_a_small_lease_goes_ahead_only_if_it_is_gone_before_the_heads_turn() -> None:
    line = make_timeline()
    line.submit(make_request("runs", cpu="10", span="60m"))
    line.submit(make_request("head", cpu="16", span="60m"))
    line.submit(make_request("too long", cpu="4", span="61m"))
    line.submit(make_request("in time", cpu="4", span="60m"))
    moment = line.run(at())
    assert started(moment) == ["runs", "in time"]
    assert moment.head == Head("head", at("60m"))
    jumped = moment.starts[1]
    assert (jumped.until, jumped.not_after) == (at("60m"), at("60m")), "and may not stay longer by renewing"
    assert let_time_go(line, "3h") == {"head": "60m", "too long": "120m"}


def test_a_lease_that_leaves_the_heads_room_whole_may_stay_and_renew() -> None:
    line = make_timeline()
    line.submit(make_request("runs", cpu="10", span="60m"))
    line.submit(make_request("head", cpu="10", span="60m"))
    line.submit(make_request("beside", cpu="6", span="5h"))
    moment = line.run(at())
    assert started(moment) == ["runs", "beside"]
    assert moment.starts[1].not_after is None


def test_nobody_knows_when_what_never_ends_is_free() -> None:
    line = make_timeline()
    line.submit(make_request("for ever", cpu="10", span="for ever"))
    line.submit(make_request("head", cpu="16"))
    line.submit(make_request("behind", cpu="6", span="for ever"))
    moment = line.run(at())
    assert started(moment) == ["for ever", "behind"]
    assert moment.starts[0].until == NEVER
    assert moment.head == Head("head", None)
    assert line.next_end() is None


# --- promised starts ---


def test_an_empty_pool_promises_the_start_that_was_asked_for() -> None:
    line = make_timeline()
    line.submit(make_request("later", cpu="16", span="1h", not_before="2h"))
    assert line.run(at()).starts == []
    assert line.next_promise() == at("2h")
    assert let_time_go(line, "3h") == {"later": "120m"}
    assert line.next_promise() is None


def test_a_promise_is_kept_whoever_comes_meanwhile() -> None:
    line = make_timeline()
    line.submit(make_request("later", cpu="16", span="1h", not_before="1h"))
    line.run(at())
    line.submit(make_request("short", cpu="16", span="1h"))
    line.submit(make_request("long", cpu="1", span="61m", priority=9))
    assert started(line.run(at())) == ["short"], "what is gone by then may go first"
    assert let_time_go(line, "3h") == {"later": "60m", "long": "120m"}


def test_a_promise_that_was_late_is_kept_to_the_minute_even_if_room_comes_before() -> None:
    line = make_timeline()
    line.submit(make_request("runs", cpu="16", span="2h"))
    line.submit(make_request("later", cpu="16", not_before="1h"))
    line.run(at())
    assert line.next_promise() == at("2h")
    line.end("runs")
    assert started(line.run(at("90m"))) == []
    assert started(line.run(at("2h"))) == ["later"]


def test_promises_share_a_node_and_follow_each_other() -> None:
    line = make_timeline()
    for name, cpu in (("a", "8"), ("b", "8"), ("c", "8")):
        line.submit(make_request(name, cpu=cpu, span="1h", not_before="30m"))
    line.run(at())
    starts = {uid: promise.start for uid, promise in line.calendar.promises.items()}
    assert starts == {"a": at("30m"), "b": at("30m"), "c": at("90m")}
    assert let_time_go(line, "3h") == {"a": "30m", "b": "30m", "c": "90m"}


def test_a_tenant_leaves_room_within_its_limit_for_what_was_promised_to_it() -> None:
    policy = make_pool(queue="BestEffortFIFO", tenants=[{"name": "red", "limit": {"cpu": "4"}}])
    line = make_timeline(policy=policy)
    line.submit(make_request("later", cpu="4", span="1h", not_before="1h", tenant="red"))
    line.run(at())
    line.submit(make_request("long", cpu="2", span="2h", tenant="red"))
    line.submit(make_request("short", cpu="2", span="1h", tenant="red"))
    assert started(line.run(at())) == ["short"]
    assert let_time_go(line, "3h") == {"later": "60m", "long": "120m"}


def test_who_asks_for_something_else_has_lost_what_was_promised() -> None:
    line = make_timeline()
    line.submit(make_request("later", cpu="16", not_before="1h"))
    line.run(at())
    line.submit(make_request("later", cpu="2"))
    assert line.next_promise() is None
    assert started(line.run(at())) == ["later"]


# --- preemption ---


def test_a_victim_leaves_by_its_time_and_its_preemptor_starts_then() -> None:
    policy = make_pool(preemption={"withinTenant": "LowerPriority"}, gracePeriodSeconds=30)
    line = make_timeline(policy=policy)
    line.submit(make_request("low", cpu="16", span="1h"))
    line.run(at())
    line.submit(make_request("high", cpu="16", span="1h", priority=5))
    moment = line.run(at("1m"))
    assert moment.evictions == [("low", at("1m30s"))]
    assert moment.starts == []
    assert line.run(at("1m10s")).evictions == [], "nobody is asked twice"
    assert line.next_end() == at("1m30s")
    line.now = at("1m30s")
    for uid in line.due():
        line.end(uid)
    assert started(line.run(at("1m30s"))) == ["high"]


def test_a_preemptor_starts_as_soon_as_its_victims_are_gone() -> None:
    policy = make_pool(preemption={"withinTenant": "LowerPriority"}, gracePeriodSeconds=600)
    line = make_timeline(policy=policy)
    line.submit(make_request("low", cpu="16", span="1h"))
    line.run(at())
    line.submit(make_request("high", cpu="16", priority=5))
    line.run(at("1m"))
    line.submit(make_request("third", cpu="16", span="1m", priority=9))
    line.end("low")
    assert started(line.run(at("2m"))) == ["high"]


# --- several nodes ---


def test_a_lease_of_many_slices_waits_for_one_domain_to_have_them_all() -> None:
    nodes = [make_node(name, labels={"zone": zone}) for name, zone in (("a", "x"), ("b", "x"), ("c", "y"))]
    line = make_timeline(nodes)
    line.submit(make_request("x", cpu="16", node_selector={"zone": "x"}, span="30m"))
    line.submit(make_request("y", cpu="16", node_selector={"zone": "y"}, span="10m"))
    line.submit(
        make_request("together", cpu="16", slices=2, mode="SameDomain", topology_key="zone", span="1h")
    )
    moment = line.run(at())
    assert started(moment) == ["x", "y"]
    assert moment.head == Head("together", at("30m"))
    assert let_time_go(line, "2h") == {"together": "30m"}


def test_time_never_goes_back() -> None:
    line = make_timeline()
    line.run(at("10m"))
    line.submit(make_request("a", span="1h"))
    assert line.run(at("5m")).starts[0].until == at("10m") + span("1h")
