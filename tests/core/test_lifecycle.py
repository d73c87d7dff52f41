"""One lease's way through the state machine: each row of its table, and what tenants and clocks may do to it."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.builders import (
    GIB,
    NOON,
    at,
    clock,
    condition,
    edited,
    granted,
    make_lease,
    make_node,
    make_pod,
    make_pool,
    make_report,
    make_session,
    make_world,
    renewed,
    written,
)

from leasehold.api.names import LeaseReason as R
from leasehold.core.course import Step, World
from leasehold.core.gating import RETRIES_WITHIN, Workload, workload_of
from leasehold.core.lease import Lease
from leasehold.core.lifecycle import advance, end_without_pool
from leasehold.core.nodes import Report, with_history
from leasehold.core.pods import Pod
from leasehold.core.policy import PoolPolicy

POOL = make_pool()


class Story:
    """One lease, its pool and its world; `at` lets the operator look at it at a time."""

    def __init__(self, lease: Lease, policy: PoolPolicy = POOL, world: World | None = None) -> None:
        self.lease = lease
        self.policy = policy
        self.world = world or make_world()
        self.step = Step({})

    def at(self, time: str, **world: Any) -> Lease:
        """Look at the lease, write what there is to write, and check that a second look changes nothing."""
        if world:
            self.world = make_world(**{"nodes": list(self.world.nodes.values()), **world})
        self.step = advance(self.lease, self.policy, self.world, at(time))
        self.lease = written(self.lease, self.step)
        again = advance(self.lease, self.policy, self.world, at(time))
        assert again.patch == {}, "a second look at the same instant must find nothing left to write"
        if not self.step.patch:
            assert again.wake_at == self.step.wake_at
        self.wake_at = again.wake_at
        return self.lease

    @property
    def wakes_at(self) -> int | None:
        return self.wake_at

    def says(self, type_: str) -> str:
        return condition(self.lease, type_)

    def edit(self, **changes: Any) -> "Story":
        self.lease = edited(self.lease, **changes)
        return self

    def renew(self) -> "Story":
        self.lease = renewed(self.lease)
        return self

    @property
    def ended(self) -> str:
        """`Finished` and its cause, or "" while the lease is not over."""
        return (
            f"{self.lease.reason('Finished')}/{self.lease.status['release']['cause']}"
            if self.lease.finished
            else ""
        )

    def notices(self) -> list[str]:
        return [notice.reason for notice in self.step.notices]


def held(policy: PoolPolicy = POOL, world: World | None = None, **how: Any) -> Story:
    nodes = how.pop("nodes", ("node-1",))
    return Story(granted(make_lease(**how), nodes=nodes, policy=policy, world=world), policy, world)


# --- waiting ---


def test_a_waiting_lease_is_the_queues_business() -> None:
    story = Story(make_lease())
    story.at("1h")
    assert story.step == Step({})


def test_a_waiting_lease_its_holder_gives_up_is_over_at_once() -> None:
    story = Story(make_lease(desiredState="Released"))
    story.at("5m")
    assert story.ended == "Released/ReleaseRequested"
    assert story.says("Released") == "True/NotRequired"
    assert story.lease.status["phase"] == "Released"


def test_a_waiting_lease_that_is_deleted_needs_no_write() -> None:
    story = Story(make_lease(deleted=""))
    story.at("5m")
    assert story.step == Step({}, action="drop-finalizer")
    assert advance(make_lease(deleted="", finalizers=()), POOL, make_world(), NOON) == Step({})


def test_a_waiting_lease_goes_with_its_namespace() -> None:
    story = Story(make_lease())
    story.at("5m", gone_namespaces={"team-a"})
    assert story.ended == "Revoked/NamespaceGone"


# --- the term ---


def test_a_lease_is_held_to_the_last_moment_of_its_grace_and_not_beyond() -> None:
    story = held(durationSeconds=60)
    story.at("59s999ms")
    assert story.says("ExpiringSoon") == ""
    story.at("60s")
    assert story.says("ExpiringSoon") == "True/Expiration"
    assert (
        "taken back at 2026-11-22T12:01:30Z unless renewed"
        in story.lease.conditions["ExpiringSoon"]["message"]
    )
    assert story.lease.status["deadlines"]["next"] == {"time": clock("90s"), "cause": "Revocation"}
    story.at("89s999ms")
    assert story.says("Ready") == "True/Held"
    story.at("90s")
    assert story.ended == "Expired/TermEnded"
    assert story.says("DisruptionTarget") == "True/TermEnded"
    assert story.says("Ready") == "False/TermEnded"
    assert story.says("ExpiringSoon") == ""
    assert story.notices() == ["Expired"]


def test_the_operator_is_woken_at_the_end_and_again_when_the_grace_is_over() -> None:
    story = held(durationSeconds=60)
    story.at("1s")
    assert story.wakes_at == at("60s")
    story.at("60s")
    assert story.wakes_at == at("90s")


def test_without_grace_the_end_is_the_end() -> None:
    story = held(make_pool(gracePeriodSeconds=0), durationSeconds=60)
    story.at("59s999ms")
    assert story.ended == ""
    story.at("60s")
    assert story.ended == "Expired/TermEnded"


def test_warnings_come_when_the_pool_says() -> None:
    story = held(make_pool(warnBeforeSeconds=[600, 60]), durationSeconds=3600)
    story.at("1m")
    assert story.wakes_at == at("50m")
    story.at("50m")
    assert story.notices() == ["ExpiringSoonExpiration"]
    assert "in 600 s or less" in story.lease.conditions["ExpiringSoon"]["message"]
    assert story.wakes_at == at("59m")
    story.at("55m")
    assert story.notices() == []
    story.at("59m")
    assert "in 60 s or less" in story.lease.conditions["ExpiringSoon"]["message"]
    story.renew().at("59m30s")
    assert story.says("ExpiringSoon") == ""


def test_a_pool_that_only_notifies_never_takes_back() -> None:
    story = held(make_pool(expirationAction="NotifyOnly"), durationSeconds=60)
    story.at("1d")
    assert story.says("ExpiringSoon") == "True/Expiration"
    assert "only notifies" in story.lease.conditions["ExpiringSoon"]["message"]
    assert story.says("Ready") == "True/Held"
    assert story.wakes_at is None
    assert "next" not in story.lease.status["deadlines"]


def test_a_lease_without_an_end_is_never_ended_for_it() -> None:
    story = held()
    story.edit(status={**story.lease.status, "deadlines": {"maxExpirationTime": clock("1h")}})
    story.at("1d")
    assert story.says("Ready") == "True/Held"


# --- renewal ---


def test_a_renewal_counts_from_now_by_the_operators_clock() -> None:
    story = held(durationSeconds=600)
    story.renew().at("4m")
    assert story.lease.deadline("expirationTime") == at("14m")
    assert story.lease.status["renewal"]["count"] == 1
    assert story.lease.status["renewal"]["lastRenewTime"] == clock("4m")
    assert story.lease.status["renewal"]["observedRenewTime"] == story.lease.renew_time
    story.renew().at("5m")
    assert story.lease.status["renewal"]["count"] == 2


@pytest.mark.parametrize("text", ["1999-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
def test_what_a_renewal_says_of_the_time_is_never_believed(text: str) -> None:
    story = held(durationSeconds=600)
    story.edit(renewTime=text).at("4m")
    assert story.lease.deadline("expirationTime") == at("14m")


def test_the_same_renewal_text_counts_once() -> None:
    story = held(durationSeconds=600, renewTime="2026-11-22T11:00:00Z")
    story.at("4m")
    assert story.lease.deadline("expirationTime") == at("10m")
    story.edit(renewTime=None).at("5m")
    assert story.lease.deadline("expirationTime") == at("10m")


def test_a_renewal_may_shorten_the_term() -> None:
    story = held(durationSeconds=3600)
    story.edit(durationSeconds=60).at("1m")
    assert story.lease.deadline("expirationTime") == at("1h")
    story.renew().at("2m")
    assert story.lease.deadline("expirationTime") == at("3m")


def test_a_renewal_never_asks_for_more_than_the_pool_gives() -> None:
    story = held(make_pool(maxDurationSeconds=3600))
    story.edit(durationSeconds=999_999).renew().at("1m")
    assert story.lease.deadline("expirationTime") == at("1h1m")


def test_renewals_end_at_the_maximum() -> None:
    story = held(make_pool(maxTotalSeconds=900, warnBeforeSeconds=[60]), durationSeconds=600)
    story.renew().at("8m")
    assert story.lease.deadline("expirationTime") == at("15m")
    assert story.lease.status["deadlines"]["next"]["cause"] == "Maximum"
    story.renew().at("14m30s")
    assert story.lease.deadline("expirationTime") == at("15m")
    assert story.says("ExpiringSoon") == "True/Maximum"
    story.at("15m30s")
    assert story.ended == "Expired/MaximumReached"


def test_asking_again_and_again_moves_the_maximum_by_nothing() -> None:
    story = held(make_pool(maxTotalSeconds=900), durationSeconds=900)
    story.renew().at("15m10s")
    assert story.ended == "", "grace is for whoever packs up"
    story.renew().at("15m30s")
    assert story.ended == "Expired/MaximumReached"


def test_a_renewal_in_grace_saves_the_lease() -> None:
    story = held(durationSeconds=60)
    story.at("80s")
    story.renew().at("89s")
    assert story.says("ExpiringSoon") == ""
    assert story.lease.deadline("expirationTime") == at("2m29s")


def test_a_renewal_that_was_there_when_the_operator_came_back_still_counts() -> None:
    # The holder asked in time; it was the operator that was away.
    story = held(durationSeconds=60)
    story.renew().at("1h")
    assert story.ended == ""
    assert story.lease.deadline("expirationTime") == at("1h1m")


def test_a_renewal_after_the_end_revives_nothing_and_loses_nothing() -> None:
    story = held(durationSeconds=60)
    story.at("90s")
    over = story.lease
    story.renew().at("91s")
    assert story.ended == "Expired/TermEnded"
    assert story.lease.status["observedGeneration"] == story.lease.generation
    assert {**story.lease.status, "observedGeneration": 0, "conditions": 0} == {
        **over.status,
        "observedGeneration": 0,
        "conditions": 0,
    }


def test_a_renewal_during_release_revives_nothing() -> None:
    story = held(make_pool(cooldownSeconds=60), durationSeconds=60)
    story.at("90s")
    story.renew().at("91s")
    assert story.says("Released") == "False/CoolingDown"
    story.at("150s")
    assert story.ended == "Expired/TermEnded"


# --- showing up and staying alive ---

RENEWING = {"liveness": "Renew", "durationSeconds": 3600}
SESSION = {"liveness": "Session", "holder": {"sessionRef": {"name": "worker"}}, "durationSeconds": 3600}


def live(renewed: str = "", timeout: str | None = None) -> dict[tuple[str, str], Any]:
    return {("team-a", "worker"): make_session(renewed=renewed, timeout=timeout)}


def test_the_first_renewal_claims_the_lease() -> None:
    story = held(**RENEWING)
    assert story.lease.status["phase"] == "Bound"
    story.renew().at("1m")
    assert story.says("Claimed") == "True/HolderRenewed"
    assert story.says("HolderLive") == "True/Fresh"
    assert story.lease.deadline("claimTime") is None
    assert story.lease.deadline("heartbeatTime") == at("2m")
    assert story.lease.status["phase"] == "Active"


def test_a_session_claims_the_lease() -> None:
    story = held(**SESSION)
    story.at("1m")
    assert story.says("Claimed") == "False/WaitingForHolder"
    story.at("2m", sessions=live("2m"))
    assert story.says("Claimed") == "True/SessionLive"
    assert story.says("HolderLive") == "True/Fresh"


def test_a_renewal_does_not_stand_in_for_the_session_that_was_promised() -> None:
    story = held(**SESSION)
    story.renew().at("1m")
    assert story.says("Claimed") == "False/WaitingForHolder"
    assert story.lease.deadline("claimTime") == at("5m")


def test_a_session_in_another_namespace_claims_nothing() -> None:
    story = held(**SESSION)
    story.at("1m", sessions={("team-b", "worker"): make_session(renewed="1m", namespace="team-b")})
    assert story.says("Claimed") == "False/WaitingForHolder"


@pytest.mark.parametrize("liveness", [RENEWING, SESSION])
def test_a_lease_nobody_claims_ends_at_its_claim_deadline(liveness: dict[str, Any]) -> None:
    story = held(**liveness)
    story.at("4m59s")
    assert story.wakes_at == at("5m")
    story.at("5m")
    assert story.ended == "Expired/ClaimTimeout"
    assert story.says("Claimed") == "False/ClaimTimeout"


def test_without_a_claim_deadline_the_holder_may_take_its_time() -> None:
    story = held(make_pool(claimTimeoutSeconds=0), **RENEWING)
    story.at("59m")
    assert story.says("Claimed") == "False/WaitingForHolder"
    assert story.ended == ""


def test_a_holder_that_falls_silent_loses_the_lease_after_its_grace() -> None:
    story = held(**RENEWING)
    story.renew().at("1m")
    story.at("1m59s")
    assert (story.says("HolderLive"), story.wakes_at) == ("True/Fresh", at("2m"))
    story.at("2m")
    assert story.says("HolderLive") == "False/Missed"
    assert story.says("ExpiringSoon") == "True/Heartbeat"
    assert story.lease.status["deadlines"]["next"] == {"time": clock("2m30s"), "cause": "Revocation"}
    story.at("2m29s")
    assert story.ended == ""
    story.at("2m30s")
    assert story.ended == "Expired/HeartbeatLost"


def test_a_late_heartbeat_within_grace_is_a_heartbeat() -> None:
    story = held(**RENEWING)
    story.renew().at("1m")
    story.at("2m10s")
    story.renew().at("2m20s")
    assert story.says("HolderLive") == "True/Fresh"
    assert story.says("ExpiringSoon") == ""
    assert story.lease.deadline("heartbeatTime") == at("3m20s")


def test_a_session_that_stops_loses_its_leases_after_grace() -> None:
    story = held(**SESSION, world=make_world(sessions=live()))
    story.at("59s")
    assert (story.says("HolderLive"), story.wakes_at) == ("True/Fresh", at("1m"))
    story.at("1m")
    assert story.says("HolderLive") == "False/Missed"
    story.at("1m30s")
    assert story.ended == "Expired/HeartbeatLost"


def test_a_session_that_comes_back_in_time_is_alive_again() -> None:
    story = held(**SESSION, world=make_world(sessions=live()))
    story.at("1m10s")
    story.at("1m20s", sessions=live("1m20s"))
    assert story.says("HolderLive") == "True/Fresh"
    assert story.lease.deadline("heartbeatTime") is None


def test_a_session_that_is_deleted_is_missed_from_that_moment() -> None:
    story = held(**SESSION, world=make_world(sessions=live()))
    story.at("30s", sessions={})
    assert story.says("HolderLive") == "False/SessionGone"
    assert story.lease.deadline("heartbeatTime") == at("30s")
    story.at("59s", sessions={})
    assert story.ended == ""
    story.at("60s", sessions={})
    assert story.ended == "Expired/HeartbeatLost"


def test_a_session_may_ask_for_a_shorter_time_out_and_not_for_a_longer_one() -> None:
    story = held(**SESSION, world=make_world(sessions=live(timeout="10s")))
    story.at("10s")
    assert story.says("HolderLive") == "False/Missed"
    story = held(**SESSION, world=make_world(sessions=live(timeout="1h")))
    story.at("1m")
    assert story.says("HolderLive") == "False/Missed"


def test_a_live_session_renews_the_term_once_two_thirds_are_over() -> None:
    story = held(**SESSION, world=make_world(sessions=live()))
    for time, renewals in (("30m", 0), ("39m59s", 0), ("40m", 1), ("50m", 1), ("1h20m", 2)):
        story.at(time, sessions=live(time))
        assert story.lease.status.get("renewal", {}).get("count", 0) == renewals
    assert story.lease.deadline("expirationTime") == at("2h20m")


def test_a_live_session_renews_up_to_the_maximum_and_then_is_warned() -> None:
    story = held(make_pool(maxTotalSeconds=4200), **SESSION, world=make_world(sessions=live()))
    story.at("45m", sessions=live("45m"))
    assert story.lease.deadline("expirationTime") == at("1h10m")
    story.at("1h10m30s", sessions=live("1h10m30s"))
    assert story.ended == "Expired/MaximumReached"


def test_a_live_session_saves_a_lease_whose_term_ended_while_the_operator_was_away() -> None:
    story = held(**SESSION, world=make_world(sessions=live()))
    story.at("5h", sessions=live("5h"))
    assert story.lease.deadline("expirationTime") == at("6h")


# --- liveness may change while the lease is held ---


def test_a_holder_that_needs_no_liveness_any_more_is_not_ended_for_it() -> None:
    story = held(**RENEWING)
    story.edit(liveness="None").at("10m")
    assert story.ended == ""
    assert (story.says("Claimed"), story.says("HolderLive")) == ("", "")
    assert story.lease.deadline("claimTime") is None
    story = held(**RENEWING)
    story.renew().at("1m")
    story.edit(liveness="None").at("10m")
    assert story.says("Ready") == "True/Held"
    assert story.lease.status["deadlines"]["next"]["cause"] == "Expiration"


def test_a_holder_that_turns_liveness_on_is_expected_from_then_on() -> None:
    story = held(durationSeconds=3600)
    story.edit(liveness="Renew").at("10m")
    assert story.says("Claimed") == "False/WaitingForHolder"
    assert story.lease.deadline("claimTime") == at("15m")
    story.renew().at("11m")
    assert story.says("HolderLive") == "True/Fresh"


def test_a_holder_that_changes_from_a_session_to_renewals_must_renew() -> None:
    story = held(**SESSION, world=make_world(sessions=live()))
    story.edit(liveness="Renew").at("10s")
    assert story.lease.deadline("heartbeatTime") == at("1m10s")
    story.at("1m10s")
    assert story.says("HolderLive") == "False/Missed"


def test_a_holder_that_changes_from_renewals_to_a_session_is_heard_there() -> None:
    story = held(**RENEWING, holder={"sessionRef": {"name": "worker"}})
    story.renew().at("10s")
    story.edit(liveness="Session").at("20s", sessions=live("20s"))
    assert (story.says("HolderLive"), story.lease.deadline("heartbeatTime")) == ("True/Fresh", None)


@pytest.mark.parametrize("sessions", [{}, live()])
def test_a_holder_that_changes_to_a_session_that_is_dead_keeps_the_time_it_was_told(sessions: Any) -> None:
    story = held(**RENEWING, holder={"sessionRef": {"name": "worker"}})
    story.renew().at("5m")
    assert story.lease.deadline("heartbeatTime") == at("6m")
    story.edit(liveness="Session").at("5m10s", sessions=sessions)
    assert (story.says("HolderLive"), story.wakes_at) == ("True/Fresh", at("6m"))
    story.at("6m", sessions=sessions)
    assert story.says("HolderLive").startswith("False/")
    story.at("6m29s", sessions=sessions)
    assert story.ended == ""
    story.at("6m30s", sessions=sessions)
    assert story.ended == "Expired/HeartbeatLost"


# --- given back, deleted, revoked ---


def test_a_released_lease_is_over_at_once() -> None:
    story = held()
    story.edit(desiredState="Released").at("5m")
    assert story.ended == "Released/ReleaseRequested"
    assert story.says("DisruptionTarget") == ""
    assert story.says("Released") == "True/NotRequired"
    assert (story.notices(), story.step.notices[0].warning) == (["Released"], False)


def test_a_deleted_lease_gives_back_before_it_goes() -> None:
    story = held()
    story.edit(deleted=True).at("5m")
    assert story.ended == "Released/ReleaseRequested"
    assert advance(story.lease, POOL, story.world, at("5m")) == Step({}, action="drop-finalizer")
    gone = written(make_lease(finalizers=(), deleted=""), Step({}))
    assert advance(gone, POOL, story.world, at("5m")).action == ""


def test_a_lease_goes_with_its_namespace_without_grace() -> None:
    story = held()
    story.at("5m", gone_namespaces={"team-a"})
    assert story.ended == "Revoked/NamespaceGone"


REVOKE = {"leasehold.dev/revoke": "the rack is moved"}


def test_a_revoked_lease_has_its_grace_and_hears_why() -> None:
    story = held()
    story.edit(annotations=REVOKE).at("5m")
    assert story.says("DisruptionTarget") == "True/AdminRevoked"
    assert story.lease.conditions["DisruptionTarget"]["message"] == (
        "Taken back at 2026-11-22T12:05:30Z. the rack is moved"
    )
    assert story.lease.deadline("revocationTime") == at("5m30s")
    assert story.lease.status["deadlines"]["next"] == {"time": clock("5m30s"), "cause": "Revocation"}
    assert story.lease.status["phase"] == "Draining"
    assert (story.says("Ready"), story.wakes_at) == ("True/Held", at("5m30s"))
    story.at("5m29s")
    assert (story.ended, story.notices()) == ("", [])
    story.at("5m30s")
    assert story.ended == "Revoked/AdminRevoked"


def test_a_revocation_taken_back_in_time_is_forgotten() -> None:
    story = held()
    story.edit(annotations=REVOKE).at("5m")
    story.edit(annotations={"leasehold.dev/revoke": None}).at("5m10s")
    assert story.says("DisruptionTarget") == ""
    assert story.lease.deadline("revocationTime") is None
    assert story.lease.status["deadlines"]["next"]["cause"] == "Expiration"


def test_a_reason_of_any_length_fits_the_condition() -> None:
    story = held()
    story.edit(annotations={"leasehold.dev/revoke": "x" * 100_000}).at("5m")
    assert len(story.lease.conditions["DisruptionTarget"]["message"]) == 1000


def test_a_lease_under_notice_gets_no_new_term_but_its_holder_is_heard() -> None:
    story = held(make_pool(gracePeriodSeconds=600), **RENEWING)
    story.renew().at("1m")
    story.edit(annotations=REVOKE).renew().at("1m30s")
    assert story.lease.deadline("expirationTime") == at("1h1m")
    assert story.lease.deadline("heartbeatTime") == at("2m30s")
    assert story.lease.status["renewal"]["observedRenewTime"] == story.lease.renew_time
    story.edit(annotations={"leasehold.dev/revoke": None}).at("2m20s")
    assert (story.says("HolderLive"), story.says("Ready")) == ("True/Fresh", "True/Held")


def test_the_first_renewal_of_all_may_come_under_notice() -> None:
    # `renewal.count` is required: a record without it would be refused for ever.
    story = held(durationSeconds=3600)
    story.edit(annotations=REVOKE).renew().at("1m")
    assert story.lease.status["renewal"]["count"] == 0


def test_a_live_session_gets_no_new_term_under_notice() -> None:
    story = held(**SESSION, world=make_world(sessions=live()))
    story.edit(annotations=REVOKE).at("50m", sessions=live("50m"))
    assert story.lease.deadline("expirationTime") == at("1h")


def test_of_several_ends_the_nearest_is_told() -> None:
    story = held(make_pool(gracePeriodSeconds=300), durationSeconds=600)
    story.at("10m")
    assert story.lease.status["deadlines"]["next"]["time"] == clock("15m")
    story.edit(annotations=REVOKE).at("11m")
    assert story.lease.status["deadlines"]["next"]["time"] == clock("15m")
    story = held(make_pool(gracePeriodSeconds=300), durationSeconds=600)
    story.edit(annotations=REVOKE).at("9m")
    story.at("10m")
    assert story.lease.status["deadlines"]["next"]["time"] == clock("14m")


# --- ended by the pool ---


def test_a_drained_pool_gives_notice_and_a_drain_called_off_takes_it_back() -> None:
    story = held()
    story.at("5m", ends={"uid-build": R.POOL_DRAINING})
    assert story.says("DisruptionTarget") == "True/PoolDraining"
    assert story.notices() == ["PoolDraining"]
    story.at("5m20s", ends={})
    assert story.says("DisruptionTarget") == ""
    story.at("6m", ends={"uid-build": R.CAPACITY_LOST})
    story.at("6m30s", ends={"uid-build": R.CAPACITY_LOST})
    assert story.ended == "Revoked/CapacityLost"


def test_a_notice_for_another_cause_does_not_start_anew() -> None:
    story = held()
    story.at("5m", ends={"uid-build": R.POOL_DRAINING})
    story.edit(annotations=REVOKE).at("5m20s")
    assert story.says("DisruptionTarget") == "True/AdminRevoked"
    assert story.lease.deadline("revocationTime") == at("5m30s")


def test_without_grace_a_notice_is_the_end() -> None:
    story = held(make_pool(gracePeriodSeconds=0))
    story.at("5m", ends={"uid-build": R.POOL_DRAINING})
    assert story.ended == "Revoked/PoolDraining"


# --- nodes ---


def test_a_lease_ends_with_its_node() -> None:
    story = held()
    story.at("5m", nodes=[make_node("other")])
    assert story.ended == "Revoked/NodeLost"
    assert story.says("Released") == "True/NodeGone"


def test_a_lease_ends_when_one_of_its_nodes_is_gone() -> None:
    story = held(nodes=("node-1", "node-2"), count=2)
    story.at("5m", nodes=[make_node("node-1")])
    assert story.ended == "Revoked/NodeLost"
    assert story.says("Released") == "True/NotRequired"


def test_a_node_that_is_not_ready_has_time_to_come_back() -> None:
    story = held()
    story.at("5m", nodes=[make_node(not_ready_since="4m")])
    assert story.says("Degraded") == "True/NodeNotReady"
    assert "revoked at 2026-11-22T12:09:00Z" in story.lease.conditions["Degraded"]["message"]
    assert (story.says("Ready"), story.wakes_at) == ("True/Held", at("9m"))
    story.at("8m", nodes=[make_node()])
    assert story.says("Degraded") == "False/Healthy"


def test_a_node_that_stays_away_loses_its_leases() -> None:
    story = held()
    story.at("8m59s", nodes=[make_node(not_ready_since="4m")])
    assert story.ended == ""
    story.at("9m", nodes=[make_node(not_ready_since="4m")])
    assert story.ended == "Revoked/NodeLost"


def test_a_node_that_left_the_pool_but_not_the_cluster_costs_nobody_a_lease() -> None:
    story = held()
    story.at("5m", nodes=[make_node(labels={"pool": "another"})])
    assert story.says("Ready") == "True/Held"
    assert story.step.patch == {}


def test_a_node_that_holds_too_much_degrades_its_leases() -> None:
    story = held()
    story.at("5m", over_nodes={"node-1"})
    assert story.says("Degraded") == "True/OverAllocated"
    story.at("6m", over_nodes=set())
    assert story.says("Degraded") == "False/Healthy"


def test_more_memory_than_the_lease_holds_degrades_it() -> None:
    story = held(memory="4Gi")
    story.at("5m", reports=[make_report(present={"uid-build": {"memory": "4Gi"}})])
    assert story.says("Degraded") == ""
    story.at("6m", reports=[make_report(present={"uid-build": {"memory": "5Gi"}})])
    assert story.says("Degraded") == "True/UsageAboveGrant"


# --- idleness ---


def test_idleness_is_nobodys_business_unless_the_pool_says_so() -> None:
    story = held()
    story.at("50m", idle_since={"uid-build": at()})
    assert story.step.patch == {}


def test_an_idle_lease_is_warned() -> None:
    story = held(make_pool(idle={"policy": "Warn", "periodSeconds": 600}))
    story.at("5m", idle_since={"uid-build": at("1m")})
    assert (story.says("ExpiringSoon"), story.wakes_at) == ("", at("11m"))
    story.at("11m", idle_since={"uid-build": at("1m")})
    assert story.says("ExpiringSoon") == "True/Idle"
    story.at("50m", idle_since={"uid-build": at("1m")})
    assert (story.says("Ready"), story.notices()) == ("True/Held", [])
    story.at("51m", idle_since={})
    assert story.says("ExpiringSoon") == ""


def test_an_idle_lease_is_taken_back_with_notice_unless_it_is_used_again() -> None:
    policy = make_pool(idle={"policy": "Release", "periodSeconds": 600})
    story = held(policy)
    story.at("11m", idle_since={"uid-build": at("1m")})
    assert story.says("DisruptionTarget") == "True/Idle"
    story.at("11m20s", idle_since={})
    assert story.says("DisruptionTarget") == ""
    story.at("21m20s", idle_since={"uid-build": at("11m20s")})
    story.at("21m50s", idle_since={"uid-build": at("11m20s")})
    assert story.ended == "Expired/Idle"


# --- shrinking ---


def test_a_smaller_request_gives_the_difference_back() -> None:
    story = held(cpu="4", memory="8Gi", count=2, nodes=("node-1", "node-2"))
    nodes = [make_node("node-1"), make_node("node-2")]
    story.edit(resources={"cpu": "1", "memory": "8Gi"}).at("5m", nodes=nodes)
    assert [dict(part.amounts) for part in story.lease.slices] == [{"cpu": 1000, "memory": 8 * GIB}] * 2
    assert story.notices() == ["Shrunk"]
    assert story.lease.status["allocation"]["ledgerSequence"] == 1


@pytest.mark.parametrize(
    "resources",
    [
        {"cpu": "5", "memory": "4Gi"},
        {"cpu": "1", "memory": "4Gi", "vendor.example/gpu": "1"},
        {"cpu": "1"},
        {"cpu": "-1", "memory": "4Gi"},
    ],
)
def test_a_request_that_grew_past_the_api_server_moves_nothing(resources: dict[str, str]) -> None:
    lease = granted(make_lease(cpu="2", memory="4Gi"))
    status = lease.status
    lease = make_lease(resources=resources, status=status, version=9)
    step = advance(lease, POOL, make_world(), at("5m"))
    assert "allocation" not in step.patch


# --- giving back ---

VERIFYING = make_pool(verification="NodeReport")


def release(policy: PoolPolicy, **how: Any) -> Story:
    story = held(policy, **how)
    story.edit(desiredState="Released").at("5m")
    return story


def test_capacity_rests_before_it_is_free() -> None:
    story = release(make_pool(cooldownSeconds=60))
    assert story.says("Released") == "False/CoolingDown"
    assert story.lease.allocated
    assert story.lease.status["deadlines"]["next"] == {"time": clock("6m"), "cause": "Cooldown"}
    assert story.lease.status["phase"] == "Releasing"
    assert story.wakes_at == at("6m")
    story.at("5m59s")
    assert story.lease.allocated
    story.at("6m")
    assert story.ended == "Released/ReleaseRequested"
    assert story.lease.deadline("cooldownTime") is None


def test_a_node_must_confirm_where_the_pool_wants_its_word() -> None:
    story = release(VERIFYING)
    assert story.says("Released") == "False/VerificationPending"
    assert story.lease.deadline("verificationTime") == at("7m")
    story.at("6m", reports=[make_report(time="5m", gone=[story.lease])])
    assert story.lease.allocated, "a word from before the release is none"
    story.at("6m", reports=[make_report(time="5m1s", present={"uid-build": {}})])
    assert story.lease.allocated
    story.at("6m", reports=[make_report(time="5m1s")])
    assert story.lease.allocated
    story.at("6m", reports=[make_report(time="5m1s", gone=[story.lease])])
    assert story.says("Released") == "True/Verified"
    assert story.ended == "Released/ReleaseRequested"


def test_a_confirmation_dated_in_the_future_is_none() -> None:
    story = release(VERIFYING)
    story.at("6m", reports=[make_report(time="1d", gone=[story.lease])])
    assert story.lease.allocated


def test_every_node_must_confirm() -> None:
    nodes = [make_node("node-1"), make_node("node-2")]
    story = release(VERIFYING, nodes=("node-1", "node-2"), count=2, world=make_world(nodes=nodes))
    one = make_report("node-1", time="5m1s", gone=[story.lease])
    story.at("5m2s", reports=[one])
    assert story.lease.allocated
    story.at("5m3s", reports=[one, make_report("node-2", time="5m2s", gone=[story.lease])])
    assert not story.lease.allocated


def test_a_node_that_does_not_confirm_in_time_has_its_capacity_put_aside() -> None:
    nodes = [make_node("node-1"), make_node("node-2")]
    story = release(VERIFYING, nodes=("node-1", "node-2"), count=2, world=make_world(nodes=nodes))
    story.at("7m", reports=[make_report("node-1", time="6m", gone=[story.lease])])
    assert story.says("Released") == "False/Quarantined"
    assert story.lease.status["phase"] == "Quarantined"
    assert story.lease.status["release"]["lastError"] == "No word that the workload is gone from node-2"
    assert (story.notices(), story.wakes_at) == (["Quarantined"], None)
    assert story.lease.allocated
    story.at("2h")
    assert (story.notices(), story.lease.allocated) == ([], True)
    story.at("3h", reports=[make_report(n, time="2h59m", gone=[story.lease]) for n in ("node-1", "node-2")])
    assert story.says("Released") == "True/Verified"
    assert "lastError" not in story.lease.status["release"]


def test_quarantine_ends_when_the_node_is_deleted() -> None:
    story = release(VERIFYING)
    story.at("7m")
    story.at("8m", nodes=[make_node("other")])
    assert story.says("Released") == "True/NodeGone"


@pytest.mark.parametrize("quarantined", [True, False])
def test_an_administrator_may_force_the_release(quarantined: bool) -> None:
    story = release(VERIFYING)
    if quarantined:
        story.at("7m")
    story.edit(annotations={"leasehold.dev/force-release": "true"}).at("8m")
    assert story.says("Released") == "True/Forced"
    assert story.ended == "Released/ReleaseRequested"


def test_a_release_that_is_forced_from_the_start_waits_for_nothing() -> None:
    story = held(make_pool(verification="NodeReport", cooldownSeconds=600))
    story.edit(annotations={"leasehold.dev/force-release": "true"}, desiredState="Released").at("5m")
    assert story.says("Released") == "True/Forced"


def test_forcing_alone_ends_no_lease() -> None:
    story = held()
    story.edit(annotations={"leasehold.dev/force-release": "true"}).at("5m")
    assert story.says("Ready") == "True/Held"


def test_a_pool_that_stops_asking_for_the_nodes_word_lets_its_leases_go() -> None:
    story = release(VERIFYING)
    story.at("7m")
    story.policy = POOL
    story.at("8m")
    assert story.says("Released") == "True/NotRequired"


def test_a_release_from_before_the_pool_asked_for_a_word_gets_its_time() -> None:
    story = release(VERIFYING)
    deadlines = {k: v for k, v in story.lease.status["deadlines"].items() if k != "verificationTime"}
    story.edit(status={**story.lease.status, "deadlines": deadlines}).at("10m")
    assert story.lease.deadline("verificationTime") == at("12m")


def test_verified_capacity_rests_too() -> None:
    story = release(make_pool(verification="NodeReport", cooldownSeconds=60))
    story.at("6m", reports=[make_report(time="5m30s", gone=[story.lease])])
    assert story.says("Released") == "False/CoolingDown"
    assert story.lease.deadline("verificationTime") is None
    story.at("7m")
    assert story.says("Released") == "True/Verified"


def test_a_node_that_goes_while_its_capacity_rests_is_named() -> None:
    story = release(make_pool(cooldownSeconds=60))
    story.at("6m", nodes=[make_node("other")])
    assert story.says("Released") == "True/NodeGone"


# --- pods that are held to their leases ---

GATE = make_pool(enforcement={"mode": "Gate"})


def of(*pods: Pod) -> Callable[[Lease], Workload]:
    """What these pods, all that name the lease, mean for it."""
    return lambda lease: workload_of(lease, pods)


def let_go(name: str = "worker", slice_: int = 0, **how: Any) -> Pod:
    """A pod that was let go with a slice of the lease `build`; not bound yet unless a node is named."""
    return make_pod(name, given=(make_lease(), slice_), **how)


def running(name: str = "worker", slice_: int = 0, **how: Any) -> Pod:
    return let_go(name, slice_, **{"node": f"node-{slice_ + 1}", **how})


def test_a_granted_lease_waits_for_its_pods() -> None:
    story = held(GATE)
    assert story.says("Claimed") == "False/WaitingForPods"
    assert story.lease.deadline("claimTime") == at("5m")
    assert story.lease.status["deadlines"]["next"] == {"time": clock("5m"), "cause": "Claim"}
    assert story.lease.status["phase"] == "Bound"
    story.at("1m")
    assert (story.step.patch, story.wakes_at) == ({}, at("5m"))


def test_a_pod_that_is_bound_claims_the_lease_and_nobody_needs_to_renew_it() -> None:
    story = held(GATE)
    story.at("1m", pods=of(make_pod(), let_go("b")))
    assert story.says("Claimed") == "False/WaitingForPods", "one waits, one is on no node yet"
    story.at("2m", pods=of(running()))
    assert story.says("Claimed") == "True/PodBound"
    assert story.says("HolderLive") == "", "no heartbeat is asked for"
    assert story.lease.deadline("claimTime") is None
    assert story.lease.status["phase"] == "Active"
    assert story.lease.status["deadlines"]["next"] == {"time": clock("1h"), "cause": "Expiration"}
    story.at("59m", pods=of())
    assert (story.says("Ready"), story.says("Claimed")) == ("True/Held", "True/PodBound"), (
        "it may be used again"
    )


def test_a_lease_nobody_starts_a_pod_for_ends_at_its_claim_deadline() -> None:
    story = held(GATE)
    story.at("4m59s")
    assert (story.ended, story.wakes_at) == ("", at("5m"))
    story.at("5m")
    assert story.ended == "Expired/ClaimTimeout"
    assert story.says("Claimed") == "False/ClaimTimeout"


def test_without_a_claim_deadline_pods_may_take_their_time() -> None:
    story = held(make_pool(enforcement={"mode": "Gate"}, claimTimeoutSeconds=0))
    story.at("59m")
    assert (story.says("Claimed"), story.ended) == ("False/WaitingForPods", "")
    assert story.lease.deadline("claimTime") is None


def test_a_pod_that_finished_before_anybody_looked_has_claimed_all_the_same() -> None:
    story = held(GATE)
    story.at("10m", pods=of(running(phase="Succeeded", ended="2m")))
    assert story.says("Claimed") == "True/PodBound"


def test_a_pod_claims_for_a_holder_that_renews_who_must_renew_from_then_on() -> None:
    story = held(GATE, **RENEWING)
    assert story.says("Claimed") == "False/WaitingForHolder"
    story.at("1m", pods=of(running()))
    assert (story.says("Claimed"), story.says("HolderLive")) == ("True/PodBound", "True/Fresh")
    assert (story.lease.deadline("claimTime"), story.lease.deadline("heartbeatTime")) == (None, at("2m"))
    story.renew().at("1m50s", pods=of(running()))
    assert story.lease.deadline("heartbeatTime") == at("2m50s")
    story.at("2m50s", pods=of(running()))
    assert story.says("HolderLive") == "False/Missed"
    story.at("3m20s", pods=of(running()))
    assert story.lease.status["release"]["cause"] == "HeartbeatLost"
    assert story.says("Released") == "False/PodsLeaving"


def test_a_renewal_claims_where_pods_are_held_too() -> None:
    story = held(GATE, **RENEWING)
    story.renew().at("1m")
    assert story.says("Claimed") == "True/HolderRenewed"


def test_no_pod_stands_in_for_a_session_that_was_promised() -> None:
    story = held(GATE, **SESSION)
    story.at("1m", pods=of(running()))
    assert story.says("Claimed") == "False/WaitingForHolder"
    story.at("5m", pods=of(running()))
    assert story.lease.status["release"]["cause"] == "ClaimTimeout"


def test_a_holder_that_changes_its_liveness_is_told_what_is_waited_for_now() -> None:
    story = held(GATE, **{**SESSION, **RENEWING})
    story.edit(liveness="None").at("1m")
    assert story.says("Claimed") == "False/WaitingForPods"
    assert story.lease.deadline("claimTime") == at("5m"), "the time to claim does not start anew"
    story.edit(**SESSION).at("2m")
    assert story.says("Claimed") == "False/WaitingForHolder"
    assert story.lease.deadline("claimTime") == at("5m")
    story.at("3m", sessions=live("3m"))
    story.edit(liveness="None").at("4m")
    assert (story.says("Claimed"), story.says("HolderLive")) == ("True/SessionLive", "")
    story.at("30m")
    assert story.says("Ready") == "True/Held", "nobody is missed any more"


@pytest.mark.parametrize("sessions", [{}, live()])
def test_who_was_claimed_by_its_pods_and_names_a_session_has_a_time_out_for_it(sessions: Any) -> None:
    story = held(GATE, **{**SESSION, "liveness": "None"})
    story.at("1m", pods=of(running()))
    story.edit(liveness="Session").at("5m", pods=of(running()), sessions=sessions)
    assert story.says("Claimed") == "True/PodBound"
    assert story.lease.deadline("heartbeatTime") == at("6m")
    story.at("6m29s", pods=of(running()), sessions=sessions)
    assert story.ended == ""
    story.at("6m30s", pods=of(running()), sessions=sessions)
    assert story.lease.status["release"]["cause"] == "HeartbeatLost"


def test_a_pool_that_begins_to_hold_pods_gives_its_leases_time_for_them_and_takes_it_back() -> None:
    story = held()
    story.policy = GATE
    story.at("10m")
    assert (story.says("Claimed"), story.lease.deadline("claimTime")) == ("False/WaitingForPods", at("15m"))
    story.policy = POOL
    story.at("11m")
    assert (story.says("Claimed"), story.lease.deadline("claimTime")) == ("", None)


def test_an_advisory_pool_takes_no_notice_of_pods() -> None:
    story = held(podCompletionAction="Release")
    assert story.says("Claimed") == ""
    story.at("5m", pods=of(running(cpu="9")))
    assert story.step.patch == {}
    story.at("50m", pods=of(running(phase="Succeeded", ended="2m")))
    assert story.step.patch == {}
    story.edit(desiredState="Released").at("51m", pods=of(running()))
    assert (story.ended, story.says("Released")) == ("Released/ReleaseRequested", "True/NotRequired")


def test_a_lease_is_given_back_once_its_pods_are_done_for_as_long_as_the_grace() -> None:
    story = held(GATE, podCompletionAction="Release")
    done = running(phase="Succeeded", ended="10m")
    story.at("5m", pods=of(running()))
    story.at("10m", pods=of(done))
    assert (story.ended, story.wakes_at) == ("", at("10m30s"))
    story.at("10m29s999ms", pods=of(done))
    assert story.says("Ready") == "True/Held"
    story.at("10m30s", pods=of(done))
    assert story.ended == "Released/PodsComplete"
    assert story.says("DisruptionTarget") == "", "nobody takes it away"
    assert story.says("Released") == "True/NotRequired"
    assert (story.notices(), story.step.notices[0].warning) == (["Released"], False)


def test_another_pod_keeps_the_lease_even_one_that_is_not_let_go_yet() -> None:
    story = held(GATE, podCompletionAction="Release")
    done = running(phase="Succeeded", ended="10m")
    story.at("10m", pods=of(done))
    story.at("10m30s", pods=of(done, make_pod("next")))
    assert story.says("Ready") == "True/Held"
    story.at("11m", pods=of(done, running("next")))
    assert story.says("Ready") == "True/Held"
    story.at("20m30s", pods=of(done, running("next", phase="Succeeded", ended="20m")))
    assert story.ended == "Released/PodsComplete"


def test_a_pod_that_failed_has_its_job_try_again_first() -> None:
    story = held(GATE, podCompletionAction="Release")
    failed = running(phase="Failed", ended="10m", owner="Job")
    story.at("11m", pods=of(failed))
    assert (story.ended, story.wakes_at) == ("", at("10m") + RETRIES_WITHIN + GATE.grace)
    story.at("17m", pods=of(failed))
    assert story.ended == "Released/PodsComplete"


def test_a_lease_is_kept_after_its_pods_unless_its_holder_wants_it_given_back() -> None:
    story = held(GATE)
    story.at("50m", pods=of(running(phase="Succeeded", ended="2m")))
    assert story.says("Ready") == "True/Held"


def test_a_lease_that_no_pod_was_started_for_is_not_done() -> None:
    story = held(
        make_pool(enforcement={"mode": "Gate"}, claimTimeoutSeconds=0), podCompletionAction="Release"
    )
    story.at("50m")
    assert story.says("Ready") == "True/Held"


def test_pods_that_request_more_than_the_lease_holds_degrade_it() -> None:
    story = held(GATE)
    story.at("5m", pods=of(running(cpu="2500m")))
    assert story.says("Degraded") == "True/PodsAboveGrant"
    assert "on node node-1" in story.lease.conditions["Degraded"]["message"]
    story.at("6m", pods=of(running(cpu="2")))
    assert story.says("Degraded") == "False/Healthy"


def test_capacity_counts_until_the_last_pod_is_gone() -> None:
    story = held(GATE)
    story.at("1m", pods=of(running()))
    story.edit(desiredState="Released").at("5m", pods=of(running(), let_go("unbound")))
    assert story.says("Released") == "False/PodsLeaving"
    assert (story.lease.allocated, story.lease.status["phase"]) == (True, "Releasing")
    due = at("5m") + GATE.verification_timeout + GATE.eviction_timeout
    assert (story.lease.deadline("verificationTime"), story.wakes_at) == (due, due)
    assert story.lease.status["deadlines"]["next"]["cause"] == "Verification"
    story.at("6m", pods=of(running(deleted=True)))
    assert story.lease.allocated, "it may take its time to end"
    story.at("7m", pods=of(running(phase="Failed", deleted=True)))
    assert (story.ended, story.says("Released")) == ("Released/ReleaseRequested", "True/NotRequired")
    assert story.lease.deadline("verificationTime") is None


def test_pods_that_were_never_let_go_hold_up_no_release() -> None:
    story = held(GATE)
    earlier = make_pod("earlier", given=(make_lease("another"), 0), node="node-1")
    story.edit(desiredState="Released")
    story.at("1m", pods=of(make_pod(), make_pod("outside", node="node-1"), earlier))
    assert story.ended == "Released/ReleaseRequested"


BOTH = make_pool(enforcement={"mode": "Gate"}, verification="NodeReport")


def test_pods_must_be_gone_and_their_nodes_must_say_so_where_the_pool_wants_both() -> None:
    story = release(BOTH)
    assert story.says("Released") == "False/VerificationPending", "no pod, but no word either"
    word = [make_report(time="6m", gone=[story.lease])]
    story.at("6m", pods=of(running()), reports=word)
    assert story.says("Released") == "False/PodsLeaving"
    story.at("6m30s", pods=of(), reports=[make_report(time="6m", present={"uid-build": {}})])
    assert story.says("Released") == "False/VerificationPending"
    story.at("7m", pods=of(), reports=word)
    assert (story.ended, story.says("Released")) == ("Released/ReleaseRequested", "True/Verified")


def test_patience_includes_the_time_that_budgets_may_hold_up_an_eviction() -> None:
    policy = make_pool(enforcement={"mode": "Gate", "evictionTimeoutSeconds": 600}, verification="NodeReport")
    story = release(policy)
    assert story.lease.deadline("verificationTime") == at("17m")
    story.at("16m59s", pods=of(running()))
    assert story.says("Released") == "False/PodsLeaving"
    story.at("17m", pods=of(running()))
    assert story.says("Released") == "False/Quarantined"


def test_pods_that_stay_have_their_capacity_put_aside_until_they_go() -> None:
    nodes = [make_node("node-1"), make_node("node-2")]
    story = held(GATE, nodes=("node-1", "node-2"), count=2, world=make_world(nodes=nodes))
    stays = running("b", 1, deleted=True)
    story.edit(desiredState="Released").at("5m", pods=of(running(), stays))
    story.at("12m", pods=of(stays))
    assert story.says("Released") == "False/Quarantined"
    assert story.lease.status["release"]["lastError"] == "No word that the workload is gone from node-2"
    assert (story.notices(), story.wakes_at, story.lease.allocated) == (["Quarantined"], None, True)
    story.at("11m", pods=of(stays))
    assert story.says("Released") == "False/Quarantined", "a clock that went back"
    story.at("2h", pods=of(stays))
    assert (story.notices(), story.says("Released")) == ([], "False/Quarantined")
    story.at("3h", pods=of())
    assert story.ended == "Released/ReleaseRequested"
    assert "lastError" not in story.lease.status["release"]


def test_an_administrator_may_force_the_release_of_pods_that_stay() -> None:
    story = held(GATE)
    story.edit(desiredState="Released").at("5m", pods=of(running()))
    story.edit(annotations={"leasehold.dev/force-release": "true"}).at("6m", pods=of(running()))
    assert (story.ended, story.says("Released")) == ("Released/ReleaseRequested", "True/Forced")


def test_pods_on_a_node_that_no_longer_exists_hold_up_nothing() -> None:
    nodes = [make_node("node-1"), make_node("node-2")]
    story = held(GATE, nodes=("node-1", "node-2"), count=2, world=make_world(nodes=nodes))
    pods = of(running(), running("b", 1))
    story.at("5m", pods=pods, nodes=[make_node("node-1")])
    assert story.lease.status["release"]["cause"] == "NodeLost"
    assert story.says("Released") == "False/PodsLeaving", "those on the other node are still there"
    story.at("6m", pods=of(running("b", 1)), nodes=[make_node("node-1")])
    assert story.ended == "Revoked/NodeLost"
    story = held(GATE)
    story.at("5m", pods=of(running()), nodes=[make_node("other")])
    assert (story.ended, story.says("Released")) == ("Revoked/NodeLost", "True/NodeGone")


def test_capacity_rests_after_the_pods_are_gone() -> None:
    story = held(make_pool(enforcement={"mode": "Gate"}, cooldownSeconds=60))
    story.edit(desiredState="Released").at("5m", pods=of(running()))
    story.at("6m", pods=of())
    assert story.says("Released") == "False/CoolingDown"
    story.at("7m", pods=of())
    assert story.ended == "Released/ReleaseRequested"


def test_a_pool_that_stops_holding_pods_lets_its_leases_go() -> None:
    story = held(GATE)
    story.edit(desiredState="Released").at("5m", pods=of(running()))
    story.policy = POOL
    story.at("6m", pods=of(running()))
    assert story.says("Released") == "True/NotRequired"


# --- afterwards ---


def test_a_finished_lease_is_kept_to_be_read_then_deleted() -> None:
    story = release(POOL, ttlSecondsAfterFinished=600)
    assert story.wakes_at == at("15m")
    story.at("14m59s")
    assert story.step.action == ""
    story.at("15m")
    assert story.step == Step({}, action="delete")


def test_a_finished_lease_that_is_deleted_loses_its_finalizer() -> None:
    story = release(POOL)
    story.edit(deleted=True).at("6m")
    assert story.step == Step({}, action="drop-finalizer")


def test_a_finished_lease_without_its_finish_time_goes_by_its_condition() -> None:
    story = release(POOL, ttlSecondsAfterFinished=60)
    story.edit(status={k: v for k, v in story.lease.status.items() if k != "release"})
    step = advance(story.lease, POOL, story.world, at("6m"))
    assert step.action == "delete"


def test_a_changed_finished_lease_shows_that_the_change_was_seen() -> None:
    story = release(POOL)
    story.edit(ttlSecondsAfterFinished=7200).at("6m")
    assert story.lease.status["observedGeneration"] == story.lease.generation
    assert story.wakes_at == at("2h5m")


# --- clocks ---


def test_a_clock_that_went_back_ends_nothing_early() -> None:
    story = held(durationSeconds=60)
    story.at("-1h")
    assert story.says("Ready") == "True/Held"
    assert story.wakes_at == at("60s")


def test_a_clock_that_went_far_ahead_still_honours_a_renewal() -> None:
    story = held(durationSeconds=60)
    story.renew().at("365d")
    assert story.says("Ready") == "True/Held"


def test_a_verdict_of_another_cause_in_the_same_moment_takes_the_first_rule() -> None:
    story = held(durationSeconds=60)
    story.edit(desiredState="Released").at("90s")
    assert story.ended == "Released/ReleaseRequested"


# --- no pool ---


def without_pool(lease: Lease, time: str = "5m") -> tuple[Lease, Step]:
    step = end_without_pool(lease, at(time))
    after = written(lease, step)
    assert end_without_pool(after, at(time)).patch == {}
    return after, step


def test_a_waiting_lease_without_a_pool_hears_so_and_waits() -> None:
    lease, _ = without_pool(make_lease(pool="nowhere"))
    assert condition(lease, "Accepted") == "False/PoolNotFound"
    assert condition(lease, "Ready") == "False/PoolNotFound"
    assert lease.conditions["Accepted"]["message"].startswith("There is no CapacityPool 'nowhere'.")


def test_a_waiting_lease_without_a_pool_may_be_given_up_or_deleted() -> None:
    lease, _ = without_pool(make_lease(desiredState="Released"))
    assert lease.reason("Finished") == "Released"
    assert without_pool(make_lease(deleted=""))[1].action == "drop-finalizer"
    assert without_pool(lease, "3h")[1].action == "delete"


@pytest.mark.parametrize(
    ("change", "finished"),
    [({}, "Revoked"), ({"desiredState": "Released"}, "Released"), ({"deleted": True}, "Released")],
)
def test_a_held_lease_whose_pool_is_gone_is_over(change: dict[str, Any], finished: str) -> None:
    lease, _ = without_pool(edited(granted(), **change))
    assert (lease.reason("Finished"), lease.allocated) == (finished, False)


def test_a_lease_that_was_leaving_when_its_pool_went_keeps_its_cause() -> None:
    story = held(make_pool(cooldownSeconds=600), durationSeconds=60)
    story.at("90s")
    lease, _ = without_pool(story.lease)
    assert (lease.reason("Finished"), lease.status["release"]["cause"]) == ("Expired", "TermEnded")
    assert lease.status["release"]["startTime"] == clock("90s")


def test_a_node_that_does_not_know_all_pods_yet_confirms_nothing() -> None:
    pool = make_pool(enforcement={"mode": "Gate"}, verification="NodeReport")
    story = Story(granted(policy=pool), pool)
    story.lease = edited(story.lease, desiredState="Released")
    story.at("1m")
    uid = story.lease.uid

    def says(observed: int, time: str) -> list[Report]:
        found = make_report(gone=[story.lease], time=time, pods={"p": uid}, generation=4, observed=observed)
        return [with_history(found, None)]

    story.at("2m", reports=says(3, "2m"))
    assert story.says("Released") == "False/VerificationPending"
    story.at("3m", reports=says(4, "3m"))
    assert story.says("Released") == "True/Verified"
