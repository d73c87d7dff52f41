"""JSON as the API server speaks it, read and written by msgspec in the operator, and by Python's own library elsewhere.

msgspec is compiled: the SDK does without it, and the kubectl plugin must. Of the objects in a list or a watch
`metadata.managedFields` is passed over: it is as large as all the rest, and no business of ours. What is left of an
object are plain dicts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, cast

try:
    import msgspec
except ModuleNotFoundError:
    msgspec = None  # type: ignore[assignment]

Json = dict[str, Any]


class Codec(NamedTuple):
    """One way to write a body, and to read an answer, a list and an event of a watch.

    Reading raises ValueError where a text is no JSON, or not of the form that it must have.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    decode_list: Callable[[bytes], Json]
    decode_event: Callable[[bytes], Json]


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


def by_msgspec() -> Codec:
    """Return the fast way. Only where msgspec is installed."""

    def reading(form: Any) -> Callable[[bytes], Any]:
        decode = msgspec.json.Decoder(form).decode

        def read(payload: bytes) -> Any:
            try:
                return decode(payload)
            except msgspec.MsgspecError as error:
                raise ValueError(str(error)) from error

        return read

    encode = msgspec.json.Encoder(enc_hook=_plain).encode
    return Codec(encode, reading(Any), reading(_List), reading(_Event))


def by_json() -> Codec:
    """Return the way that needs nothing but Python."""
    return Codec(
        lambda body: json.dumps(body, separators=(",", ":")).encode(),
        json.loads,
        _list_by_json,
        _event_by_json,
    )


def _list_by_json(payload: bytes) -> Json:
    found = json.loads(payload)
    items = found.get("items") if isinstance(found, dict) else 0
    if not isinstance(items, list | None):
        raise ValueError("it is no list")
    return {"metadata": found.get("metadata", {}), "items": [_without_fields(item) for item in items or ()]}


def _event_by_json(line: bytes) -> Json:
    found = json.loads(line)
    if not isinstance(found, dict) or not found.keys() >= {"type", "object"}:
        raise ValueError("it is no event of a watch")
    return {**found, "object": _without_fields(found["object"])}


def _without_fields(item: Any) -> Json:
    if not isinstance(item, dict):
        raise ValueError("it is no object")
    item.get("metadata", {}).pop("managedFields", None)
    return cast(Json, item)


encode, decode, decode_list, decode_event = by_json() if msgspec is None else by_msgspec()
