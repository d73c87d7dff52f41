from __future__ import annotations

from tests.demo.objects import condition, held, lease, over, pool

from leasehold.api.names import LeaseCondition as C
from leasehold.api.names import LeaseReason as R
from leasehold.core.times import parse_time
from leasehold.demo import checks


def test_granted_counts_nodes() -> None:
    assert checks.granted(nodes=2).holds(held(nodes=("a", "b")))
    assert not checks.granted(nodes=2).holds(held(nodes=("a", "a")))
    assert not checks.granted().holds(lease())
    assert checks.granted_on("a").holds(held(nodes=("a",)))
    assert not checks.granted_on("a").holds(held(nodes=("b",)))


def test_waiting_for_capacity_must_say_how_much_is_missing() -> None:
    check = checks.waiting(R.WAITING_FOR_CAPACITY)
    said = condition("Ready", "False", "WaitingForCapacity")
    assert not check.holds(lease("x", said))
    assert not check.holds(held())
    assert check.holds(lease("x", said, rejections=[{"reason": "Insufficient", "shortBy": "1"}]))
    assert checks.waiting(R.BLOCKED_BY_HEAD).holds(lease("x", condition("Ready", "False", "BlockedByHead")))


def test_finished_wants_the_word_the_cause_and_a_release() -> None:
    check = checks.finished(R.EXPIRED, R.TERM_ENDED)
    deadlines = {"expirationTime": "2026-11-22T12:00:10Z"}
    assert check.holds(over(deadlines=deadlines))
    assert not check.holds(held())
    assert not checks.finished(R.REVOKED, R.NODE_LOST).holds(over(deadlines=deadlines))


def test_an_early_end_is_no_end() -> None:
    check = checks.finished(R.EXPIRED, R.TERM_ENDED)
    assert not check.holds(over(deadlines={"expirationTime": "2026-11-22T12:00:11Z"}))


def test_renewed_wants_a_later_end() -> None:
    beyond = parse_time("2026-11-22T12:00:00Z")
    live = held(renewal={"count": 2}, deadlines={"expirationTime": "2026-11-22T12:00:01Z"})
    assert checks.renewed(2, beyond).holds(live)
    assert not checks.renewed(3, beyond).holds(live)
    assert not checks.renewed(2, beyond + 1000).holds(live)


def test_a_condition_is_known_by_its_reason() -> None:
    late = held("x", condition("ExpiringSoon", "True", "Expiration"))
    assert checks.condition_is(C.EXPIRING_SOON, R.EXPIRATION).holds(late)
    assert not checks.condition_is(C.EXPIRING_SOON, R.EXPIRATION).holds(held())


def test_pools_are_checked_against_the_sum_of_their_leases() -> None:
    assert checks.serving(nodes=1).holds(pool())
    assert checks.allocated("cpu", "2").holds(pool())
    assert not checks.allocated("gpu", "2").holds(pool())
    other = held("other", spec={"poolRef": {"name": "gpu"}})
    assert checks.balanced([held(), over("old"), lease("new"), other]).holds(pool())
    assert not checks.balanced([held(), held("second")]).holds(pool())
    assert not checks.balanced([held()]).holds(pool(allocated="3"))


def test_a_report_is_known_by_its_writer_and_its_cores() -> None:
    check = checks.reported_by("1.0", "4")
    assert check.holds({"status": {"agentVersion": "1.0", "capacity": {"cpu": "4"}}})
    assert not check.holds({"status": {"agentVersion": "simulated", "capacity": {"cpu": "4"}}})
    assert not check.holds({})


def test_a_failed_expectation_says_what_the_object_says() -> None:
    said = lease("x", condition("Ready", "False", "PoolNotFound", "No such pool."))
    assert checks.in_words(said) == "Ready=False PoolNotFound (No such pool.)"
    assert checks.in_words(lease()) == "its status says nothing yet"
    assert checks.in_words(None) == "there is no such object"
