"""Pods that do nothing but hold what a lease has and its own pods do not use yet, against all other pods.

The hand-over to a pod of the lease, so that no third pod gets in between with the stock scheduler: the pod is nominated
for the node while it is still gated, which makes the scheduler keep room for it from pods of no higher priority; then
the placeholder is shrunk or deleted; when it is gone the gate is lifted. docs/design/2026-11-28-pods.md says why so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Final, NamedTuple

from leasehold.api.names import CPU, MEMORY
from leasehold.core.gating import Use
from leasehold.core.lease import Lease
from leasehold.core.pods import PODS, Placeholder, Pod, SliceRef, held_by

_RESIZABLE: Final = frozenset({CPU, MEMORY})
"""What a running pod can be given less of (KEP-1287)."""


class Create(NamedTuple):
    """Make a placeholder, the `number`th of its slice."""

    slice: SliceRef
    number: int
    node: str
    amounts: Mapping[str, int]


class Nominate(NamedTuple):
    """Have the scheduler keep a placeholder's room until it is bound."""

    placeholder: Placeholder
    node: str


class Shrink(NamedTuple):
    """Let a placeholder hold less from now on."""

    placeholder: Placeholder
    amounts: Mapping[str, int]


class Drop(NamedTuple):
    """Delete a placeholder."""

    placeholder: Placeholder


Holding = Create | Nominate | Shrink | Drop


def plan_placeholders(
    lease: Lease | None,
    pods: Sequence[Pod],
    there: Sequence[Placeholder],
    rigid: Set[str],
    *,
    wanted: bool,
) -> list[Holding]:
    """Return what to do about the placeholders of a lease, `there` by its name, beside the pods that were given slices.

    Only where `wanted`, and only while the lease is held, has it any. On `rigid` nodes nothing can be shrunk in place.
    """
    is_held = wanted and lease is not None and lease.allocated and not lease.releasing
    mine = [one for one in there if lease is not None and is_held and _is_of(one, lease)]
    actions: list[Holding] = [Drop(one) for one in there if one not in mine and not one.leaving]
    if lease is None or not is_held:
        return actions
    use = Use(lease, pods)
    for i, part in enumerate(lease.slices):
        # A placeholder is itself one pod, whatever it holds.
        rest = {name: use.left(i, part, name) for name in part.amounts if name != PODS}
        here = [one for one in mine if one.slice.position == i]
        ref = SliceRef(lease.uid, i)
        actions += _hold(ref, part.node, rest, here, can_shrink=part.node not in rigid)
    return actions


def _is_of(one: Placeholder, lease: Lease) -> bool:
    return one.slice.lease == lease.uid and one.slice.position < len(lease.slices) and not one.over


def _hold(
    ref: SliceRef, node: str, rest: Mapping[str, int], here: Sequence[Placeholder], *, can_shrink: bool
) -> list[Holding]:
    """Have a slice's placeholders hold just the `rest` of it."""
    staying = [one for one in here if not one.leaving]
    waiting: list[Holding] = [
        Nominate(one, node) for one in staying if not one.node and one.nominated != node
    ]
    if not any(rest.values()):
        return [Drop(one) for one in staying]
    held = held_by(staying)
    missing = {name: units - held.get(name, 0) for name, units in rest.items()}
    if all(units == 0 for units in missing.values()):
        return waiting
    if all(units >= 0 for units in missing.values()):
        if held_by(here) != held:
            return waiting  # what is leaving still has its room
        return [*waiting, _create(ref, node, {n: units for n, units in missing.items() if units}, here)]
    exact = next((one for one in staying if _same(one.requests, rest) and (one.node or one.nominated)), None)
    if exact is not None:
        return [*waiting, *(Drop(one) for one in staying if one is not exact)]
    if len(staying) == 1 and staying[0].node and can_shrink and rest.keys() <= _RESIZABLE:
        return [Shrink(staying[0], rest)]
    if waiting:
        return waiting
    return [_create(ref, node, {n: units for n, units in rest.items() if units}, here)]


def _create(ref: SliceRef, node: str, amounts: Mapping[str, int], here: Sequence[Placeholder]) -> Create:
    taken = {one.name.rpartition("-")[2] for one in here}
    number = next(n for n in range(len(here) + 1) if str(n) not in taken)
    return Create(ref, number, node, amounts)


def _same(requests: Mapping[str, int], rest: Mapping[str, int]) -> bool:
    return all(requests.get(name, 0) == rest.get(name, 0) for name in requests.keys() | rest.keys())
