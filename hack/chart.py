"""The generated files of the chart: values.yaml, its schema, the page about it, Chart.yaml and the CRD templates."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from hack.values import Chart, Free
from pydantic import BaseModel

from leasehold import __version__

CHART: Final = Path("helm/leasehold")
KUBERNETES: Final = ">=1.32.0-0"
"""The least version: the first with stable `selectableFields`, by which the operator lists a pool's leases."""

EXAMPLES: Final = ("values-ha.yaml", "values-hardened.yaml")

_WIDTH: Final = 110
TEMPLATE_HEADER: Final = "{{- /* Generated from crds/; do not edit. Run: make generate */}}\n"
_HEADER: Final = "# Generated from hack/values.py; do not edit. Change it there and run: make generate\n"

INTRODUCTION: Final = """
# Values of the chart

What `helm show values` shows, as a table. How to install is in [install](../install.md). A value of the wrong kind, or
a key that does not exist, is refused with its name. *As in Kubernetes* means that the API server checks it.
"""

Json = dict[str, Any]


# --- Chart.yaml ---


def about() -> str:
    """Return Chart.yaml: the version is the package's."""
    annotations = {
        "artifacthub.io/license": "Apache-2.0",
        "artifacthub.io/operator": "true",
        "artifacthub.io/operatorCapabilities": "Deep Insights",
        "artifacthub.io/prerelease": "true",
    }
    document = {
        "apiVersion": "v2",
        "name": "leasehold",
        "type": "application",
        "description": "A Kubernetes operator that lends out a cluster's capacity for a time",
        "version": __version__,
        "appVersion": __version__,
        "kubeVersion": KUBERNETES,
        "keywords": ["capacity", "lease", "operator", "scheduling"],
        "annotations": annotations,
    }
    return _HEADER.replace("hack/values.py", "hack/chart.py") + yaml.safe_dump(document, sort_keys=False)


# --- values.yaml ---


def defaults() -> str:
    """Return values.yaml: every value with its default, under a comment that says what it does."""
    return _HEADER + "".join(_lines(Chart(), ""))


def _lines(level: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(level).model_fields.items():
        value, key = getattr(level, name), field.alias or name
        nested = isinstance(value, BaseModel) and bool(type(value).model_fields)
        said = field.description or (type(value).__doc__ or "").strip() if nested else field.description or ""
        if not indent:
            yield "\n"
        for line in textwrap.wrap(said[:1].upper() + said[1:].rstrip("."), _WIDTH - len(indent) - 3):
            yield f"{indent}# {line}\n"
        if nested:
            yield f"{indent}{key}:\n"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {_flow(plain(value))}\n"


def plain(value: Any) -> Any:
    """Return a value as YAML has it: of objects only what was said."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _flow(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
        .removesuffix("\n...\n")
        .strip()
    )


# --- values.schema.json ---


def schema() -> Json:
    """Return the schema: nothing but what the models name, and no null."""
    found = Chart.model_json_schema(by_alias=True)
    definitions = found.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Generated from hack/values.py; do not edit.",
        **_whole(found, definitions),
    }


def _whole(node: Any, definitions: Mapping[str, Json]) -> Any:
    """Return a part of the schema with every reference resolved, without titles, nulls and defaults."""
    if isinstance(node, list):
        return [_whole(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        node = definitions[name] | {key: value for key, value in node.items() if key != "$ref"}
    kept: Json = {}
    for key, value in node.items():
        if key in ("title", "default"):
            continue
        if key == "properties":
            kept[key] = {name: _whole(part, definitions) for name, part in value.items()}
        elif key == "anyOf":
            others = [_whole(part, definitions) for part in value if part != {"type": "null"}]
            kept |= {"anyOf": others} if len(others) > 1 else others[0]
        else:
            kept[key] = _whole(value, definitions)
    if "patternProperties" in kept:
        kept["additionalProperties"] = False  # a key that is none, such as of a label, is refused
        kept.pop("propertyNames", None)
    if "description" in kept:
        kept["description"] = " ".join(kept["description"].split())
    return kept


def schema_text() -> str:
    """Return values.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


# --- the page ---


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield every value: its path, what kind it is, its default, and what it does."""
    yield from _rows(Chart(), schema(), "")


def _rows(level: BaseModel, node: Json, path: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in type(level).model_fields.items():
        value, key = getattr(level, name), field.alias or name
        place, part = f"{path}{key}", node["properties"][key]
        if isinstance(value, BaseModel) and type(value) is not Free and type(value).model_fields:
            if part.get("description"):
                yield place, "", "", part["description"].rstrip(".")
            yield from _rows(value, part, f"{place}.")
            continue
        default = plain(value)
        shown = "" if default in ("", [], {}) else f"`{_flow(default)}`"
        yield place, _kind(part), shown, field.description or ""


def _kind(node: Json) -> str:
    match node:
        case {"enum": [*choices]}:
            return "one of " + ", ".join(f"`{choice}`" for choice in choices)
        case {"const": only}:
            return f"`{only}`" if only else ""
        case {"anyOf": [*parts]}:
            return " or ".join(dict.fromkeys(filter(None, map(_kind, parts))))
        case {"type": "boolean"}:
            return "`true` or `false`"
        case {"type": "integer" | "number", "minimum": low, "maximum": high}:
            return f"number, {low} to {high}"
        case {"type": "integer" | "number"}:
            return "number"
        case {"type": "array", "items": items}:
            return f"list of: {_kind(items)}"
        case {"type": "object", "additionalProperties": True}:
            return "as in Kubernetes"
        case {"type": "object", "patternProperties": dict(patterns)}:
            (inner,) = patterns.values()
            return f"map of: {_kind(inner)}"
        case {"type": "object", "properties": properties}:
            return ", ".join(f"`{key}`" for key in properties)
    return "text"


# --- the definitions ---


def crd_template(text: str) -> str:
    """Return a template that installs a CRD, given as YAML, and is asked whether to, and whether to keep it."""
    body = text.partition("\n")[2]
    head, mark, rest = body.partition("\nspec:\n")
    lines = head.split("\n")
    assert (mark, lines[2]) == ("\nspec:\n", "metadata:"), "a CRD begins with apiVersion, kind and metadata"
    assert "{{" not in body, "this would be read as a template"
    added = [
        '  labels: {{- include "leasehold.labels" (dict "root" $ "component" "api") | nindent 4 }}',
        "  {{- if .Values.crds.keep }}",
        "  annotations:",
        "    helm.sh/resource-policy: keep",
        "  {{- end }}",
    ]
    return TEMPLATE_HEADER + "\n".join(
        ["{{- if .Values.crds.enabled }}", *lines, *added, "spec:", rest.rstrip("\n"), "{{- end }}", ""]
    )


def finalizer_template(text: str) -> str:
    """Return a template of the policy that adds the finalizer. It goes with the operator: nobody else lifts it."""
    labels = '  labels: {{- include "leasehold.labels" (dict "root" $ "component" "api") | nindent 4 }}\n'
    body = text.partition("\n")[2].replace("metadata:\n", f"metadata:\n{labels}")
    return (
        TEMPLATE_HEADER
        + '{{- if and .Values.finalizerPolicy.enabled (not (include "leasehold.withoutMutation" .)) }}\n'
        + body
        + "{{- end }}\n"
    )
