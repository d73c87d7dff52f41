"""From a kind's model to its CustomResourceDefinition: pure functions, from which crds/ is generated.

pydantic writes JSON Schema; the API server wants the part of it called *structural*. What pydantic may
write is listed here keyword by keyword, so that a new construct in a model is an error at generation and
not a field that the API server silently leaves unchecked.
"""

from collections.abc import Mapping
from typing import Any, Final

from leasehold.api.lease import CapacityLease
from leasehold.api.meta import INT32_MAX, RULES, Resource, Rule
from leasehold.api.names import CATEGORY, GROUP, LEASE_PLURAL, RELEASE_FINALIZER, VERSION
from leasehold.api.pool import CapacityPool
from leasehold.api.report import NodeReport

KINDS: Final[tuple[type[Resource], ...]] = (CapacityPool, CapacityLease, NodeReport)
"""Every kind of the group, in the order they are documented."""

Schema = dict[str, Any]

_STANDARD: Final[Schema] = {
    "apiVersion": {
        "type": "string",
        "description": "The group and version of this object: leasehold.dev/v1alpha1.",
    },
    "kind": {"type": "string", "description": "The kind of this object."},
    "metadata": {"type": "object"},
}
_KEPT: Final[tuple[str, ...]] = (
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
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
)
_DROPPED: Final = frozenset({"title"})
# The API server keeps bounds as floats. One that rounds up to 2^63 makes it refuse every value of the field.
_LARGEST_BOUND: Final = 2**53
_EXTENSION: Final = "x-kubernetes-"


class SchemaError(TypeError):
    """A model uses something a structural schema cannot say; the message says where to change the model."""


def document(kind: type[Resource]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind as plain JSON values.

    Raises:
        SchemaError: a field of the model cannot be written as a structural schema.
    """
    info = kind.info
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column.to_wire() for column in info.columns],
    }
    if info.selectable_fields:
        version["selectableFields"] = [{"jsonPath": path} for path in info.selectable_fields]
    version["schema"] = {"openAPIV3Schema": _with_one_writer(schema(kind))}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if info.namespaced else "Cluster",
            "names": {
                "kind": info.kind,
                "listKind": f"{info.kind}List",
                "plural": info.plural,
                "singular": info.kind.lower(),
                "shortNames": list(info.short_names),
                "categories": [CATEGORY],
            },
            "versions": [version],
        },
    }


def _with_one_writer(whole: Schema) -> Schema:
    """Make the status one unit of ownership: it has one writer, and tracking the owner of each of its fields
    was measured to cost a fifth of a write and to double the object on the wire.
    """
    status = {**whole["properties"]["status"], "x-kubernetes-map-type": "atomic"}
    return {**whole, "properties": {**whole["properties"], "status": status}}


def release_finalizer_policy() -> list[dict[str, Any]]:
    """Return the MutatingAdmissionPolicy, with its binding, that gives every new lease its finalizer.

    Without it a lease deleted before the operator first saw it would leave no trace. Where the API server
    does not serve such policies, or fails to run this one, the operator adds the finalizer on its first
    visit.
    """
    name = f"release-finalizer.{GROUP}"
    api_version = "admissionregistration.k8s.io/v1"
    finalizers, value = "object.metadata.finalizers", f"'{RELEASE_FINALIZER}'"
    policy = {
        "apiVersion": api_version,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Ignore",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [GROUP],
                        "apiVersions": [VERSION],
                        "operations": ["CREATE"],
                        "resources": [LEASE_PLURAL],
                    }
                ]
            },
            "matchConditions": [
                {
                    "name": "finalizer-absent",
                    "expression": f"!has({finalizers}) || !({value} in {finalizers})",
                }
            ],
            "mutations": [
                {
                    "patchType": "JSONPatch",
                    "jsonPatch": {
                        "expression": f"has({finalizers})"
                        f" ? [JSONPatch{{op: 'add', path: '/metadata/finalizers/-', value: {value}}}]"
                        f" : [JSONPatch{{op: 'add', path: '/metadata/finalizers', value: [{value}]}}]"
                    },
                }
            ],
        },
    }
    binding = {
        "apiVersion": api_version,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name},
    }
    return [policy, binding]


def schema(kind: type[Resource]) -> Schema:
    """Return the structural schema of a kind.

    Raises:
        SchemaError: a field of the model cannot be written as a structural schema.
    """
    written = kind.model_json_schema(by_alias=True, mode="validation")
    definitions = written.pop("$defs", {})
    # The API server knows these three better than any model of them.
    for standard in _STANDARD:
        written["properties"].pop(standard)
    root = _Structural(definitions).convert(written, kind.info.kind)
    root["properties"] = {**_STANDARD, **root["properties"]}
    return root


class _Structural:
    """Rewrites JSON Schema as pydantic writes it, with every reference put in place."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def convert(self, node: Schema, path: str) -> Schema:
        node = self._resolved(node, path)
        kept = {key: node.pop(key) for key in _KEPT if key in node}
        extensions = {key: node.pop(key) for key in list(node) if key.startswith(_EXTENSION)}
        if "description" in kept:
            kept["description"] = _unwrapped(kept["description"])
        if RULES in extensions:  # pydantic sorts their keys; people read the rule first
            extensions[RULES] = [
                {key: rule[key] for key in Rule.KEYS if key in rule} for rule in extensions[RULES]
            ]
        if kept.get("default", ...) is None:  # an optional field: absent, not null
            del kept["default"]
        self._bound(kept, node, path)
        if kept.get("type") == "integer":
            kept["format"] = _integer_format(kept)
        if "items" in node:
            kept["items"] = self.convert(node.pop("items"), f"{path}[]")
        if "properties" in node:
            properties = node.pop("properties")
            kept["properties"] = {
                name: self.convert(part, f"{path}.{name}") for name, part in properties.items()
            }
        values = node.pop("additionalProperties", None)
        if isinstance(values, dict):
            kept["additionalProperties"] = self.convert(values, f"{path}{{}}")
        elif values is not None:
            raise SchemaError(
                f"{path}: additionalProperties must be a schema; declare the fields or the map's values"
            )
        if left := node.keys() - _DROPPED:
            raise SchemaError(
                f"{path}: a structural schema has no {', '.join(sorted(left))}; model the field otherwise"
            )
        return kept | extensions

    def _resolved(self, node: Schema, path: str) -> Schema:
        """Return a copy with ``$ref``, optional and single-member unions replaced by what they stand for."""
        node = dict(node)
        while True:
            if reference := node.pop("$ref", None):
                target = dict(self._definitions[reference.rpartition("/")[2]])
            elif "anyOf" in node:
                members = [member for member in node.pop("anyOf") if member != {"type": "null"}]
                if len(members) != 1:
                    raise SchemaError(f"{path}: a field has one type; only `| None` may be added to it")
                target = members[0]
            else:
                return node
            # What the field says of itself goes before what its type says of all such fields.
            node = {**target, **node}

    @staticmethod
    def _bound(kept: Schema, node: Schema, path: str) -> None:
        """Write constants and open bounds as the closed ones a CRD has."""
        if "const" in node:
            kept["enum"] = [node.pop("const")]
        if "exclusiveMinimum" in node:
            kept["minimum"] = node.pop("exclusiveMinimum") + 1
        if "exclusiveMaximum" in node:
            kept["maximum"] = node.pop("exclusiveMaximum") - 1
        for bound in ("minimum", "maximum"):
            if abs(kept.get(bound, 0)) > _LARGEST_BOUND:
                raise SchemaError(
                    f"{path}: {bound} is beyond 2^53; leave it out, format int64 bounds the field"
                )


def _unwrapped(text: str) -> str:
    """Undo the source's line breaks and keep its paragraphs: whoever shows the text wraps it anew."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _integer_format(bounds: Schema) -> str:
    """Return the width the bounds fit in; without both of them, the widest."""
    if "minimum" not in bounds or "maximum" not in bounds:
        return "int64"
    return "int32" if max(-bounds["minimum"], bounds["maximum"]) <= INT32_MAX else "int64"
