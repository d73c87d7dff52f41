"""Whatever the schema lets in: strange, huge, at the bounds, contradictory, changed to something else and back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests.cluster.harness import LEASES, POOLS, Object, granted
from tests.faults import schemas
from tests.faults.checker import noise
from tests.faults.experiment import Arena, Scale, Trial, experiment
from tests.faults.operators import Operator

from leasehold.testing.errors import ApiError
from leasehold.testing.nodes import NodeShape

VAST: Final = NodeShape(cpu="100k", memory="100Ti", ephemeral_storage="100Ti")
"""Room for everything that is asked for in small quantities."""

_REFUSED: Final = (400, 422)
_GONE: Final = 404
_TTL: Final = "ttlSecondsAfterFinished"
_PATIENCE: Final = 20.0
_VOLATILE: Final = ("observedGeneration", "ledger", "queue")


# --- what is asked for ---


def _mended(spec: Object, pool: str, dice: random.Random) -> Object:
    """Make a spec agree with the rules that the schema does not tell, most of the time, so that it gets in."""
    if dice.random() < 0.15:
        return spec
    made = {key: part for key, part in spec.items() if key != "poolSelector"}
    made["poolRef"] = {"name": pool}
    placement = dict(made.get("placement", {}))
    if placement.get("mode") == "SameDomain":
        placement.setdefault("topologyKey", "zone")
    else:
        placement.pop("topologyKey", None)
    if "placement" in made:
        made["placement"] = placement
    if made.get("liveness") == "Session":
        made.setdefault("holder", {})
        made["holder"] = {**made["holder"], "sessionRef": {"name": "nobody"}}
    if dice.random() < 0.8:
        made["resources"] = {"cpu": next(iter(made["resources"].values()))}
    return made


def _lease(trial: Trial, name: str, spec: Object) -> Object:
    meta = {"name": name, "namespace": trial.stage.namespace}
    return {"apiVersion": "leasehold.dev/v1alpha1", "kind": "CapacityLease", "metadata": meta, "spec": spec}


def _pool(name: str, spec: Object) -> Object:
    return {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityPool",
        "metadata": {"name": name},
        "spec": spec,
    }


def _taken(trial: Trial, item: Object, what: str) -> bool:
    """Send an object; tell whether it was taken. Anything but that and a refusal for its content is a violation."""
    trial.deliver(1)
    try:
        trial.stage.kube.create(item)
    except ApiError as error:
        if error.status not in _REFUSED:
            trial.violate(f"{what}: {error.status} {error.message[:300]}: {item['spec']!r:.400}")
        return False
    return True


# --- what must hold ---


def _bystander(trial: Trial, *pools: str) -> None:
    """Somebody who asks for little is served all the same."""
    began = time.monotonic()
    names = [(pool, trial.stage.lease(pool, cpu="1")) for pool in pools]
    for pool, name in names:
        try:
            trial.stage.until(name, granted, _PATIENCE)
        except AssertionError as error:
            trial.violate(f"a bystander in pool {pool} was not granted: {error!s:.500}")
    trial.tell(f"{len(names)} bystanders served within {time.monotonic() - began:.2f} s")


def _unharmed(trial: Trial, operator: Operator) -> None:
    """The operator runs, was never restarted, and logged no error."""
    if not operator.running() or operator.starts != 1:
        trial.violate(f"the operator ended {operator.ends} and was started {operator.starts} times")
    loud = [x for x in operator.lines() if x["level"] in ("ERROR", "CRITICAL") or "exception" in x]
    for line in loud[:5]:
        trial.violate(f"logged: {line['message'][:300]} {line.get('exception', '')[-600:]}")


def _all_told(trial: Trial, resource: str, names: Iterable[str], namespace: str | None) -> None:
    """Everything that was taken hears what became of it."""
    waiting = set(names)
    deadline = time.monotonic() + _PATIENCE
    while waiting and time.monotonic() < deadline:
        for item in trial.stage.kube.list(resource, namespace):
            status = item.get("status") or {}
            seen = all(
                row.get("observedGeneration", 0) >= item["metadata"]["generation"]
                for row in status.get("conditions", ())
                if row["type"] == "Ready"
            )
            if status.get("conditions") and seen:
                waiting.discard(item["metadata"]["name"])
        time.sleep(0.1)
    for name in sorted(waiting)[:5]:
        item = trial.stage.kube.find(resource, name, namespace)
        if item is not None:
            trial.violate(f"{name} was told nothing: {item['spec']!r:.300} {item.get('status')!r:.300}")


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> Object:
    """Return the merge patch from one document to another."""
    patch: Object = dict.fromkeys(before.keys() - after.keys())
    for key, part in after.items():
        known = before.get(key)
        if part == known:
            continue
        both = isinstance(part, dict) and isinstance(known, dict)
        patch[key] = _change(known, part) if both else part
    return patch


def _there_and_back(
    trial: Trial, resource: str, name: str, namespace: str | None, other: Object
) -> tuple[Object, Object] | None:
    """Change a spec to another and back; return it before and after.

    Return None where the API refuses one of the ways, or where it is over and gone, as one of the two specs said.
    """
    kube = trial.stage.kube
    before = kube.find(resource, name, namespace)
    if before is None:
        return None
    trial.deliver(1)
    try:
        changed = kube.patch(resource, name, {"spec": _change(before["spec"], other)}, namespace)
        back = kube.patch(resource, name, {"spec": _change(changed["spec"], before["spec"])}, namespace)
    except ApiError as error:
        # A shorter time to be read may have passed already when it comes: gone between the two ways.
        over = error.status == _GONE and any(_TTL in spec for spec in (before["spec"], other))
        if error.status not in _REFUSED and not over:
            trial.violate(f"{name}: {error.status} {error.message[:300]}: to {other!r:.400}")
        return None
    change = _change(before["spec"], back["spec"])
    if "poolRef" not in before["spec"]:  # no pool matched what it was; what it was in between had one chosen
        change.pop("poolRef", None)
    if change:
        trial.violate(f"{name}: there and back its spec is another: {change}")
    return before, back


def _digest(item: Object) -> Object:
    """What a status says once times and amounts are left out, and that there once were tenants to be judged."""
    status = {key: part for key, part in (item.get("status") or {}).items() if key not in _VOLATILE}
    status["conditions"] = {
        row["type"]: (row["status"], row["reason"]) for row in status.get("conditions", ())
    }
    if item["kind"] == "CapacityPool" and not item["spec"].get("tenants"):
        status.pop("tenants", None)
        status["conditions"].pop("TenantsValid", None)
    return _without_times(status)


def _without_times(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            key: _without_times(value)
            for key, value in part.items()
            # A promise that is made anew is another commitment, with a number of its own; and by how much a node was
            # too small is as of the last look, for others come and go.
            if not key.endswith("Time") and key not in ("next", "ledgerSequence", "shortBy")
        }
    if isinstance(part, list):
        return [_without_times(value) for value in part]
    return part


def _same_as_before(trial: Trial, resource: str, namespace: str | None, before: Mapping[str, Object]) -> None:
    """What was changed and changed back says, in the end, what it said."""
    differs: dict[str, Object] = {}
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        there = {item["metadata"]["name"]: item for item in trial.stage.kube.list(resource, namespace)}
        differs = {
            name: _change(_digest(item), _digest(there[name]))
            for name, item in before.items()
            if name in there and _digest(item) != _digest(there[name])
        }
        if not differs:
            return
        time.sleep(0.2)
    for name, change in list(differs.items())[:5]:
        trial.violate(
            f"{name}: there and back its status is another: {change!r:.600}; {before[name]['spec']!r:.500}"
        )


def _quiet(trial: Trial, seconds: float = 0.7) -> None:
    """Wait until no operator has written for a while."""
    deadline = time.monotonic() + _PATIENCE
    while noise(trial.history.writes(), time.time() - seconds) and time.monotonic() < deadline:
        time.sleep(0.1)


# --- the stories ---


def _many_leases(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial(election_seconds=15) as trial:  # not about elections, and much at once
        nodes = trial.stage.nodes
        nodes.create(2, VAST, labels={"part": "main"})
        nodes.create(1, labels={"part": "other"})
        main = trial.pool(0, selector={"matchLabels": {**nodes.selector["matchLabels"], "part": "main"}})
        other = trial.pool(0, selector={"matchLabels": {**nodes.selector["matchLabels"], "part": "other"}})
        operator = trial.operator()
        operator.await_ready()
        count = scale.pick(60, 1200)
        specs = [
            _mended(spec, main, dice) for spec in schemas.drawn(schemas.leases(), count, dice.getrandbits(32))
        ]
        taken = [
            f"h{i}" for i, spec in enumerate(specs) if _taken(trial, _lease(trial, f"h{i}", spec), f"h{i}")
        ]
        trial.tell(f"{len(taken)} of {count} leases were taken")
        if len(taken) < count // 3:
            trial.violate(f"only {len(taken)} of {count} leases got past the API: too little was tried")
        _bystander(trial, main, other)
        for i, made in enumerate(schemas.drawn(schemas.broken_leases(), count // 2, dice.getrandbits(32))):
            mended = (
                isinstance(made.value, dict)
                and "poolRef" not in made.value
                and "poolSelector" not in made.value
            )
            spec = {**made.value, "poolRef": {"name": main}} if mended else made.value
            if _taken(trial, _lease(trial, f"b{i}", spec), f"b{i}"):
                trial.violate(f"was taken with {made.wrong}: {made.value!r:.400}")
        _all_told(trial, LEASES, taken, trial.stage.namespace)
        _quiet(trial)
        before: dict[str, Object] = {}
        swaps = schemas.drawn(schemas.leases(), len(taken), dice.getrandbits(32))
        for name, spec in zip(taken, swaps, strict=False):
            item = trial.stage.kube.find(LEASES, name, trial.stage.namespace)
            if item is None:  # it was over, and its time to be read too
                continue
            changed = _otherwise(item, _mended(spec, main, dice))
            found = _there_and_back(trial, LEASES, name, trial.stage.namespace, changed)
            if found is not None and _lasting(found[0]):
                before[name] = found[0]
        trial.tell(f"{len(before)} leases were changed and changed back")
        _same_as_before(trial, LEASES, trial.stage.namespace, before)
        _bystander(trial, main, other)
        _unharmed(trial, operator)


def _otherwise(lease: Object, other: Object) -> Object:
    """Take from another spec what may be changed, or now and then what may not."""
    # The last two end a lease by themselves, or are heard once and for all.
    fixed = {
        "poolRef",
        "poolSelector",
        "startTime",
        "mode",
        "desiredState",
        "startDeadlineSeconds",
        "renewTime",
    }
    if granted(lease):
        fixed |= {"resources", "count", "placement", "holder", "tenant"}
    changed = {key: part for key, part in other.items() if key not in fixed}
    return {**{key: part for key, part in lease["spec"].items() if key in fixed}, **changed}


def _lasting(lease: Object) -> bool:
    """Tell whether a lease stays by itself what it is: no short term, nobody to hear from, no pool to be chosen."""
    spec, status = lease["spec"], lease.get("status") or {}
    short = min(spec.get("durationSeconds", 3600), spec.get("startDeadlineSeconds", 3600)) < 600
    if "poolRef" not in spec:
        return False
    return not short and "renewTime" not in spec and "release" not in status and spec.get("mode") != "DryRun"


def _many_pools(arena: Arena, scale: Scale, dice: random.Random) -> None:
    with arena.trial(election_seconds=15) as trial:  # not about elections, and much at once
        nodes = trial.stage.nodes
        nodes.create(2, labels={"part": "main"})
        nodes.create(3, labels={"part": "strange"})
        main = trial.pool(0, selector={"matchLabels": {**nodes.selector["matchLabels"], "part": "main"}})
        operator = trial.operator()
        operator.await_ready()
        count = scale.pick(16, 80)
        taken = []
        for i, spec in enumerate(schemas.drawn(schemas.pools(), count, dice.getrandbits(32))):
            name = f"{trial.stage.namespace}-{i}"
            if dice.random() < 0.8:
                spec["resources"] = [
                    {"name": "cpu", "source": "Allocatable"},
                    *_consistent(spec.get("resources", ())),
                ]
            if _taken(trial, _pool(name, {**spec, "nodeSelector": _elsewhere(spec, nodes, dice)}), name):
                trial.stage.pools.append(name)
                taken.append(name)
                trial.stage.lease(name, cpu="1", durationSeconds=3600)
        trial.tell(f"{len(taken)} of {count} pools were taken")
        if len(taken) < count // 4:
            trial.violate(f"only {len(taken)} of {count} pools got past the API: too little was tried")
        _bystander(trial, main)
        for i, made in enumerate(schemas.drawn(schemas.broken_pools(), count, dice.getrandbits(32))):
            name = f"{trial.stage.namespace}-b{i}"
            if _taken(trial, _pool(name, made.value), name):
                trial.stage.pools.append(name)
                trial.violate(f"was taken with {made.wrong}: {made.value!r:.400}")
        _all_told(trial, POOLS, taken, None)
        _quiet(trial)
        before: dict[str, Object] = {}
        for name, spec in zip(
            taken, schemas.drawn(schemas.pools(), len(taken), dice.getrandbits(32)), strict=True
        ):
            other = {**spec, "resources": [{"name": "cpu", "source": "Allocatable"}], "stopPolicy": "Hold"}
            found = _there_and_back(
                trial, POOLS, name, None, {**other, "nodeSelector": _elsewhere(spec, nodes, dice)}
            )
            if found is not None:
                before[name] = found[0]
        trial.tell(f"{len(before)} pools were changed and changed back")
        _quiet(trial)
        _same_as_before(trial, POOLS, None, before)
        _bystander(trial, main)
        _unharmed(trial, operator)


def _consistent(rows: Iterable[Object]) -> list[Object]:
    """Rows of a pool's resources that agree with themselves, as far as the schema does not say it."""
    found = []
    for row in rows:
        row = {key: part for key, part in row.items() if key not in ("reserved", "min", "max", "step")}
        fixed = row.get("source") == "Fixed"
        row = {
            key: part
            for key, part in row.items()
            if key not in ("highPercent", "lowPercent", "fixedQuantity")
        }
        if row["name"] != "cpu":
            found.append({**row, "fixedQuantity": "1k"} if fixed else row)
    return found[:10]


def _elsewhere(spec: Object, nodes: Any, dice: random.Random) -> Object:
    """Keep a selector away from the nodes of bystanders; now and then it finds the strange ones."""
    if dice.random() < 0.5:
        return {"matchLabels": {**nodes.selector["matchLabels"], "part": "strange"}}
    selector = spec["nodeSelector"]
    return {**selector, "matchLabels": {**selector.get("matchLabels", {}), "part": "nowhere"}}


def _everything(arena: Arena) -> None:
    """A pool that selects every node: who holds keeps, nothing is lent twice, and all is well when it is gone."""
    with arena.trial(election_seconds=15) as trial:  # not about elections, and every error counts
        stage = trial.stage
        main = trial.pool(2)
        operator = trial.operator()
        operator.await_ready()
        held = stage.lease(main, cpu="1")
        stage.until(held, granted)
        for selector in ({}, {"matchLabels": {}}, {"matchExpressions": []}):
            greedy = stage.pool(selector=selector, wait="False")
            trial.deliver(1, f"a pool that selects {selector}")
            waits = stage.lease(main, cpu="1")
            stage.until(waits, lambda item: bool((item.get("status") or {}).get("conditions")))
            if granted(stage.get(waits)):
                trial.violate("a node of two pools was lent")
            stage._remove(POOLS, greedy, None)
            stage.until(waits, granted)
        if not granted(stage.get(held)):
            trial.violate("who held a lease lost it")
        _unharmed(trial, operator)


@experiment(19, "objects made from the schema", "no crash, no error, A to B to A is A, bystanders served")
def hostile_objects(arena: Arena, scale: Scale, dice: random.Random) -> None:
    _everything(arena)
    _many_leases(arena, scale, dice)
    _many_pools(arena, scale, dice)
