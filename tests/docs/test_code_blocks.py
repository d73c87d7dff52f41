"""Every block of code on a page does what the page says.

YAML is taken by a real API server, or rendered by the chart where it is values of it. Shell runs on a real
installation (tests/docs/installation.py); what cannot run there is looked at (tests/docs/commands.py). Python runs
where it stands by itself, and is compiled otherwise, with what it imports from us. What is only shown says why, in the
page.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.docs.blocks import APART, BLOCKS, LANGUAGES, PAGES, Block, blocks_of, of, told_as_a_whole
from tests.docs.installation import Installation

ROOT = Path(__file__).resolve().parents[2]
VALUES = yaml.safe_load((ROOT / "helm" / "leasehold" / "values.yaml").read_text())

LEAST: dict[str, dict[str, Any]] = {
    "Pod": {
        "apiVersion": "v1",
        "metadata": {"name": "part", "namespace": "team-a"},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    },
    "ConfigMap": {"apiVersion": "v1", "metadata": {"name": "part", "namespace": "team-a"}},
    "CapacityPool": {
        "apiVersion": "leasehold.dev/v1alpha1",
        "metadata": {"name": "part"},
        "spec": {"nodeSelector": {"matchLabels": {"part": "of"}}},
    },
    "CapacityLease": {
        "apiVersion": "leasehold.dev/v1alpha1",
        "metadata": {"name": "part", "namespace": "team-a"},
        "spec": {"poolRef": {"name": "ci"}, "resources": {"cpu": "1"}},
    },
}
"""The least object of a kind that the API server takes, for what is shown in part."""


def ids(block: Block) -> str:
    return block.name


# --- what pages may hold ---


def test_pages_have_blocks_of_all_kinds_that_are_tried() -> None:
    assert {block.language for block in APART} >= {"yaml", "sh", "text"}
    assert len(APART) > 40


@pytest.mark.parametrize("block", BLOCKS, ids=ids)
def test_a_block_says_what_language_it_is(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block.page}, line {block.line}: ```{block.language}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark.startswith("not run")], ids=ids)
def test_what_is_only_shown_says_why(block: Block, record_property: Any) -> None:
    assert len(block.not_run.split()) >= 3, f"{block.page}, line {block.line}: a reason, please"
    record_property("docs", f"not run: {block.page}, line {block.line}: {block.not_run}")


def test_most_blocks_are_tried() -> None:
    code = [block for block in BLOCKS if block.language in ("yaml", "sh", "python")]
    shown = [block.name for block in code if block.not_run]
    assert len(shown) <= len(code) / 10, f"only shown: {shown}"


def test_a_block_within_a_list_is_seen_too() -> None:
    """It would be indented, and the search for blocks begins at the margin."""
    for path in PAGES:
        fences = sum(line.strip().startswith("```") for line in path.read_text().splitlines())
        assert fences == 2 * len(list(blocks_of(path))), f"{path.name} has a block that is not at the margin"


# --- YAML ---


@pytest.mark.parametrize("block", of("yaml"), ids=ids)
def test_yaml_is_taken_by_the_api_server_or_the_chart(
    installation: Installation, work: Path, block: Block
) -> None:
    documents = [document for document in yaml.safe_load_all(block.text) if document]
    assert documents
    if block.part_of:
        (part,) = documents
        documents = [merged({"kind": block.part_of, **LEAST[block.part_of]}, part)]
    elif "apiVersion" not in documents[0]:
        (values,) = documents
        assert set(values) <= set(VALUES), (
            f"{block.page}, line {block.line}: whole objects, values, or a mark above it"
        )
        (work / "values.yaml").write_text(block.text)
        done = installation.shell("helm template leasehold helm/leasehold -f values.yaml >/dev/null", work)
        assert done.returncode == 0, done.stderr
        return
    for document in documents:
        if "kueue.x-k8s.io" in document["apiVersion"]:
            installation.know_kueue()
        namespace = document["metadata"].get("namespace")
        if namespace:
            assert installation.shell(f"kubectl create namespace {namespace}", work).returncode == 0
    (work / "block.yaml").write_text("---\n".join(map(yaml.safe_dump, documents)))
    done = installation.shell("kubectl apply --dry-run=server --validate=strict -f block.yaml", work)
    assert done.returncode == 0, done.stderr


def merged(base: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(base[key], value) for key, value in part.items() if isinstance(base.get(key), dict)}
    return {**base, **part, **both}


def test_a_field_that_does_not_exist_is_refused(installation: Installation, work: Path) -> None:
    wrong = merged(
        {"kind": "CapacityPool", **LEAST["CapacityPool"]}, {"spec": {"leasePolicy": {"graceSeconds": 1}}}
    )
    (work / "block.yaml").write_text(yaml.safe_dump(wrong))
    done = installation.shell("kubectl apply --dry-run=server --validate=strict -f block.yaml", work)
    assert done.returncode != 0
    assert "graceSeconds" in done.stderr


# --- shell ---


@pytest.mark.parametrize("block", of("sh"), ids=ids)
def test_commands_do_what_the_page_says(
    installation: Installation, work: Path, block: Block, record_property: Any
) -> None:
    done = installation.shell(block.text, work)
    looked_at = work / "looked-at"
    if looked_at.exists():
        for line in looked_at.read_text().splitlines():
            record_property("docs", f"looked at: {block.page}, line {block.line}: {line}")
    assert done.returncode == 0, f"{block.page}, line {block.line}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "wrong",
    [
        "kubectl get clease -n team-a no-such-lease",
        "kubectl get capacitypol",
        "kubectl get clease -A --no-such-option",
        "helm upgrade leasehold helm/leasehold --set operator.replcas=2",
        "helm install leasehold helm/leasehold --no-such-option",
        "make no-such-target",
        "leasehold operator --no-such-option",
        "leasehold no-such-command",
        "curl -s http://127.0.0.1:8080/no/such/page",
        "pip install 'leasehold[no-such-extra]'",
        "no-such-program",
    ],
)
def test_a_mistake_in_a_page_is_noticed(installation: Installation, work: Path, wrong: str) -> None:
    done = installation.shell(wrong, work)
    assert done.returncode != 0, done.stdout


# --- Python ---


def undefined(text: str) -> list[str]:
    """The names that a block takes from somewhere else."""
    asked = subprocess.run(
        [
            Path(sys.executable).with_name("ruff"),
            "check",
            "--isolated",
            "--select",
            "F821",
            "--output-format",
            "concise",
            "-",
        ],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in asked.stdout.splitlines() if "F821" in line]


@pytest.mark.parametrize("block", of("python"), ids=ids)
def test_python_runs_where_it_stands_by_itself_and_is_compiled_otherwise(
    installation: Installation, work: Path, block: Block, record_property: Any
) -> None:
    code = compile(block.text, block.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("leasehold"):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
    try:
        compile(block.text, block.name, "exec")
    except SyntaxError:  # it awaits at the top level: a part of something
        whole = False
    else:
        whole = not undefined(block.text)
    if not whole:
        record_property("docs", f"compiled: {block.page}, line {block.line}")
        return
    (work / "block.py").write_text(block.text)
    done = installation.shell(f"exec {sys.executable} block.py", work)
    assert done.returncode == 0, f"{block.page}, line {block.line}:\n{done.stdout}\n{done.stderr}"


def test_a_name_that_nobody_defined_makes_a_block_a_part() -> None:
    assert undefined("print(lease)\n")
    assert not undefined("lease = 1\nprint(lease)\n")


def test_the_page_that_is_told_as_a_whole_is_the_tutorial() -> None:
    assert [path.name for path in PAGES if told_as_a_whole(path)] == ["tutorial.md"]
