"""The picture of a run for the README: the last frame and the summary, as an SVG that loads nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import TerminalTheme

_WIDTH = 140
_CELL = 12.2  # units that rich draws a character wide
_DARK = TerminalTheme(
    (17, 21, 28),
    (204, 209, 217),
    [
        (33, 38, 47), (235, 111, 111), (126, 199, 120), (229, 192, 104),
        (104, 160, 235), (200, 133, 220), (98, 194, 201), (204, 209, 217),
    ],
    [
        (72, 80, 94), (245, 130, 130), (146, 219, 140), (240, 208, 130),
        (130, 180, 245), (216, 155, 235), (126, 214, 220), (240, 243, 247),
    ],
)  # fmt: skip
_WEB_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


# Some viewers drop spaces at the beginning of a text: begin the text where they end.
_INDENTED = re.compile(r'x="([\d.]+)" (y="[\d.]+") textLength="([\d.]+)"([^>]*)>((?:&#160;)+)(?=[^<])')


def _indent(found: re.Match[str]) -> str:
    wide = _CELL * found[5].count("&#160;")
    x, length = float(found[1]) + wide, float(found[3]) - wide
    return f'x="{x:g}" {found[2]} textLength="{length:g}"{found[4]}>'


def draw(parts: list[RenderableType], title: str) -> str:
    """Return an SVG of what a terminal would show."""
    console = Console(
        record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for part in parts:
        console.print(part, highlight=False)
    svg = console.export_svg(title=title, theme=_DARK)
    # A picture in a README is shown without loading anything from elsewhere; name fonts that are there.
    svg = _WEB_FONTS.sub("", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")
    svg = _INDENTED.sub(_indent, svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def save(path: Path, parts: list[RenderableType], title: str) -> None:
    """Write the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw(parts, title))
