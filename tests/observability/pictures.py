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
_INCHES = 0.38


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
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    page = json.loads(path.read_text())
    panels = page["panels"]
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    high = _INCHES * rows + 0.8
    figure = plt.figure(figsize=(15, high), facecolor="white")
    figure.text(0.02, 1 - 0.35 / high, page["title"], fontsize=14, fontweight="bold")
    for panel in panels:
        place = panel["gridPos"]
        x, wide = place["x"] / COLUMNS, place["w"] / COLUMNS
        top, tall = 1 - (0.8 + _INCHES * place["y"]) / high, _INCHES * place["h"] / high
        if panel["type"] == "row":
            figure.text(0.02, top - tall / 2, panel["title"], fontsize=11, fontweight="bold", va="center")
            continue
        head, foot = 0.42 / high, 0.85 / high
        axes = figure.add_axes((x + 0.045, top - tall + foot, wide - 0.06, tall - head - foot))
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
                0, 0.3, number(lines[0][1][-1][1], unit), fontsize=20, va="center", transform=axes.transAxes
            )
            continue
        begun = min(points[0][0] for _, points in lines)
        axes.set_xlim(0, seconds)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MultipleLocator(60))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 60:.0f} min"))
        axes.grid(alpha=0.25)
        if panel["type"] == "state-timeline":
            for at, (_, points) in enumerate(lines):
                for value, colour in ((0, "#b8b8b8"), (1, "#56a64b")):
                    spans = [(moment - begun, STEP) for moment, found in points if found == value]
                    axes.broken_barh(spans, (at - 0.4, 0.8), facecolors=colour)
            axes.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=4.5)
            continue
        if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal":
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
        largest = axes.dataLim.y1
        axes.set_ylim(0, 1.1 * largest or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5) if unit != "bytes" else MultipleLocator(nice(largest)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: number(value, unit)))
        below = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.12), "frameon": False, "fontsize": 6}
        axes.legend(ncols=min(4, len(lines)), handlelength=1, columnspacing=1, **below)
    directory.mkdir(parents=True, exist_ok=True)
    made = directory / f"{path.stem}.png"
    figure.savefig(made, dpi=80)
    plt.close(figure)
    return made


def nice(largest: float) -> float:
    """Return a step of bytes that is a power of two, of which four to eight make the largest."""
    step = float(2**20)
    while largest / step > 6:
        step *= 2
    return step


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
