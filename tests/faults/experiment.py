"""What an experiment is: a function that lets something go wrong in trials, each of which is recorded and checked.

    @experiment(13, "etcd pauses", "everything written is known to be written or not")
    def etcd_pause(arena: Arena, scale: Scale, dice: random.Random) -> None:
        with arena.trial() as trial:
            ...
            trial.deliver(1)

A trial is over when its block is left: the faults end, what runs is given time to come to rest, the record is closed
and checked, and everything that was made is removed. Nothing that was broken raises: it is in the outcome.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.cluster.harness import SESSIONS, Stage
from tests.faults.checker import SLACK, Violation, check, final_view, noise, unrest
from tests.faults.history import AUDIT_POLICY, Audit, History
from tests.faults.operators import Kubelet, Operator
from tests.faults.proxy import FaultProxy
from tests.faults.workload import Churn

from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.nodes import NodeShape

OUT: Final = Path("faults-out")
SYSTEM: Final = "leasehold-system"
NODE: Final = NodeShape(cpu="4", memory="8Gi", ephemeral_storage="10Gi")
CPU_ONLY: Final = [{"name": "cpu", "source": "Allocatable"}]
_REST_SECONDS: Final = 1.0
_PATIENCE: Final = 30.0
_TOLD: Final = 12


@dataclass(frozen=True)
class Scale:
    """How much of an experiment is tried: the short form is part of every test run, the long one is the campaign."""

    name: str

    @property
    def long(self) -> bool:
        """Everything is tried."""
        return self.name == "long"

    def pick(self, short: Any, long: Any) -> Any:
        """Return the one or the other."""
        return long if self.long else short


SHORT: Final = Scale("short")
LONG: Final = Scale("long")


@dataclass
class Outcome:
    """What came of an experiment. `delivered` counts faults that really happened; `violations` say what was broken."""

    number: int
    name: str
    invariant: str
    seed: int
    runs: int = 0
    delivered: int = 0
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    script: list[str] = field(default_factory=list)

    def save(self) -> Path:
        """Write it where a failing run can be looked up and replayed."""
        OUT.mkdir(exist_ok=True)
        path = OUT / f"{self.number:02}-{self.seed}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path


Script = Callable[["Arena", Scale, random.Random], None]


@dataclass(frozen=True)
class Experiment:
    """One entry of the campaign."""

    number: int
    name: str
    invariant: str
    script: Script

    def run(self, arena: Arena, scale: Scale, seed: int) -> Outcome:
        """Run it and return the outcome, which is stored too."""
        outcome = arena.outcome = Outcome(self.number, self.name, self.invariant, seed)
        began = time.monotonic()
        try:
            self.script(arena, scale, random.Random(seed))
        except Enough:
            outcome.notes.append("ended at the first violation")
        except Exception as error:  # noqa: BLE001 - whatever it is, the campaign goes on and tells it
            outcome.violations.append(f"script: {error!r}")
            outcome.notes.append(traceback.format_exc())
        outcome.seconds = round(time.monotonic() - began, 1)
        outcome.save()
        return outcome


_REGISTRY: dict[int, Experiment] = {}


def experiment(number: int, name: str, invariant: str) -> Callable[[Script], Script]:
    """Add a function to the campaign. `invariant` says in a few words what must hold."""

    def add(script: Script) -> Script:
        assert number not in _REGISTRY or _REGISTRY[number].script is script, (
            f"experiment {number} is there twice"
        )
        _REGISTRY[number] = Experiment(number, name, invariant, script)
        return script

    return add


def experiments() -> dict[int, Experiment]:
    """Return every experiment by its number; all modules of `tests.faults.experiments` are looked through."""
    from tests.faults import experiments as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_REGISTRY.items()))


class Enough(Exception):
    """A promise was broken, and no more is asked for."""


class Arena:
    """An API server of our own, which writes down who wrote what, for one trial at a time.

    With `fail_fast` an experiment ends with the first trial in which something was broken.
    """

    def __init__(self, extra_apiserver_args: Mapping[str, str] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="leasehold-faults-"))
        self.audit_log = self.directory / "audit.jsonl"
        self.control_plane = ControlPlane(
            local=True,
            audit_log=self.audit_log,
            audit_policy=AUDIT_POLICY,
            extra_apiserver_args=extra_apiserver_args,
        )
        self.outcome = Outcome(0, "", "", 0)
        self.fail_fast = False

    def __enter__(self) -> Arena:
        self.control_plane.start()
        self.control_plane.install_crds()
        with Client(self.control_plane.connection) as kube:
            kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        return self

    def __exit__(self, *_: object) -> None:
        self.control_plane.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.contextmanager
    def trial(self, *, slack: float = SLACK, patience: float = _PATIENCE, **settings: Any) -> Iterator[Trial]:
        """Provide a fresh stage that is recorded, and check the record at the end. `settings` are all its operators'.

        An error in the block is a violation, not an error: the trial is ended in order and the next one can begin.
        """
        self.outcome.runs += 1
        trial = Trial(self, slack, patience, settings)
        try:
            try:
                yield trial
            except Exception as error:  # noqa: BLE001 - whatever it is, the record is still worth a check
                self.outcome.violations.append(f"trial {self.outcome.runs}: story: {error!s:.2000}")
                self.outcome.notes.append(traceback.format_exc())
            trial.finish()
        finally:
            trial.close()
        if self.fail_fast and self.outcome.violations:
            raise Enough


class Trial:
    """One story with faults in it: a stage, operators, proxies, and the record of it all.

    Writes to those that are `cursed` are refused by the story itself; all others must be valid.
    """

    def __init__(self, arena: Arena, slack: float, patience: float, settings: Mapping[str, Any]) -> None:
        self.arena = arena
        self.outcome = arena.outcome
        self.slack = slack
        self.patience = patience
        self.settings = dict(settings)
        self.number = self.outcome.runs
        self.directory = arena.directory / f"{self.outcome.number:02}-{self.outcome.seed}-{self.number}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.control_plane = arena.control_plane
        self.stage = Stage(arena.control_plane)
        for namespace in (SYSTEM, "default"):  # nobody of an earlier trial holds an election
            self.stage.kube.delete_all(SESSIONS, namespace, labelSelector="leasehold.dev/election")
        self.history = History(
            arena.control_plane.connection, self.directory / "history.jsonl", Audit(arena.audit_log)
        )
        self.kubelet = Kubelet()
        self.proxies: list[FaultProxy] = []
        self.cursed: set[str] = set()
        self._began = time.monotonic()
        self._finished = False

    # --- what a story is made of ---

    def pool(self, nodes: int = 2, **spec: Any) -> str:
        """Make nodes of 4 cores, and a pool over this stage's nodes that lends cpu and gives no grace."""
        if nodes:
            self.stage.nodes.create(nodes, NODE)
        return self.stage.pool(wait="", **{"resources": CPU_ONLY, **spec})

    def churn(self, pools: list[str], dice: random.Random, **how: Any) -> Churn:
        """Provide borrowers, for a `with` block."""
        churn = Churn(self.stage, pools, dice, **how)
        self.outcome.script.append(f"trial {self.number}: churn")
        churn.script = self.outcome.script
        return churn

    def operator(
        self,
        identity: str = "a",
        through: FaultProxy | None = None,
        environment: Mapping[str, str] | None = None,
        kubeconfig: Path | None = None,
        *,
        start: bool = True,
        **settings: Any,
    ) -> Operator:
        """Start an operator, straight at the API server or through a proxy."""
        if through is not None:
            kubeconfig = through.kubeconfig(self.directory / f"kubeconfig-{through.port}")
        made = Operator(
            self.directory,
            kubeconfig or self.control_plane.kubeconfig,
            identity,
            environment,
            **{**self.settings, **settings},
        )
        self.kubelet.operators.append(made)
        return made.start() if start else made

    def proxy(self, dice: random.Random | None = None) -> FaultProxy:
        """Start a proxy before the API server."""
        made = FaultProxy(self.control_plane.connection, dice).start()
        self.proxies.append(made)
        return made

    def deliver(self, count: int = 1, what: str = "") -> None:
        """Count faults that happened."""
        self.outcome.delivered += count
        if what:
            self.tell(f"{what} x {count}")

    def tell(self, text: str) -> None:
        """Note what was done and when, for who reads the outcome."""
        seconds = time.monotonic() - self._began
        self.outcome.script.append(f"trial {self.number}, {seconds:.1f} s: {text}")

    def violate(self, text: str) -> None:
        """Note that a promise was broken."""
        self.outcome.violations.append(f"trial {self.number}: {text}")

    # --- its end ---

    def finish(self) -> None:
        """End the faults, wait for rest, and check the record. Called again it does nothing."""
        if self._finished:
            return
        self._finished = True
        for proxy in self.proxies:
            proxy.clear()
        for operator in self.kubelet.operators:
            if operator.running():
                operator.thaw()
        if not any(operator.wanted for operator in self.kubelet.operators):
            self.operator("last")
        self.tell("the faults are over")
        restless = self._await_rest()
        for text in restless:
            self.violate(str(Violation("at rest", 0, text)))
        self.tell("does not come to rest" if restless else "came to rest")
        try:
            trace = self.history.close()
        except AssertionError as error:
            self.violate(f"record: {error}")
            trace = self.history.trace()
        found = check(trace, slack=self.slack, at_rest=False)
        for violation in found[:_TOLD]:
            self.violate(str(violation))
        if len(found) > _TOLD:
            self.violate(f"and {len(found) - _TOLD} more")
        self._check_validity()
        for text in [text for proxy in self.proxies for text in proxy.errors]:
            self.violate(f"proxy: {text}")
        self._note_logs()
        if self.outcome.violations:
            self._keep(trace)

    def _check_validity(self) -> None:
        """Find what the schema refused of operators' statuses. For kopf's patches of finalizers 422 is a conflict."""
        for write in self.history.writes():
            told = write.by_operator and write.ours and write.subresource == "status"
            if told and write.code == 422 and write.name not in self.cursed:
                self.violate(
                    f"valid: what was written to {write.resource}/{write.name} is refused by the schema"
                )

    def _await_rest(self) -> list[str]:
        """Wait until nothing is left to do and nobody writes; return what keeps it from that."""
        deadline = time.monotonic() + self.patience
        while True:
            now = time.time()
            found = unrest(final_view(self.history.last()), int(now * 1000))
            if not found:
                loud = noise(self.history.writes(), now - _REST_SECONDS)
                found = [
                    f"{w.agent} still writes: {w.verb} {w.resource}/{w.name}: {w.code}" for w in loud[-3:]
                ]
            if not found or time.monotonic() > deadline:
                return found[:_TOLD]
            time.sleep(0.15)

    def _note_logs(self) -> None:
        """Count what operators logged as errors: exceptions that nobody expected are broken promises."""
        errors: Counter[str] = Counter()
        for operator in self.kubelet.operators:
            for line in operator.lines():
                if line.get("level") != "ERROR":
                    continue
                text = f"{operator.identity}: {line.get('message', '')[:160]}"
                if "exception" in line:
                    self.violate(f"log: {text}: {line['exception'][-400:]}")
                else:
                    errors[text] += 1
        for text, count in errors.most_common(5):
            self.outcome.notes.append(f"trial {self.number}: logged {count} times: {text}")

    def _keep(self, trace: Any) -> None:
        """Store what explains a failure."""
        place = OUT / f"{self.outcome.number:02}-{self.outcome.seed}-{self.number}"
        place.mkdir(parents=True, exist_ok=True)
        trace.save(place / "trace.jsonl")
        for operator in self.kubelet.operators:
            for log in operator.logs:
                if log.exists():
                    shutil.copy(log, place / log.name)

    def close(self) -> None:
        """End what was started, and remove what was made. Safe to call again."""
        self.kubelet.close()
        for proxy in self.proxies:
            proxy.close()
        if not self._finished:
            with contextlib.suppress(AssertionError):
                self.history.close()
        self.stage.close()
