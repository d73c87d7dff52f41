"""How pages become those of the site: links from the repository lead to where the site has it."""

from __future__ import annotations

import pytest
from hack.docs import pages


def led(markdown: str, page: str = "pods.md") -> str:
    return pages.for_site(markdown, page, f"docs/{page}")


@pytest.mark.parametrize(
    ("link", "page", "where"),
    [
        ("install.md#uninstall", "pods.md", "install.md#uninstall"),
        ("../pods.md", "design/2026-11-28-pods.md", "../pods.md"),
        ("../CONTRIBUTING.md", "architecture.md", "contributing.md"),
        ("../../CHANGELOG.md", "design/2026-11-28-pods.md", "../changes.md"),
        ("../README.md", "pods.md", "index.md"),
        ("../examples", "queueing.md", "examples.md"),
        ("../examples/pods", "pods.md", "examples.md#pods"),
        ("../examples/pods/06-kueue.yaml", "pods.md", "examples.md#pods06-kueueyaml"),
        ("#with-kueue", "pods.md", "#with-kueue"),
        ("https://kueue.sigs.k8s.io", "pods.md", "https://kueue.sigs.k8s.io"),
    ],
)
def test_a_link_leads_to_what_the_site_has(link: str, page: str, where: str) -> None:
    assert led(f"see [there]({link}).", page) == f"see [there]({where})."


def test_a_file_that_only_the_repository_has_is_no_link() -> None:
    assert led("[`values-ha.yaml`](../helm/leasehold/values-ha.yaml)") == "`values-ha.yaml`"


def test_a_picture_stays_one() -> None:
    assert led("![a run](demo.svg)", "index.md") == "![a run](demo.svg)"


def test_code_is_left_as_it_is() -> None:
    block = "```sh\necho '[x](../README.md)'\n```"
    assert led(f"[x](../README.md)\n\n{block}\n") == f"[x](index.md)\n\n{block}\n"


def test_pages_at_the_root_link_as_the_site_does() -> None:
    text = pages.for_site("[map](docs/architecture.md#time)", "contributing.md", "CONTRIBUTING.md")
    assert text == "[map](architecture.md#time)"


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("What holds, and what does not", "what-holds-and-what-does-not"),
        ("Why does my pod not start?", "why-does-my-pod-not-start"),
        ("`/healthz` and <code>x</code>", "healthz-and-x"),
        ("CapacityPool spec", "capacitypool-spec"),
    ],
)
def test_headings_have_the_anchors_that_forges_give_them(heading: str, anchor: str) -> None:
    assert pages.slugify(heading, "-") == anchor


def test_every_example_is_on_its_page() -> None:
    page = pages.examples_page()
    examples = [path for path in (pages.ROOT / "examples").rglob("*.*") if path.suffix in (".yaml", ".py")]
    assert {path.suffix for path in examples} == {".yaml", ".py"}
    for path in examples:
        assert path.read_text().strip() in page


def test_machines_get_an_index_by_section() -> None:
    text = pages.index_for_machines([("Reference", [("Metrics", "reference/metrics.md")])])
    assert text.startswith("# Leasehold\n\n> ")
    assert "## Reference\n\n- [Metrics](https://leasehold.dev/docs/reference/metrics.md)\n" in text
