"""JSON as the API server speaks it, read and written by msgspec.

Of the objects in a list or a watch `metadata.managedFields` is passed over unread: it is as large as all the rest, and
no business of ours. What is left of an object are plain dicts.
"""

from __future__ import annotations

from typing import Any, Final, TypedDict, cast

import msgspec

Json = dict[str, Any]

Unreadable = msgspec.MsgspecError
"""Raised where a text is no JSON, or not of the form that it must have."""


class _Metadata(TypedDict, total=False):
    """ObjectMeta, all but managedFields."""

    name: Any
    generateName: Any
    namespace: Any
    uid: Any
    resourceVersion: Any
    generation: Any
    creationTimestamp: Any
    deletionTimestamp: Any
    deletionGracePeriodSeconds: Any
    labels: Any
    annotations: Any
    ownerReferences: Any
    finalizers: Any


class _Object(TypedDict, total=False):
    """Any object that is watched here, and the Status that says why a watch ended."""

    apiVersion: Any
    kind: Any
    metadata: _Metadata
    spec: Any
    status: Any
    code: Any
    reason: Any
    message: Any


class _List(TypedDict, total=False):
    metadata: dict[str, Any]
    items: list[_Object] | None


class _Event(TypedDict):
    type: str
    object: _Object


def _plain(value: Any) -> Any:
    """Write kinds of texts and numbers as what they are kinds of; msgspec asks about all that it does not know."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode
decode: Final = msgspec.json.Decoder().decode
_list: Final = msgspec.json.Decoder(_List)
_event: Final = msgspec.json.Decoder(_Event)


def decode_list(payload: bytes) -> Json:
    """Read a list of objects."""
    return cast(Json, _list.decode(payload))


def decode_event(line: bytes) -> Json:
    """Read one event of a watch."""
    return cast(Json, _event.decode(line))
