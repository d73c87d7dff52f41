"""The loop with a clock, a host and a server that do what the test says: nothing waits."""

import io
import json
from itertools import pairwise

import pytest

from leasehold.adapters.cgroups import Reading
from leasehold.adapters.host import HostReadError
from leasehold.core.reporting import (
    Conditions,
    Cost,
    Filesystem,
    History,
    LeaseUse,
    Pace,
    Pacing,
    Sample,
    Surroundings,
)
from leasehold.reporter.conversation import Conversation
from leasehold.reporter.link import Answer
from leasehold.reporter.log import Log
from leasehold.reporter.loop import Reporter, World
from leasehold.reporter.metrics import Metrics

GIB = 1 << 30


class FakeHost:
    """A node of four cores and 16 GiB whose use is set by the test."""

    def __init__(self, clock):
        self.clock = clock
        self.busy = 0.0
        self.cores_busy = 1.0
        self.used = 4 * GIB
        self.broken = ""
        self.blind = ""
        self.read_at = []

    def sample(self, leases, problems):
        if self.broken:
            raise HostReadError(self.broken)
        at = self.clock()
        self.busy += self.cores_busy * (at - (self.read_at[-1] if self.read_at else at))
        self.read_at.append(at)
        disk = Filesystem("nodefs", 100 * GIB, 60 * GIB, 1000, 500)
        return Sample(at, self.busy, 0.0, 16 * GIB, 16 * GIB - self.used, (disk,), leases, tuple(problems))

    def surroundings(self):
        if self.blind:
            raise HostReadError(self.blind)
        return Surroundings("boot", 4)


class FakeServer:
    """A link with an API server behind it that holds one report."""

    def __init__(self):
        self.report = None
        self.spec = {}
        self.uid = "u"
        self.generation = 1
        self.away = False
        self.slow = False
        self.requests = []
        self.writes = []
        self._waiting = None

    @property
    def busy(self):
        return self._waiting is not None

    def submit(self, request):
        assert not self.busy
        self._waiting = request
        self.requests.append(request)

    def take(self):
        if self._waiting is None or self.slow:
            return None
        request, self._waiting = self._waiting, None
        return self.answer(request)

    def answer(self, request):
        if self.away:
            return Answer(0, {}, "connection refused")
        if request.method == "POST":
            self.report = {}
            return Answer(201, self.document())
        if self.report is None:
            return Answer(404, {})
        if request.method == "PATCH":
            self.report = request.body["status"]
            self.writes.append(self.report)
        return Answer(200, self.document())

    def document(self):
        metadata = {"uid": self.uid, "generation": self.generation}
        return {"metadata": metadata, "spec": self.spec, "status": self.report}

    def instruct(self, **spec):
        self.spec, self.generation = spec, self.generation + 1


class FakeCgroups:
    def __init__(self):
        self.uses = {}
        self.problems = ()
        self.asked = []

    def read(self, uids, pods):
        self.asked.append((tuple(uids), dict(pods)))
        return Reading({uid: self.uses[uid] for uid in uids if uid in self.uses}, self.problems)


class Node:
    """A reporter in a made-up world, run for as long as a test likes."""

    def __init__(self, period=1):
        self.now = 1000.0
        self.late = 0.0
        self.host, self.server, self.cgroups = FakeHost(lambda: self.now), FakeServer(), FakeCgroups()
        self.server.spec = {"reportPeriodSeconds": period}
        self.stream = io.StringIO()
        self.metrics = Metrics(wall=lambda: self.now)
        log, pace, conditions = Log("debug", self.stream), Pace(Pacing()), Conditions()
        conversation = Conversation("n1", pace, conditions, log, lambda: 0.5)
        self.history = History(conversation.instructions)
        world = World(
            self.host,
            self.cgroups,
            self.server,
            lambda: Cost(100, 20 << 20),
            lambda: self.now,
            lambda: 1.7e9 + self.now,
        )
        self.reporter = Reporter(
            world,
            history=self.history,
            conditions=conditions,
            pace=pace,
            conversation=conversation,
            log=log,
            version="0.1.0",
            metrics=self.metrics,
        )

    def run(self, seconds, latency=0.01):
        """Run on. An answer is there ``latency`` after its request and wakes the loop."""
        end = self.now + seconds

        def sleep(wait):
            answered = self.server.busy and not self.server.slow
            self.now += min(wait, latency) if answered else wait + self.late
            return self.now < end

        self.reporter.run(sleep)
        return self

    def events(self, name):
        return [e for e in map(json.loads, self.stream.getvalue().splitlines()) if e["event"] == name]


class TestBeginning:
    def test_the_report_is_created_and_written_with_the_second_reading(self):
        node = Node().run(1.5)
        assert [r.method for r in node.server.requests] == ["GET", "POST", "PATCH"]
        usage = {row["name"]: row["current"] for row in node.server.report["usage"]}
        assert usage == {"cpu": "1", "memory": "4Gi", "ephemeral-storage": "40Gi"}
        assert node.server.report["sequence"] == 1

    def test_then_it_is_silent_but_for_becoming_ready(self):
        node = Node().run(200)
        assert [e["why"] for e in node.events("writing")] == ["first report", "condition changed"]

    def test_a_long_first_period_does_not_delay_the_first_report(self):
        node = Node(period=300)
        node.run(1.5)
        assert len(node.server.writes) == 1


class TestMetrics:
    def test_they_follow_what_it_does(self):
        node = Node().run(10)
        node.host.broken = "gone"
        node.run(3)
        page = node.metrics.page().decode()
        for line in (
            'leasehold_reporter_requests_total{method="POST",code="201"} 1',
            f'leasehold_reporter_requests_total{{method="PATCH",code="200"}} {len(node.server.writes)}',
            f'leasehold_reporter_readings_total{{result="ok"}} {len(node.host.read_at)}',
            'leasehold_reporter_readings_total{result="failed"} 3',
            'leasehold_reporter_node_usage{resource="cpu",unit="core",figure="current"} 1.0',
        ):
            assert line in page, page

    def test_a_reading_that_hangs_is_wrong_and_a_silent_server_is_not(self):
        node = Node().run(10)
        node.server.away = True
        node.run(300)
        assert node.reporter.wrong() == ""
        node.now += 59
        assert node.reporter.wrong() == ""
        node.now += 3
        assert node.reporter.wrong().startswith("a reading is overdue for 6")


class TestPacing:
    def test_readings_stay_on_the_grid_however_late_the_loop_wakes(self):
        node = Node()
        node.late = 0.003
        node.run(100)
        grid = [at - node.host.read_at[0] for at in node.host.read_at[2:]]
        assert all(abs(at - round(at)) < 0.02 for at in grid)
        assert len(grid) >= 97

    def test_readings_missed_are_left_out_and_not_made_up_for(self):
        node = Node().run(10)
        node.now += 7.4
        before = len(node.host.read_at)
        node.run(5)
        assert len(node.host.read_at) - before <= 6

    def test_a_changed_period_is_followed_at_once(self):
        node = Node(period=60).run(65)
        node.server.instruct(reportPeriodSeconds=1)
        node.run(40)
        before = len(node.host.read_at)
        node.run(10)
        assert len(node.host.read_at) - before == 10

    def test_a_wall_clock_that_jumps_changes_no_figure(self):
        node = Node().run(30)
        wall = node.reporter._world.wall
        node.reporter._world = node.reporter._world._replace(wall=lambda: wall() - 86400)
        node.run(300)
        assert {row["name"]: row["current"] for row in node.server.report["usage"]}["cpu"] == "1"


class TestWriting:
    def test_a_step_is_written_with_the_reading_that_sees_it(self):
        node = Node().run(100)
        node.host.used = 8 * GIB
        stepped_at, before = node.now, len(node.server.writes)
        while len(node.server.writes) == before:
            node.run(0.05)
        assert node.now - stepped_at <= 1.2
        assert node.server.report["usage"][1]["current"] == "8Gi"

    def test_silence_is_broken_after_300_seconds(self):
        node = Node().run(40)
        before = len(node.server.writes)
        node.run(302)
        assert len(node.server.writes) == before + 1
        assert node.events("writing")[-1]["why"] == "silence is over"

    def test_never_more_than_one_write_a_period(self):
        node = Node().run(50)
        times, writes = [], len(node.server.writes)
        for step in range(40):
            node.host.cores_busy = 4.0 * (step % 2)
            node.host.used = (4 + step % 9) * GIB
            node.run(0.5)
            if len(node.server.writes) > writes:
                times.append(node.now)
                writes = len(node.server.writes)
        assert all(later - earlier >= 0.9 for earlier, later in pairwise(times))

    def test_sequences_rise_by_one(self):
        node = Node().run(100)
        node.host.used = 9 * GIB
        node.run(200)
        numbers = [w["sequence"] for w in node.server.writes]
        assert numbers == list(range(1, len(numbers) + 1))

    def test_leases_asked_about_are_told_of_and_their_going_is_news(self):
        node = Node().run(40)
        node.cgroups.uses = {"a": LeaseUse(True, 0.0, GIB)}
        node.server.instruct(reportPeriodSeconds=1, leaseUIDs=["a"])
        node.run(60)
        assert node.server.report["leases"] == [{"uid": "a", "state": "Present", "cpu": "0", "memory": "1Gi"}]
        assert node.server.report["usage"][1]["unmanaged"] == "3Gi"
        node.cgroups.uses = {"a": LeaseUse(False, 0.0, 0)}
        node.run(2)
        assert node.server.report["leases"] == [{"uid": "a", "state": "Gone"}]

    def test_the_pods_asked_about_are_looked_for(self):
        node = Node().run(40)
        assert node.cgroups.asked[-1] == ((), {})
        node.server.instruct(leaseUIDs=["a"], pods=[{"uid": "p", "leaseUID": "a"}])
        node.run(60)
        assert node.cgroups.asked[-1] == (("a",), {"p": "a"})

    def test_a_report_says_which_spec_it_answers_and_a_new_one_is_answered_with_the_next_reading(self):
        node = Node().run(40)
        assert node.server.report["observedGeneration"] == 1
        node.server.instruct(reportPeriodSeconds=1)
        while len(node.events("instructed")) < 2:
            node.run(0.05)
        heard, before = node.now, len(node.server.writes)
        assert node.server.report["observedGeneration"] == 1
        while len(node.server.writes) == before:
            node.run(0.05)
        assert node.now - heard <= 1.2
        assert node.server.report["observedGeneration"] == 2
        assert node.events("writing")[-1]["why"] == "spec changed"

    def test_a_report_written_before_the_next_reading_answers_the_spec_before(self):
        """Somebody emptied it, so it is written as soon as that and the new spec are seen: between two readings."""
        node = Node(period=10).run(100)
        node.server.instruct(reportPeriodSeconds=10, leaseUIDs=["a"])
        node.server.report, before = {}, len(node.server.writes)
        while len(node.server.writes) == before:
            node.run(0.05)
        assert len(node.events("instructed")) == 2
        assert node.server.writes[-1]["observedGeneration"] == 1
        node.run(12)
        assert node.server.report["observedGeneration"] == 2

    def test_one_made_anew_is_not_told_what_an_earlier_one_was_asked(self):
        node = Node().run(40)
        for _ in range(3):
            node.server.instruct(reportPeriodSeconds=1)
            node.run(40)
        assert node.server.report["observedGeneration"] == 4
        node.server.report, node.server.uid, node.server.generation = None, "another", 1
        before = len(node.server.writes)
        while len(node.server.writes) == before:
            node.run(0.05)
        assert node.server.report["observedGeneration"] is None
        node.run(3)
        assert node.server.report["observedGeneration"] == 1

    def test_an_excluded_node_is_quiet_and_goes_on_measuring(self):
        node = Node().run(40)
        node.server.instruct(reportPeriodSeconds=1, state="Excluded")
        node.run(40)
        before = len(node.server.writes)
        node.host.used = 12 * GIB
        node.run(100)
        assert len(node.server.writes) == before
        assert node.history.figures()["memory"].p90 == 12 * GIB


class TestTrouble:
    def test_an_absent_server_costs_no_reading_and_the_window_is_whole(self):
        node = Node().run(60)
        node.server.away = True
        node.host.used = 12 * GIB
        before = len(node.host.read_at)
        node.run(120)
        assert len(node.host.read_at) - before >= 119
        node.host.used = 5 * GIB
        node.server.away = False
        node.run(40)
        row = node.server.report["usage"][1]
        assert (row["max"], row["current"]) == ("12Gi", "5Gi")
        assert len(node.events("cannot write the report is over")) == 1

    def test_a_server_that_never_answers_costs_no_reading_either(self):
        node = Node().run(60)
        node.server.slow = True
        node.host.used = 12 * GIB
        before = len(node.host.read_at)
        node.run(60)
        assert len(node.host.read_at) - before >= 59
        assert len(node.server.requests) == len(node.server.writes) + 1 + 2 + 1 or node.server.busy
        node.server.slow = False
        node.run(10)
        assert node.server.report["usage"][1]["current"] == "12Gi"

    def test_a_deleted_report_comes_back(self):
        node = Node().run(60)
        node.server.report = None
        node.run(40)
        assert node.server.report["usage"]

    def test_a_host_that_cannot_be_read_is_reported_once_and_recovers(self):
        node = Node().run(60)
        node.host.broken = "/proc/stat cannot be read"
        before = len(node.server.writes)
        node.run(700)
        assert len(node.server.writes) == before + 1
        ready = node.server.report["conditions"][0]
        assert (ready["status"], ready["reason"]) == ("False", "ReadFailed")
        node.host.broken = ""
        node.run(40)
        assert node.server.report["conditions"][0]["status"] == "True"
        assert node.events("cannot read the host is over")

    def test_without_any_reading_nothing_is_written(self):
        node = Node()
        node.host.blind = "no cpu lines"
        node.run(20)
        assert node.server.requests == []
        assert node.events("cannot read the host")
        node.host.blind = ""
        node.run(5)
        assert node.server.writes

    def test_slow_figures_that_fail_later_are_written_as_they_were(self):
        node = Node().run(20)
        node.host.blind = "no cpu lines"
        node.host.used = 12 * GIB
        node.run(5)
        assert node.server.report["bootID"] == "boot"
        assert node.server.report["usage"][1]["current"] == "12Gi"

    def test_problems_of_attribution_degrade_the_reporter(self):
        node = Node().run(40)
        node.cgroups.problems = ("leases: no cgroups at /sys/fs/cgroup",)
        node.server.instruct(reportPeriodSeconds=1, leaseUIDs=["a"])
        node.run(60)
        degraded = node.server.report["conditions"][-1]
        assert (degraded["status"], degraded["message"]) == ("True", "leases: no cgroups at /sys/fs/cgroup")
        assert node.server.report["leases"] is None


@pytest.mark.parametrize("period", [1, 2, 5, 30, 300])
def test_at_every_period_a_quiet_hour_needs_a_report_each_five_minutes(period):
    node = Node(period=period).run(3600)
    assert 11 <= len(node.server.writes) <= 15
