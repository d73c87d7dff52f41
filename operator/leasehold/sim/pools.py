"""The pool that a replay runs on: a policy from a CapacityPool manifest, and nodes from a list or out of thin air."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from pydantic import ValidationError

from leasehold.api.names import POOL_KIND, CapacitySource, QueueStrategy
from leasehold.api.pool import PoolSpec
from leasehold.api.quantity import QuantityError, amount, format_amount
from leasehold.core.amounts import Vector, times, zero
from leasehold.core.capacity import NodeTable, Row
from leasehold.core.errors import InvalidObject
from leasehold.core.nodes import Node, judge, node_of
from leasehold.core.policy import PoolPolicy, policy_of
from leasehold.sim.files import read_text
from leasehold.sim.problems import BadInput

Json = Mapping[str, Any]

PROCESSORS: Final = "processors"
MACHINE: Final = "machine"
POLICIES: Final = {
    "fcfs": QueueStrategy.STRICT_FIFO,
    "easy": QueueStrategy.BACKFILL,
    "best-effort": QueueStrategy.BEST_EFFORT_FIFO,
}
_HOSTNAME: Final = "kubernetes.io/hostname"
_SYNTHETIC: Final = re.compile(r"\s*([0-9]{1,6})\s*x[\s:]*([^\s=]+=\S+)\s*")


class Pool(NamedTuple):
    """A pool to replay on. `measured_in` is the place in its vectors of the resource that utilization is told of;
    `closed` counts the nodes that lend nothing (not ready, cordoned).
    """

    name: str
    policy: PoolPolicy
    table: NodeTable
    measured_in: int
    closed: int

    @property
    def capacity(self) -> int:
        """All that the pool may lend of the resource that utilization is told of."""
        return sum(
            row.verdict.limit[self.measured_in] for row in self.table.rows.values() if row.verdict.grantable
        )

    @property
    def resource(self) -> str:
        """The resource that utilization is told of."""
        return self.policy.names[self.measured_in]

    def units(self, need: Vector, count: int) -> int:
        """Return how much of that resource so many slices hold."""
        return times(need, count)[self.measured_in]


def machine(processors: int, policy: str) -> Pool:
    """Return the pool that stands for a machine of a workload log: one node that has nothing but processors."""
    spec = {
        "nodeSelector": {},
        "resources": [{"name": PROCESSORS, "source": "Fixed", "fixedQuantity": str(processors)}],
        "leasePolicy": {"gracePeriodSeconds": 0, "cooldownSeconds": 0},
        "queueing": {"strategy": POLICIES[policy]},
        "placement": {"strategy": "FirstFit"},
    }
    return pool_of(MACHINE, PoolSpec.model_validate(spec), [_node(MACHINE, {})])


def pool_of(name: str, spec: PoolSpec, nodes: Iterable[Json], policy: str | None = None) -> Pool:
    """Put a pool together from its spec and Node objects; `policy` takes the place of its queueing strategy.

    There are no reports in a replay: nodes count with what they allocate. Raises BadInput without any node that
    lends something.
    """
    if policy is not None:
        queueing = spec.queueing.model_copy(update={"strategy": POLICIES[policy]})
        spec = spec.model_copy(update={"queueing": queueing})
    terms = replace(policy_of(spec), holds_on_stale=False)
    table = NodeTable(len(terms.resources), terms.strategy)
    closed = 0
    for document in nodes:
        node = _read(document)
        if not terms.selector.matches(node.labels):
            continue
        verdict = judge(node, None, terms, now=0)
        closed += not verdict.grantable
        table.put(node.name, Row(node.labels, verdict, zero(len(terms.resources))))
    table.settle()
    made = Pool(name, terms, table, _measured_in(terms), closed)
    if not made.capacity:
        raise BadInput(
            f"pool {name} has no {made.resource} to lend on {len(table.rows)} nodes ({closed} of them closed);"
            " give others with --nodes"
        )
    return made


def _measured_in(policy: PoolPolicy) -> int:
    return policy.names.index("cpu") if "cpu" in policy.names else 0


def read_pool(path: Path) -> tuple[str, PoolSpec]:
    """Read the CapacityPool of a manifest; other objects in the file are passed over. Raises BadInput."""
    found = [document for document in documents(path) if document.get("kind") == POOL_KIND]
    if len(found) != 1:
        raise BadInput(f"{path} has {len(found)} CapacityPools; it must have one")
    return spec_of(found[0], str(path))


def spec_of(manifest: Json, where: str, *, strict: bool = True) -> tuple[str, PoolSpec]:
    """Return a pool's name and spec. Raises BadInput, naming each field that is wrong.

    A field that is not known is wrong when `strict`; a cluster may have newer ones.
    """
    name = str((manifest.get("metadata") or {}).get("name") or "pool")
    try:
        return name, PoolSpec.model_validate(manifest.get("spec"), extra="forbid" if strict else "ignore")
    except ValidationError as error:
        raise BadInput(f"{where}: pool {name}: {explained(error)}") from error


def explained(error: ValidationError) -> str:
    """Return what pydantic found, in one line."""
    rows = [
        f"{'.'.join(str(part) for part in row['loc']) or 'the record'}: {row['msg']}"
        for row in error.errors()
    ]
    return "; ".join(rows[:3]) + (f"; and {len(rows) - 3} more" if len(rows) > 3 else "")


def documents(path: Path) -> list[Json]:
    """Read the objects of a YAML or JSON file; a List is opened. Raises BadInput."""
    try:
        parsed = list(yaml.load_all(read_text(path), Loader=_LOADER))
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    found: list[Json] = []
    for document in parsed:
        items = document.get("items") if isinstance(document, Mapping) else None
        for item in items if isinstance(items, list) else [document]:
            if isinstance(item, Mapping):
                found.append(item)
            elif item is not None:
                raise BadInput(f"{path} holds something that is no Kubernetes object: {str(item)[:60]!r}")
    return found


def nodes_of(text: str) -> list[Json]:
    """Return the nodes that `--nodes` names: a file of Node objects, or `100x cpu=16,memory=64Gi`.

    Raises BadInput.
    """
    made = _SYNTHETIC.fullmatch(text)
    if made is not None:
        return _made_up(int(made[1]), made[2])
    path = Path(text)
    if not path.exists():
        raise BadInput(f"there is no file {text}; name one, or write e.g. '100x cpu=16,memory=64Gi'")
    found = [document for document in documents(path) if document.get("kind", "Node") == "Node"]
    if not found:
        raise BadInput(f"{path} holds no Node; `kubectl get nodes -o yaml` writes them")
    return found


def _made_up(count: int, text: str) -> list[Json]:
    allocatable = {}
    for part in text.split(","):
        name, _, quantity = part.partition("=")
        try:
            amount(name, quantity)
        except QuantityError as error:
            raise BadInput(f"--nodes: {part}: {error}") from error
        allocatable[name] = quantity
    width = len(str(max(1, count) - 1))
    return [_node(f"node-{i:0{width}d}", allocatable) for i in range(count)]


def _node(name: str, allocatable: Json) -> Json:
    return {
        "kind": "Node",
        "metadata": {"name": name, "uid": name, "labels": {_HOSTNAME: name}},
        "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def _read(document: Json) -> Node:
    try:
        meta = {"uid": "", "creationTimestamp": "1970-01-01T00:00:00Z", **document["metadata"]}
        return node_of({**document, "metadata": meta})
    except (KeyError, TypeError, ValueError, AttributeError, InvalidObject) as error:
        raise BadInput(f"a node cannot be read: {type(error).__name__} {error}") from error


def scaled(nodes: Sequence[Json], factor: float) -> list[Json]:
    """Return the nodes of a pool that has `factor` times as many: some left out, or copied, evenly over the list."""
    rounds, rest = divmod(max(1, round(len(nodes) * factor)), len(nodes))
    made: list[Json] = []
    for number in range(rounds):
        made += [_copy(node, number) for node in nodes]
    return made + [_copy(nodes[i * len(nodes) // rest], rounds) for i in range(rest)]


def _copy(node: Json, number: int) -> Json:
    if not number:
        return node
    meta = dict(node["metadata"])
    name = f"{meta['name']}-copy{number}"
    labels = {**(meta.get("labels") or {}), _HOSTNAME: name}
    return {**node, "metadata": {**meta, "name": name, "uid": name, "labels": labels}}


def slim(node: Json) -> Json:
    """Return what a replay needs of a Node, as a Node: a trace carries it."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    ready = [
        {"type": "Ready", "status": condition["status"]}
        for condition in status.get("conditions", ())
        if condition["type"] == "Ready"
    ]
    return {
        "kind": "Node",
        "metadata": {"name": meta["name"], "labels": meta.get("labels") or {}},
        "spec": {"unschedulable": True} if spec.get("unschedulable") else {},
        "status": {"allocatable": status.get("allocatable") or {}, "conditions": ready},
    }


def shown(pool: Pool) -> str:
    """Return the size of a pool for people: `1000 nodes, 16000 cpu`."""
    nodes = len(pool.table.rows)
    size = format_amount(pool.resource, pool.capacity)
    return f"{size} {pool.resource}" if nodes == 1 else f"{nodes:,} nodes, {size} {pool.resource}"


def default_spec(resources: Iterable[str]) -> PoolSpec:
    """Return the spec of a pool of any nodes that lends these resources as the nodes allocate them."""
    return PoolSpec.model_validate(
        {
            "nodeSelector": {},
            "resources": [{"name": name, "source": CapacitySource.ALLOCATABLE} for name in resources],
            "queueing": {"strategy": QueueStrategy.BACKFILL},
            "leasePolicy": {"gracePeriodSeconds": 0},
        }
    )


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
