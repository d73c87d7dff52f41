"""The loop: read the host on the beat, decide, and let one request at a time run beside it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from leasehold.adapters.cgroups import Reading
from leasehold.adapters.host import HostReadError
from leasehold.core.reporting import (
    Conditions,
    Cost,
    Facts,
    History,
    LeaseUse,
    Pace,
    Sample,
    Surroundings,
    facts_of,
    merge_patch,
    status_of,
)
from leasehold.reporter.conversation import Conversation
from leasehold.reporter.link import Answer, Request
from leasehold.reporter.log import Log
from leasehold.reporter.metrics import Metrics

FIRST_INTERVAL: Final = 1.0
"""The second reading comes so soon (s) because there is no CPU figure, and so no report, before it."""

SURROUNDINGS_SECONDS: Final = 30.0
"""How old the slow readings may be between reports; for a report they are always made anew."""

STUCK_SECONDS: Final = 60.0
"""A reading that is overdue for so long means that reading hangs: a file system that is gone, say."""


class HostPort(Protocol):
    """The part of ``adapters.host.Host`` that is used here."""

    def sample(self, leases: dict[str, LeaseUse], problems: Iterable[str]) -> Sample:
        """Read what moves."""

    def surroundings(self) -> Surroundings:
        """Read what moves slowly."""


class CgroupsPort(Protocol):
    """The part of ``adapters.cgroups.Cgroups`` that is used here."""

    def read(self, uids: Iterable[str], pods: Mapping[str, str]) -> Reading:
        """Read what leases use, and their pods, which are given by uid with the lease of each."""


class LinkPort(Protocol):
    """The part of ``link.Link`` that is used here."""

    @property
    def busy(self) -> bool:
        """A request is under way."""

    def submit(self, request: Request) -> None:
        """Send a request."""

    def take(self) -> Answer | None:
        """Return the answer if it is there."""


class World(NamedTuple):
    """Everything with effects that the loop uses."""

    host: HostPort
    cgroups: CgroupsPort
    link: LinkPort
    cost: Callable[[], Cost]
    monotonic: Callable[[], float]
    wall: Callable[[], float]


class Reporter:
    """Measures and reports until told to stop."""

    def __init__(
        self,
        world: World,
        *,
        history: History,
        conditions: Conditions,
        pace: Pace,
        conversation: Conversation,
        log: Log,
        version: str,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._world = world
        self._history = history
        self._conditions = conditions
        self._pace = pace
        self._conversation = conversation
        self._log = log
        self._version = version
        self._instructions = conversation.instructions
        self._surroundings: Surroundings | None = None
        self._surroundings_at = 0.0
        self._cost = Cost(0, 0)
        self._next_reading: float | None = None
        self._readings = 0
        self._method = ""

    def run(self, sleep: Callable[[float], bool]) -> None:
        """Go on as long as ``sleep``, which is given seconds and may return early, says so."""
        while sleep(self.step()):
            pass

    def step(self) -> float:
        """Do what is to be done now; return the seconds until the next reading."""
        now = self._world.monotonic()
        self._hear(now)
        if self._next_reading is None or now >= self._next_reading:
            self._read(now)
            self._next_reading = self._beat(now)
        self._ask(now)
        return max(self._next_reading - self._world.monotonic(), 0.0)

    def wrong(self) -> str:
        """Return what is wrong with the loop itself, or "". From any thread; an API server that is away is not."""
        due = self._next_reading
        late = 0.0 if due is None else self._world.monotonic() - due
        return f"a reading is overdue for {late:.0f} s" if late > STUCK_SECONDS else ""

    def _beat(self, now: float) -> float:
        """Return when the next reading is: on the grid, so that lateness does not add up; missed ones are left out."""
        self._readings += 1
        period = self._instructions.period
        if self._next_reading is None or self._readings <= 1:
            return now + min(period, FIRST_INTERVAL)
        missed = int((now - self._next_reading) / period)
        return self._next_reading + (missed + 1) * period

    def _read(self, now: float) -> None:
        try:
            if self._surroundings is None or now - self._surroundings_at >= SURROUNDINGS_SECONDS:
                self._look_around(now)
            assert self._surroundings is not None
            seen = self._world.cgroups.read(self._instructions.lease_uids, self._instructions.pods)
            sample = self._world.host.sample(dict(seen.leases), seen.problems)
        except HostReadError as error:
            self._history.fail(str(error))
            self._log.trouble(now, "cannot read the host", why=str(error))
            self._metrics.read(failed=True)
            return
        self._metrics.read()
        self._log.over("cannot read the host")
        self._history.add(sample, self._surroundings.cores)

    def _look_around(self, now: float) -> None:
        self._surroundings, self._surroundings_at = self._world.host.surroundings(), now
        self._cost = self._world.cost()

    def _hear(self, now: float) -> None:
        answer = self._world.link.take()
        if answer is None:
            return
        self._metrics.answered(self._method, answer.status)
        self._conversation.hear(now, answer, self._surroundings.boot_id if self._surroundings else "")
        asked = self._conversation.instructions
        if asked == self._instructions:
            return
        if asked.period != self._instructions.period and self._readings > 1:
            self._next_reading = min(self._next_reading or now, now + asked.period)
        self._instructions = asked
        self._history.instruct(asked)

    def _ask(self, now: float) -> None:
        if self._world.link.busy or self._surroundings is None:
            return
        facts = self._facts(self._surroundings)
        self._metrics.looked(facts, self._conversation.offset.seconds)
        due = self._pace.due(now, facts, self._instructions) if self._telling(facts) else ""
        step = self._conversation.next_step(now, due)
        if step == "read":
            self._send(self._conversation.read())
        elif step == "create":
            self._send(self._conversation.create())
        elif step == "write":
            self._log.debug("writing", why=due)
            self._send(self._conversation.write(now, facts, self._patch(now, facts)))

    def _send(self, request: Request) -> None:
        self._method = request.method
        self._world.link.submit(request)

    def _telling(self, facts: Facts) -> bool:
        """A report without a CPU figure says too little, unless it says why there is none."""
        return "cpu" in facts.figures or facts.failed

    def _facts(self, surroundings: Surroundings) -> Facts:
        verdicts = self._conditions.judge(self._history, self._conversation.offset, self._cost)
        return facts_of(self._history, surroundings, verdicts)

    def _patch(self, now: float, facts: Facts) -> dict[str, object]:
        try:
            self._look_around(now)
        except HostReadError as error:  # the last ones will do
            self._log.trouble(now, "cannot read the host", why=str(error))
        assert self._surroundings is not None
        now_ms = int(self._world.wall() * 1000)
        status = status_of(
            self._history,
            self._surroundings,
            self._conditions.rows(facts.verdicts, now_ms),
            cost=self._cost,
            offset=self._conversation.offset,
            sequence=self._conversation.next_sequence(self._surroundings.boot_id),
            now_ms=now_ms,
            version=self._version,
        )
        return merge_patch(status)
