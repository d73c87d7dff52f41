from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import make_request

from leasehold.core.queue import Queue
from leasehold.core.request import Request, Shape


def queue_of(*requests: Request) -> Queue:
    queue = Queue()
    for request in requests:
        queue.add(request)
    return queue


def order(queue: Queue) -> list[str]:
    return [request.uid for request in queue]


def test_higher_priority_comes_first_then_age() -> None:
    old, young = make_request("old", age="2h"), make_request("young", age="1m")
    urgent = make_request("urgent", age="1s", priority=5)
    queue = queue_of(young, urgent, old)
    assert order(queue) == ["urgent", "old", "young"]
    assert [queue.position(uid) for uid in order(queue)] == [0, 1, 2]


def test_requests_of_one_shape_stand_together_and_others_apart() -> None:
    queue = queue_of(make_request("a"), make_request("b"), make_request("c", cpu="4"))
    assert queue.group_of("a") is queue.group_of("b")
    assert queue.group_of("a") is not queue.group_of("c")
    assert len(list(queue.groups())) == 2


def test_an_edited_request_moves_to_the_group_of_what_it_asks_for_now() -> None:
    queue = queue_of(make_request("a"), make_request("b"))
    queue.add(make_request("a", cpu="4"))
    assert [uid for _, uid in queue.group_of("b").items] == ["b"]
    assert [uid for _, uid in queue.group_of("a").items] == ["a"]
    assert len(queue) == 2


def test_who_leaves_is_gone_everywhere_and_may_leave_twice() -> None:
    queue = queue_of(make_request("a", tenant="red"))
    queue.remove("a")
    queue.remove("a")
    assert "a" not in queue
    assert (queue.order, queue.requests, queue.tenants, queue.untold) == ([], {}, {}, {})


def test_of_each_crowd_the_last_go_without_a_place() -> None:
    loud = [make_request(f"l{i}")._replace(crowd="loud") for i in range(5)]
    quiet = [make_request("q", priority=-9)._replace(crowd="quiet")]
    queue = queue_of(*loud, *quiet)
    assert sorted(queue.without_place(3)) == ["l2", "l3", "l4"]
    assert sorted(queue.copy().without_place(3)) == ["l2", "l3", "l4"]
    assert queue.without_place(6) == []
    for request in loud:
        queue.remove(request.uid)
    assert queue.without_place(1) == []


def test_who_was_told_hears_again_when_what_its_group_waits_for_changes() -> None:
    queue = queue_of(make_request("a"), make_request("b"))
    queue.told("a")
    assert queue.group_of("a").untold == {"b"}
    queue.told("b")
    assert queue.untold == {}
    queue.retell_group(queue.group_of("a"))
    assert queue.group_of("a").untold == {"a", "b"}
    assert list(queue.untold) == [queue.group_of("a").shape]


def test_a_copy_can_be_played_with() -> None:
    queue = queue_of(make_request("a"), make_request("b"))
    played = queue.copy()
    played.remove("a")
    played.add(make_request("c"))
    assert sorted(order(queue)) == ["a", "b"]
    assert sorted(order(played)) == ["b", "c"]
    assert [uid for _, uid in queue.group_of("a").items] == ["a", "b"]


REQUESTS = st.builds(
    lambda i, turn, tenant, cpu: Request(f"r{i}", (turn, i), Shape(tenant, (cpu,))),
    st.integers(0, 6),
    st.integers(0, 3),
    st.sampled_from(["red", "blue"]),
    st.integers(1, 2),
)


@given(st.lists(st.tuples(REQUESTS, st.booleans()), max_size=30))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_after_any_changes_the_queue_is_that_of_those_who_wait(changes: list[tuple[Request, bool]]) -> None:
    queue = Queue()
    waiting: dict[str, Request] = {}
    for request, comes in changes:
        if comes:
            queue.add(request)
            waiting[request.uid] = request
        else:
            queue.remove(request.uid)
            waiting.pop(request.uid, None)
    fresh = queue_of(*waiting.values())
    assert (queue.order, queue.requests) == (fresh.order, fresh.requests)
    assert {g.shape: g.items for g in queue.groups()} == {g.shape: g.items for g in fresh.groups()}
    assert {shape: g.untold for shape, g in queue.untold.items()} == {
        shape: g.untold for shape, g in fresh.untold.items()
    }
