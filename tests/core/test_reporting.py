"""What the reporter says and when, from plain values: no machine, no clock, no server."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.api.names import REPORT_REASONS, ConditionStatus, ReportCondition, ReportReason
from leasehold.api.quantity import amount
from leasehold.core.estimators import ClockOffset
from leasehold.core.reporting import (
    MAX_LEASES,
    MAX_PODS,
    Conditions,
    Cost,
    Facts,
    Figures,
    Filesystem,
    History,
    Instructions,
    LeaseUse,
    Pace,
    Pacing,
    Pressure,
    Sample,
    Surroundings,
    facts_of,
    instructions_of,
    merge_patch,
    status_of,
)

GIB = 1 << 30
MIB = 1 << 20
CORES = 4
NODE_DISK = Filesystem("nodefs", 100 * GIB, 60 * GIB, 1000, 500)
AROUND = Surroundings("boot-1", CORES)
CHEAP = Cost(100, 20 * MIB)


def sample(
    at, *, busy=0.0, steal=0.0, used=4 * GIB, total=16 * GIB, disks=(NODE_DISK,), leases=None, problems=()
):
    return Sample(at, busy, steal, total, total - used, disks, leases or {}, problems)


def history_of(*samples, instructions=Instructions()):
    history = History(instructions)
    for each in samples:
        history.add(each, CORES)
    return history


def steady(seconds, *, cores_busy=1.0, used=4 * GIB, start=0, **more):
    """Readings every second of a node that does the same all the time."""
    return [sample(start + s, busy=(start + s) * cores_busy, used=used, **more) for s in range(seconds)]


def status_now(history, conditions=None, *, around=AROUND, offset=None, cost=CHEAP, now_ms=1_000_000):
    conditions, offset = conditions or Conditions(), offset or ClockOffset()
    verdicts = conditions.judge(history, offset, cost)
    return status_of(
        history,
        around,
        conditions.rows(verdicts, now_ms),
        cost=cost,
        offset=offset,
        sequence=7,
        now_ms=now_ms,
        version="0.1.0",
    )


class TestInstructions:
    def test_an_empty_spec_means_the_defaults(self):
        assert instructions_of({}) == Instructions(5.0, 300.0, False, ())

    def test_all_fields_are_read(self):
        spec = {
            "reportPeriodSeconds": 1,
            "windowSeconds": 60,
            "state": "Excluded",
            "leaseUIDs": ["b", "a", "b"],
        }
        assert instructions_of(spec) == Instructions(1.0, 60.0, True, ("b", "a"))

    @pytest.mark.parametrize(
        "spec",
        [
            None,
            "text",
            [],
            {"reportPeriodSeconds": "often"},
            {"windowSeconds": True},
            {"leaseUIDs": {"a": 1}},
            {"pods": {"p": "a"}},
            {"leaseUIDs": None, "pods": [{"uid": "p", "leaseUID": "a"}]},
        ],
    )
    def test_what_cannot_be_read_keeps_its_default(self, spec):
        assert instructions_of(spec) == Instructions()

    def test_what_is_out_of_bounds_is_brought_back(self):
        spec = {
            "reportPeriodSeconds": 0.001,
            "windowSeconds": 10**9,
            "leaseUIDs": [f"{n}" for n in range(999)],
        }
        asked = instructions_of(spec)
        assert (asked.period, asked.window, len(asked.lease_uids)) == (1.0, 3600.0, 256)

    def test_uids_that_are_no_text_are_passed_over(self):
        assert instructions_of({"leaseUIDs": [1, None, "", {}, "a"]}).lease_uids == ("a",)

    def test_pods_are_read_with_their_lease_if_it_is_asked_about(self):
        spec = {
            "leaseUIDs": ["a", "b"],
            "pods": [
                {"uid": "p1", "leaseUID": "a"},
                {"uid": "p2", "leaseUID": "b", "phase": "of a newer version"},
                {"uid": "p3", "leaseUID": "c"},
            ],
        }
        assert instructions_of(spec).pods == {"p1": "a", "p2": "b"}

    def test_pods_that_make_no_sense_are_passed_over(self):
        rows = [
            None,
            "p",
            [],
            {},
            {"uid": "p"},
            {"leaseUID": "a"},
            {"uid": "", "leaseUID": "a"},
            {"uid": ["p"], "leaseUID": "a"},
            {"uid": "p", "leaseUID": {}},
            {"uid": "p", "leaseUID": ""},
            {"uid": "whole", "leaseUID": "a"},
        ]
        assert instructions_of({"leaseUIDs": ["a", ""], "pods": rows}).pods == {"whole": "a"}

    def test_no_more_pods_are_read_than_the_api_takes_and_those_of_others_do_not_count(self):
        rows = [{"uid": f"p{n}", "leaseUID": "b" if n < 100 else "a"} for n in range(999)]
        pods = instructions_of({"leaseUIDs": ["a"], "pods": rows}).pods
        assert (len(pods), next(iter(pods))) == (512, "p100")

    def test_pods_of_a_lease_beyond_the_bound_are_not_read(self):
        spec = {"leaseUIDs": [f"{n}" for n in range(999)], "pods": [{"uid": "p", "leaseUID": "998"}]}
        assert instructions_of(spec).pods == {}

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["uid", "leaseUID", "x"]), inner),
            max_leaves=20,
        )
    )
    def test_no_nonsense_stops_it(self, pods):
        found = instructions_of({"leaseUIDs": ["a", "0"], "pods": pods}).pods
        assert set(found.values()) <= {"a", "0"}

    def test_which_spec_they_are_of_is_kept_whatever_it_says(self):
        assert instructions_of({}, 7, "u")[-2:] == (7, "u")
        assert instructions_of(None, 7, "u") == Instructions(generation=7, object_uid="u")

    def test_the_bounds_are_those_of_the_api(self):
        from leasehold.api import report

        assert (MAX_LEASES, MAX_PODS) == (report.MAX_LEASES, report.MAX_PODS)


class TestGeneration:
    """Which spec a report answers: the one its last reading followed, never one that came since."""

    def test_it_is_that_of_the_last_reading(self):
        history = History(Instructions(generation=3, object_uid="u"))
        assert "observedGeneration" not in status_now(history)
        history.add(sample(0), CORES)
        assert status_now(history)["observedGeneration"] == 3
        history.instruct(Instructions(generation=4, object_uid="u"))
        assert status_now(history)["observedGeneration"] == 3
        history.add(sample(1), CORES)
        assert status_now(history)["observedGeneration"] == 4

    def test_a_reading_that_fails_answers_nothing(self):
        history = history_of(sample(0), instructions=Instructions(generation=3, object_uid="u"))
        history.instruct(Instructions(generation=4, object_uid="u"))
        history.fail("gone")
        assert status_now(history)["observedGeneration"] == 3

    def test_that_of_an_object_that_was_deleted_says_nothing_of_the_next(self):
        history = history_of(sample(0), instructions=Instructions(generation=3, object_uid="old"))
        history.instruct(Instructions(generation=5, object_uid="new"))
        assert "observedGeneration" not in status_now(history)
        assert merge_patch(status_now(history))["status"]["observedGeneration"] is None
        history.add(sample(1), CORES)
        assert status_now(history)["observedGeneration"] == 5


class TestFigures:
    def test_one_reading_gives_memory_and_disk_but_no_cpu(self):
        figures = history_of(sample(0)).figures()
        assert figures.keys() == {"memory", "ephemeral-storage"}
        assert figures["memory"].current == 4 * GIB
        assert figures["ephemeral-storage"].current == 40 * GIB

    def test_cpu_is_busy_time_over_elapsed_time_and_steal_is_apart(self):
        history = history_of(sample(0), sample(2, busy=3.0, steal=2.0))
        assert history.figures()["cpu"].current == 1500
        assert history.steal_permille == 250

    @pytest.mark.parametrize(
        ("counted", "millicores"),
        [(0, 1000), (4.0, 1000), (3.8, 1053), (5.0, 1000), (2.0, 1100)],
        ids=["unknown", "all", "ticks lost", "steal counted twice", "a core taken away"],
    )
    def test_time_the_kernel_lost_is_put_right_and_time_it_counted_twice_is_not_taken_off(
        self, counted, millicores
    ):
        history = history_of(sample(0), sample(1, busy=1.0)._replace(cpu_counted=counted))
        assert history.figures()["cpu"].current == millicores

    def test_readings_too_close_for_the_kernel_ticks_are_joined(self):
        history = history_of(sample(0), sample(0.1, busy=0.1), sample(1, busy=0.5))
        assert history.figures()["cpu"].current == 500

    def test_counters_that_run_backwards_count_as_nothing(self):
        history = history_of(sample(0, busy=100, steal=9), sample(1, busy=90, steal=0))
        assert history.figures()["cpu"].current == 0
        assert history.steal_permille == 0

    def test_never_more_cpu_than_there_is(self):
        history = history_of(sample(0), sample(1, busy=4.3, steal=9))
        assert history.figures()["cpu"].current == 4000
        assert history.steal_permille == 1000

    def test_the_node_filesystem_gone_takes_its_figures_along_until_it_is_back(self):
        history = history_of(sample(0), sample(1, disks=()))
        assert "ephemeral-storage" not in history.figures()
        assert "ephemeral-storage" not in history.capacity()
        history.add(sample(2), CORES)
        assert "ephemeral-storage" in history.figures()

    def test_other_filesystems_do_not_count_as_ephemeral_storage(self):
        history = history_of(sample(0, disks=(NODE_DISK._replace(name="imagefs"),)))
        assert "ephemeral-storage" not in history.figures()

    def test_a_longer_window_keeps_what_is_there(self):
        history = history_of(*steady(100, used=GIB), instructions=Instructions(window=60))
        history.instruct(Instructions(window=600))
        for each in steady(200, used=2 * GIB, start=100):
            history.add(each, CORES)
        assert len(history._tracks["memory"].window) == 60 + 200

    def test_capacity_is_rounded_down_and_use_up(self):
        history = history_of(
            sample(0, total=16 * GIB + 5000, used=4 * GIB), sample(1, busy=0.001, used=4 * GIB + 1)
        )
        status = status_now(history)
        assert status["capacity"] == {"cpu": "4", "memory": "16Gi", "ephemeral-storage": "100Gi"}
        assert [row["current"] for row in status["usage"]] == ["10m", "4097Mi", "40Gi"]

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=80))
    def test_every_figure_written_is_a_quantity_within_capacity(self, shares):
        busy, readings = 0.0, []
        for second, share in enumerate(shares):
            busy += share * CORES
            readings.append(sample(second, busy=busy, used=int(16 * GIB * share)))
        status = status_now(history_of(*readings))
        for row in status["usage"]:
            most = amount(row["name"], status["capacity"][row["name"]])
            values = [amount(row["name"], row[k]) for k in ("current", "trend", "p90", "p95", "max")]
            assert all(0 <= value <= most + MIB for value in values)
            assert amount(row["name"], row["p95"]) <= amount(row["name"], row["max"])


class TestLeases:
    ASKED = Instructions(lease_uids=("a", "b"))

    def test_unmanaged_is_what_no_lease_explains(self):
        gone = LeaseUse(False, 0, 0)
        history = history_of(
            sample(0, leases={"a": LeaseUse(True, 10.0, GIB), "b": gone}),
            sample(1, busy=3.0, leases={"a": LeaseUse(True, 12.0, GIB), "b": gone}),
            instructions=self.ASKED,
        )
        figures = history.figures()
        assert (figures["cpu"].current, figures["cpu"].unmanaged) == (3000, 1000)
        assert (figures["memory"].current, figures["memory"].unmanaged) == (4 * GIB, 3 * GIB)
        assert figures["ephemeral-storage"].unmanaged is None
        assert history.lease_rows() == [
            {"uid": "a", "state": "Present", "cpu": "2", "memory": "1Gi"},
            {"uid": "b", "state": "Gone"},
        ]

    def test_without_all_leases_known_nothing_is_called_unmanaged(self):
        history = history_of(
            *(sample(s, busy=s, leases={"a": LeaseUse(True, s, GIB)}) for s in range(3)),
            instructions=self.ASKED,
        )
        assert history.figures()["cpu"].unmanaged is None
        assert history.presence() == {"a": "Present"}
        assert "unmanaged" not in history.usage_rows()[0]

    def test_nobody_asked_nothing_attributed(self):
        history = history_of(sample(0, leases={"a": LeaseUse(True, 0, 0)}), sample(1))
        assert history.figures()["cpu"].unmanaged is None
        assert "leases" not in status_now(history)

    def test_leases_may_explain_more_than_was_seen(self):
        use = {"a": LeaseUse(True, 0.0, 8 * GIB), "b": LeaseUse(False, 0, 0)}
        later = {"a": LeaseUse(True, 9.0, 8 * GIB), "b": LeaseUse(False, 0, 0)}
        history = history_of(sample(0, leases=use), sample(1, busy=1, leases=later), instructions=self.ASKED)
        assert history.figures()["cpu"].unmanaged == 0
        assert history.figures()["memory"].unmanaged == 0

    def test_a_lease_read_once_is_not_told_of_and_its_use_not_called_unmanaged(self):
        asked = Instructions(lease_uids=("a",))
        readings = [sample(s, busy=s, leases={"a": LeaseUse(True, 100.0 + s, GIB)}) for s in range(2, 4)]
        history = history_of(sample(0), sample(1, busy=1), readings[0], instructions=asked)
        assert (history.lease_rows(), history.presence()) == ([], {})
        assert history.figures()["cpu"].unmanaged is None
        history.add(readings[1], CORES)
        assert history.lease_rows() == [{"uid": "a", "state": "Present", "cpu": "1", "memory": "1Gi"}]
        assert history.figures()["cpu"].unmanaged == 0

    def test_a_lease_that_comes_back_is_measured_from_then_on(self):
        asked, gone = Instructions(lease_uids=("a",)), LeaseUse(False, 0.0, 0)
        uses = [gone, LeaseUse(True, 500.0, GIB), LeaseUse(True, 502.0, GIB)]
        history = history_of(
            *(sample(s, busy=s, leases={"a": use}) for s, use in enumerate(uses)), instructions=asked
        )
        assert history.lease_rows()[0]["cpu"] == "2"

    def test_a_cgroup_made_anew_does_not_count_backwards(self):
        asked = Instructions(lease_uids=("a",))
        uses = [LeaseUse(True, 100.0, 0), LeaseUse(True, 1.0, 0)]
        history = history_of(
            *(sample(i, leases={"a": use}) for i, use in enumerate(uses)), instructions=asked
        )
        assert history.lease_rows()[0]["cpu"] == "0"

    def test_a_lease_no_longer_asked_about_is_forgotten(self):
        both = {"a": LeaseUse(True, 0, 0), "b": LeaseUse(True, 0, 0)}
        history = history_of(sample(0, leases=both), sample(1, leases=both), instructions=self.ASKED)
        history.instruct(Instructions(lease_uids=("b",)))
        assert history.presence() == {"b": "Present"}


class TestConditions:
    def judge(self, history, **more):
        conditions = more.pop("conditions", None) or Conditions()
        offset, cost = more.pop("offset", ClockOffset()), more.pop("cost", CHEAP)
        return {v.type: v for v in conditions.judge(history, offset, cost)}

    def test_a_new_reporter_is_starting_and_ready_after_half_a_minute(self):
        assert self.judge(history_of(*steady(10)))["Ready"][1:3] == ("False", "Starting")
        assert self.judge(history_of(*steady(33)))["Ready"][1:3] == ("True", "Reporting")

    def test_a_window_that_holds_one_reading_only_settles_too(self):
        slow = history_of(
            sample(0), sample(300, busy=9), sample(600, busy=9), instructions=Instructions(300, 60)
        )
        assert self.judge(slow)["Ready"].status == "True"
        assert not History(Instructions()).settled

    def test_a_failed_reading_says_why_and_a_good_one_takes_it_back(self):
        history = history_of(*steady(40))
        history.fail("/proc/stat cannot be read")
        assert self.judge(history)["Ready"] == ("Ready", "False", "ReadFailed", "/proc/stat cannot be read")
        history.add(sample(41), CORES)
        assert self.judge(history)["Ready"].status == "True"

    def test_the_clock_is_unknown_then_synced_then_skewed_with_hysteresis(self):
        history, conditions, offset = history_of(*steady(2)), Conditions(), ClockOffset()
        assert self.judge(history, conditions=conditions, offset=offset)["ClockSynced"].status == "Unknown"
        seen = []
        for at, apart in enumerate((0.0, 5.0, 1.6, 0.2)):
            fresh = ClockOffset()
            fresh.observe(at, 1000 + apart + 0.99, 1000 + apart + 0.995, 1000)
            seen.append(self.judge(history, conditions=conditions, offset=fresh)["ClockSynced"].status)
        assert seen == ["True", "False", "False", "True"]

    @pytest.mark.parametrize(
        ("disk", "status", "message"),
        [
            (NODE_DISK, "False", ""),
            (NODE_DISK._replace(available=10 * GIB), "True", "Nearly full: space of nodefs."),
            (NODE_DISK._replace(inodes_free=50), "True", "Nearly full: inodes of nodefs."),
            (NODE_DISK._replace(inodes=0, inodes_free=0), "False", ""),
        ],
    )
    def test_a_full_disk_is_pressure(self, disk, status, message):
        verdict = self.judge(history_of(sample(0, disks=(disk,))))["DiskPressure"]
        assert (verdict.status, verdict.message) == (status, message)

    def test_disk_pressure_does_not_flutter(self):
        conditions, seen = Conditions(), []
        for free in (11, 10, 11, 9, 11, 12, 11):
            history = history_of(sample(0, disks=(NODE_DISK._replace(available=free * GIB),)))
            seen.append(self.judge(history, conditions=conditions)["DiskPressure"].status == "True")
        assert seen == [False, True, True, True, True, False, False]

    def test_without_any_filesystem_nothing_is_said_of_disks(self):
        assert "DiskPressure" not in self.judge(history_of(sample(0, disks=())))

    def test_missing_figures_and_an_expensive_reporter_are_degraded(self):
        problem = self.judge(history_of(sample(0, problems=("filesystem nodefs: gone",))))["AgentDegraded"]
        assert problem[1:] == ("True", "Partial", "filesystem nodefs: gone")
        dear = self.judge(history_of(*steady(40)), cost=Cost(12_000, 20 * MIB))["AgentDegraded"]
        assert dear[1:3] == ("True", "OverBudget")
        assert self.judge(history_of(*steady(5)), cost=Cost(12_000, 0))["AgentDegraded"].status == "False"

    def test_messages_are_cut_to_what_the_api_takes(self):
        verdict = self.judge(history_of(sample(0, problems=("x" * 999,))))["AgentDegraded"]
        assert len(verdict.message) == 240

    def test_transition_time_moves_only_with_the_status(self):
        conditions = Conditions()
        starting = conditions.judge(history_of(*steady(2)), ClockOffset(), CHEAP)
        first = conditions.rows(starting, 1_000_999)
        assert first[0]["lastTransitionTime"] == "1970-01-01T00:16:40Z"
        assert conditions.rows(starting, 2_000_000) == first
        ready = conditions.judge(history_of(*steady(40)), ClockOffset(), CHEAP)
        assert conditions.rows(ready, 2_000_000)[0]["lastTransitionTime"] == "1970-01-01T00:33:20Z"

    def test_a_restarted_reporter_keeps_transition_times(self):
        row = {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"}
        conditions = Conditions()
        conditions.adopt([row, "nonsense", {"type": "Half"}])
        conditions.adopt(None)
        verdicts = conditions.judge(history_of(*steady(2)), ClockOffset(), CHEAP)
        assert conditions.rows(verdicts, 5_000)[0]["lastTransitionTime"] == "2020-01-01T00:00:00Z"

    def test_every_reason_is_one_that_is_documented_for_its_status(self):
        histories = [history_of(*steady(n)) for n in (1, 2, 40)]
        histories.append(history_of(sample(0, disks=(NODE_DISK._replace(available=0),), problems=("x",))))
        for history in histories:
            for cost in (CHEAP, Cost(99_999, GIB)):
                for verdict in Conditions().judge(history, ClockOffset(), cost):
                    assert verdict.reason in REPORT_REASONS[verdict.type][verdict.status]


class TestStatus:
    def test_everything_that_was_read_is_in_it(self):
        around = Surroundings(
            "boot-1",
            CORES,
            3 * GIB + 1,
            90 * MIB,
            2 * GIB,
            MIB + 1,
            (1500, 700, 90),
            (Pressure("io", 12, 3),),
        )
        offset = ClockOffset()
        offset.observe(0, 1000.5, 1000.5, 1000)
        status = status_now(history_of(*steady(40)), around=around, offset=offset, now_ms=1_700_000_000_123)
        assert status["bootID"] == "boot-1"
        assert status["sequence"] == 7
        assert status["reportTime"] == "2023-11-14T22:13:20.123Z"
        assert status["clockOffsetMilliseconds"] == 0
        assert status["memory"] == {"available": "12Gi", "workingSet": "3073Mi", "pcpCached": "90Mi"}
        assert status["swap"] == {"total": "2Gi", "used": "2Mi"}
        assert status["load"] == {"load1Milli": 1500, "load5Milli": 700, "load15Milli": 90}
        assert status["pressure"] == [{"name": "io", "some60Permille": 12, "full60Permille": 3}]
        assert status["filesystems"][0]["inodesFree"] == 500
        assert status["agent"] == {"cpuMicroPerSecond": 100, "residentBytes": 20 * MIB}

    def test_what_the_kernel_does_not_tell_is_not_in_it(self):
        disk = NODE_DISK._replace(inodes=0, inodes_free=0)
        status = status_now(history_of(sample(0, disks=(disk,))))
        assert not {"swap", "clockOffsetMilliseconds", "leases"} & status.keys()
        assert status["memory"] == {"available": "12Gi"}
        assert "inodes" not in status["filesystems"][0]

    def test_before_any_reading_there_is_a_report_without_figures(self):
        history = History(Instructions())
        history.fail("no /proc")
        status = status_now(history)
        assert (status["usage"], status["capacity"], status["filesystems"], status["memory"]) == (
            [],
            {},
            [],
            {},
        )
        assert merge_patch(status)["status"]["capacity"] == dict.fromkeys(
            ("cpu", "memory", "ephemeral-storage")
        )

    def test_the_patch_removes_what_an_older_report_may_have_had(self):
        patch = merge_patch(status_now(history_of(sample(0, disks=()))))["status"]
        assert patch["swap"] is None
        assert patch["leases"] is None
        assert patch["capacity"]["ephemeral-storage"] is None
        assert patch["memory"]["workingSet"] is None

    def test_it_is_small(self):
        status = status_now(history_of(*steady(40)))
        del status["filesystems"]
        assert len(json.dumps(status, separators=(",", ":"))) < 1400

    def test_the_api_model_accepts_it(self):
        from leasehold.api.report import ReportStatus

        around = Surroundings("b", CORES, GIB, MIB, GIB, MIB, (1, 2, 3), (Pressure("cpu", 1, 0),))
        asked = Instructions(lease_uids=("a",), generation=2)
        leases = {"a": LeaseUse(True, 0, GIB)}
        status = status_now(history_of(*steady(3, leases=leases), instructions=asked), around=around)
        known = {field.alias for field in ReportStatus.model_fields.values()} | {"bootID"}
        assert status.keys() <= known
        ReportStatus.model_validate(status)


def facts(*, p90=1000, current=None, trend=None, unmanaged=None, **more):
    current = p90 if current is None else current
    figures = {"cpu": Figures(current, current if trend is None else trend, p90, unmanaged)}
    ready = (ReportCondition.READY, ConditionStatus.TRUE, ReportReason.REPORTING, "")
    defaults = {
        "boot_id": "b",
        "capacity": {"cpu": 4000},
        "figures": figures,
        "verdicts": (_verdict(*ready),),
        "leases": {},
    }
    return Facts(**{**defaults, **more})


def _verdict(*fields):
    from leasehold.core.reporting import Verdict

    return Verdict(*fields)


STARTING = (_verdict(ReportCondition.READY, ConditionStatus.FALSE, ReportReason.STARTING),)
ASKED = Instructions(period=1)


def written_pace(before=None, at=100.0, **pacing):
    pace = Pace(Pacing(**pacing))
    pace.tried(at)
    pace.written(at, before or facts())
    return pace


class TestWhenToWrite:
    def test_the_first_report_is_due_at_once(self):
        assert Pace(Pacing()).due(0, facts(), ASKED) == "first report"

    def test_nothing_moved_nothing_is_written(self):
        assert written_pace().due(200, facts(), ASKED) == ""

    @pytest.mark.parametrize("p90", [1200, 800])
    def test_five_percent_of_capacity_is_not_more_than_five_percent(self, p90):
        assert written_pace().due(110, facts(p90=p90), ASKED) == ""

    @pytest.mark.parametrize("p90", [1201, 799])
    def test_the_placement_figure_moving_either_way_is_written(self, p90):
        assert written_pace().due(110, facts(p90=p90, current=1000), ASKED) == "cpu p90 moved"

    def test_a_step_up_is_written_before_the_p90_sees_it(self):
        stepped = facts(current=1500, trend=1090, p90=1000)
        assert written_pace().due(101, stepped, ASKED) == "cpu stepped up"

    def test_a_jump_against_the_trend_is_noise(self):
        assert written_pace().due(101, facts(current=1500, trend=950, p90=1000), ASKED) == ""

    def test_a_step_already_written_is_no_news(self):
        pace = written_pace(facts(current=1500, trend=1090, p90=1000))
        assert pace.due(130, facts(current=1600, trend=1400, p90=1000), ASKED) == ""

    def test_a_step_down_waits_for_the_p90_or_the_trend(self):
        pace = written_pace()
        assert pace.due(110, facts(current=100, trend=100, p90=1000), ASKED) == ""
        assert pace.due(161, facts(current=100, trend=100, p90=1000), ASKED) == "cpu trend moved"

    def test_unmanaged_use_counts_like_the_placement_figure(self):
        pace = written_pace(facts(unmanaged=500))
        assert pace.due(110, facts(unmanaged=600), ASKED) == ""
        assert pace.due(110, facts(unmanaged=701), ASKED) == "cpu unmanaged use moved"
        assert pace.due(110, facts(unmanaged=None), ASKED) == "cpu unmanaged use moved"

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"boot_id": "other"}, "node restarted"),
            ({"capacity": {"cpu": 8000}}, "capacity changed"),
            ({"verdicts": STARTING}, "condition changed"),
            ({"verdicts": ()}, "condition changed"),
            ({"leases": {"a": "Gone"}}, "lease came or went"),
            ({"generation": 1}, "spec changed"),
        ],
    )
    def test_changes_that_are_no_matter_of_degree_are_written(self, change, why):
        assert written_pace().due(110, facts(**change), ASKED) == why

    def test_a_resource_seen_for_the_first_time_is_written(self):
        assert written_pace(facts(figures={})).due(110, facts(), ASKED) == "cpu newly measured"

    def test_another_message_alone_is_not_written(self):
        worded = tuple(v._replace(message="otherwise") for v in facts().verdicts)
        assert written_pace().due(110, facts(verdicts=worded), ASKED) == ""

    @pytest.mark.parametrize(("chance", "seconds"), [(0.0, 240), (0.5, 300), (1.0, 360)])
    def test_silence_ends_after_300_seconds_give_or_take_a_fifth(self, chance, seconds):
        pace = Pace(Pacing())
        pace.written(0, facts(), chance)
        assert pace.due(seconds - 1, facts(), ASKED) == ""
        assert pace.due(seconds, facts(), ASKED) == "silence is over"

    @pytest.mark.parametrize(("period", "floor"), [(1, 0.5), (5, 2.5), (60, 2.5)])
    def test_writes_keep_a_distance_that_lets_every_reading_be_written_and_no_more(self, period, floor):
        pace, moved, asked = written_pace(), facts(p90=2000), Instructions(period=period)
        assert pace.due(100 + floor - 0.01, moved, asked) == ""
        assert pace.due(100 + floor, moved, asked) != ""

    def test_an_excluded_node_writes_heartbeats_conditions_and_leases_only(self):
        pace, excluded = written_pace(), Instructions(period=1, excluded=True)
        assert pace.due(110, facts(p90=4000), excluded) == ""
        assert pace.due(110, facts(verdicts=STARTING), excluded) == "condition changed"
        assert pace.due(110, facts(leases={"a": "Gone"}), excluded) == "lease came or went"
        assert pace.due(110, facts(generation=1), excluded) == "spec changed"
        assert pace.due(400, facts(p90=4000), excluded) == "silence is over"

    def test_a_host_that_cannot_be_read_is_said_once_and_gets_no_heartbeat(self):
        broken = facts(verdicts=STARTING, failed=True)
        assert written_pace().due(110, broken, ASKED) == "condition changed"
        assert written_pace(broken).due(9999, broken, ASKED) == ""

    def test_a_report_that_is_gone_is_written_again(self):
        pace = written_pace()
        pace.forget()
        assert pace.due(110, facts(), ASKED) == "first report"

    def test_a_report_that_was_not_taken_is_still_due(self):
        pace = written_pace()
        assert pace.due(110, facts(p90=2000), ASKED)
        pace.tried(110)
        assert pace.due(110.4, facts(p90=2000), ASKED) == ""
        assert pace.due(111, facts(p90=2000), ASKED) == "cpu p90 moved"

    def test_facts_are_gathered_from_the_history(self):
        history = history_of(*steady(3), instructions=Instructions(generation=6))
        history.fail("gone")
        gathered = facts_of(history, AROUND, STARTING)
        assert (gathered.boot_id, gathered.failed, gathered.verdicts) == ("boot-1", True, STARTING)
        assert gathered.generation == 6
        assert gathered.capacity["cpu"] == 4000
