import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from leasehold.api import crd
from leasehold.api.lease import CapacityLease
from leasehold.api.meta import RULES, KindInfo, Model, Resource, choice
from leasehold.api.names import Presence

KINDS = pytest.mark.parametrize("kind", crd.KINDS, ids=lambda kind: kind.info.plural)

# What any schema of these CRDs may hold. Anything else is refused by the API server or ignored by it.
STRUCTURAL = {
    *(
        "type",
        "description",
        "default",
        "format",
        "enum",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
    ),
    *("minItems", "maxItems", "minProperties", "maxProperties", "required", "items", "properties"),
    *("additionalProperties", RULES, "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    "x-kubernetes-int-or-string",
}
# The API server itself holds these to what it serves.
STANDARD = {"apiVersion", "kind", "metadata"}


def walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, field in node.get("properties", {}).items():
        if path or name not in STANDARD:
            yield from walk(field, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from walk(node["additionalProperties"], f"{path}.*")


def offenders(kind: type[Resource], wrong: Any) -> list[str]:
    return [path for path, node in walk(crd.schema(kind)) if wrong(node)]


@KINDS
def test_every_string_is_bounded(kind: type[Resource]) -> None:
    def unbounded(node: dict[str, Any]) -> bool:
        text = node.get("type") == "string" or node.get("x-kubernetes-int-or-string")
        return bool(text) and "maxLength" not in node and "enum" not in node

    assert offenders(kind, unbounded) == []


@KINDS
def test_every_list_is_bounded_and_says_how_it_merges(kind: type[Resource]) -> None:
    def loose(node: dict[str, Any]) -> bool:
        return node.get("type") == "array" and not {"maxItems", "x-kubernetes-list-type"} <= node.keys()

    assert offenders(kind, loose) == []


@KINDS
def test_every_map_is_bounded(kind: type[Resource]) -> None:
    assert offenders(kind, lambda node: "additionalProperties" in node and "maxProperties" not in node) == []


@KINDS
def test_every_object_lists_its_fields(kind: type[Resource]) -> None:
    def shapeless(node: dict[str, Any]) -> bool:
        return (
            node.get("type") == "object" and "properties" not in node and "additionalProperties" not in node
        )

    assert offenders(kind, shapeless) == []


@KINDS
def test_every_integer_has_a_lower_bound_and_a_width(kind: type[Resource]) -> None:
    def loose(node: dict[str, Any]) -> bool:
        return node.get("type") == "integer" and not {"minimum", "format"} <= node.keys()

    assert offenders(kind, loose) == []


@KINDS
def test_only_structural_keywords_are_used(kind: type[Resource]) -> None:
    assert offenders(kind, lambda node: not node.keys() <= STRUCTURAL) == []
    assert offenders(kind, lambda node: "type" not in node and "x-kubernetes-int-or-string" not in node) == []


@KINDS
def test_every_field_is_described_in_sentences(kind: type[Resource]) -> None:
    def poor(path: str, node: dict[str, Any]) -> bool:
        return not path.endswith(("[]", ".*")) and not re.fullmatch(
            r"[A-Z\d].*\.", node.get("description", ""), re.DOTALL
        )

    assert [path for path, node in walk(crd.schema(kind)) if poor(path, node)] == []


@KINDS
def test_every_map_list_requires_its_keys(kind: type[Resource]) -> None:
    def keyless(node: dict[str, Any]) -> bool:
        return not set(node.get("x-kubernetes-list-map-keys", ())) <= set(
            node.get("items", {}).get("required", ())
        )

    assert offenders(kind, keyless) == []


@KINDS
def test_every_rule_tells_the_user_what_to_do(kind: type[Resource]) -> None:
    for path, node in walk(crd.schema(kind)):
        for rule in node.get(RULES, ()):
            assert re.fullmatch(r"\S.*[^.]", rule["message"]), path
            assert "\n" not in rule["rule"], path


@KINDS
def test_columns_fit_a_terminal_and_name_fields_that_exist(kind: type[Resource]) -> None:
    version = crd.document(kind)["spec"]["versions"][0]
    columns = version["additionalPrinterColumns"]
    assert columns[-1]["name"] == "Age"
    assert sum("priority" not in column for column in columns) <= 7
    known = {re.sub(r"\[\]", "", path) for path, _ in walk(crd.schema(kind))}
    paths = [column["jsonPath"] for column in columns if not column["jsonPath"].startswith(".metadata")]
    paths += [field["jsonPath"] for field in version.get("selectableFields", ())]
    assert [path for path in paths if re.sub(r"\[.*?\)\]", "", path) not in known] == []


def test_only_a_rule_that_asks_for_it_runs_without_an_old_value() -> None:
    (lone,) = (
        rule
        for rule in crd.schema(CapacityLease)["properties"]["spec"][RULES]
        if "oldSelf.hasValue()" in rule["rule"]
    )
    assert lone["optionalOldSelf"] is True
    for kind in crd.KINDS:
        for _, node in walk(crd.schema(kind)):
            for rule in node.get(RULES, ()):
                assert rule.get("optionalOldSelf", False) == ("oldSelf.hasValue()" in rule["rule"])


def test_the_names_of_the_kinds() -> None:
    named = {
        spec["names"]["kind"]: (spec["scope"], spec["names"]["plural"], spec["names"]["shortNames"])
        for spec in (crd.document(kind)["spec"] for kind in crd.KINDS)
    }
    assert named == {
        "CapacityPool": ("Cluster", "capacitypools", ["cpool"]),
        "CapacityLease": ("Namespaced", "capacityleases", ["clease"]),
        "NodeReport": ("Cluster", "nodereports", ["nreport"]),
    }


def test_a_document_is_made_anew_each_time() -> None:
    first = crd.document(crd.KINDS[0])
    first["spec"]["versions"].clear()
    assert crd.document(crd.KINDS[0])["spec"]["versions"]


# The converter, on models made for it.


def converted(field_type: Any, field: Any = ...) -> dict[str, Any]:
    class Spec(Model):
        __annotations__: ClassVar = {"it": field_type}
        it = field

    class Thing(Resource):
        info: ClassVar[KindInfo] = KindInfo("Thing", "things", (), namespaced=False, columns=())
        spec: Spec

    found: dict[str, Any] = crd.schema(Thing)["properties"]["spec"]["properties"]["it"]
    return found


class Inner(Model):
    """What the inner one is."""

    part: int = Field(ge=0, le=3, description="A part.")


@pytest.mark.parametrize(
    ("field_type", "field", "expected"),
    [
        (int, Field(ge=1, le=5), {"type": "integer", "minimum": 1, "maximum": 5, "format": "int32"}),
        (int, Field(gt=0, lt=5), {"type": "integer", "minimum": 1, "maximum": 4, "format": "int32"}),
        (int, Field(ge=0), {"type": "integer", "minimum": 0, "format": "int64"}),
        (int, Field(ge=0, le=2**31), {"type": "integer", "minimum": 0, "maximum": 2**31, "format": "int64"}),
        (str | None, None, {"type": "string"}),
        (Literal["a"], "a", {"type": "string", "enum": ["a"], "default": "a"}),
        (Literal["a", "b"], ..., {"type": "string", "enum": ["a", "b"]}),
        (
            Presence,
            Field(description=choice(Presence, "Whether it is here.")),
            {
                "type": "string",
                "enum": ["Present", "Gone"],
                "description": "Whether it is here. Present: its workload runs on the node; Gone: none of its workload"
                " is left on the node.",
            },
        ),
        (
            Inner | None,
            Field(default=None, description="What the field is."),
            {
                "type": "object",
                "description": "What the field is.",
                "required": ["part"],
                "properties": {
                    "part": {
                        "type": "integer",
                        "minimum": 0,
                        "maximum": 3,
                        "format": "int32",
                        "description": "A part.",
                    }
                },
            },
        ),
        (
            dict[str, Annotated[str, Field(max_length=3)]],
            Field(max_length=2),
            {
                "type": "object",
                "maxProperties": 2,
                "additionalProperties": {"type": "string", "maxLength": 3},
            },
        ),
    ],
)
def test_what_pydantic_writes_becomes_structural(
    field_type: Any, field: Any, expected: dict[str, Any]
) -> None:
    assert converted(field_type, field) == expected


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


@pytest.mark.parametrize(
    ("field_type", "field", "refusal"),
    [
        (int | str, ..., "Thing.spec.it: a field has one type"),
        (Closed, ..., "Thing.spec.it: additionalProperties"),
        (dict[str, Any], ..., "Thing.spec.it: additionalProperties"),
        (tuple[int, str], ..., "Thing.spec.it: a structural schema has no prefixItems"),
        (int, Field(multiple_of=3), "Thing.spec.it: a structural schema has no multipleOf"),
        (int, Field(le=2**63 - 1), "Thing.spec.it: maximum is beyond 2"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(field_type: Any, field: Any, refusal: str) -> None:
    with pytest.raises(crd.SchemaError, match=re.escape(refusal)):
        converted(field_type, field)
