"""Writes everything that is generated: crds/, docs/reference/, the chart's values and definitions, the image's locks.
With --manifests it renders manifests/ from the chart instead, for which Helm is built once.

python hack/generate.py            write
python hack/generate.py --check    change nothing; exit with 1 and name the files that differ
"""

import argparse
import re
import subprocess
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "operator"), str(ROOT)]

from hack import chart, locks  # noqa: E402  the path comes first
from hack.dashboards import DASHBOARDS, document  # noqa: E402

from leasehold.adapters.clock import SteadyClock  # noqa: E402
from leasehold.adapters.cluster import Cluster  # noqa: E402
from leasehold.adapters.metrics import ElectionGauges, Metrics, PoolGauges, ProcessGauges  # noqa: E402
from leasehold.api import crd, names  # noqa: E402
from leasehold.api.meta import RULES, Resource  # noqa: E402
from leasehold.api.quantity import MAX_LENGTH  # noqa: E402
from leasehold.reporter.metrics import FAMILIES, Family  # noqa: E402

YAML_HEADER: Final = (
    "# Generated from operator/leasehold/api; do not edit. Change the models and run: make generate\n"
)
PAGE_HEADER: Final = (
    "<!-- Generated from operator/leasehold/api; do not edit. Change the models and run: make generate -->\n"
)

REASONS: Final[Mapping[str, Mapping[Any, Mapping[names.ConditionStatus, tuple[Any, ...]]]]] = {
    names.POOL_KIND: names.POOL_REASONS,
    names.LEASE_KIND: names.LEASE_REASONS,
    names.REPORT_KIND: names.REPORT_REASONS,
}

INTRODUCTION: Final = f"""
# API reference

Group `{names.GROUP}`, version `{names.VERSION}`. `kubectl get {names.CATEGORY}` lists every kind at once, and
`kubectl explain` shows these same texts.

Quantities are whole numbers or texts such as `500m`, `2` or `4Gi`, of at most 32 characters, from 0 to 1P.
Amounts that do not come out even are rounded so that nothing is promised that is not there: requests up,
capacity down. Times are RFC 3339. Durations are integers, in the unit their name ends with.
"""

MARKS: Final = (
    (
        "Finalizer",
        names.RELEASE_FINALIZER,
        "On every CapacityLease. Holds a deleted lease until its capacity is given back.",
    ),
    (
        "Label",
        names.SESSION_LABEL,
        "On a coordination.k8s.io Lease: it is a session that CapacityLeases may name. The value is free.",
    ),
    (
        "Label",
        names.CLIENT_LABEL,
        "On a CapacityLease and on a session: the client of the SDK that looks after it, by the name of its session."
        " A lease that carries it and that its client does not know is removed.",
    ),
    (
        "Annotation",
        names.REQUEST_ANNOTATION,
        "On a CapacityLease that the SDK asked for with a key: a digest of what was asked for.",
    ),
    (
        "Annotation",
        names.REVOKE_ANNOTATION,
        "On a CapacityLease: an administrator takes it back. The value is the reason its holder is shown.",
    ),
    (
        "Annotation",
        names.FORCE_RELEASE_ANNOTATION,
        f'On a CapacityLease: `"{names.FORCE_RELEASE_VALUE}"` frees its capacity without the node\'s word. Only for'
        " nodes that will not run its workload again.",
    ),
    (
        "Label",
        names.LEASE_LABEL,
        "On a Pod, from its creation on: the CapacityLease in its namespace that it runs under. A label holds 63"
        " characters, a name up to 253: a lease for pods has a name of 63 at most.",
    ),
    (
        "Scheduling gate",
        names.LEASE_GATE,
        "On a Pod with that label, where a pool holds pods to their leases: it waits until its lease holds its room.",
    ),
    (
        "Annotation",
        names.SLICE_ANNOTATION,
        "On a Pod that was let go: which slice of which lease it was given. The operator's alone.",
    ),
    (
        "Annotation",
        names.ENDING_ANNOTATION,
        "On a Pod whose lease will end: when, and why. The operator's alone.",
    ),
    ("Condition", names.POD_CONDITION, "In a Pod's status: whether it runs within its lease."),
    (
        "Taint",
        names.POOL_TAINT,
        "On the nodes of a dedicated pool, with the pool's name; effect NoSchedule.",
    ),
    (
        "Label",
        names.KUEUE_WORKLOAD_LABEL,
        "On a CapacityLease that was made for a Workload of Kueue: the Workload's uid.",
    ),
)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several paragraphs as blocks, and lists indented under their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def manifest(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return a YAML file of these documents."""
    parts = (
        yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        for document in documents
    )
    return YAML_HEADER + "---\n".join(parts)


def generated() -> dict[Path, str]:
    """Return every generated file: its path from the root of the repository, and its content."""
    crds = {Path(f"crds/{kind.info.plural}.yaml"): manifest([crd.document(kind)]) for kind in crd.KINDS}
    policy = manifest(crd.release_finalizer_policy())
    templates = chart.CHART / "templates"
    return {
        **crds,
        Path("crds/finalizer-policy.yaml"): policy,
        Path("docs/reference/api.md"): page(),
        **{templates / f"crd-{path.name}": chart.crd_template(text) for path, text in crds.items()},
        templates / "finalizer-policy.yaml": chart.finalizer_template(policy),
        chart.CHART / "Chart.yaml": chart.about(),
        chart.CHART / "values.yaml": chart.defaults(),
        chart.CHART / "values.schema.json": chart.schema_text(),
        Path("docs/reference/values.md"): values_page(),
        Path("docs/reference/metrics.md"): metrics_page(),
        **locks.for_image(),
        **{Path(f"{FILES}/dashboards/{one.name}.json"): document(one) for one in DASHBOARDS},
    }


def values_page() -> str:
    """Return the page about the chart's values as Markdown."""
    header = PAGE_HEADER.replace("operator/leasehold/api", "hack/values.py").replace("the models", "it there")
    rows = ((f"`{path}`", kind, default, meaning) for path, kind, default, meaning in chart.rows())
    return f"{header}{chart.INTRODUCTION}\n" + _table(("Value", "Kind", "Default", "Meaning"), rows)


# --- Manifests for kubectl ---

NAMESPACE: Final = "leasehold-system"
RELEASE: Final = "leasehold"
MANIFEST_HEADER: Final = "# Rendered from helm/leasehold; do not edit. Run: make generate\n"
_OF_HELM: Final = re.compile(r"^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE)


ENFORCEMENT: Final = "enforcement"
"""The folder of what `enforcement.enabled` adds; `kubectl apply -f manifests/` leaves folders out."""


def manifests(helm: Path) -> dict[Path, str]:
    """Return the chart as files for kubectl, by path: one for each template, without the definitions in crds/, and in
    a folder of their own the objects that enforcement adds.
    """
    plain, more = _rendered(helm), _rendered(helm, "enforcement.enabled=true")
    known = {_named(part) for parts in plain.values() for part in parts}
    added = {name: [part for part in parts if _named(part) not in known] for name, parts in more.items()}
    return {
        Path("manifests/namespace.yaml"): MANIFEST_HEADER + _NAMESPACE,
        **{Path("manifests", name): _joined(parts) for name, parts in plain.items()},
        **{Path("manifests", ENFORCEMENT, name): _joined(parts) for name, parts in added.items() if parts},
    }


def _rendered(helm: Path, *values: str) -> dict[str, list[str]]:
    """Return the chart's objects as text, by the file that they belong to."""
    rendered = subprocess.run(
        [
            *(helm, "template", RELEASE, ROOT / chart.CHART, "--namespace", NAMESPACE),
            *("--set", ",".join(("crds.enabled=false", "finalizerPolicy.enabled=false", *values))),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    parts: dict[str, list[str]] = {}
    for part in re.split(r"^---\n", rendered, flags=re.MULTILINE):
        source, _, body = part.partition("\n")
        if source.startswith("# Source: ") and body.strip():
            folder, _, name = source.rpartition("/")
            name = "policies.yaml" if folder.endswith("/policies") else name
            body = _OF_HELM.sub("", body)
            body = re.sub(r"[ \t]+$", "", body, flags=re.MULTILINE)
            parts.setdefault(name, []).append(re.sub(r"\n{2,}", "\n", body.strip("\n")) + "\n")
    return parts


def _named(text: str) -> tuple[str, str] | None:
    """Return an object's kind and name; None for a comment that stands alone."""
    document = yaml.safe_load(text)
    return (document["kind"], document["metadata"]["name"]) if document else None


def _joined(parts: Iterable[str]) -> str:
    return MANIFEST_HEADER + "---\n".join(parts)


_NAMESPACE: Final = f"""apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
"""


# --- The reference page ---


def page() -> str:
    """Return the API reference as Markdown."""
    marks = _table(("What", "Name", "Meaning"), ((what, f"`{name}`", text) for what, name, text in MARKS))
    kinds = "\n".join(_kind(kind) for kind in crd.KINDS)
    return f"{PAGE_HEADER}{INTRODUCTION}\n{kinds}\n## Marks on objects\n\n{marks}"


def _kind(kind: type[Resource]) -> str:
    info, root = kind.info, crd.schema(kind)
    scope = "namespaced" if info.namespaced else "cluster scoped"
    parts = [
        f"## {info.kind}\n",
        f"`{info.plural}`, `{', '.join(info.short_names)}`; {scope}.\n",
        root["description"],
        "",
    ]
    for part in ("spec", "status"):
        rows = _fields(root["properties"][part], part)
        parts += [f"### {info.kind} {part}\n", _table(("Field", "Type", "Default", "Meaning"), rows)]
    parts += [f"### {info.kind} rules\n", "What the API server refuses, and what it answers:\n"]
    parts += [f"- {where}: {message}." for where, message in _rules(root, "")]
    parts += ["", f"### {info.kind} conditions\n"]
    parts.append(
        _table(("Condition", "Means, when True"), ((f"`{c}`", c.meaning) for c in REASONS[info.kind]))
    )
    parts.append(_table(("Condition", "Status", "Reason", "Meaning"), _reasons(info.kind)))
    return "\n".join(parts)


def _fields(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, ...]]:
    for name, field in node.get("properties", {}).items():
        place = f"{path}.{name}"
        mark = "required" if name in node.get("required", ()) else _default(field)
        yield f"`{place}`", _type(field), mark, field.get("description", "")
        # One condition is like another: their schema is Kubernetes' own, their meaning is in the tables
        # below.
        if name != "conditions":
            yield from _fields(field.get("items", field), f"{place}[]" if "items" in field else place)


def _default(field: Mapping[str, Any]) -> str:
    # An object that defaults to {} is no default to read: its fields show theirs.
    if field.get("default", {}) == {}:
        return ""
    default = field["default"]
    if isinstance(default, list):
        default = ", ".join(item["name"] for item in default) or "none"
    return f"`{default}`"


def _type(field: Mapping[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    match field["type"]:
        case "integer":
            low, high = field.get("minimum"), field.get("maximum")
            return f"integer, {low} to {high}" if high is not None else f"integer, from {low}"
        case "array":
            key = ", ".join(field.get("x-kubernetes-list-map-keys", ()))
            return f"list of at most {field['maxItems']}: {_type(field['items'])}" + (
                f", by {key}" if key else ""
            )
        case "object" if "additionalProperties" in field:
            return f"map of at most {field['maxProperties']}: {_type(field['additionalProperties'])}"
        case "string" if field.get("format") == "date-time":
            return "time"
        case "string" if "pattern" in field and field["maxLength"] == MAX_LENGTH:
            return "quantity"
        case "string":
            return f"string of at most {field['maxLength']} characters"
        case other:
            return str(other)


def _rules(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in node.get(RULES, ()):
        where = (path + rule.get("fieldPath", "")).lstrip(".")
        yield f"`{where}`" if where else "the object", rule["message"]
    for name, field in node.get("properties", {}).items():
        yield from _rules(field, f"{path}.{name}")
    if "items" in node:
        yield from _rules(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from _rules(node["additionalProperties"], f"{path}.*")


def _reasons(kind: str) -> Iterator[tuple[str, ...]]:
    for condition, by_status in REASONS[kind].items():
        for status, reasons in by_status.items():
            for reason in reasons:
                yield f"`{condition}`", f"`{status}`", f"`{reason}`", reason.meaning


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n"
        for line in lines
    )


# --- The metrics ---

FILES: Final = "helm/leasehold/files"


METRICS_HEADER: Final = (
    "<!-- Generated from operator/leasehold/adapters/metrics.py and reporter/metrics.py; do not edit. Change those and"
    " run: make generate -->\n"
)
METRICS_INTRODUCTION: Final = """
# Metrics

Times are seconds, memory and disk are bytes, CPU is cores; where a metric has resources of several kinds, the label
`unit` says which: `core`, `byte`, or nothing for what is counted. A histogram has `_bucket`, `_sum` and `_count`. What
to look at is in [observability](../observability.md).
"""


def operator_families() -> list[Family]:
    """Return what the operator registers, in the order of its page, as the registry itself tells it."""
    metrics, cluster = Metrics(), Cluster(SteadyClock())
    client, recorder = types.SimpleNamespace(requests={}), types.SimpleNamespace(written=0, dropped=0)
    elector = types.SimpleNamespace(shards=1, failures=0, beaten=0)
    informers = {"a": types.SimpleNamespace(restarts=0, relists=0)}
    for collector in (
        PoolGauges(metrics, cluster),
        ProcessGauges(cluster, client, recorder, informers, lambda: True),  # type: ignore[arg-type]
        ElectionGauges(elector, types.SimpleNamespace(led={}, deposed=0)),  # type: ignore[arg-type]
    ):
        metrics.registry.register(collector)
    labels = {
        collector.describe()[0].name: collector._labelnames
        for collector in metrics.registry._collector_to_names
        if hasattr(collector, "_labelnames")
    }
    return [
        Family(
            found.name + "_total" * (found.type == "counter"),
            found.type,
            found.documentation,
            tuple(labels.get(found.name) or getattr(found, "_labelnames", ())),
        )
        for found in metrics.registry.collect()
    ]


def metrics_page() -> str:
    """Return the table of all metrics as Markdown."""
    parts = [METRICS_HEADER + METRICS_INTRODUCTION]
    for title, families in (
        ("Operator", operator_families()),
        ("Reporter, with --http-port", FAMILIES),
    ):
        rows = (
            (f"`{f.name}`", f.kind, ", ".join(f"`{label}`" for label in f.labels), f.text)
            for f in sorted(families, key=lambda family: (family.name.startswith("process"), family.name))
        )
        parts.append(f"## {title}\n\n" + _table(("Metric", "Type", "Labels", "Meaning"), rows))
    return "\n".join(parts)


# --- The command ---


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the generated files, or with ``--check`` tell which differ from what would be written."""
    parser = argparse.ArgumentParser(description="Generate all that is generated.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file differs")
    parser.add_argument(
        "--manifests", action="store_true", help="manifests/ from the chart, and nothing else; needs Helm"
    )
    options = parser.parse_args(arguments)
    if options.manifests:
        from leasehold.testing import toolchain

        wanted = manifests(toolchain.build(toolchain.HELM, ["helm"]) / "helm")
        own = {Path("manifests"): "*.yaml", Path("manifests", ENFORCEMENT): "*.yaml"}
    else:
        wanted = generated()
        own = {
            Path("crds"): "*.yaml",
            chart.CHART / "templates": "crd-*.yaml",
            Path(FILES, "dashboards"): "*",
        }
    changed = [path for path, text in wanted.items() if _content(root / path) != text]
    stray = [
        path.relative_to(root)
        for directory, pattern in own.items()
        for path in (root / directory).glob(pattern)
        if path.relative_to(root) not in wanted
    ]
    if options.check:
        for path in changed:
            print(f"{path} is out of date; run: make generate")
        for path in stray:
            print(f"{path} is not generated; remove it, or generate it from a model")
        return 1 if changed or stray else 0
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path}")
    return 0


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
