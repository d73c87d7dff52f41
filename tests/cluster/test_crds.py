"""What the API server accepts, what it refuses, and what it tells the user."""

import copy
import json
import secrets
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from leasehold.api import crd
from leasehold.api.meta import RULES
from leasehold.testing.client import MERGE_PATCH, Client
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
TIME = "2026-01-01T00:00:00.000000Z"
FINALIZER = "leasehold.dev/release"


def pool(**spec: Any) -> Object:
    return _object("CapacityPool", {"nodeSelector": {}, **spec})


def pool_of(**resource: Any) -> Object:
    return pool(resources=[{"name": "cpu", **resource}])


def lease(**spec: Any) -> Object:
    return _object("CapacityLease", {"poolRef": {"name": "ci"}, "resources": {"cpu": "2"}, **spec})


def any_pool(selector: Object, **spec: Any) -> Object:
    return _object("CapacityLease", {"poolSelector": selector, "resources": {"cpu": "2"}, **spec})


def child(**spec: Any) -> Object:
    return _object("CapacityLease", {"parentRef": {"name": "all"}, "resources": {"cpu": "2"}, **spec})


def tenant(**fields: Any) -> Object:
    return pool(tenants=[{"name": "build", "namespaceSelector": {}, **fields}])


def report(**spec: Any) -> Object:
    return _object("NodeReport", spec)


def _object(kind: str, spec: Object) -> Object:
    return {"apiVersion": "leasehold.dev/v1alpha1", "kind": kind, "metadata": {"name": "one"}, "spec": spec}


def condition(kind: str, status: str = "True", reason: str = "Any") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": TIME}


PLURALS = {kind.info.kind: kind.info.plural for kind in crd.KINDS}


class Server:
    """Asks the API server without storing anything, unless told to."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, obj: Object, *, store: bool = False) -> Object:
        return self._ask("POST", self._path(obj), obj, store=store)

    def change(self, obj: Object, patch: Object, *, status: bool = False, store: bool = False) -> Object:
        path = f"{self._path(obj)}/{obj['metadata']['name']}{'/status' if status else ''}"
        return self._ask("PATCH", path, patch, store=store)

    def remove(self, obj: Object) -> None:
        self.change(obj, {"metadata": {"finalizers": None}}, store=True)
        self._client.delete(PLURALS[obj["kind"]], obj["metadata"]["name"], obj["metadata"].get("namespace"))

    @staticmethod
    def _path(obj: Object) -> str:
        namespace = "namespaces/default/" if obj["kind"] == "CapacityLease" else ""
        return f"/apis/{obj['apiVersion']}/{namespace}{PLURALS[obj['kind']]}"

    def _ask(self, method: str, path: str, body: Object, *, store: bool) -> Object:
        query: dict[str, str | int] = {"fieldValidation": "Strict"} | ({} if store else {"dryRun": "All"})
        content_type = MERGE_PATCH if method == "PATCH" else "application/json"
        return dict(
            json.loads(self._client._request(method, path, body, query=query, content_type=content_type))
        )


@pytest.fixture
def server(kube: Client) -> Server:
    return Server(kube)


Store = Callable[[Object, Object | None], Object]


@pytest.fixture
def stored(server: Server) -> Iterator[Store]:
    """Store an object with a status, for changes to be tried on."""
    made = []

    def store(obj: Object, status: Object | None) -> Object:
        named = {**copy.deepcopy(obj), "metadata": {"name": f"crd-test-{secrets.token_hex(4)}"}}
        created = server.create(named, store=True)
        made.append(created)
        return server.change(created, {"status": status}, status=True, store=True) if status else created

    yield store
    for obj in made:
        server.remove(obj)


def refusal(ask: Callable[[], Object]) -> str:
    """Return what the user reads."""
    with pytest.raises(ApiError) as caught:
        ask()
    assert caught.value.status in (400, 422), caught.value
    return caught.value.message


# Objects as they are created


GOOD = {
    "the shortest pool": pool(),
    "a pool by labels": pool(
        nodeSelector={
            "matchLabels": {"node-role": "ci"},
            "matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a", "b"]},
                {"key": "spot", "operator": "DoesNotExist"},
            ],
        }
    ),
    "a fixed total": pool_of(source="Fixed", fixedQuantity=8),
    "something reserved": pool_of(reserved="500m"),
    "nothing reserved": pool_of(reserved=0),
    "a reserved share": pool_of(reservedPercent=10),
    "a smallest and a largest slice": pool_of(min="500m", max=4, step="500m"),
    "a slice of one size": pool_of(min="1", max="1000m"),
    "pressure thresholds": pool_of(highPercent=90, lowPercent=80),
    "terms of every kind": pool(
        leasePolicy={
            "defaultDurationSeconds": 60,
            "maxDurationSeconds": 60,
            "maxTotalSeconds": 3600,
            "warnBeforeSeconds": [600, 60],
            "idle": {"policy": "Warn"},
        }
    ),
    "tenants": pool(
        tenants=[
            {"name": "build", "namespaceSelector": {}, "guaranteed": {"cpu": "1500m"}, "limit": {"cpu": 2}},
            {
                "name": "test-2",
                "namespaceSelector": {"matchLabels": {"team": "test"}},
                "guaranteed": {"cpu": "1", "memory": "4Gi"},
                "limit": {"cpu": "1000m", "vendor.example/gpu": 0},
                "weight": 1000,
                "maxLeases": 1,
            },
        ],
        preemption={"withinTenant": "LowerPriority", "borrowers": "Reclaim"},
        queueing={"strategy": "Backfill", "fairness": "DominantShareAndWaste", "usageHalfLifeSeconds": 60},
        leasePolicy={"guaranteedSeconds": 60, "maxDeferSeconds": 60, "promiseConflictAction": "Refuse"},
    ),
    "as many tenants as there may be": pool(
        tenants=[
            {
                "name": f"tenant-{index}",
                "namespaceSelector": {},
                **{
                    part: {f"vendor.example/{number}": f"{size}{'0' * 20}n" for number in range(16)}
                    for part, size in (("guaranteed", 1), ("limit", 2))
                },
            }
            for index in range(64)
        ]
    ),
    "the shortest lease": lease(),
    "any pool that matches": any_pool(
        {"matchExpressions": [{"key": "site", "operator": "In", "values": ["north", "south"]}]}
    ),
    "any pool at all": any_pool({}),
    "a reservation": lease(startTime="2026-01-01T00:00:00Z", startDeadlineSeconds=60, tenant="build"),
    "a question": lease(mode="DryRun", deferSeconds=60),
    "amounts as numbers": lease(resources={"cpu": 2, "memory": "4Gi", "vendor.example/gpu": 1}),
    "a session": lease(liveness="Session", holder={"identity": "me", "sessionRef": {"name": "s"}}),
    "a sub-lease": child(),
    "a sub-lease with its parent's pool": child(poolRef={"name": "ci"}, liveness="None", durationSeconds=60),
    "one domain": lease(count=3, placement={"mode": "SameDomain", "topologyKey": "zone"}),
    "a renew time with nanoseconds": lease(renewTime="2026-01-01T00:00:00.123456789+02:00"),
    "a lease released from the start": lease(desiredState="Released"),
    "the shortest report": report(),
    "a report with everything asked": report(
        reportPeriodSeconds=10,
        windowSeconds=60,
        state="Excluded",
        leaseUIDs=["a", "b"],
        pods=[{"uid": "p", "leaseUID": "a"}, {"uid": "q", "leaseUID": "a"}],
    ),
    "a report with as many pods as there may be": report(
        leaseUIDs=["a"], pods=[{"uid": f"p{n}", "leaseUID": "a"} for n in range(512)]
    ),
}

WHOLE = "must be a quantity greater than 0 and at most 1P, such as 500m, 2 or 4Gi"
ANY = "must be a quantity from 0 to 1P, such as 500m, 2 or 4Gi"
PARTS = (
    "a sub-lease has its parent's pool and tenant and starts when its parent has room: leave out poolSelector,"
    " startTime, tenant and mode DryRun"
)

BAD = {
    # Pools
    "no selector": (_object("CapacityPool", {}), "spec.nodeSelector: Required value"),
    "an operator without values": (
        pool(nodeSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
        "values must be given with the operators In and NotIn, and left out with Exists and DoesNotExist",
    ),
    "values without use": (
        pool(nodeSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
        "spec.nodeSelector.matchExpressions[0].values",
    ),
    "a label key beyond bounds": (
        pool(nodeSelector={"matchLabels": {"k" * 318: "v"}}),
        "a label key must be at most 317 characters long",
    ),
    "dedicated nodes without pods held": (
        pool(enforcement={"nodeTaint": "Dedicated"}),
        "nodeTaint Dedicated needs mode Gate",
    ),
    "no resources": (pool(resources=[]), "spec.resources in body should have at least 1 items"),
    "a resource twice": (
        pool(resources=[{"name": "cpu"}, {"name": "cpu"}]),
        'Duplicate value: {"name":"cpu"}',
    ),
    "an unknown source": (pool_of(source="Guess"), 'supported values: "Measured", "Allocatable", "Fixed"'),
    "fixed without a quantity": (
        pool_of(source="Fixed"),
        "fixedQuantity must be set with source Fixed, and only then",
    ),
    "a quantity that is not fixed": (pool_of(fixedQuantity=1), "spec.resources[0].fixedQuantity"),
    "reserved in two ways": (
        pool_of(reserved=1, reservedPercent=1),
        "reserved and reservedPercent must not both be set; keep one",
    ),
    "a malformed reserve": (
        pool_of(reserved="some"),
        f'spec.resources[0].reserved: Invalid value: "some": {ANY}',
    ),
    "a negative reserve": (pool_of(reserved="-1"), ANY),
    "a smallest slice of nothing": (pool_of(min=0), WHOLE),
    "slices the wrong way round": (pool_of(min="2", max="1"), "min must not be more than max"),
    "a high threshold alone": (
        pool_of(highPercent=90),
        "highPercent and lowPercent must be set together, and lowPercent must be the lower one",
    ),
    "a low threshold alone": (pool_of(lowPercent=10), "highPercent and lowPercent must be set together"),
    "equal thresholds": (pool_of(highPercent=50, lowPercent=50), "lowPercent must be the lower one"),
    "a default term beyond the longest": (
        pool(leasePolicy={"maxDurationSeconds": 600}),
        "defaultDurationSeconds (3600 unless set) must not be more than maxDurationSeconds; set both",
    ),
    "a warning twice": (pool(leasePolicy={"warnBeforeSeconds": [60, 60]}), "Duplicate value: 60"),
    "a tenant twice": (
        pool(tenants=[{"name": "a", "namespaceSelector": {}}, {"name": "a", "namespaceSelector": {}}]),
        "spec.tenants[1]: Duplicate value",
    ),
    "a tenant of no namespaces": (
        pool(tenants=[{"name": "a"}]),
        "spec.tenants[0].namespaceSelector: Required value",
    ),
    "a tenant's name that is no label": (
        tenant(name="Build"),
        "spec.tenants[0].name in body should match",
    ),
    "a guarantee beyond the limit": (
        tenant(guaranteed={"memory": "1Gi", "cpu": "2001m"}, limit={"cpu": 2}),
        "spec.tenants[0].guaranteed: Invalid value: guaranteed must not be more than limit in any resource; lower the"
        " one or raise the other",
    ),
    "a malformed guarantee": (
        tenant(guaranteed={"cpu": "some"}),
        f'spec.tenants[0].guaranteed[cpu]: Invalid value: "some": {ANY}',
    ),
    "a negative limit": (
        tenant(limit={"cpu": "-1"}),
        f'spec.tenants[0].limit[cpu]: Invalid value: "-1": {ANY}',
    ),
    "a limit of a name beyond bounds": (
        tenant(limit={"r" * 254: 1}),
        "spec.tenants[0].limit: Invalid value: a resource name must be at most 253 characters long",
    ),
    "a tenant without weight": (tenant(weight=0), "should be greater than or equal to 1"),
    "an order that does not exist": (pool(queueing={"strategy": "Lottery"}), '"BestEffortFIFO", "Backfill"'),
    # Leases
    "no pool": (
        _object("CapacityLease", {"resources": {"cpu": 1}}),
        "spec.poolRef: Invalid value: name a pool in poolRef, or set poolSelector to let the operator choose one",
    ),
    "a pool and a choice of pools": (
        lease(poolSelector={}),
        "spec.poolSelector: Invalid value: poolRef and poolSelector must not both be set; keep one",
    ),
    "a pool label beyond bounds": (
        any_pool({"matchLabels": {"k" * 318: "v"}}),
        "spec.poolSelector.matchLabels: Invalid value: a label key must be at most 317 characters long",
    ),
    "a start that is no time": (lease(startTime="soon"), "spec.startTime in body must be of type date-time"),
    "a tenant that no pool can have": (lease(tenant="Build"), "spec.tenant in body should match"),
    "an unknown mode": (lease(mode="Maybe"), 'supported values: "Reserve", "DryRun"'),
    "nothing asked for": (lease(resources={}), "spec.resources in body should have at least 1 properties"),
    "a malformed amount": (
        lease(resources={"cpu": "2 cores"}),
        f'spec.resources[cpu]: Invalid value: "2 cores": {WHOLE}',
    ),
    "an empty amount": (lease(resources={"cpu": ""}), WHOLE),
    "an amount of nothing": (lease(resources={"cpu": "0"}), WHOLE),
    "a negative amount": (lease(resources={"cpu": -1}), WHOLE),
    "an amount beyond bounds": (lease(resources={"memory": "2P"}), WHOLE),
    "an amount too long to read": (lease(resources={"cpu": "1" * 33}), "Too long: may not be more than 32"),
    "a fractional number": (lease(resources={"cpu": 1.5}), "must be of type integer,string"),
    "a resource name beyond bounds": (
        lease(resources={"r" * 254: 1}),
        "a resource name must be at most 253 characters long",
    ),
    "no slices": (lease(count=0), "spec.count in body should be greater than or equal to 1"),
    "too many slices": (lease(count=65), "spec.count in body should be less than or equal to 64"),
    "a domain without its label": (
        lease(placement={"mode": "SameDomain"}),
        "topologyKey must be set with mode SameDomain, and only then",
    ),
    "a label without its domain": (lease(placement={"topologyKey": "zone"}), "spec.placement.topologyKey"),
    "a node label beyond bounds": (
        lease(placement={"nodeSelector": {"k" * 318: "v"}}),
        "a label key must be at most 317 characters long",
    ),
    "a session that is not named": (
        lease(liveness="Session", holder={"identity": "me"}),
        "liveness Session needs holder.sessionRef: the coordination.k8s.io Lease that the holder renews",
    ),
    "a sub-lease of any pool": (child(poolSelector={}), f"spec.parentRef: Invalid value: {PARTS}"),
    "a sub-lease of a tenant": (child(tenant="a"), PARTS),
    "a sub-lease that starts later": (child(startTime=TIME), PARTS),
    "a question about a sub-lease": (child(mode="DryRun"), PARTS),
    "a parent without a name": (child(parentRef={}), "spec.parentRef.name: Required value"),
    "a time that is none": (lease(renewTime="now"), "spec.renewTime in body must be of type date-time"),
    # Reports
    "a lease asked for twice": (report(leaseUIDs=["a", "a"]), 'Duplicate value: "a"'),
    "a pod asked for twice": (
        report(pods=[{"uid": "p", "leaseUID": "a"}, {"uid": "p", "leaseUID": "b"}]),
        'Duplicate value: {"uid":"p"}',
    ),
    "a pod of no lease": (report(pods=[{"uid": "p"}]), "spec.pods[0].leaseUID: Required value"),
    "a pod without a uid": (
        report(pods=[{"uid": "", "leaseUID": "a"}]),
        "spec.pods[0].uid in body should be at least 1 chars long",
    ),
    "more pods than a node may be asked about": (
        report(pods=[{"uid": f"p{n}", "leaseUID": "a"} for n in range(513)]),
        "spec.pods: Too many: 513: must have at most 512 items",
    ),
    "a period too short": (report(reportPeriodSeconds=0), "should be greater than or equal to 1"),
}


@pytest.mark.parametrize("obj", GOOD.values(), ids=GOOD)
def test_good_objects_are_accepted(server: Server, obj: Object) -> None:
    server.create(obj)


@pytest.mark.parametrize(("obj", "message"), BAD.values(), ids=BAD)
def test_bad_objects_are_refused_with_a_reason(server: Server, obj: Object, message: str) -> None:
    assert message in refusal(lambda: server.create(obj))


def test_the_shortest_pool_gets_its_defaults(server: Server) -> None:
    spec = server.create(pool())["spec"]
    assert spec["resources"] == [
        {"name": name, "source": "Measured", "allocationPercent": 100}
        for name in ("cpu", "memory", "ephemeral-storage")
    ]
    assert spec["leasePolicy"]["idle"] == {"policy": "Off", "belowPercent": 5, "periodSeconds": 1800}
    assert spec["leasePolicy"]["warnBeforeSeconds"] == []
    assert spec["freshness"] == {"maxAgeSeconds": 660, "onStale": "Hold"}
    assert spec["queueing"] == {
        "strategy": "BestEffortFIFO",
        "maxPending": 10_000,
        "fairness": "DominantShare",
        "usageHalfLifeSeconds": 0,
    }
    assert spec["preemption"] == {"withinTenant": "Never", "borrowers": "Never"}
    assert "tenants" not in spec


def test_the_server_and_the_models_have_the_same_defaults(server: Server) -> None:
    for kind, obj in zip(crd.KINDS, (pool(), lease(), report()), strict=True):
        model = kind.model_validate(obj)
        assert server.create(obj)["spec"] == model.to_wire()["spec"]


@pytest.mark.parametrize("field", ["tenants", "until", "deadlineSeconds", "preemption"])
def test_fields_that_do_not_exist_are_refused(server: Server, field: str) -> None:
    assert f'unknown field "spec.{field}"' in refusal(lambda: server.create(lease(**{field: "x"})))


def test_an_object_too_large_is_refused_with_the_field_to_cut(server: Server) -> None:
    size = 300_000
    assert "spec.holder.identity: Too long" in refusal(
        lambda: server.create(lease(holder={"identity": "x" * size}))
    )
    many = {f"r{index}": "1" for index in range(size // 10)}
    assert "spec.resources: Too many" in refusal(lambda: server.create(lease(resources=many)))
    long_list = [{"name": f"r{index}"} for index in range(size // 20)]
    assert "spec.resources: Too many" in refusal(lambda: server.create(pool(resources=long_list)))
    noted = lease()
    noted["metadata"]["annotations"] = {"note": "x" * size}
    assert "metadata.annotations: Too long" in refusal(lambda: server.create(noted))


@pytest.mark.parametrize(
    "text", ["2026-11-22t12:00:00z", "2026-11-22T12:00:00z", "2026-11-22T12:00:00+14:99"]
)
def test_a_time_at_which_the_rules_would_fail_later_is_refused_at_once(server: Server, text: str) -> None:
    for field in ("startTime", "renewTime"):
        assert f"spec.{field}" in refusal(lambda field=field: server.create(lease(**{field: text})))


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "2026-11-22T12:00:00.123456789+23:59"],
)
def test_a_lease_with_any_time_that_is_taken_can_be_written_again(
    server: Server, stored: Store, text: str
) -> None:
    made = stored(lease(startTime=text, renewTime=text), None)
    assert server.change(made, status(phase="Pending"), status=True)["status"] == {"phase": "Pending"}


SLOW = "1e999999999"


def test_a_short_text_cannot_keep_the_server_busy(server: Server, stored: Store) -> None:
    """The API server's own parser would take minutes over it, in every rule that compares quantities."""
    granted = stored(lease(), GRANTED)
    start = time.monotonic()
    refusal(lambda: server.create(lease(resources={"cpu": SLOW})))
    refusal(lambda: server.create(pool_of(reserved=SLOW, min=SLOW, max=SLOW, step=SLOW)))
    refusal(lambda: server.create(pool_of(min=SLOW, max="1")))
    refusal(lambda: server.create(pool_of(min="1", max=SLOW)))
    refusal(lambda: server.create(tenant(guaranteed={"cpu": SLOW}, limit={"cpu": "1"})))
    refusal(lambda: server.create(tenant(guaranteed={"cpu": "1"}, limit={"cpu": SLOW})))
    refusal(lambda: server.change(granted, {"spec": {"resources": {"cpu": SLOW}}}))
    refusal(
        lambda: server.change(
            granted, {"status": {"rejections": [{"reason": "A", "nodes": 1, "shortBy": SLOW}]}}, status=True
        )
    )
    assert time.monotonic() - start < 30


# Changes


CONDITIONS = [
    condition("Ready"),
    condition("Allocated"),
    condition("Released", "False"),
    condition("Finished", "False"),
]
GRANTED: Object = {
    "phase": "Active",
    "conditions": CONDITIONS,
    "fencingToken": 7,
    "allocation": {
        "ledgerSequence": 7,
        "allocationTime": TIME,
        "slices": [
            {"index": 0, "nodeName": "node-1", "resources": {"cpu": "2", "memory": "4Gi"}},
            {"index": 1, "nodeName": "node-2", "resources": {"cpu": "2", "memory": "4Gi"}},
        ],
    },
}
OVER: Object = {**GRANTED, "conditions": [condition("Released"), condition("Finished")]}
SLICE: Object = {"index": 0, "nodeName": "node-1", "resources": {"cpu": "2"}}
PROMISED: Object = {
    "phase": "Scheduled",
    "tenant": "build",
    "queue": {"approximatePosition": 1, "estimatedStartTime": TIME},
    "reservation": {"ledgerSequence": 7, "startTime": TIME, "endTime": TIME, "slices": [SLICE]},
    "deadlines": {"startTime": TIME, "next": {"time": TIME, "cause": "Start"}},
}
LAST_WORDS: Object = {
    "quote": {"pool": "ci", "startTime": TIME, "nodes": ["node-1", "node-1"], "victims": ["team-a/build"]},
    "counterOffer": {
        "kind": "Smaller",
        "resources": {"cpu": "1"},
        "count": 1,
        "pool": "other",
        "startTime": TIME,
    },
    "revocation": {"preemptorUID": "u", "noticeTime": TIME, "deferSeconds": 30},
    "accounting": {
        "heldSeconds": 60,
        "observedSeconds": 50,
        "resources": [{"name": "cpu", "reserved": "2", "used": "1500m", "usedPercent": 75}],
    },
}
NORTH: Object = {"matchLabels": {"site": "north"}}
ASKED = lease(
    count=2, resources={"cpu": "2", "memory": "4Gi"}, holder={"identity": "me"}, placement={"mode": "Any"}
)
LEDGER: Object = {"ledger": {"epoch": 3, "sequence": 9}}
MEASURED: Object = {"bootID": "a", "sequence": 5, "reportTime": TIME}


HANDED: Object = {**GRANTED, "holder": {"identity": "me"}}


class Change(NamedTuple):
    """A change of a stored object: of its spec, or of its status."""

    before: Object
    status: Object | None
    patch: Object
    message: str = ""

    @property
    def of_status(self) -> bool:
        return "status" in self.patch


def slices(*nodes: str, cpu: str = "2") -> Object:
    return {
        "slices": [
            {"index": index, "nodeName": node, "resources": {"cpu": cpu}} for index, node in enumerate(nodes)
        ]
    }


def spec(**fields: Any) -> Object:
    return {"spec": fields}


def status(**fields: Any) -> Object:
    return {"status": fields}


ALLOWED = {
    "everything before the grant": Change(
        ASKED,
        {"phase": "Pending"},
        spec(count=5, resources={"cpu": "64"}, holder=None, placement={"mode": "SameNode"}),
    ),
    "a renewal": Change(ASKED, GRANTED, spec(renewTime=TIME, durationSeconds=5)),
    "shrinking": Change(ASKED, GRANTED, spec(resources={"cpu": "1500m"})),
    "writing the same amount otherwise": Change(
        ASKED, GRANTED, spec(resources={"cpu": "2000m", "memory": "4096Mi"})
    ),
    "priority after the grant": Change(ASKED, GRANTED, spec(priority=9)),
    "another holder": Change(ASKED, GRANTED, spec(holder={"identity": "you"})),
    "no holder": Change(ASKED, GRANTED, spec(holder=None)),
    "a holder after all": Change(lease(), GRANTED, spec(holder={"identity": "me"})),
    "who the token is for": Change(ASKED, GRANTED, status(holder={"identity": "me"})),
    "a handover": Change(ASKED, HANDED, status(holder={"identity": "you"}, fencingToken=8)),
    "a handover from nobody": Change(
        lease(), {**GRANTED, "holder": {}}, status(holder={"identity": "you"}, fencingToken=8)
    ),
    "the parent's pool": Change(child(), {"phase": "Pending"}, spec(poolRef={"name": "ci"})),
    "another tenant before the grant": Change(lease(tenant="a"), {"phase": "Pending"}, spec(tenant=None)),
    "the same tenant after the grant": Change(
        lease(tenant="a"), GRANTED, spec(tenant="a", deferSeconds=60, startDeadlineSeconds=60)
    ),
    "the pool that was chosen": Change(
        any_pool(NORTH), {"phase": "Pending"}, spec(poolRef={"name": "north-1"})
    ),
    "the same start written otherwise": Change(
        lease(startTime="2026-01-01T00:00:00Z"), None, spec(startTime="2026-01-01T02:00:00+02:00")
    ),
    "a promised start": Change(lease(startTime=TIME), {"phase": "Pending"}, status(**PROMISED)),
    "what is known of a lease that is over": Change(ASKED, OVER, status(**LAST_WORDS)),
    "giving back": Change(ASKED, GRANTED, spec(desiredState="Released")),
    "giving back what is over": Change(ASKED, OVER, spec(desiredState="Released")),
    "the grant itself": Change(ASKED, {"phase": "Pending"}, status(**GRANTED)),
    "a status without news": Change(ASKED, GRANTED, status(phase="Active")),
    "smaller slices": Change(ASKED, GRANTED, status(allocation=slices("node-1", "node-2", cpu="1"))),
    "other nodes by a new commit": Change(
        ASKED, GRANTED, status(fencingToken=8, allocation={"ledgerSequence": 8, **slices("node-3", "node-2")})
    ),
    "the end": Change(ASKED, GRANTED, status(conditions=OVER["conditions"])),
    "a refusal that was too early": Change(
        ASKED, {"conditions": [condition("Accepted", "False")]}, status(conditions=[condition("Accepted")])
    ),
    "a ledger that moves on": Change(pool(), LEDGER, status(ledger={"epoch": 4, "sequence": 12})),
    "a promise in the ledger, and tenants": Change(
        tenant(),
        LEDGER,
        status(
            ledger={
                "inFlight": [
                    {
                        "uid": "u",
                        "namespace": "team-a",
                        "name": "build",
                        "sequence": 10,
                        "resources": {"cpu": "2"},
                        "nodes": ["node-1"],
                        **dict.fromkeys(("startTime", "endTime", "notAfterTime"), TIME),
                    }
                ]
            },
            tenants=[
                {
                    "name": "build",
                    "allocated": {"cpu": "2"},
                    **dict.fromkeys(("leases", "pending", "sharePermille"), 1),
                    **dict.fromkeys(("usagePermille", "wastePermille"), 1),
                }
            ],
        ),
    ),
    "a report that moves on": Change(report(), MEASURED, status(sequence=6)),
    "a report after a restart": Change(report(), MEASURED, status(bootID="b", sequence=1)),
}

ONLY_SHRINK = (
    "once the lease is granted its resources may only shrink: the same names, each at most what it was"
)
KEPT = "status, its allocation and its fencingToken cannot be removed, and the token never falls"
FINAL = "Finished=True and Released=True are final: the capacity may have been granted to another lease"
MOVED = "a grant moves to other nodes only with a new commit in the pool's ledger (a larger ledgerSequence)"
ONE_HOLDER = "a token belongs to one holder: holder changes only together with a larger fencingToken"
NEEDS = "Allocated=True needs an allocation and a fencingToken"
BOOKS = "status.ledger cannot be removed, and its epoch and sequence never fall: without them two operators"
OLDER = "within one bootID the sequence never falls: an older report cannot replace a newer one"

REFUSED = {
    # Leases
    "another pool": Change(
        ASKED,
        None,
        spec(poolRef={"name": "other"}),
        "spec.poolRef: Forbidden: the pool of a lease cannot be changed; create a new lease instead",
    ),
    "no pool any more": Change(
        ASKED,
        None,
        spec(poolRef=None, poolSelector=NORTH),
        "spec.poolRef: Forbidden: the pool of a lease cannot be changed; create a new lease instead",
    ),
    "neither pool nor choice of pools": Change(ASKED, None, spec(poolRef=None), "name a pool in poolRef"),
    "a choice of pools besides the pool": Change(
        ASKED,
        None,
        spec(poolSelector=NORTH),
        "spec.poolSelector: Forbidden: poolSelector cannot be changed; create a new lease instead",
    ),
    "a pool instead of the choice": Change(
        any_pool(NORTH),
        None,
        spec(poolRef={"name": "ci"}, poolSelector=None),
        "poolSelector cannot be changed",
    ),
    "other pools to choose from": Change(
        any_pool(NORTH),
        None,
        spec(poolSelector={"matchLabels": {"site": "south"}}),
        "poolSelector cannot be changed",
    ),
    "another start": Change(
        lease(startTime=TIME),
        None,
        spec(startTime="2026-01-01T00:00:01Z"),
        "spec.startTime: Forbidden: startTime cannot be changed; create a new lease instead",
    ),
    "a start after all": Change(ASKED, None, spec(startTime=TIME), "startTime cannot be changed"),
    "no start after all": Change(
        lease(startTime=TIME), None, spec(startTime=None), "startTime cannot be changed"
    ),
    "another mode": Change(
        lease(mode="DryRun"),
        None,
        spec(mode="Reserve"),
        "spec.mode: Forbidden: mode cannot be changed; create a new lease instead",
    ),
    "no mode": Change(lease(mode="DryRun"), None, spec(mode=None), "mode cannot be changed"),
    "another tenant": Change(
        lease(tenant="a"),
        GRANTED,
        spec(tenant="b"),
        "spec.tenant: Forbidden: tenant cannot be changed once the lease is granted; create a new lease instead",
    ),
    "a tenant after all": Change(lease(), GRANTED, spec(tenant="b"), "tenant cannot be changed"),
    "no tenant any more": Change(lease(tenant="a"), GRANTED, spec(tenant=None), "tenant cannot be changed"),
    "wanting back what was given back": Change(
        lease(desiredState="Released"),
        None,
        spec(desiredState="Held"),
        "spec.desiredState: Forbidden: desiredState Released is final; create a new lease instead",
    ),
    "wanting back by leaving out": Change(
        lease(desiredState="Released"), None, spec(desiredState=None), "desiredState Released is final"
    ),
    "another count": Change(
        ASKED,
        GRANTED,
        spec(count=1),
        "spec.count: Forbidden: count cannot be changed once the lease is granted; create a new lease instead",
    ),
    "another holder by the same token": Change(
        ASKED, HANDED, status(holder={"identity": "you"}), f"status.holder: Invalid value: {ONE_HOLDER}"
    ),
    "a holder by the same token after all": Change(
        ASKED, {**GRANTED, "holder": {}}, status(holder={"identity": "you"}), ONE_HOLDER
    ),
    "no holder of the token any more": Change(ASKED, HANDED, status(holder=None), ONE_HOLDER),
    "another parent": Change(
        child(),
        None,
        spec(parentRef={"name": "other"}),
        "spec.parentRef: Forbidden: parentRef cannot be changed; create a new lease instead",
    ),
    "a parent after all": Change(
        lease(), None, spec(parentRef={"name": "all"}), "parentRef cannot be changed"
    ),
    "no parent any more": Change(
        child(poolRef={"name": "ci"}), None, spec(parentRef=None), "parentRef cannot be changed"
    ),
    "another placement": Change(
        ASKED,
        GRANTED,
        spec(placement={"mode": "SameNode"}),
        "spec.placement: Forbidden: placement cannot be changed once the lease is granted; create a new lease"
        " instead",
    ),
    "growing": Change(
        ASKED, GRANTED, spec(resources={"cpu": "2001m"}), f"spec.resources: Forbidden: {ONLY_SHRINK}"
    ),
    "one grows while another shrinks": Change(
        ASKED, GRANTED, spec(resources={"cpu": "1", "memory": "5Gi"}), ONLY_SHRINK
    ),
    "one resource more": Change(ASKED, GRANTED, spec(resources={"vendor.example/gpu": 1}), ONLY_SHRINK),
    "one resource less": Change(ASKED, GRANTED, spec(resources={"memory": None}), ONLY_SHRINK),
    "one resource for another": Change(
        ASKED, GRANTED, spec(resources={"memory": None, "ephemeral-storage": "1Gi"}), ONLY_SHRINK
    ),
    "a lower token": Change(
        ASKED, GRANTED, status(fencingToken=6), f"status.fencingToken: Invalid value: 6: {KEPT}"
    ),
    "no token": Change(ASKED, GRANTED, status(fencingToken=None, conditions=None), KEPT),
    "no allocation": Change(ASKED, GRANTED, status(allocation=None, conditions=None), KEPT),
    "no status": Change(ASKED, GRANTED, {"status": None}, KEPT),
    "no status of a lease that failed": Change(
        ASKED, {"conditions": [condition("Finished", reason="Failed")]}, {"status": None}, KEPT
    ),
    "an end undone": Change(
        ASKED, OVER, status(conditions=CONDITIONS), f"status.conditions: Invalid value: {FINAL}"
    ),
    "an end dropped": Change(ASKED, OVER, status(conditions=[condition("Released")]), FINAL),
    "a release dropped": Change(ASKED, OVER, status(conditions=[condition("Finished")]), FINAL),
    "all conditions dropped": Change(ASKED, OVER, status(conditions=None), FINAL),
    "a grant without an allocation": Change(
        ASKED,
        {"phase": "Pending"},
        status(fencingToken=1, conditions=CONDITIONS),
        f"status.conditions: Invalid value: {NEEDS}",
    ),
    "a grant without a token": Change(
        ASKED, {"phase": "Pending"}, status(allocation=GRANTED["allocation"], conditions=CONDITIONS), NEEDS
    ),
    "another node by the same commit": Change(
        ASKED,
        GRANTED,
        status(allocation=slices("node-3", "node-2")),
        f"status.allocation: Invalid value: {MOVED}",
    ),
    "nodes exchanged": Change(ASKED, GRANTED, status(allocation=slices("node-2", "node-1")), MOVED),
    "fewer slices by the same commit": Change(ASKED, GRANTED, status(allocation=slices("node-1")), MOVED),
    "an older commit": Change(ASKED, GRANTED, status(allocation={"ledgerSequence": 6}), MOVED),
    "a condition twice": Change(
        ASKED, None, status(conditions=[condition("Ready"), condition("Ready", "False")]), "Duplicate value"
    ),
    "a negative amount in a status": Change(
        ASKED, GRANTED, status(allocation=slices("node-1", "node-2", cpu="-1")), "should match"
    ),
    # Pools
    "a lower epoch": Change(
        pool(),
        LEDGER,
        status(ledger={"epoch": 2}),
        f"status: Invalid value: {BOOKS} could grant the same capacity twice",
    ),
    "a lower sequence": Change(pool(), LEDGER, status(ledger={"sequence": 8}), BOOKS),
    "no ledger": Change(pool(), LEDGER, status(ledger=None), BOOKS),
    "no pool status": Change(pool(), LEDGER, {"status": None}, BOOKS),
    # Reports
    "an older report": Change(report(), MEASURED, status(sequence=4), f"status: Invalid value: {OLDER}"),
    "a report without a number": Change(report(), MEASURED, status(sequence=None), OLDER),
    "no report status": Change(report(), MEASURED, {"status": None}, OLDER),
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED)
def test_good_changes_are_accepted(server: Server, stored: Store, change: Change) -> None:
    server.change(stored(change.before, change.status), change.patch, status=change.of_status)


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_bad_changes_are_refused_with_a_reason(server: Server, stored: Store, change: Change) -> None:
    obj = stored(change.before, change.status)
    assert change.message in refusal(lambda: server.change(obj, change.patch, status=change.of_status))


def test_every_rule_of_every_kind_is_tried_here() -> None:
    tried = {message for _, message in BAD.values()} | {change.message for change in REFUSED.values()}
    missing = [
        f"{kind.info.kind}: {message}"
        for kind in crd.KINDS
        for message in _messages(crd.schema(kind))
        if not any(message in text or message.startswith(text) for text in tried)
    ]
    assert missing == []


def _messages(node: Object) -> Iterator[str]:
    yield from (rule["message"] for rule in node.get(RULES, ()))
    parts = [*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties")]
    for part in parts:
        if isinstance(part, dict):
            yield from _messages(part)


def test_a_64_bit_number_is_kept_whole(server: Server, stored: Store) -> None:
    largest = 2**63 - 1
    written = server.change(stored(lease(), GRANTED), status(fencingToken=largest), status=True)
    assert written["status"]["fencingToken"] == largest


# What kubectl shows


def table(control_plane: ControlPlane, plural: str, name: str) -> tuple[list[str], dict[str, Any]]:
    connection = control_plane.connection
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    namespace = "namespaces/default/" if plural == "capacityleases" else ""
    request = urllib.request.Request(
        f"{connection.url}/apis/leasehold.dev/v1alpha1/{namespace}{plural}/{name}",
        headers={**connection.headers(), "Accept": accept},
    )
    with urllib.request.urlopen(request, context=connection.ssl_context()) as answer:
        shown = json.load(answer)
    heads = [column["name"] for column in shown["columnDefinitions"] if column["priority"] == 0]
    cells = dict(
        zip((column["name"] for column in shown["columnDefinitions"]), shown["rows"][0]["cells"], strict=True)
    )
    return heads, cells


def test_what_kubectl_get_shows_of_a_lease(control_plane: ControlPlane, stored: Store) -> None:
    ready = [condition("Ready", reason="Held")]
    obj = stored(ASKED, {"conditions": ready, "deadlines": {"expirationTime": "2999-01-01T00:00:00Z"}})
    heads, cells = table(control_plane, "capacityleases", obj["metadata"]["name"])
    assert heads == ["Name", "Pool", "Holder", "Ready", "Reason", "Expires", "Age"]
    shown = [cells[head] for head in heads[1:-1]]
    assert shown == ["ci", "me", "True", "Held", "2999-01-01T00:00:00Z"]


def test_what_kubectl_get_shows_of_a_pool(control_plane: ControlPlane, stored: Store) -> None:
    zero = dict.fromkeys(
        ("total", "reserved", "allocatable", "allocated", "releasing", "quarantined", "largestFree"), "0"
    )
    nodes = dict.fromkeys(
        ("total", "grantable", "notReady", "cordoned", "stale", "pressured", "conflicting"), 3
    )
    leases = {"pending": 2, "held": 5, "releasing": 0, "quarantined": 0}
    obj = stored(
        pool(),
        {
            "conditions": [condition("Ready", reason="Serving")],
            "capacity": [
                {"name": "cpu", "free": "6500m", **zero},
                {"name": "memory", "free": "12Gi", **zero},
            ],
            "nodes": nodes,
            "leases": leases,
            **LEDGER,
        },
    )
    heads, cells = table(control_plane, "capacitypools", obj["metadata"]["name"])
    assert heads == ["Name", "Ready", "Reason", "Nodes", "CPU Free", "Memory Free", "Held", "Age"]
    assert [cells[head] for head in heads[1:-1]] == ["True", "Serving", 3, "6500m", "12Gi", 5]
    assert (cells["Pending"], cells["Epoch"]) == (2, 3)


def test_what_kubectl_get_shows_of_a_report(control_plane: ControlPlane, stored: Store) -> None:
    usage = [
        {"name": "cpu", "current": "1", "p90": "1500m"},
        {"name": "memory", "current": "1", "p90": "3Gi"},
    ]
    obj = stored(report(), {**MEASURED, "conditions": [condition("Ready")], "usage": usage})
    heads, cells = table(control_plane, "nodereports", obj["metadata"]["name"])
    assert heads == ["Name", "Ready", "CPU", "Memory", "Report", "Age"]
    assert [cells[head] for head in heads[1:4]] == ["True", "1500m", "3Gi"]
    assert cells["Sequence"] == 5


def test_leases_are_found_by_pool_holder_and_phase(kube: Client, stored: Store) -> None:
    pool_name = f"pool-{secrets.token_hex(4)}"
    obj = stored(lease(poolRef={"name": pool_name}, holder={"identity": "me"}), {"phase": "Pending"})
    for selector in (
        "spec.poolRef.name={}",
        "spec.poolRef.name={},spec.holder.identity=me,status.phase=Pending",
    ):
        found = kube.list("capacityleases", "default", fieldSelector=selector.format(pool_name))
        assert [one["metadata"]["name"] for one in found] == [obj["metadata"]["name"]]
    other = f"spec.poolRef.name={pool_name},status.phase=Active"
    assert kube.list("capacityleases", "default", fieldSelector=other) == []


def test_the_category_holds_every_kind(kube: Client) -> None:
    resources = kube.request("GET", "/apis/leasehold.dev/v1alpha1")["resources"]
    found = {resource["name"] for resource in resources if "leasehold" in resource.get("categories", ())}
    assert found == set(PLURALS.values())


# The finalizer policy


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, [FINALIZER]),
        ([], [FINALIZER]),
        (["team.example/audit"], ["team.example/audit", FINALIZER]),
        ([FINALIZER], [FINALIZER]),
        ([FINALIZER, "team.example/audit"], [FINALIZER, "team.example/audit"]),
    ],
    ids=["no list", "an empty list", "another's", "ours", "ours and another's"],
)
def test_every_new_lease_gets_the_finalizer_once(
    server: Server, given: list[str] | None, kept: list[str]
) -> None:
    obj = lease()
    if given is not None:
        obj["metadata"]["finalizers"] = given
    assert _finalizers_when_the_policy_is_live(server, obj) == kept


def _finalizers_when_the_policy_is_live(server: Server, obj: Object) -> list[str]:
    # The API server reads policies through a cache: a new one is in force a moment after it is stored.
    deadline = time.monotonic() + 15
    while True:
        found = server.create(obj)["metadata"].get("finalizers", [])
        if FINALIZER in found or time.monotonic() > deadline:
            return list(found)
        time.sleep(0.1)


def test_the_finalizer_is_not_put_back(server: Server, stored: Store) -> None:
    obj = stored(lease(), None)
    changed = server.change(obj, {"metadata": {"finalizers": ["team.example/audit"]}})
    assert changed["metadata"]["finalizers"] == ["team.example/audit"]
