"""`make mutants`: known mistakes in our own code, made one at a time in a copy, and what must find each.

    python -m tests.faults.mutants [--campaign [--jobs 2]] [--only NAME[,NAME]] [--list] [--write]

A test that never failed says little. Each mutant here is a mistake that would lend twice, end early, lose something, or
never come to rest. It is made in a copy of the tree, where the tests that are named for it must fail. First they must
pass in a copy that was left as it is. With `--campaign` it is experiments that must find it: operators are run with the
mistake in them, things go wrong, and the record must show a broken promise. Exits with 1 when a mutant survives.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.campaign import PAGE, SEED, put_table

ROOT: Final = Path(__file__).resolve().parents[2]
_COPIED: Final = (
    "operator",
    "tests",
    "crds",
    "manifests",
    "helm",
    "examples",
    "hack",
    "docs",
    "pyproject.toml",
    "requirements.lock",
    "README.md",
)
_PATIENCE_SECONDS: Final = 600
_FAILED: Final = 1
"""pytest's exit code when tests ran and some failed; any other means that nothing was learned."""

BEGIN, END = "<!-- begin: mutants -->", "<!-- end: mutants -->"

OBJECT: Final = "operator/leasehold/adapters/pool/object.py"
WORKER: Final = "operator/leasehold/adapters/pool/worker.py"
WRITING: Final = "operator/leasehold/adapters/pool/writing.py"
STATUSES: Final = "operator/leasehold/adapters/statuses.py"
LIFECYCLE: Final = "operator/leasehold/core/lifecycle.py"
CLUSTER: Final = "operator/leasehold/adapters/cluster.py"
CONFIRMATION: Final = "operator/leasehold/adapters/confirmation.py"
_HEARTBEAT: Final = "operator/leasehold/core/heartbeat.py"
_OUTAGES: Final = "tests/core/test_outages.py::test_"
_POOL: Final = "tests/adapters/pool/test_"
_CONFIRMATION: Final = "tests/adapters/test_confirmation.py::test_"
_TWO: Final = "tests/faults/test_two_workers.py::test_"
_LIFE: Final = "tests/core/test_lifecycle.py::test_"
_PLAN: Final = "tests/core/test_planning.py::test_"


class Edit(NamedTuple):
    """A text that is in a file once, and what takes its place."""

    file: str
    old: str
    new: str


class Mutant(NamedTuple):
    """A mistake, what comes of it, the tests of which at least one must fail, and the experiments that must see it.

    Where no experiment can see it, `unseen` says why: then the tests alone stand for it.
    """

    name: str
    comes_to: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    experiments: tuple[int, ...] = ()
    unseen: str = ""


def _mutant(
    name: str,
    comes_to: str,
    file: str,
    old: str,
    new: str,
    *tests: str,
    experiments: tuple[int, ...] = (),
    unseen: str = "",
) -> Mutant:
    return Mutant(name, comes_to, (Edit(file, old, new),), tests, experiments, unseen)


MUTANTS: Final = (
    _mutant(
        "lease-without-version",
        "a stale decision overwrites what changed meanwhile",
        STATUSES,
        "    version = await client.replace_status(path, document)\n",
        "    try:\n"
        "        version = await client.replace_status(path, document)\n"
        "    except Exception:\n"
        "        found = await client.get(path)\n"
        '        document["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]\n'
        "        version = await client.replace_status(path, document)\n",
        f"{_POOL}writing.py::test_a_renewal_that_comes_between_decision_and_write_wins",
        f"{_POOL}writing.py::test_a_request_that_changes_between_commit_and_write_is_decided_anew",
        experiments=(8,),
    ),
    _mutant(
        "pool-without-version",
        "two operators commit the same room",
        OBJECT,
        'body = {"metadata": {"resourceVersion": str(self._version())}, "status": status}',
        'body = {"status": status}',
        f"{_POOL}object.py::test_a_higher_epoch_found_out_by_a_conflict_deposes",
        experiments=(8,),
    ),
    _mutant(
        "epoch-ignored",
        "an operator that was overtaken goes on",
        OBJECT,
        'if ledger.get("epoch", 0) > self.epoch:',
        "if False:",
        f"{_POOL}object.py::test_a_higher_epoch_seen_in_the_watch_deposes",
        f"{_POOL}object.py::test_a_higher_epoch_found_out_by_a_conflict_deposes",
        experiments=(8,),
    ),
    Mutant(
        "epoch-after-list",
        "what the predecessor writes after the list is never seen",
        (
            Edit(
                WORKER,
                "        await self.pool.raise_epoch()\n",
                "        listed, version = await self.leases.list_leases()\n"
                "        await self.pool.raise_epoch()\n",
            ),
            Edit(
                WORKER,
                "        self._join()\n        listed, version = await self.leases.list_leases()\n",
                "        self._join()\n",
            ),
        ),
        (f"{_POOL}worker.py::test_the_epoch_is_raised_before_the_leases_are_listed",),
        (8,),
    ),
    _mutant(
        "list-skipped",
        "a new operator decides by what the watch happened to tell",
        WORKER,
        "        listed, version = await self.leases.list_leases()\n        self.fence.taken_over_at",
        "        listed, version = [], 0\n        self.fence.taken_over_at",
        f"{_TWO}a_successor_knows_what_is_held_from_its_list_and_not_from_its_watch",
        experiments=(4,),
    ),
    _mutant(
        "list-not-compared",
        "leases that went while a standby was deaf hold their room for ever",
        WORKER,
        "        self.state.replace(listed, version)\n",
        "",
        f"{_TWO}what_went_while_a_standby_was_deaf_holds_nothing_for_its_successor",
        experiments=(4,),
    ),
    _mutant(
        "inherited-forgotten",
        "what the predecessor committed and never wrote is lost, or lent twice",
        WORKER,
        "        self._adopt()\n",
        "",
        f"{_TWO}what_was_committed_is_granted_by_the_successor_and_the_late_write_comes_to_nothing",
        experiments=(9,),
    ),
    _mutant(
        "inherited-dropped-first",
        "a late write of the predecessor grants what the successor gave to another",
        WORKER,
        "            if lease is None or is_written(lease, entry):\n",
        "            if True:\n",
        f"{_TWO}what_was_committed_is_granted_by_the_successor_and_the_late_write_comes_to_nothing",
        experiments=(9,),
    ),
    _mutant(
        "sequence-reused",
        "two leases get one fencing token",
        WORKER,
        "        first = self.pool.sequence + 1\n",
        "        first = self.pool.sequence\n",
        f"{_POOL}worker.py::test_a_grant_is_one_commit_and_one_write",
        f"{_POOL}worker.py::test_tokens_go_on_above_those_that_leases_still_carry",
        experiments=(9,),
    ),
    _mutant(
        "swap-taken-for-failed",
        "a commit whose answer was lost is made twice",
        OBJECT,
        "        if isinstance(error, Unknown) and entries:\n",
        "        if False:\n",
        f"{_POOL}object.py::test_a_commit_whose_answer_is_lost_is_looked_up_and_used",
        experiments=(13,),
    ),
    _mutant(
        "grant-taken-for-failed",
        "a 504 is taken for a no: the room is lent to another, and the write comes through after all",
        WRITING,
        "                if isinstance(error, Refused) and not refused:\n",
        "                if isinstance(error, Unknown):\n                    break\n"
        "                if isinstance(error, Refused) and not refused:\n",
        f"{_POOL}writing.py::test_an_api_server_that_is_away_in_the_middle_of_a_grant",
        f"{_POOL}writing.py::test_a_commitment_stays_in_the_ledger_until_its_lease_is_known_to_be_written",
        experiments=(13,),
    ),
    _mutant(
        "free-before-known",
        "room is lent again before the release is known to be written",
        WRITING,
        "        self._memory.state.busy.add(change.lease.uid)\n",
        "        self._memory.state.busy.add(change.lease.uid)\n"
        '        if "finishTime" in (change.step.patch.get("release") or {}):\n'
        "            self._memory.state._give_back(change.lease.uid)\n",
        f"{_TWO}room_is_not_lent_again_before_the_end_of_who_holds_it_is_known_to_be_written",
        experiments=(13,),
    ),
    _mutant(
        "only-seen-back",
        "what was committed and not yet written is lent again",
        "operator/leasehold/core/state.py",
        "            self._take(committed_holding(entry, self.policy), self._held_of(entry))\n",
        "            pass\n",
        f"{_POOL}writing.py::test_an_api_server_that_is_away_in_the_middle_of_a_grant",
        "tests/core/test_state.py",
        experiments=(13,),
    ),
    _mutant(
        "any-request-will-do",
        "a grant is written for a request that changed since the commit",
        WRITING,
        "    return same and not lease.deleting and not lease.wants_release\n",
        "    return True\n",
        f"{_POOL}writing.py::test_a_request_that_changes_between_commit_and_write_is_decided_anew",
        experiments=(9,),
    ),
    _mutant(
        "grant-without-finalizer",
        "a deleted lease goes while its capacity is still used",
        WRITING,
        "        if not lease.has_finalizer:\n",
        "        if False:\n",
        f"{_POOL}writing.py::test_a_lease_without_the_finalizer_gets_it_before_the_grant",
        experiments=(9,),
    ),
    _mutant(
        "ghosts",
        "leases that went while the watch was broken hold their room for ever",
        CLUSTER,
        "        for uid in self._pool_of.keys() - seen:\n            if self.leases",
        "        for uid in set() - seen:\n            if self.leases",
        "tests/adapters/test_cluster.py::test_a_relist_removes_what_it_lacks_but_not_what_was_seen_later",
        experiments=(6,),
    ),
    _mutant(
        "late-answer-revives",
        "a deleted lease comes back with a late answer",
        CLUSTER,
        "if lease.uid in self._gone or (known is not None and _is_known(known, lease.version, lease.status)):",
        "if known is not None and _is_known(known, lease.version, lease.status):",
        "tests/adapters/test_cluster.py::test_a_late_answer_does_not_bring_a_deleted_lease_back",
        experiments=(6,),
    ),
    _mutant(
        "wall-clock",
        "a wall clock that jumps ends leases early, or never",
        "operator/leasehold/adapters/clock.py",
        "        return int((self._anchor + self._monotonic() - self._started) * 1000)\n",
        "        return int(self._wall() * 1000)\n",
        "tests/adapters/test_clock.py",
        experiments=(12,),
    ),
    _mutant(
        "a-second-early",
        "a lease ends before its grace is over",
        LIFECYCLE,
        "course.now < end + course.policy.grace:",
        "course.now < end + course.policy.grace - SECOND:",
        f"{_LIFE}a_lease_is_held_to_the_last_moment_of_its_grace_and_not_beyond",
        experiments=(8,),
    ),
    _mutant(
        "ends-at-or-before",
        "a lease whose time has come is woken for ever and never ended at its instant",
        LIFECYCLE,
        "course.now < end + course.policy.grace:",
        "course.now <= end + course.policy.grace:",
        f"{_LIFE}a_lease_is_held_to_the_last_moment_of_its_grace_and_not_beyond",
        f"{_LIFE}without_grace_the_end_is_the_end",
        unseen="it is a few busy passes within one millisecond, less than any record can tell apart",
    ),
    _mutant(
        "renewal-overlooked",
        "a renewal that was there when the term ended is not heard",
        LIFECYCLE,
        "    if renewed is not None and renewed > end:  # at the maximum one may ask again and again\n"
        "        return None\n",
        "",
        f"{_LIFE}a_renewal_that_was_there_when_the_operator_came_back_still_counts",
        f"{_LIFE}a_renewal_in_grace_saves_the_lease",
        experiments=(8,),
    ),
    _mutant(
        "renewed-forever",
        "renewals go beyond the pool's maximum",
        _HEARTBEAT,
        "        renewed = min(renewed, most)\n",
        "        pass\n",
        f"{_LIFE}renewals_end_at_the_maximum",
        experiments=(8,),
    ),
    _mutant(
        "renewal-unexpected",
        "a start is promised for the time that a renewal takes",
        "operator/leasehold/core/planning.py",
        "            expect_end(state, lease, step)\n",
        "            pass\n",
        f"{_PLAN}no_start_is_promised_for_the_time_that_a_renewal_takes_in_the_same_pass",
        unseen="the renewal and the promise must meet in one pass of the planner: nobody can arrange that outside",
    ),
    _mutant(
        "leads-for-ever",
        "a replica whose right to lead ran out goes on writing",
        OBJECT,
        "        if not self.right.valid():\n",
        "        if False:\n",
        f"{_TWO}a_right_that_runs_out_stops_every_write",
        f"{_TWO}a_right_that_runs_out_while_a_write_waits_stops_it_too",
        experiments=(9,),
    ),
    _mutant(
        "no-fence",
        "a renewal that the predecessor sent late breaks a promised start",
        "operator/leasehold/adapters/pool/fence.py",
        "if lease.version <= max(self.taken_over_at, self._unanswered.get(lease.uid, 0))",
        "if False",
        f"{_TWO}no_start_is_promised_while_an_earlier_leader_may_still_renew_who_holds_the_room",
        experiments=(8,),
    ),
    _mutant(
        "session-not-looked-up",
        "a watch that is behind costs a living holder its lease",
        CONFIRMATION,
        "        if cause in _SILENT and lease.liveness == Liveness.SESSION:\n",
        "        if False:\n",
        f"{_TWO}a_session_that_the_watch_lost_is_looked_up_before_its_leases_end",
        experiments=(4,),
    ),
    _mutant(
        "outage-not-forgiven",
        "a holder that nobody could hear is taken for dead when the API server is back",
        _HEARTBEAT,
        "    later = deadline + moved(end, since, course.world.outages, after=before) - end\n",
        "    later = deadline\n",
        f"{_OUTAGES}a_heartbeat_that_could_not_be_heard_is_waited_for_as_long_as_the_outage_was",
        experiments=(13,),
    ),
    Mutant(
        "term-moved-by-an-outage",
        "an end that was promised as an absolute time comes later by the outage",
        (
            Edit(
                LIFECYCLE,
                "from collections.abc import Callable, Mapping\n",
                "from collections.abc import Callable, Mapping\nfrom leasehold.core.outages import moved\n",
            ),
            Edit(
                LIFECYCLE,
                "    if end is None or not course.policy.ends_leases or course.now < end + course.policy.grace:\n",
                '    begun = course.lease.instant("allocation", "allocationTime") or 0\n'
                "    end = None if end is None else moved(end, begun, course.world.outages)\n"
                "    if end is None or not course.policy.ends_leases or course.now < end + course.policy.grace:\n",
            ),
        ),
        (f"{_OUTAGES}the_end_of_a_term_does_not_move",),
        (13,),
    ),
    _mutant(
        "silence-judged-out-of-touch",
        "a holder is taken for dead while nobody is heard",
        _HEARTBEAT,
        "    return course.world.in_touch\n",
        "    return True\n",
        f"{_OUTAGES}while_the_api_server_does_not_answer_nobody_is_taken_for_dead",
        experiments=(13,),
    ),
    _mutant(
        "node-not-looked-up",
        "a watch that is behind costs holders their leases on a node that is ready again",
        CONFIRMATION,
        "        if cause == LeaseReason.NODE_LOST:\n",
        "        if False:\n",
        f"{_CONFIRMATION}a_node_that_is_ready_again_unheard_loses_no_lease",
        experiments=(4,),
    ),
    _mutant(
        "fights-other-writers",
        "two writers that disagree write hundreds of times a minute",
        "operator/leasehold/adapters/pool/complaints.py",
        "        pause = self._rivals.seen(subject.uid, self._tools.clock.now())\n",
        "        pause = 0\n",
        f"{_POOL}news.py::test_a_foreign_writer_is_corrected_less_and_less_often_and_reported",
        experiments=(24,),
    ),
    _mutant(
        "places-by-age",
        "a tenant who makes leases by the thousands keeps all others out of the queue",
        "operator/leasehold/core/queue.py",
        "        wanted = {tenant: sum(map(len, crowds.values())) for tenant, crowds in self.crowds.items()}\n",
        "        return [uid for _, uid in self.order[places:]]\n",
        f"{_PLAN}a_flood_of_one_namespace_takes_no_place_from_another",
        experiments=(18,),
    ),
    _mutant(
        "node-lent-on-arrival",
        "a node that moves between the pools of two leaders is lent by both",
        CLUSTER,
        "        if self.joining is not None and before.pools != after.pools:\n",
        "        if False:\n",
        "tests/adapters/test_leading.py::test_a_node_that_moves_between_shards_is_not_lent_by_both",
        experiments=(4,),
    ),
    _mutant(
        "clock-of-its-own",
        "an operator whose clock is wrong ends by it what another one granted",
        "operator/leasehold/adapters/clock.py",
        "        self._anchor -= step / 1000\n",
        "",
        "tests/adapters/test_clock.py::test_it_starts_at_the_servers_time_where_it_is_off",
        experiments=(12,),
    ),
    _mutant(
        "doubt-ignored",
        "a commit that arrives late is adopted by a successor, against what was decided since",
        OBJECT,
        "            return await self._out_of_doubt(entries)\n",
        "            return False\n",
        f"{_POOL}object.py::test_a_commit_that_happened_after_all_is_found_while_it_is_made_impossible",
        f"{_POOL}object.py::test_a_commit_that_may_happen_yet_is_made_impossible_before_anything_else_is_decided",
        unseen="the author must die between its next decision and its next commit, a few milliseconds later",
    ),
    _mutant(
        "children-left-behind",
        "a lease gives back what its sub-leases still hold, and shrinks below it",
        "operator/leasehold/core/course.py",
        "        return bool(self.world.families.holders(self.lease.uid))\n",
        "        return False\n",
        "tests/core/test_children.py::test_a_parent_that_is_given_back_ends_its_children_first",
        "tests/core/test_children.py::test_a_parent_shrinks_as_far_as_its_children_let_it",
        experiments=(1,),
    ),
    _mutant(
        "handed-over-by-the-same-token",
        "the holder before has a token as good as the next one's",
        "operator/leasehold/core/planning.py",
        '    draft.status["fencingToken"] = entry.sequence\n'
        '    draft.status["holder"] = holder_document(lease.holder)\n'
        '    if "holder" in lease.status:\n',
        '    draft.status["holder"] = holder_document(lease.holder)\n    if "holder" in lease.status:\n',
        f"{_PLAN}a_new_holder_gets_a_larger_token_and_nothing_else_moves",
        experiments=(1,),
    ),
    _mutant(
        "parent-not-fenced",
        "a leader that was overtaken ends a lease out of which its successor gave something",
        WRITING,
        'return bool(parent.status["allocation"].get("ledgerEpoch") == self._pool.epoch)',
        "return True",
        f"{_POOL}writing.py::test_a_parent_is_written_to_once_in_an_epoch_before_anything_is_taken_out_of_it",
        unseen="who was overtaken must hear of the end that is asked for and not of the sub-lease, and still believe"
        " in its right: with clocks that can be trusted it does not",
    ),
)


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """Provide a copy of everything that tests need, removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="leasehold-mutant-"))
    try:
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, place / name)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def apply(mutant: Mutant, place: Path) -> None:
    """Make a mistake in a tree. Raises ValueError when the code is no longer what it was made for."""
    for edit in mutant.edits:
        path = place / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise ValueError(
                f"mutant {mutant.name}: {edit.file} has its text {text.count(edit.old)} times, not once"
            )
        path.write_text(text.replace(edit.old, edit.new))


class Run(NamedTuple):
    """How tests went in a tree: pytest's exit code, what it printed, and how long it took."""

    code: int
    output: str
    seconds: float


def run_tests(place: Path, tests: Sequence[str]) -> Run:
    """Run tests in a tree, up to the first that fails. The tree's own code is used, by subprocesses too."""
    options = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header")
    return _run(place, "pytest", *options, *tests)


def run_experiment(place: Path, number: int, seed: int = SEED) -> tuple[Run, list[str]]:
    """Run the short form of an experiment with a tree's code, up to the first violation; return the violations too."""
    run = _run(place, "tests.faults.campaign", "--fail-fast", "--only", str(number), "--seed", str(seed))
    stored = place / "faults-out" / f"{number:02}-{seed}.json"
    return run, list(json.loads(stored.read_text())["violations"]) if stored.exists() else []


def _run(place: Path, module: str, *arguments: str) -> Run:
    environment = {**os.environ, "PYTHONPATH": str(place / "operator"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    began = time.monotonic()
    found = _python(place, environment, "-c", "import leasehold; print(leasehold.__file__)")
    if not found.output.startswith(str(place)):
        return Run(-1, f"the copy's code is not used, but {found.output}", 0.0)
    run = _python(place, environment, "-m", module, *arguments)
    return run._replace(seconds=time.monotonic() - began)


def _python(place: Path, environment: dict[str, str], *arguments: str) -> Run:
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        return Run(-1, str(late), 0.0)
    return Run(done.returncode, done.stdout, 0.0)


def verdict(run: Run) -> str:
    """Say how a mutant fared: caught, by which test; or that it survived; or that the run says nothing."""
    if run.code == _FAILED:
        failed = [
            line.removeprefix("FAILED ") for line in run.output.splitlines() if line.startswith("FAILED ")
        ]
        return f"caught by {failed[0].partition(' - ')[0].rpartition('::')[2]}" if failed else "caught"
    return "SURVIVED" if run.code == 0 else f"NOTHING LEARNED (exit code {run.code})"


# --- by tests ---


def try_tests(wanted: Sequence[Mutant]) -> int:
    """Let the tests find the mutants; return how many survived. Raises SystemExit when they fail without a mistake."""
    with copy_of_the_tree() as place:
        baseline = run_tests(place, sorted({test for mutant in wanted for test in mutant.tests}))
    if baseline.code:
        raise SystemExit(f"{baseline.output}\nthe tests do not pass before any mistake is made")
    print(f"without a mistake the tests pass ({baseline.seconds:.0f} s)", flush=True)
    survivors = 0
    for mutant in wanted:
        with copy_of_the_tree() as place:
            apply(mutant, place)
            run = run_tests(place, mutant.tests)
        said = verdict(run)
        print(f"{mutant.name:28} {said} ({run.seconds:.0f} s)", flush=True)
        if run.code != _FAILED:
            survivors += 1
            print(f"  it would mean: {mutant.comes_to}\n{run.output[-3000:]}", flush=True)
    print(f"{len(wanted) - survivors} of {len(wanted)} mutants were caught by tests", flush=True)
    return survivors


# --- by the campaign ---


class Finding(NamedTuple):
    """What the campaign made of a mutant: the experiment that saw it, the promise that was seen broken, and how."""

    mutant: Mutant
    experiment: int
    promise: str
    text: str
    seconds: float


_VIOLATION: Final = re.compile(r"(?:trial \d+: )?(?P<what>[a-z ]+?)(?: at revision \d+| at the end)?: ")
_PROMISES: Final = {
    "capacity": "nothing twice",
    "token": "nothing twice",
    "family": "nothing twice",
    "ledger": "nothing twice",
    "epoch": "nothing twice",
    "committed": "nothing twice",
    "lost": "nothing lost",
    "final": "nothing lost",
    "early end": "nothing early",
    "maximum": "nothing for ever",
    "renewal": "nothing early",
    "at rest": "rest",
    "right": "nothing twice",
    "promised twice": "nothing twice",
    "committed twice": "nothing twice",
    "silence": "nothing early",
    "absolute end": "rest",
    "revived": "rest",
    "fight": "no fight",
}


def promise_of(violation: str) -> str:
    """Say which promise a violation broke, and by which invariant; "story" where what must come in time did not."""
    found = _VIOLATION.match(violation)
    what = found["what"] if found else ""
    return f"{_PROMISES[what]} ({what})" if what in _PROMISES else "rest (story)"


def try_campaign(wanted: Sequence[Mutant], jobs: int = 1) -> tuple[list[Finding], int]:
    """Let experiments find the mutants, several at a time; return what they found, and how many survived.

    Raises SystemExit when an experiment finds something without a mistake.
    """
    seen = [mutant for mutant in wanted if mutant.experiments]
    numbers = sorted({number for mutant in seen for number in mutant.experiments})
    with ThreadPoolExecutor(jobs) as threads:
        list(threads.map(_try_without_a_mistake, numbers))
        findings = [finding for finding in threads.map(_seek, seen) if finding is not None]
    print(f"{len(findings)} of {len(seen)} mutants were caught by the campaign", flush=True)
    return findings, len(seen) - len(findings)


def _try_without_a_mistake(number: int) -> None:
    with copy_of_the_tree() as place:
        run, _ = run_experiment(place, number)
    if run.code:
        raise SystemExit(f"{run.output}\nexperiment {number} fails before any mistake is made")
    print(f"without a mistake experiment {number} passes ({run.seconds:.0f} s)", flush=True)


def _seek(mutant: Mutant) -> Finding | None:
    seconds = 0.0
    for number in mutant.experiments:
        with copy_of_the_tree() as place:
            apply(mutant, place)
            run, violations = run_experiment(place, number)
        seconds += run.seconds
        if run.code == _FAILED and violations:
            # What the checker says is worth more than that the story did not go on.
            told = sorted(violations, key=lambda text: promise_of(text) == "rest (story)")
            found = Finding(mutant, number, promise_of(told[0]), told[0], seconds)
            print(f"{mutant.name:28} caught by experiment {number}: {found.promise} ({seconds:.0f} s)")
            print(f"    {told[0][:300]}", flush=True)
            return found
        print(f"{mutant.name:28} not seen by experiment {number} (exit code {run.code})", flush=True)
    print(f"{mutant.name:28} SURVIVED ({seconds:.0f} s)\n  it would mean: {mutant.comes_to}", flush=True)
    print(run.output[-3000:], flush=True)
    return None


def table(findings: Sequence[Finding], rest: Sequence[Mutant]) -> str:
    """Return as Markdown what was found by the campaign, and why the rest is left to tests."""
    rows = [
        "| mistake | what it would mean | caught by experiment | promise seen broken | seconds |",
        "| --- | --- | --: | --- | --: |",
    ]
    rows += [
        f"| {f.mutant.name} | {f.mutant.comes_to} | {f.experiment} | {f.promise} | {f.seconds:.0f} |"
        for f in findings
    ]
    if rest:
        rows += ["", "Left to tests alone:", ""]
        rows += [f"- {mutant.name} ({mutant.comes_to}): {mutant.unseen}" for mutant in rest]
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutants", description="Make mistakes.")
    parser.add_argument("--campaign", action="store_true", help="let experiments find them, not tests")
    parser.add_argument("--jobs", type=int, default=1, help="how many mutants the campaign tries at a time")
    parser.add_argument("--only", default="", help="names of mutants, with commas between")
    parser.add_argument("--list", action="store_true", help="name them and end")
    parser.add_argument(
        "--write", action="store_true", help="write what the campaign found to docs/reliability.md"
    )
    given = parser.parse_args(arguments)
    wanted = [mutant for mutant in MUTANTS if not given.only or mutant.name in given.only.split(",")]
    if given.list or not wanted:
        for mutant in MUTANTS:
            print(f"{mutant.name:28} {mutant.comes_to}")
        return 0 if given.list else 2
    if not given.campaign:
        return 1 if try_tests(wanted) else 0
    findings, survivors = try_campaign(wanted, given.jobs)
    told = table(findings, [mutant for mutant in wanted if not mutant.experiments])
    print(f"\n{told}")
    if given.write:
        put_table(PAGE, BEGIN, END, told)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
