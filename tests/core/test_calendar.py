from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import at, make_node, make_pool, make_request, make_table, span

from leasehold.core.calendar import Calendar, Held, Outlook, Promise, Slot, later, total_of
from leasehold.core.capacity import NodeTable
from leasehold.core.request import NEVER, Request

GIB = 1 << 30


def slices(*nodes: str, cpu: int = 4) -> tuple[tuple[str, tuple[int, int]], ...]:
    return tuple((node, (cpu * 1000, GIB)) for node in nodes)


def table_of(*names: str) -> NodeTable:
    """Nodes of 16 cpu, filled from the first on."""
    nodes = [make_node(name, labels={"zone": name}) for name in names or ("node-1",)]
    return make_table(make_pool(strategy="FirstFit"), nodes)


def outlook_of(
    table: NodeTable, held: dict[str, Held] | None = None, promises: tuple[Promise, ...] = ()
) -> Outlook:
    calendar = Calendar()
    scratch = table.scratch()
    for uid, one in (held or {}).items():
        calendar.hold(uid, one)
        for node, amounts in one.slices:
            if node in table.index:
                scratch.take(table.index[node], amounts)
    for promise in promises:
        calendar.promise(promise)
    return Outlook(scratch, calendar, at())


def earliest(outlook: Outlook, request: Request, after: int | None = None) -> Slot | None:
    allowed = outlook.scratch.table.selected(request.shape.node_selector)
    return outlook.earliest(request.shape, at() if after is None else after, allowed)


# --- what is known ---


def test_a_renewal_moves_an_end_and_nothing_else() -> None:
    calendar = Calendar()
    calendar.hold("a", Held(at("1h"), slices("n")))
    calendar.hold("b", Held(at("2h"), slices("n", "n")))
    calendar.hold("a", Held(at("3h"), slices("n")))
    assert calendar.ends == [(at("2h"), "b"), (at("3h"), "a")]
    assert calendar.on_node == {"n": {"a", "b"}}


def test_what_is_dropped_leaves_no_trace_and_may_be_dropped_twice() -> None:
    calendar = Calendar()
    calendar.hold("a", Held(NEVER, slices("n", "m")))
    calendar.promise(Promise("p", at("1h"), at("2h"), slices("n")))
    calendar.unpromise("p")
    calendar.unpromise("p")
    assert calendar.drop("a") == Held(NEVER, slices("n", "m"))
    assert calendar.drop("a") is None
    assert (calendar.held, calendar.ends, calendar.on_node, calendar.promises) == ({}, [], {}, {})


HELDS = st.builds(
    lambda until, nodes: Held(until, slices(*nodes)),
    st.sampled_from([5, 5, 7, 9, NEVER]),
    st.lists(st.sampled_from("xyz"), max_size=3),
)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.one_of(st.none(), HELDS)), max_size=30))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_a_calendar_kept_change_by_change_is_the_one_built_anew(
    changes: list[tuple[str, Held | None]],
) -> None:
    calendar = Calendar()
    known: dict[str, Held] = {}
    for uid, held in changes:
        if held is None:
            assert calendar.drop(uid) == known.pop(uid, None)
        else:
            calendar.hold(uid, held)
            known[uid] = held
    fresh = Calendar()
    for uid in sorted(known):
        fresh.hold(uid, known[uid])
    for kept in (calendar, calendar.copy()):
        assert (kept.held, kept.ends, kept.on_node) == (fresh.held, fresh.ends, fresh.on_node)


# --- the earliest start ---


def test_a_request_starts_as_soon_as_enough_of_one_node_is_free() -> None:
    held = {
        "short": Held(at("1h"), slices("node-1", cpu=6)),
        "long": Held(at("2h"), slices("node-1", cpu=6)),
    }
    outlook = outlook_of(table_of(), held)
    for cpu, start in (("4", ""), ("10", "1h"), ("16", "2h")):
        slot = earliest(outlook, make_request(cpu=cpu))
        assert slot is not None
        assert (slot.start, slot.nodes) == (at(start), (0,))
    assert earliest(outlook, make_request(cpu="17")) is None


def test_a_free_node_that_never_changes_is_seen_for_a_later_start() -> None:
    slot = earliest(outlook_of(table_of()), make_request(cpu="16"), at("1h"))
    assert slot is not None
    assert slot.start == at("1h")


def test_what_should_have_ended_is_expected_at_any_moment() -> None:
    outlook = outlook_of(table_of(), {"late": Held(at("-1h"), slices("node-1", cpu=16))})
    slot = earliest(outlook, make_request(cpu="16"))
    assert slot is not None
    assert slot.start == at() + 1


def test_a_node_that_left_gives_nothing_back() -> None:
    outlook = outlook_of(
        table_of(),
        {"there": Held(NEVER, slices("node-1", cpu=16)), "gone": Held(at("1h"), slices("node-9", cpu=16))},
    )
    assert earliest(outlook, make_request()) is None


def test_a_closed_node_gives_nothing_back() -> None:
    table = make_table(make_pool(), [make_node(cordoned=True)])
    outlook = outlook_of(table, {"on it": Held(at("1h"), slices("node-1"))})
    assert earliest(outlook, make_request(cpu="1")) is None


def test_one_slice_that_wants_a_domain_waits_for_a_node_that_is_in_one() -> None:
    table = make_table(make_pool(), [make_node("a"), make_node("b", labels={"rack": "1"})])
    held = {"a": Held(at("1h"), slices("a", cpu=16)), "b": Held(at("2h"), slices("b", cpu=16))}
    request = make_request(cpu="16", mode="SameDomain", topology_key="rack")
    slot = outlook_of(table, held).earliest(request.shape, at(), None, missed=True)
    assert slot is not None
    assert (slot.start, slot.nodes) == (at("2h"), (1,))


# --- promised room ---


def test_a_slot_between_two_promises_is_found_if_it_is_long_enough() -> None:
    kept = (
        Promise("p", at("1h"), at("2h"), slices("node-1", cpu=16)),
        Promise("q", at("3h"), at("4h"), slices("node-1", cpu=16)),
    )
    outlook = outlook_of(table_of(), promises=kept)
    for length, after, start in (
        ("1h", "", ""),
        ("1h", "1m", "2h"),
        ("61m", "", "4h"),
        ("for ever", "", "4h"),
    ):
        slot = earliest(outlook, make_request(cpu="1", span=length), at(after))
        assert slot is not None
        assert slot.start == at(start), (length, after)


def test_several_promises_on_one_node_leave_the_rest_of_it() -> None:
    kept = tuple(Promise(uid, at("1h"), NEVER, slices("node-1", cpu=4)) for uid in "pqr")
    outlook = outlook_of(table_of(), promises=kept)
    assert earliest(outlook, make_request(cpu="4", span="for ever")) is not None
    assert earliest(outlook, make_request(cpu="5", span="for ever")) is None


def test_who_gives_way_leaves_the_others_guarded() -> None:
    kept = (
        Promise("p", at("1h"), at("2h"), slices("node-1", cpu=8)),
        Promise("q", at("1h"), at("2h"), slices("node-1", cpu=8)),
    )
    outlook = outlook_of(table_of(), promises=kept)
    need = (8000, GIB)
    assert not outlook.scratch.fits_on(0, need, at("90m"))
    assert outlook.give_way("p") == kept[0]
    assert outlook.scratch.fits_on(0, need, at("90m"))
    assert not outlook.scratch.fits_on(0, (9000, GIB), at("90m"))
    outlook.keep(kept[0])
    assert not outlook.scratch.fits_on(0, need, at("90m"))
    assert outlook.give_way("nobody") is None


def test_a_promise_that_is_overdue_still_guards_its_room() -> None:
    outlook = outlook_of(table_of(), promises=(Promise("p", at("-2h"), at("-1h"), slices("node-1", cpu=16)),))
    assert not outlook.scratch.fits_on(0, (1000, GIB), at("1m"))


def test_a_later_slot_of_the_same_request_takes_the_place_of_the_earlier() -> None:
    outlook = outlook_of(table_of("a", "b"))
    shape = make_request(cpu="16", span="1h").shape
    outlook.keep_slot("r", Slot(at("1h"), (0,), {0: [16_000, 64 * GIB]}), shape)
    outlook.keep_slot("r", Slot(at("1h"), (1,), {1: [16_000, 64 * GIB]}), shape)
    assert outlook.scratch.fits_on(0, (16_000, GIB), NEVER)
    assert not outlook.scratch.fits_on(1, (1000, GIB), NEVER)


# --- how long a start may stay ---


def start_beside_a_promise(
    outlook: Outlook, cpu: int, length: str, nodes: tuple[int, ...] = (0,)
) -> int | None:
    need, until = (cpu * 1000, GIB), later(at(), span(length))
    for i in nodes:
        outlook.scratch.take(i, need, until)
    outlook.start("new", nodes, need, until)
    return outlook.limit_of(nodes, need, until)


def test_a_start_that_must_be_gone_by_a_promise_may_not_stay_longer() -> None:
    kept = (Promise("p", at("1h"), at("2h"), slices("node-1", cpu=14)),)
    assert start_beside_a_promise(outlook_of(table_of(), promises=kept), 4, "1h") == at("1h")


def test_a_start_that_fits_beside_a_promise_may_stay() -> None:
    kept = (Promise("p", at("1h"), at("2h"), slices("node-1", cpu=10)),)
    for length in ("30m", "3h"):
        assert start_beside_a_promise(outlook_of(table_of(), promises=kept), 4, length) is None


def test_two_slices_on_one_node_are_in_the_way_together() -> None:
    kept = (Promise("p", at("1h"), at("2h"), slices("node-1", cpu=10)),)
    outlook = outlook_of(table_of(), promises=kept)
    assert start_beside_a_promise(outlook, 4, "1h", (0, 0)) == at("1h")


def test_victims_that_were_asked_in_this_pass_are_expected_to_leave() -> None:
    outlook = outlook_of(table_of(), {"victim": Held(at("9h"), slices("node-1", cpu=16))})
    outlook.ask(["victim"], at("1m"))
    slot = earliest(outlook, make_request(cpu="16"))
    assert slot is not None
    assert slot.start == at("1m")
    assert outlook.calendar.held["victim"].until == at("9h"), "the calendar is not touched"


def test_never_stays_never() -> None:
    assert later(at(), NEVER) == NEVER
    assert later(NEVER, 1) == NEVER
    assert total_of(slices("a", "b"), 2) == (8000, 2 * GIB)
