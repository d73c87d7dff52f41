"""What is read of the API server's JSON, with msgspec and without: all of an object but its managedFields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.adapters.kube import wire
from leasehold.api.names import LeaseReason

CODECS = {"msgspec": wire.by_msgspec(), "json": wire.by_json()}


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> wire.Codec:
    return CODECS[request.param]


METADATA = {
    "name": "a",
    "generateName": "a-",
    "namespace": "n",
    "uid": "u",
    "resourceVersion": "7",
    "generation": 2,
    "creationTimestamp": "2026-11-29T00:00:00Z",
    "deletionTimestamp": "2026-11-29T00:00:01Z",
    "deletionGracePeriodSeconds": 30,
    "labels": {"a": "b"},
    "annotations": {"c": "d"},
    "ownerReferences": [{"uid": "x"}],
    "finalizers": ["leasehold.dev/release"],
}
FIELDS = [{"manager": "kubectl", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {".": {}, "f:count": {}}}}]


def thing(**more: Any) -> dict[str, Any]:
    made = {
        "apiVersion": "leasehold.dev/v1alpha1",
        "kind": "CapacityLease",
        "spec": {"a": [1]},
        "status": {"b": None},
    }
    return {**made, "metadata": {**METADATA, **more}}


def text(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_of_a_list_all_is_read_but_who_wrote_which_field(codec: wire.Codec):
    meta = {"resourceVersion": "9", "continue": "x", "remainingItemCount": 3}
    page = {"kind": "List", "metadata": meta, "items": [thing(managedFields=FIELDS)]}
    assert codec.decode_list(text(page)) == {"metadata": meta, "items": [thing()]}


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "DELETED"])
def test_of_a_watch_all_is_read_but_who_wrote_which_field(codec: wire.Codec, kind: str):
    event = {"type": kind, "object": thing(managedFields=FIELDS)}
    assert codec.decode_event(text(event)) == {"type": kind, "object": thing()}


def test_why_a_watch_ended_and_how_far_it_came_are_read(codec: wire.Codec):
    gone = {
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": "too old",
        "reason": "Expired",
        "code": 410,
    }
    for event in (
        {"type": "ERROR", "object": gone},
        {"type": "BOOKMARK", "object": {"kind": "Node", "metadata": {"resourceVersion": "12"}}},
    ):
        assert codec.decode_event(text(event)) == event


@pytest.mark.parametrize("page", [b"[]", b"{", b'{"items": {}}', b'{"items": [1]}', b'{"items": ["\xff"]}'])
def test_what_is_no_list_is_unreadable(codec: wire.Codec, page: bytes):
    with pytest.raises(ValueError):
        codec.decode_list(page)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(sorted(CODECS)), st.dictionaries(st.text(), _JSON, max_size=4))
def test_what_is_written_is_what_anybody_reads(name: str, document: dict[str, Any]):
    codec = CODECS[name]
    assert json.loads(codec.encode(document)) == document
    assert codec.decode(text(document)) == document


class _Word(str):
    __slots__ = ()


class _Number(int):
    pass


def test_kinds_of_texts_and_numbers_are_written_as_such(codec: wire.Codec):
    body = {"reason": LeaseReason.HELD, "word": _Word("w"), "number": _Number(3), "rows": ({"a": 1},)}
    assert json.loads(codec.encode(body)) == {
        "reason": "Held",
        "word": "w",
        "number": 3,
        "rows": [{"a": 1}],
    }


def test_what_is_no_json_is_not_written(codec: wire.Codec):
    with pytest.raises(TypeError, match="JSON"):
        codec.encode({"a": object()})
