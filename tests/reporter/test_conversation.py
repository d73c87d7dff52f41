"""What is asked of the API server, in which order and how patiently: answers in, steps out."""

import io
import json

import pytest

from leasehold.core.reporting import Conditions, Facts, Instructions, Pace, Pacing
from leasehold.reporter.conversation import Conversation
from leasehold.reporter.link import Answer
from leasehold.reporter.log import Log

FACTS = Facts("boot", {}, {}, (), {})
BOOT = "boot"


class Talk:
    """A conversation with its times and its log at hand."""

    def __init__(self, chance=1.0):
        self.stream = io.StringIO()
        self.pace = Pace(Pacing())
        self.conditions = Conditions()
        self.chance = chance
        log = Log("debug", self.stream)
        self.it = Conversation("n1", self.pace, self.conditions, log, lambda: self.chance)
        self.now = 0.0

    def step(self, due=""):
        return self.it.next_step(self.now, due)

    def ask(self, due=""):
        step = self.step(due)
        if step == "read":
            return self.it.read()
        if step == "create":
            return self.it.create()
        if step == "write":
            return self.it.write(self.now, FACTS, {"status": {"sequence": self.it.next_sequence(BOOT)}})
        return None

    def hear(self, status, document=None, **more):
        self.it.hear(self.now, Answer(status, document or {}, **more), BOOT)

    def exchange(self, status, document=None, due="", **more):
        request = self.ask(due)
        self.hear(status, document, **more)
        return request

    def events(self):
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def report(*, spec=None, status=None, generation=1, uid="u"):
    document = {"metadata": {"uid": uid, "generation": generation}, "spec": spec or {}}
    return document | ({"status": status} if status else {})


STATUS = {"reportTime": "2026-01-01T00:00:00Z", "bootID": BOOT, "sequence": 41}


class TestOrder:
    def test_it_reads_first_exactly_and_later_from_the_cache(self):
        talk = Talk()
        first = talk.exchange(200, report())
        assert (first.method, first.path) == ("GET", "/apis/leasehold.dev/v1alpha1/nodereports/n1")
        assert talk.step() is None
        talk.now = 37
        assert talk.exchange(200, report()).path.endswith("/n1?resourceVersion=0")

    def test_a_missing_report_is_created_with_a_name_only_and_written(self):
        talk = Talk()
        talk.exchange(404)
        create = talk.exchange(201, report())
        assert (create.method, create.path) == ("POST", "/apis/leasehold.dev/v1alpha1/nodereports")
        assert create.body["metadata"] == {"name": "n1"}
        assert create.body["spec"] == {}
        write = talk.ask(due="first report")
        assert (write.method, write.path[-10:]) == ("PATCH", "/n1/status")
        assert write.content_type == "application/merge-patch+json"

    def test_there_is_never_more_than_one_request(self):
        talk = Talk()
        talk.ask()
        assert talk.step("anything") is None

    def test_a_written_report_brings_the_spec_and_postpones_the_reading(self):
        talk = Talk(chance=0.0)
        talk.exchange(200, report())
        talk.now = 20
        talk.exchange(200, report(spec={"reportPeriodSeconds": 1}, generation=2), due="moved")
        assert talk.it.instructions.period == 1
        talk.now = 43
        assert talk.step() is None
        talk.now = 44
        assert talk.step() == "read"

    def test_a_report_deleted_under_way_is_created_again_and_written_anew(self):
        talk = Talk()
        talk.exchange(200, report())
        talk.pace.written(0, FACTS)
        talk.exchange(404, due="moved")
        assert talk.step() == "create"
        assert talk.pace.due(10, FACTS, Instructions()) == "first report"

    def test_created_by_somebody_else_meanwhile_it_is_read(self):
        talk = Talk()
        talk.exchange(404)
        talk.exchange(409)
        talk.now = 1
        assert talk.step() == "read"
        assert "?" not in talk.it.read().path


class TestSequence:
    def test_it_goes_on_where_an_earlier_process_stopped(self):
        talk = Talk()
        talk.exchange(200, report(status=STATUS))
        assert talk.it.next_sequence(BOOT) == 42

    def test_after_a_restart_of_the_node_it_begins_anew(self):
        talk = Talk()
        talk.exchange(200, report(status={**STATUS, "bootID": "earlier"}))
        assert [talk.it.next_sequence(BOOT), talk.it.next_sequence(BOOT)] == [1, 2]

    def test_a_number_refused_makes_it_read_and_go_beyond(self):
        talk = Talk()
        talk.exchange(200, report(status=STATUS))
        talk.exchange(422, {"message": "sequence falls"}, due="x")
        talk.now = 1
        assert talk.exchange(200, report(status={**STATUS, "sequence": 99})).method == "GET"
        assert talk.it.next_sequence(BOOT) == 100

    def test_a_number_is_not_used_twice_even_if_its_report_was_lost(self):
        talk = Talk()
        talk.exchange(200, report())
        first = talk.exchange(0, due="x", error="timed out")
        talk.now = 1
        second = talk.ask(due="x")
        assert second.body["status"]["sequence"] == first.body["status"]["sequence"] + 1

    def test_an_older_number_from_the_cache_changes_nothing(self):
        talk = Talk()
        talk.exchange(200, report(status={**STATUS, "sequence": 50}))
        talk.now = 40
        talk.exchange(200, report(status=STATUS))
        assert talk.it.next_sequence(BOOT) == 51

    def test_a_report_somebody_emptied_is_written_anew(self):
        talk = Talk()
        talk.exchange(200, report(status=STATUS))
        talk.pace.written(0, FACTS)
        talk.now = 40
        talk.exchange(200, report())
        assert talk.pace.due(41, FACTS, Instructions()) == "first report"

    def test_since_when_conditions_hold_is_taken_over(self):
        talk = Talk()
        since = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
        talk.exchange(200, report(status={**STATUS, "conditions": [since]}))
        assert talk.conditions._since["Ready"] == ("True", "2020-01-01T00:00:00Z")


class TestInstructions:
    def test_a_changed_spec_is_followed_and_told(self):
        talk = Talk()
        pods = [{"uid": "p", "leaseUID": "a"}]
        talk.exchange(200, report(spec={"leaseUIDs": ["a"], "pods": pods, "state": "Excluded"}, generation=4))
        assert talk.it.instructions == Instructions(
            excluded=True, lease_uids=("a",), pods={"p": "a"}, generation=4, object_uid="u"
        )
        assert talk.events()[-1] | {"time": ""} == {
            "time": "", "level": "info", "event": "instructed",
            "period": 5.0, "window": 300.0, "excluded": True, "leases": 1, "pods": 1, "generation": 4,
        }  # fmt: skip

    def test_a_spec_that_says_the_same_under_another_generation_is_followed_too(self):
        talk = Talk()
        talk.exchange(200, report(generation=1))
        talk.now = 40
        talk.exchange(200, report(generation=2))
        assert talk.it.instructions.generation == 2

    def test_an_older_spec_from_the_cache_is_not(self):
        talk = Talk()
        talk.exchange(200, report(spec={"reportPeriodSeconds": 1}, generation=3))
        talk.now = 40
        talk.exchange(200, report(spec={"reportPeriodSeconds": 9}, generation=2))
        assert (talk.it.instructions.period, talk.it.instructions.generation) == (1, 3)

    def test_that_of_a_new_object_of_the_same_name_is(self):
        talk = Talk()
        talk.exchange(200, report(spec={"reportPeriodSeconds": 1}, generation=3))
        talk.now = 40
        talk.exchange(200, report(spec={"reportPeriodSeconds": 9}, generation=1, uid="other"))
        assert talk.it.instructions.period == 9
        assert (talk.it.instructions.generation, talk.it.instructions.object_uid) == (1, "other")

    @pytest.mark.parametrize("document", [{}, {"metadata": None, "spec": None, "status": []}])
    def test_an_answer_without_an_object_is_survived(self, document):
        talk = Talk()
        talk.exchange(200, document)
        assert talk.it.instructions == Instructions()


class TestPatience:
    def test_it_waits_longer_after_every_failure_up_to_half_a_minute(self):
        talk, waits = Talk(), []
        for _ in range(8):
            talk.exchange(500)
            begun = talk.now
            while talk.step() is None:
                talk.now += 0.5
            waits.append(talk.now - begun)
        assert waits == [1, 2, 4, 8, 16, 30, 30, 30]

    def test_nodes_do_not_come_back_all_at_once(self):
        talk = Talk(chance=0.0)
        talk.exchange(500)
        talk.now = 0.5
        assert talk.step() == "read"

    def test_success_makes_it_patient_anew(self):
        talk = Talk()
        talk.exchange(500)
        talk.now = 1
        talk.exchange(200, report())
        talk.exchange(500, due="x")
        talk.now = 2
        assert talk.step("x") == "write"

    @pytest.mark.parametrize(
        ("status", "asked", "waits"), [(429, 7.0, 7), (503, 20.0, 20), (429, 9999.0, 300), (429, 0.1, 1)]
    )
    def test_retry_after_is_kept_within_reason(self, status, asked, waits):
        talk = Talk()
        talk.exchange(status, retry_after=asked)
        talk.now = waits - 0.01
        assert talk.step() is None
        talk.now = waits
        assert talk.step() == "read"

    @pytest.mark.parametrize(
        ("status", "said"),
        [
            (401, "does not accept the reporter's token or certificate"),
            (403, "role needs nodereports get and create, nodereports/status patch"),
            (500, "no reason given"),
        ],
    )
    def test_refusals_say_what_to_do(self, status, said):
        talk = Talk()
        talk.exchange(status)
        assert said in talk.events()[-1]["why"]

    def test_a_kind_that_is_not_installed_is_told_so(self):
        talk = Talk()
        talk.exchange(404)
        talk.exchange(404, {"message": "the server could not find the requested resource"})
        event = talk.events()[-1]
        assert (event["event"], event["status"]) == ("cannot create the report", 404)
        assert "install Leasehold's CRDs" in event["why"]
        talk.now = 1
        assert talk.step() == "create"

    def test_an_outage_is_told_once_a_minute_and_its_end(self):
        talk = Talk()
        for _ in range(20):
            talk.exchange(0, error="refused")
            while talk.step() is None:
                talk.now += 1
        told = [e for e in talk.events() if e["event"] == "cannot read the report"]
        assert 6 <= len(told) <= 9
        assert told[1]["repeated"] >= 1
        talk.exchange(200, report())
        assert talk.events()[-1]["event"] == "cannot read the report is over"

    def test_the_clock_offset_is_learnt_even_from_refusals(self):
        talk = Talk()
        talk.exchange(500, sent=1000.0, received=1000.2, date=990.0)
        assert talk.it.offset.seconds == pytest.approx(9.6)
