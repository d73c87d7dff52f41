"""Objects made from the CRDs' own schemas: as good as can be, at the bounds, and with exactly one thing wrong.

Strategies read the structural schema of a kind's spec, so a new field is tried from the day it exists. CEL rules are
not read: what a strategy calls valid may still be refused by one. What it calls broken must be refused.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Schema = Mapping[str, Any]
Object = dict[str, Any]

CRDS: Final = Path(__file__).resolve().parents[2] / "crds"

SMALL: Final = ("1m", "0.5", ".5", "1", "+1", "2", "1e0", "5e-1", "1000u", "1Ki", "3M", "100n")
HUGE: Final = ("1P", "1e15", "900T", "999999999999999", "0.9P", "800Ti")
BAD_QUANTITIES: Final = (
    "0",
    "-1",
    "-0",
    "1e30",
    "1Ei",
    "1.1P",
    "",
    "lots",
    "1 Gi",
    "0x10",
    "١",
    "1e",
    "Ki",
    "NaN",
)
TIMES: Final = (
    "2026-11-22T12:00:00Z",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2026-11-22T12:00:00.123456Z",
    "2026-11-22T12:00:00+14:00",
    "2000-02-29T23:59:59-12:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59-12:00",
    "2026-11-22t12:00:00z",
    "2026-11-22T12:00:00.123456789Z",
    "2026-11-22T12:00:00,5Z",
    "2026-11-22T12:00:00+24:00",
    "2026-11-22T12:00:00-00:00",
)
BAD_TIMES: Final = ("yesterday", "2026-13-01T00:00:00Z", "2026-11-22", "2016-12-31T23:59:60Z", "")
STRANGE: Final = (
    "ünïcode-名前",
    "<script>alert(1)</script>",
    "a\nb",
    "%s%n%d",
    "${jndi:x}",
    "../../etc",
    "\u001b[31m",
    '"}{[',
    " ",
    "\u202egnp",
    "🧨",
    "null",
)
_LONGEST_TRIED: Final = 400


@cache
def schema_of(kind: str) -> Schema:
    """Return the schema of a kind's spec: `capacityleases` or `capacitypools`."""
    crd = yaml.safe_load((CRDS / f"{kind}.yaml").read_text())
    found: Schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


# --- what the schema allows ---


def allowed(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that the structural schema allows; bounds come up often."""
    if schema.get("x-kubernetes-int-or-string"):
        return st.sampled_from(SMALL) | st.sampled_from(HUGE) | st.integers(1, 4)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "integer":
            return _integers(schema)
        case "string":
            return _strings(schema)
        case "boolean":
            return st.booleans()
        case "array":
            return _arrays(schema)
        case "object":
            return _objects(schema)
    raise AssertionError(f"the schema has a type that is not known here: {schema}")


def _integers(schema: Schema) -> st.SearchStrategy[int]:
    low, high = schema.get("minimum", -(2**31)), schema.get("maximum", 2**31 - 1)
    return st.sampled_from(sorted({low, min(low + 1, high), high})) | st.integers(low, high)


def _strings(schema: Schema) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        return st.sampled_from(TIMES)
    if "pattern" in schema:
        longest = "a" * schema.get("maxLength", 63)
        return st.sampled_from(("a", "a-b", "0", longest)) | st.from_regex(
            schema["pattern"], fullmatch=True
        ).filter(lambda text: _fits(text, schema))
    least, most = schema.get("minLength", 0), schema.get("maxLength", _LONGEST_TRIED)
    named = [
        text for text in (*STRANGE, "a", "x" * most, "é" * min(most, _LONGEST_TRIED)) if _fits(text, schema)
    ]
    letters = st.text(
        string.ascii_lowercase + string.digits + "-./_ü", min_size=least, max_size=min(most, 24)
    )
    return st.sampled_from(named) | letters


def _fits(text: str, schema: Schema) -> bool:
    return schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", 10**9)


def _arrays(schema: Schema) -> st.SearchStrategy[list[Any]]:
    keys = schema.get("x-kubernetes-list-map-keys")
    unique: Callable[[Any], Any] | None = None
    if keys:
        unique = lambda item: tuple(item.get(key) for key in keys)  # noqa: E731 - hypothesis takes a function
    elif schema.get("x-kubernetes-list-type") == "set":
        unique = lambda item: item  # noqa: E731
    most = min(schema.get("maxItems", 4), 4)
    return st.lists(
        allowed(schema["items"]), min_size=schema.get("minItems", 0), max_size=most, unique_by=unique
    )


def _objects(schema: Schema) -> st.SearchStrategy[Object]:
    properties = schema.get("properties", {})
    if properties:
        required = set(schema.get("required", ()))
        return st.fixed_dictionaries(
            {name: allowed(part) for name, part in properties.items() if name in required},
            optional={name: allowed(part) for name, part in properties.items() if name not in required},
        )
    if "additionalProperties" in schema:
        names = st.sampled_from(("cpu", "memory", "vendor.example/gpu", "ü", "a" * 60, "x/y/z", " "))
        least, most = schema.get("minProperties", 0), min(schema.get("maxProperties", 3), 3)
        return st.dictionaries(names, allowed(schema["additionalProperties"]), min_size=least, max_size=most)
    return st.just({})


# --- one thing wrong ---


class Broken(NamedTuple):
    """A value with one thing wrong, and what that is."""

    value: Any
    wrong: str


@st.composite
def broken(draw: st.DrawFn, schema: Schema, value: Any) -> Broken:
    """Take a value that is allowed and break one rule of the structural schema in it."""
    places = list(_places(schema, value, ()))
    path, part = draw(st.sampled_from(places))
    wrong, made = draw(st.sampled_from(list(_violations(part, _at(value, path)))))
    return Broken(_with(value, path, made), f"{'.'.join(map(str, path)) or 'spec'}: {wrong}")


Path_ = tuple[Any, ...]


def _places(schema: Schema, value: Any, path: Path_) -> Iterator[tuple[Path_, Schema]]:
    """Every place in a value, with its schema."""
    yield path, schema
    if isinstance(value, dict):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if inner:
                yield from _places(inner, part, (*path, name))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _places(schema["items"], part, (*path, i))


def _violations(schema: Schema, value: Any) -> Iterator[tuple[str, Any]]:
    if schema.get("x-kubernetes-int-or-string"):
        yield from (("no quantity", text) for text in BAD_QUANTITIES)
        yield "a fraction", 1.5
        return
    if "enum" in schema:
        yield "not one of its words", "Perhaps"
        yield "a number for a word", 7
        return
    yield {
        "integer": ("a text for a number", "12"),
        "string": ("a number for a text", 12),
        "boolean": ("a text for yes or no", "yes"),
        "array": ("no list", {"a": 1}),
        "object": ("no object", [1]),
    }[schema["type"]]
    match schema["type"]:
        case "integer":
            yield "a fraction", 1.5
            yield "far too large", 10**30
            if "minimum" in schema:
                yield "below its minimum", schema["minimum"] - 1
            if "maximum" in schema:
                yield "above its maximum", schema["maximum"] + 1
        case "string":
            yield from _bad_strings(schema)
        case "array":
            if "maxItems" in schema and value:
                yield "too many", [value[0]] * (schema["maxItems"] + 1)
            if schema.get("minItems"):
                yield "too few", []
        case "object":
            yield from _bad_objects(schema, value)


def _bad_strings(schema: Schema) -> Iterator[tuple[str, Any]]:
    if schema.get("format") == "date-time":
        yield from (("no time", text) for text in BAD_TIMES)
    elif "pattern" in schema:
        yield "not of its pattern", "Ä!"
    if "maxLength" in schema and schema.get("format") != "date-time":
        yield "too long", "a" * (schema["maxLength"] + 1)
    if schema.get("minLength"):
        yield "too short", ""


def _bad_objects(schema: Schema, value: Object) -> Iterator[tuple[str, Any]]:
    for name in schema.get("required", ()):
        if name in value and "default" not in schema["properties"][name]:
            yield f"without {name}", {key: part for key, part in value.items() if key != name}
    if schema.get("properties"):
        yield "an unknown field", {**value, "surprise": True}
    if schema.get("minProperties"):
        yield "empty", {}
    if "maxProperties" in schema and value:
        part = next(iter(value.values()))
        yield "too many", {f"k{i}": part for i in range(schema["maxProperties"] + 1)}


def _at(value: Any, path: Path_) -> Any:
    for step in path:
        value = value[step]
    return value


def _with(value: Any, path: Path_, made: Any) -> Any:
    if not path:
        return made
    if isinstance(value, list):
        return [_with(part, path[1:], made) if i == path[0] else part for i, part in enumerate(value)]
    return {**value, path[0]: _with(value[path[0]], path[1:], made)}


# --- what experiments take ---


def leases() -> st.SearchStrategy[Object]:
    """Specs of leases."""
    return allowed(schema_of("capacityleases"))


def pools() -> st.SearchStrategy[Object]:
    """Specs of pools."""
    return allowed(schema_of("capacitypools"))


def broken_leases() -> st.SearchStrategy[Broken]:
    """Specs of leases with one thing wrong."""
    schema = schema_of("capacityleases")
    return leases().flatmap(lambda spec: broken(schema, spec))


def broken_pools() -> st.SearchStrategy[Broken]:
    """Specs of pools with one thing wrong."""
    schema = schema_of("capacitypools")
    return pools().flatmap(lambda spec: broken(schema, spec))


def drawn(strategy: st.SearchStrategy[Any], count: int, start: int) -> list[Any]:
    """Return so many values of a strategy; the same for the same start."""
    found: list[Any] = []

    @seed(start)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found[:count]
