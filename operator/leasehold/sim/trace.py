"""Leasehold's own trace format: what was asked of pools and when, and how long it was held. One JSON object a line.

The first line is the header: format and version, the pools with their specs, the nodes and the labels of namespaces,
so that a trace can be replayed without its cluster. Every other line is a lease; docs/simulate.md lists its fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from leasehold.api.lease import HIGHEST_PRIORITY, Placement
from leasehold.api.meta import MAX_RESOURCES, MAX_SLICES, NAME_LENGTH, PositiveQuantity
from leasehold.api.pool import YEAR
from leasehold.core.admission import admit
from leasehold.core.errors import InvalidObject
from leasehold.core.lease import lease_of
from leasehold.core.placement import could_ever_fit
from leasehold.core.request import Request
from leasehold.core.times import SECOND, format_time, parse_time
from leasehold.sim.files import lines
from leasehold.sim.job import Job
from leasehold.sim.pools import Pool, explained
from leasehold.sim.problems import BadInput, Problems

FORMAT: Final = "leasehold-trace"
VERSION: Final = 1
_NAMESPACE: Final = "kubernetes.io/metadata.name"


def _instant(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return parse_time(value)
        except InvalidObject as error:
            raise ValueError(str(error)) from error
    return value


Instant = Annotated[int, Field(ge=0, strict=True), BeforeValidator(_instant)]
"""Milliseconds since the epoch; RFC 3339 text is read too."""

Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]


class _Row(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Header(_Row):
    """The first line. `pools` and `nodes` are CapacityPool and Node objects as far as a replay needs them."""

    format: Literal["leasehold-trace"]
    version: Literal[1]
    recorded: Instant | None = None
    pools: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    namespaces: dict[str, dict[str, str]] = {}


class Record(_Row):
    """One lease. `held_seconds` is how long it held its room; None: until its term was over."""

    submit: Instant
    namespace: Name = "default"
    name: Name
    pool: str = ""
    resources: dict[str, PositiveQuantity] = Field(min_length=1, max_length=MAX_RESOURCES)
    count: int = Field(default=1, ge=1, le=MAX_SLICES)
    placement: Placement = Placement()
    priority: int = Field(default=0, ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY)
    tenant: str = ""
    holder: str = ""
    start_time: Instant | None = None
    duration_seconds: int | None = Field(default=None, ge=1, le=YEAR)
    granted: Instant | None = None
    held_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False, le=10 * YEAR)
    end_cause: str = ""

    def line(self) -> str:
        """Return the record as a line of a trace."""
        row = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        for key in ("submit", "startTime", "granted"):
            if key in row:
                row[key] = format_time(row[key])
        return json.dumps(row, separators=(",", ":")) + "\n"


def header_line(header: Mapping[str, Any]) -> str:
    """Return the first line of a trace with these further fields."""
    return json.dumps({"format": FORMAT, "version": VERSION, **header}, separators=(",", ":")) + "\n"


class Trace:
    """A trace whose lines were all looked at once; `records` reads it again.

    `size` is the number of leases to come. With `pool_name`, leases of other pools are passed over. Raises BadInput
    when the file is no trace, or has nothing to replay.
    """

    def __init__(
        self, path: Path, *, pool_name: str = "", strict: bool = False, limit: int | None = None
    ) -> None:
        self.path = path
        self.problems = Problems(path, strict=strict)
        self.pool_name = pool_name
        self.header = self._header()
        self._limit = limit
        self.size = 0
        self.pools: set[str] = set()
        self._sorted = True
        latest = 0
        for _, record in self._read(self.problems):
            self.size += 1
            self.pools.add(record.pool)
            self._sorted = self._sorted and record.submit >= latest
            latest = max(latest, record.submit)
        if not self.size:
            raise BadInput(f"{path} has no lease that could be replayed")

    def records(self) -> Iterator[tuple[int, Record]]:
        """Yield the leases in submit order, with their line numbers.

        A trace that is in order is streamed; one that was recorded as leases ended is held in memory.
        """
        found = self._read(Problems(self.path))
        return found if self._sorted else iter(sorted(found, key=lambda row: row[1].submit))

    def _header(self) -> Header:
        first = next(iter(lines(self.path, Problems(self.path))), None)
        if first is None:
            raise BadInput(f"{self.path} is empty")
        try:
            return Header.model_validate_json(first[1])
        except ValidationError as error:
            raise BadInput(
                f"{self.path}:1: no header of a Leasehold trace, version {VERSION}: {explained(error)}"
            ) from error

    def _read(self, problems: Problems) -> Iterator[tuple[int, Record]]:
        return islice(self._parsed(problems), self._limit)

    def _parsed(self, problems: Problems) -> Iterator[tuple[int, Record]]:
        for number, text in lines(self.path, problems):
            if number == 1 or not text.strip():
                continue
            try:
                record = Record.model_validate_json(text)
            except ValidationError as error:
                problems.note(number, explained(error))
                continue
            if self.pool_name and record.pool and record.pool != self.pool_name:
                continue
            if record.held_seconds == 0:
                problems.note(number, "never held anything", "left_out", allowed=True)
                continue
            yield number, record


def jobs(
    records: Iterator[tuple[int, Record]], pool: Pool, header: Header, problems: Problems
) -> Iterator[Job]:
    """Turn records into requests of a pool, by the operator's own rules of who may ask for what.

    What the pool would refuse is counted in `problems` and left out.
    """
    for serial, (line, record) in enumerate(records, start=1):
        found = _request(record, serial, pool, header)
        if isinstance(found, str):
            problems.note(line, found, "refused", allowed=True)
            continue
        shape = found.shape
        term = shape.span if record.held_seconds is None else round(record.held_seconds * SECOND)
        yield Job(
            request=found,
            name=f"{record.namespace}/{record.name}",
            owner=record.tenant or record.holder or record.namespace,
            submit=record.submit,
            run=max(1, min(term, shape.span)),
            units=pool.units(shape.need, shape.slices),
        )


def _request(record: Record, serial: int, pool: Pool, header: Header) -> Request | str:
    lease = lease_of(_document(record, serial, pool))
    labels = header.namespaces.get(record.namespace, {_NAMESPACE: record.namespace})
    found = admit(lease, pool.policy, labels, (-record.priority, record.submit, serial))
    if not isinstance(found, Request):
        return "namespace not known" if found is None else f"{found.reason}: {found.message}"
    shape = found.shape
    if record.held_seconds is not None:
        # A lease that was renewed held longer than its term; the planner is told the whole of it.
        shape = shape._replace(span=max(shape.span, round(record.held_seconds * SECOND)))
    allowed = pool.table.selected(shape.node_selector)
    if not could_ever_fit(pool.table, shape.need, shape.slices, shape.mode, allowed, shape.topology_key):
        return "larger than the pool"
    return found._replace(shape=shape)


def _document(record: Record, serial: int, pool: Pool) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "poolRef": {"name": pool.name},
        "resources": record.resources,
        "count": record.count,
        "placement": record.placement.to_wire(),
        "priority": record.priority,
    }
    if record.duration_seconds is not None:
        spec["durationSeconds"] = record.duration_seconds
    if record.start_time is not None:
        spec["startTime"] = format_time(record.start_time)
    if record.tenant and pool.policy.tenants:
        spec["tenant"] = record.tenant
    return {
        "metadata": {
            "uid": f"{serial}",
            "namespace": record.namespace,
            "name": record.name,
            "creationTimestamp": format_time(record.submit),
        },
        "spec": spec,
    }
