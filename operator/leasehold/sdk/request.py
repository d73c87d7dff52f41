"""What is asked for: read from what the caller wrote, and written as a CapacityLease."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypedDict

from leasehold.api.names import (
    API_VERSION,
    CLIENT_LABEL,
    LEASE_KIND,
    REQUEST_ANNOTATION,
    LeaseMode,
    Liveness,
    PlacementMode,
)
from leasehold.sdk.errors import Misuse
from leasehold.sdk.values import Duration, Quantity, checked_name, moment, resources_of, whole_seconds

Json = dict[str, Any]

_SLUG: Final = re.compile(r"[^a-z0-9]+")
_LONGEST_SLUG: Final = 40
_SPARE_SECONDS: Final = 60
"""How much longer than its caller a request waits, should the caller be gone without a word."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How slices lie. `mode` is Any, SameNode, SameDomain (with `topology_key`) or DistinctNodes."""

    mode: str = PlacementMode.ANY
    topology_key: str | None = None
    node_selector: Mapping[str, str] | None = None

    def wire(self) -> Json:
        """Return it as the API wants it."""
        if self.mode not in set(PlacementMode):
            raise Misuse(f"placement {self.mode!r} is not known.", f"Use one of {', '.join(PlacementMode)}.")
        if (self.mode == PlacementMode.SAME_DOMAIN) != (self.topology_key is not None):
            raise Misuse("topology_key goes with placement SameDomain.", "Give both or neither.")
        found: Json = {"mode": str(self.mode)}
        if self.topology_key is not None:
            found["topologyKey"] = self.topology_key
        if self.node_selector:
            found["nodeSelector"] = dict(self.node_selector)
        return found


class TaskWish(TypedDict, total=False):
    """What a task may ask for: that of `Client.lease`, but for the pool, which is the router's to choose."""

    cpu: Quantity
    memory: Quantity
    disk: Quantity
    resources: Mapping[str, Quantity]
    count: int
    placement: str | Placement
    duration: Duration
    priority: int
    tenant: str
    liveness: str
    identity: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    defer: Duration
    keep: Duration


@dataclass(frozen=True, slots=True)
class Request:
    """One wish, checked. `spec` has neither holder nor liveness: those are the client's business."""

    name: str
    spec: Json
    liveness: str
    identity: str | None
    key: str | None
    term: int | None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def pool(self) -> str | None:
        """The pool that was named."""
        found: str | None = (self.spec.get("poolRef") or {}).get("name")
        return found

    @property
    def digest(self) -> str:
        """A digest of what is asked for, whoever asks."""
        asked = {key: value for key, value in self.spec.items() if key != "startDeadlineSeconds"}
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def holder(self, client: str, identity: str) -> Json:
        """Return who is to hold it. Its session is named whatever the liveness: it tells clients of one name apart."""
        return {"identity": self.identity or identity, "sessionRef": {"name": client}}

    def document(self, namespace: str, client: str, identity: str) -> Json:
        """Return the object to create."""
        annotations = dict(self.annotations)
        if self.key is not None:
            annotations[REQUEST_ANNOTATION] = self.digest
        return {
            "apiVersion": API_VERSION,
            "kind": LEASE_KIND,
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "labels": {**self.labels, CLIENT_LABEL: client},
                "annotations": annotations,
            },
            "spec": {**self.spec, "holder": self.holder(client, identity), "liveness": self.liveness},
        }


def request_of(
    *,
    pool: str | None = None,
    pool_selector: Mapping[str, str] | None = None,
    parent: str | None = None,
    cpu: Quantity | None = None,
    memory: Quantity | None = None,
    disk: Quantity | None = None,
    resources: Mapping[str, Quantity] | None = None,
    count: int = 1,
    placement: str | Placement | None = None,
    duration: Duration | None = None,
    start: datetime | None = None,
    start_within: Duration | None = None,
    priority: int = 0,
    tenant: str | None = None,
    key: str | None = None,
    name: str | None = None,
    liveness: str = Liveness.SESSION,
    identity: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    defer: Duration | None = None,
    keep: Duration | None = None,
    timeout: float | None = None,
    mode: str = LeaseMode.RESERVE,
) -> Request:
    """Check a wish and write it down.

    Raises Misuse, which says what is wrong and what would be right.
    """
    if sum(where is not None for where in (pool, pool_selector, parent)) != 1:
        raise Misuse(
            "Where from?",
            'Give one of pool="NAME", pool_selector={"label": "value"} ({} is any pool), or parent="LEASE".',
        )
    if name is not None and key is not None:
        raise Misuse("name= and key= both name the lease.", "Give one of them.")
    if liveness not in set(Liveness):
        raise Misuse(f"liveness={liveness!r} is not known.", f"Use one of {', '.join(Liveness)}.")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise Misuse(f"count={count!r} is no number of slices.", "Write 1 or more.")
    spec: Json = {"resources": resources_of(cpu, memory, disk, resources), "count": count}
    if pool is not None:
        spec["poolRef"] = {"name": checked_name(pool, "pool")}
    elif parent is not None:
        spec["parentRef"] = {"name": checked_name(parent, "parent")}
    else:
        spec["poolSelector"] = {"matchLabels": dict(pool_selector or {})}
    if placement is not None:
        spec["placement"] = (Placement(placement) if isinstance(placement, str) else placement).wire()
    term = None if duration is None else whole_seconds(duration, "duration")
    deadline = None if start_within is None else whole_seconds(start_within, "start_within")
    if deadline is None and timeout is not None and start is None:
        deadline = int(timeout) + _SPARE_SECONDS
    optional = {
        "durationSeconds": term,
        "startTime": None if start is None else moment(start, "start"),
        "startDeadlineSeconds": deadline,
        "priority": priority or None,
        "tenant": tenant,
        "deferSeconds": None if defer is None else whole_seconds(defer, "defer"),
        "ttlSecondsAfterFinished": None if keep is None else whole_seconds(keep, "keep"),
        "mode": mode if mode != LeaseMode.RESERVE else None,
    }
    spec |= {field_: value for field_, value in optional.items() if value is not None}
    return Request(
        name=name_of(name, key, pool or parent),
        spec=spec,
        liveness=str(liveness),
        identity=identity,
        key=key,
        term=None if term is None else term * 1000,
        labels=dict(labels or {}),
        annotations=dict(annotations or {}),
    )


def name_of(name: str | None, key: str | None, pool: str | None) -> str:
    """Return the name of the lease: the one given, one that follows from the key, or a new one."""
    if name is not None:
        return checked_name(name, "name")
    if key is not None:
        if not isinstance(key, str) or not key:
            raise Misuse(f"key={key!r} is no key.", "Give a text that is the same when the same is meant.")
        return f"{_slug(key)}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    return f"{_slug(pool or 'lease')}-{secrets.token_hex(5)}"


def _slug(text: str) -> str:
    return _SLUG.sub("-", text.lower()).strip("-")[:_LONGEST_SLUG].strip("-") or "lease"
