"""The Standard Workload Format 2.2 of the Parallel Workloads Archive.

https://www.cs.huji.ac.il/labs/parallel/workload/swf.html: one job a line, 18 fields, -1 where a value is unknown, and
comments such as `; MaxProcs: 128` ahead. The fields in use here, counted from 1 as the format does:

    2 submit time, 4 run time, 5 processors allocated, 8 processors requested, 9 time requested, 12 user

A job that was interrupted has a line of its own, and then one for each part (field 11), which are passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from leasehold.core.times import SECOND
from leasehold.sim.files import lines
from leasehold.sim.problems import BadInput, Problems

_FIELDS: Final = 18
_BURSTS: Final = ("2", "3", "4")
"""Values of field 11 (status) of lines that tell one part of a job that was interrupted."""
_LATEST: Final = 10**11
"""Seconds beyond which a number is no time: about three thousand years."""
_HEADER: Final = re.compile(r";\s*([A-Za-z]\w*)\s*:\s*(.*)")


class SwfJob(NamedTuple):
    """One job by the conventions of the page docs/simulate.md. Times are milliseconds."""

    number: str
    user: str
    submit: int
    run: int
    estimate: int
    processors: int


class Rules(NamedTuple):
    """How to read a log. `machine` is the number of processors, None for what the log's header says."""

    machine: int | None = None
    clips_oversized: bool = True
    clips_negative: bool = False
    strict: bool = False
    limit: int | None = None


class SwfLog:
    """A log whose lines were all looked at once; `jobs` reads it again.

    `header` holds the comments of the form `; Key: value`; `size` is the number of jobs to come, `problems` what was
    wrong with the lines. Raises BadInput when there is nothing to replay.
    """

    def __init__(self, path: Path, rules: Rules) -> None:
        self.path = path
        self.header: dict[str, str] = {}
        self.problems = Problems(path, strict=rules.strict)
        self._rules = rules
        self.machine = rules.machine or self._machine()
        self.size = 0
        self._sorted = True
        latest = 0
        for job in self._read(self.problems):
            self.size += 1
            self._sorted = self._sorted and job.submit >= latest
            latest = max(latest, job.submit)
        if not self.size:
            raise BadInput(f"{path} has no job that could be replayed{self._because()}")

    @property
    def unix_start(self) -> int | None:
        """When the log's clock was at zero (ms since the epoch), where the header says so."""
        text = self.header.get("UnixStartTime", "").split()
        return int(text[0]) * SECOND if text and text[0].isdecimal() else None

    def jobs(self) -> Iterator[SwfJob]:
        """Yield the jobs in submit order; those submitted at once in the order of the file.

        A log that is in order, as nearly all are, is streamed; another one is held in memory.
        """
        # Problems were counted, and strictness was served, when the log was opened.
        found = self._read(Problems(self.path))
        return found if self._sorted else iter(sorted(found, key=lambda job: job.submit))

    def _machine(self) -> int:
        for _, text in lines(self.path, Problems(self.path)):
            if not text.startswith(";"):
                if text.strip():
                    break
                continue
            self._take_comment(text)
        for key in ("MaxProcs", "MaxNodes"):
            said = self.header.get(key, "").split()
            if said and said[0].isdecimal() and int(said[0]):
                return int(said[0])
        raise BadInput(f"{self.path} does not say how large the machine is; give --processors")

    def _because(self) -> str:
        worst = self.problems.listed()
        return f": {worst[0].reason} (line {worst[0].lines[0]} and others)" if worst else ": it is empty"

    def _take_comment(self, text: str) -> None:
        found = _HEADER.match(text)
        if found:
            self.header.setdefault(found[1], found[2].strip())

    def _read(self, problems: Problems) -> Iterator[SwfJob]:
        return islice(self._parsed(problems), self._rules.limit)

    def _parsed(self, problems: Problems) -> Iterator[SwfJob]:
        last = ""
        for number, text in lines(self.path, problems):
            if text.startswith(";"):
                self._take_comment(text)
                continue
            fields = text.split()
            if not fields:
                continue
            if fields[0] == last and len(fields) == _FIELDS and fields[10] in _BURSTS:
                problems.note(number, "a part of the job above, whose line has it all", allowed=True)
                continue
            last = fields[0]
            job = self._job(number, fields, problems)
            if job is not None:
                yield job

    def _job(self, line: int, fields: list[str], problems: Problems) -> SwfJob | None:
        if len(fields) < _FIELDS:
            problems.note(line, f"fewer than {_FIELDS} fields")
            return None
        try:
            submit, run, allocated, requested, estimate = (_number(fields[i]) for i in (1, 3, 4, 7, 8))
        except ValueError:
            problems.note(line, "a field is no number")
            return None
        times = self._times(line, submit, run, estimate, problems)
        processors = self._processors(line, allocated, requested, problems)
        if times is None or processors is None:
            return None
        return SwfJob(fields[0], fields[11], *times, processors)

    def _times(
        self, line: int, submit: float, run: float, asked: float, problems: Problems
    ) -> tuple[int, int, int] | None:
        negative = [
            what
            for what, seconds, unknown in (
                ("submit time", submit, 0),
                ("run time", run, -1),
                ("requested time", asked, -1),
            )
            if seconds < 0 and seconds != unknown
        ]
        if negative:
            clips = self._rules.clips_negative
            problems.note(line, f"negative {negative[0]}", "clipped" if clips else "skipped")
            if not clips:
                return None
        if max(submit, run, asked) > _LATEST:
            problems.note(line, "a time is beyond all calendars")
            return None
        if run == -1:
            problems.note(line, "run time unknown: taken as 1 s", "assumed", allowed=True)
        held = max(1, min(run, asked) if asked > 0 else run)
        return _millis(max(0, submit)), _millis(held), _millis(max(asked, held))

    def _processors(self, line: int, allocated: float, requested: float, problems: Problems) -> int | None:
        found = requested if requested > 0 else allocated
        if found <= 0:
            problems.note(line, "no processors requested and none allocated")
            return None
        if found > self.machine:
            clips = self._rules.clips_oversized
            problems.note(line, "larger than the machine", "clipped" if clips else "skipped")
            return self.machine if clips else None
        return math.ceil(found)


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        found = float(text)
        if not math.isfinite(found):
            raise
        return found


def _millis(seconds: float) -> int:
    return seconds * SECOND if isinstance(seconds, int) else round(seconds * SECOND)
