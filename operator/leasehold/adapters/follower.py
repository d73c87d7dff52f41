"""A pool that another replica leads, as far as this one must know it: what its leases hold, so that no node is lent
twice.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from leasehold.api.pool import PoolSpec
from leasehold.core.errors import LeaseholdError
from leasehold.core.lease import Lease
from leasehold.core.nodes import Report
from leasehold.core.policy import PoolPolicy, policy_of
from leasehold.core.selectors import Selector, selector_of

Json = Mapping[str, Any]

_NOWHERE = selector_of({"matchExpressions": [{"key": "leasehold.dev/none", "operator": "Exists"}]})


class Follower:
    """Counts, by node, what a pool's leases hold, and what its leader committed and has not written yet."""

    def __init__(self, document: Json) -> None:
        self.name: str = document["metadata"]["name"]
        self.document: Json = document
        self.policy: PoolPolicy | None = None
        self._nodes: dict[str, tuple[str, ...]] = {}
        self._held: Counter[str] = Counter()
        self._committed: frozenset[str] = frozenset()
        self.pool_seen(document)

    @property
    def selector(self) -> Selector:
        """Which nodes the pool selects; none while its spec cannot be read, as its leader has it."""
        return _NOWHERE if self.policy is None else self.policy.selector

    @property
    def generation(self) -> str:
        """Which spec of which pool this is."""
        meta = self.document["metadata"]
        return f"{meta['uid']}/{meta.get('generation', 1)}"

    def pool_seen(self, document: Json) -> bool:
        """Take in the pool's object; tell whether its spec changed."""
        changed: bool = document["metadata"].get("generation") != self.document["metadata"].get("generation")
        self.document = document
        rows = ((document.get("status") or {}).get("ledger") or {}).get("inFlight") or ()
        self._committed = frozenset(node for row in rows for node in row["nodes"])
        if changed or self.policy is None:
            # One that cannot be read stays what it was; its leader says so in the pool's status.
            with contextlib.suppress(ValidationError, LeaseholdError, ValueError, KeyError):
                self.policy = policy_of(PoolSpec.model_validate(document["spec"]))
        return changed

    def lease_seen(self, lease: Lease) -> None:
        """Take in a lease of the pool."""
        self.lease_gone(lease.uid)
        nodes = tuple({part.node for part in lease.slices})
        if nodes:
            self._nodes[lease.uid] = nodes
            self._held.update(nodes)

    def lease_gone(self, uid: str) -> None:
        """Take in that a lease no longer exists."""
        for node in self._nodes.pop(uid, ()):
            self._held[node] -= 1
            if not self._held[node]:
                del self._held[node]

    def holds_on(self, node: str) -> bool:
        """Tell whether the pool's leases hold something on a node, or may soon."""
        return node in self._held or node in self._committed

    def nodes(self) -> Mapping[str, frozenset[str]]:
        """Return, by node, the uids of the leases that hold something there."""
        found: dict[str, set[str]] = {}
        for uid, nodes in self._nodes.items():
            for node in nodes:
                found.setdefault(node, set()).add(uid)
        return {node: frozenset(uids) for node, uids in found.items()}

    # --- what only a leader needs to know ---

    def leases_listed(self) -> None:
        """Nothing to do."""

    def node_changed(self, name: str) -> None:
        """Nothing to do."""

    def report_changed(self, report: Report) -> None:
        """Nothing to do."""

    def session_changed(self, key: tuple[str, str]) -> None:
        """Nothing to do."""

    def pods_changed(self, key: tuple[str, str]) -> None:
        """Nothing to do."""

    def namespace_changed(self, name: str) -> None:
        """Nothing to do."""
