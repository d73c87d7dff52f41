"""The thread that sends, and the sleep that ends early."""

import os
import signal
import threading
import time

import pytest

from leasehold.adapters.credentials import CredentialsError
from leasehold.adapters.lean_http import Response, UnreachableError
from leasehold.reporter.link import Alarm, Link, Request

GET = Request("GET", "/")


class FakeClient:
    def __init__(self, outcome):
        self.outcome = outcome
        self.go = threading.Event()
        self.go.set()

    def call(self, *request):
        self.go.wait(5)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def alarm():
    made = Alarm()
    yield made
    made.close()


def answered(link, alarm):
    for _ in range(100):
        answer = link.take()
        if answer is not None:
            return answer
        alarm.sleep(0.05)
    return None


class TestLink:
    def test_an_answer_wakes_the_sleeper_and_is_taken_once(self, alarm):
        client = FakeClient(
            Response(200, {"retry-after": "3", "date": "Sun, 06 Nov 1994 08:49:37 GMT"}, b'{"a":1}')
        )
        client.go.clear()
        link = Link(client, alarm.ring, iter((10.0, 11.0)).__next__)
        link.submit(GET)
        assert link.busy
        assert link.take() is None
        client.go.set()
        begun = time.monotonic()
        alarm.sleep(5)
        assert time.monotonic() - begun < 4
        answer = answered(link, alarm)
        assert (answer.status, answer.document, answer.retry_after) == (200, {"a": 1}, 3.0)
        assert (answer.sent, answer.received, answer.date) == (10.0, 11.0, 784111777.0)
        assert not link.busy
        assert link.take() is None

    @pytest.mark.parametrize(
        ("outcome", "error"),
        [
            (UnreachableError("refused"), "refused"),
            (CredentialsError("no token"), "no token"),
            (KeyError("oops"), "bug in the reporter's client: KeyError('oops')"),
        ],
    )
    def test_failures_are_answers_too_and_the_next_request_is_sent(self, alarm, outcome, error):
        client = FakeClient(outcome)
        link = Link(client, alarm.ring)
        link.submit(GET)
        answer = answered(link, alarm)
        assert (answer.status, answer.error) == (0, error)
        client.outcome = Response(200, {}, b"")
        link.submit(GET)
        assert answered(link, alarm).status == 200

    def test_one_request_at_a_time(self, alarm):
        client = FakeClient(Response(200, {}, b""))
        client.go.clear()
        link = Link(client, alarm.ring)
        link.submit(GET)
        with pytest.raises(AssertionError, match="one request"):
            link.submit(GET)
        client.go.set()
        answered(link, alarm)


class TestAlarm:
    def test_it_sleeps_its_time_and_goes_on(self, alarm):
        begun = time.monotonic()
        assert alarm.sleep(0.02)
        assert time.monotonic() - begun >= 0.02
        assert alarm.sleep(-1)

    def test_a_ring_before_the_sleep_is_not_lost(self, alarm):
        alarm.ring()
        begun = time.monotonic()
        assert alarm.sleep(5)
        assert time.monotonic() - begun < 4

    def test_stopped_it_never_sleeps_again(self, alarm):
        alarm.stop()
        assert not alarm.sleep(5)
        assert not alarm.sleep(5)

    def test_ringing_ten_thousand_times_blocks_nobody(self, alarm):
        for _ in range(10_000):
            for _ in range(10):
                alarm.ring()
        assert alarm.sleep(0)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_the_sleep_and_handlers_are_put_back(self, alarm, number):
        before = signal.getsignal(number)
        with alarm.on_signals():
            os.kill(os.getpid(), number)
            assert not alarm.sleep(5)
        assert signal.getsignal(number) is before
