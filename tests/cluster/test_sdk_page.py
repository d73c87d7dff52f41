"""Every block of docs/sdk.md runs as it stands."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.harness import SMALL, Stage, finished
from tests.cluster.test_sdk import LIVELY

PAGE = Path(__file__).parents[2] / "docs" / "sdk.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_page_runs(
    stage: Stage, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage.nodes.create(1, SMALL)
    pool = stage.pool(policy=LIVELY)
    config = tmp_path / "config"
    text = stage.control_plane.kubeconfig.read_text().replace(
        '"user": "leasehold-test"', f'"user": "leasehold-test", "namespace": "{stage.namespace}"', 1
    )
    config.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(config))
    scope: dict[str, Any] = {}
    if "client.watch" in BLOCKS[number]:
        stage.until(stage.lease(pool), lambda lease: bool(lease.get("status")))
    exec(BLOCKS[number].replace('"ci"', repr(pool)), scope)
    found = scope["main"]()
    if inspect.iscoroutine(found):
        asyncio.run(found)
    for lease in stage.kube.list("capacityleases.leasehold.dev", stage.namespace):
        if lease["spec"].get("holder"):
            stage.until(lease["metadata"]["name"], finished)


def test_the_page_has_blocks() -> None:
    assert len(BLOCKS) >= 7
