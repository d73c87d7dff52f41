"""Our reading of quantities against the API server's own, many texts to a request."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leasehold.api.quantity import MAX_LENGTH, QuantityError, parse
from leasehold.testing.client import Client
from leasehold.testing.control_plane import ControlPlane
from leasehold.testing.errors import ApiError

pytestmark = pytest.mark.cluster

BATCH = 60
LARGEST = 10**15
DEFINITION = "readings.quantity.test.leasehold.dev"

# The API server evaluates each item's rule apart, so that one refused item does not hide the others.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "entries": {
            "type": "array",
            "maxItems": BATCH,
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string", "maxLength": MAX_LENGTH},
                    "nanos": {"type": "string", "maxLength": MAX_LENGTH},
                    "other": {"type": "string", "maxLength": MAX_LENGTH},
                    "order": {"type": "integer"},
                    "valid": {"type": "boolean"},
                },
                "x-kubernetes-validations": [
                    {
                        "rule": "!has(self.valid) || isQuantity(self.text) == self.valid",
                        "message": "validity",
                    },
                    {
                        "rule": "!has(self.nanos) || quantity(self.text).compareTo(quantity(self.nanos)) == 0",
                        "message": "value",
                    },
                    {
                        "rule": "!has(self.order)"
                        " || quantity(self.text).compareTo(quantity(self.other)) == self.order",
                        "message": "order",
                    },
                ],
            },
        }
    },
}

Judge = Callable[[list[dict[str, Any]]], list[str]]

quick = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
wholes = st.integers(0, 10**6) | st.integers(0, 10**19)
parts = st.sampled_from(["", "."]) | st.builds(".{}".format, wholes)
numbers = st.builds("{}{}{}".format, st.sampled_from(["", "", "+", "0"]), wholes, parts) | st.builds(
    ".{}".format, wholes
)
suffixes = st.sampled_from(["", *"numkMGTPE", *(f"{unit}i" for unit in "KMGTPE")]) | st.builds(
    "{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 30)
)
written = st.builds("{}{}".format, numbers, suffixes)
well_formed = written.map(lambda text: "1" if _value(text) is None else text)
# Long exponents are left out: over 1e999999999 the API server's own parser takes minutes and gigabytes.
any_text = st.one_of(
    written,
    st.builds("{}{}".format, numbers, st.text("0123456789.+-eEinumkKMGTP ", max_size=4)),
    st.text("0123456789.+-eEinumkKMGTP", max_size=8),
    st.text(max_size=4),
).map(lambda text: "1" if len(text) > MAX_LENGTH or re.search(r"[eE][+-]?\d{4}", text) else text)
batches = partial(st.lists, min_size=BATCH // 2, max_size=BATCH)


def _value(text: str) -> int | None:
    """Return the value in billionths; None where the text is refused."""
    try:
        return int(parse(text) * 10**9)
    except QuantityError:
        return None


@pytest.fixture(scope="module")
def judge(control_plane: ControlPlane) -> Iterator[Judge]:
    """Return what the API server objects to: for each item it disagrees with, the item and the point."""
    plural, _, group = DEFINITION.partition(".")
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": DEFINITION},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": plural, "kind": "Reading"},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": SCHEMA}}
            ],
        },
    }

    with control_plane.client() as client:
        client.apply(definition)
        client.wait_established([DEFINITION])

        def ask(items: list[dict[str, Any]]) -> list[str]:
            reading = {
                "apiVersion": f"{group}/v1",
                "kind": "Reading",
                "metadata": {"name": "one"},
                "entries": items,
            }
            return [f"{items[index]}: {point}" for index, point in _objections(client, plural, reading)]

        yield ask
        client.delete("customresourcedefinitions", DEFINITION)


def _objections(client: Client, plural: str, reading: dict[str, Any]) -> Iterator[tuple[int, str]]:
    path = f"/apis/{reading['apiVersion']}/{plural}"
    for field, message in refusals(client, path, reading):
        yield int(field.removeprefix("entries[").rstrip("]")), message


def refusals(client: Client, path: str, obj: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the fields the API server refuses, and why; nothing is stored."""
    try:
        client.request("POST", path, obj, dryRun="All")
    except ApiError as error:
        if error.status != 422:
            raise
        return [(cause["field"], cause["message"]) for cause in error.body["details"]["causes"]]
    return []


def test_the_judge_objects(judge: Judge) -> None:
    wrong = [
        {"text": "1", "valid": False},
        {"text": "1", "nanos": "1000000001n"},
        {"text": "1", "other": "2", "order": 1},
    ]
    assert len(judge([{"text": "1", "valid": True}, *wrong])) == 3


@quick
@given(texts=batches(well_formed))
def test_every_value_is_the_same_to_a_billionth(judge: Judge, texts: list[str]) -> None:
    items = [{"text": text, "nanos": f"{_value(text)}n"} for text in texts]
    assert judge(items) == []


@quick
@given(pairs=batches(st.tuples(well_formed, well_formed)))
def test_every_order_is_the_same(judge: Judge, pairs: list[tuple[str, str]]) -> None:
    items = [
        {"text": one, "other": other, "order": (parse(one) > parse(other)) - (parse(one) < parse(other))}
        for one, other in pairs
    ]
    assert judge(items) == []


@quick
@given(texts=batches(any_text))
def test_the_same_texts_are_malformed(judge: Judge, texts: list[str]) -> None:
    assert judge([item for item in map(_validity, texts) if item]) == []


def _validity(text: str) -> dict[str, Any] | None:
    """Return what the API server must think of a text; None where we are stricter on purpose."""
    try:
        parse(text)
    except QuantityError as refusal:
        digits_lead = re.match(r"[+-]?\.?[0-9]", text)
        if "negative" in str(refusal) or "64-bit" in str(refusal) or not digits_lead:
            return None
        return {"text": text, "valid": False}
    return {"text": text, "valid": True}


@quick
@given(texts=st.lists(any_text, min_size=16, max_size=16))
def test_a_lease_may_ask_for_exactly_what_can_be_read(kube: Client, texts: list[str]) -> None:
    lease = {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "metadata": {"name": "one"},
        "spec": {
            "poolRef": {"name": "p"},
            "resources": {f"r{index}": text for index, text in enumerate(texts)},
        },
    }
    path = "/apis/leasehold.dev/v1alpha1/namespaces/default/capacityleases"
    refused = {field for field, _ in refusals(kube, path, lease)}
    wanted = {f"spec.resources[r{index}]" for index, text in enumerate(texts) if not _may_be_asked_for(text)}
    assert refused == wanted, texts


def _may_be_asked_for(text: str) -> bool:
    try:
        return 0 < parse(text) <= LARGEST and not re.search(r"[eE][+-]?\d{3}", text)
    except QuantityError:
        return False
