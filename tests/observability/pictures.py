"""Plots every query of every dashboard, asked of a Prometheus that scraped an operator at work: docs/dashboards/*.png.

Grafana itself is not used: it is under the AGPL, and no package registry has a build of it. Needs matplotlib, which
`make pictures` installs beside the environment.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.observability.scene import TENANTS, Scene
from tests.observability.test_live import DASHBOARDS, ROOT, filled

STEP = 2.0
COLUMNS = 24
_MOST_IN_LEGEND = 12


def seen(scene: Scene, seconds: float) -> None:
    """Let something of everything happen: crowds, quarantine, receipts, a cordoned node."""
    done = set()
    cordoned = scene.stage.nodes.names[-1]
    quarantined = ""
    for left in scene.live(seconds):
        part = 1 - left / seconds
        for at, name in ((0.3, "quarantine"), (0.45, "cordon"), (0.6, "uncordon"), (0.7, "force")):
            if part < at or name in done:
                continue
            done.add(name)
            if name == "quarantine":
                quarantined = scene.quarantine()
            elif name == "force":
                mark = {"metadata": {"annotations": {"leasehold.dev/force-release": "true"}}}
                scene.kube.patch("clease", quarantined, mark, TENANTS[0])
            else:
                getattr(scene.stage.nodes, name)(cordoned)


def number(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB" if value < 2**30 else f"{value / 2**30:.3g} GiB"
    text = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return {"s": f"{text} s", "ops": f"{text}/s", "reqps": f"{text}/s"}.get(unit, text)


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    text = target["legendFormat"]
    if text == "__auto":
        return ", ".join(labels.values())
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), text)


def draw(scene: Scene, path: Path, seconds: float, directory: Path) -> Path:
    """Draw one dashboard as it lies on Grafana's grid."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    page = json.loads(path.read_text())
    panels = page["panels"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    figure = plt.figure(figsize=(15, 0.36 * height + 0.6), facecolor="white")
    figure.suptitle(page["title"], x=0.01, ha="left", fontsize=14, fontweight="bold")
    grid = figure.add_gridspec(
        height, COLUMNS, left=0.035, right=0.99, top=1 - 0.5 / (0.36 * height + 0.6), bottom=0.01
    )
    for panel in panels:
        place = panel["gridPos"]
        x, y, wide, tall = place["x"], place["y"], place["w"], place["h"]
        if panel["type"] == "row":
            axes = figure.add_subplot(grid[y, :])
            axes.axis("off")
            axes.text(0, 0.3, panel["title"], fontsize=11, fontweight="bold", transform=axes.transAxes)
            continue
        axes = figure.add_subplot(grid[y + 1 : y + tall - 1, x : x + wide - 1 + (x + wide == COLUMNS)])
        axes.set_title(panel["title"], fontsize=9, loc="left")
        unit = panel["fieldConfig"]["defaults"]["unit"]
        lines = [
            (legend(target, labels), points)
            for target in panel["targets"]
            for labels, points in scene.prometheus.series(filled(target["expr"]), seconds, STEP)
        ]
        assert lines, f"{path.stem}: {panel['title']} is empty"
        if panel["type"] == "stat":
            axes.axis("off")
            axes.text(
                0.5,
                0.4,
                number(lines[0][1][-1][1], unit),
                fontsize=20,
                ha="center",
                va="center",
                transform=axes.transAxes,
            )
            continue
        begun = min(points[0][0] for _, points in lines)
        stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
        if stacked:
            times = sorted({at for _, points in lines for at, _ in points})
            values = [[dict(points).get(at, 0.0) for at in times] for _, points in lines]
            axes.stackplot(
                [at - begun for at in times], values, labels=[name for name, _ in lines], alpha=0.6
            )
        else:
            for name, points in lines:
                axes.plot(
                    [at - begun for at, _ in points], [value for _, value in points], lw=1.1, label=name
                )
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: number(value, unit)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 60:.3g} min"))
        axes.grid(alpha=0.25)
        if len(lines) <= _MOST_IN_LEGEND:
            axes.legend(fontsize=6, loc="upper left", framealpha=0.5, ncols=2)
        else:
            axes.text(
                0.99, 0.97, f"{len(lines)} series", fontsize=6, ha="right", va="top", transform=axes.transAxes
            )
    directory.mkdir(parents=True, exist_ok=True)
    made = directory / f"{path.stem}.png"
    figure.savefig(made, dpi=80)
    plt.close(figure)
    return made


def main() -> int:
    """Let a scene play, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240, help="how long leases come and go")
    parser.add_argument(
        "--into", type=Path, default=ROOT / "docs" / "dashboards", help="where the pictures go"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pictures-") as directory, Scene(Path(directory)) as scene:
        seen(scene, options.seconds)
        for path in DASHBOARDS:
            print(draw(scene, path, options.seconds, options.into))
    return 0


if __name__ == "__main__":
    sys.exit(main())
