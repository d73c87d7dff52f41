"""The drawings of docs/: boxes, arrows and words, written as SVG. Light where the reader's system is light, else dark.

A drawing brings its own ground, so that it can be read on any page. Coordinates are pixels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Final

Point = tuple[float, float]

_LINE: Final = 17
_STYLE: Final = """
    .ground { fill: #ffffff; }
    .box { fill: #eef5f4; stroke: #00796b; stroke-width: 1.4; }
    .other { fill: #f4f4f6; stroke: #7a7f8a; stroke-width: 1.2; }
    .warm { fill: #fff4e0; stroke: #c77700; stroke-width: 1.4; }
    .cold { fill: #e8eefb; stroke: #3f6fc4; stroke-width: 1.4; }
    .bad { fill: #fdecea; stroke: #c0392b; stroke-width: 1.4; }
    .room { fill: none; stroke: #9aa0aa; stroke-width: 1.2; stroke-dasharray: 5 4; }
    .arrow { fill: none; stroke: #3c4250; stroke-width: 1.4; }
    .dashed { stroke-dasharray: 5 4; }
    .head { fill: #3c4250; }
    text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #20242c; }
    .title { font-weight: 600; font-size: 14px; }
    .small { font-size: 12px; fill: #4a505c; }
    .over { font-size: 12px; fill: #4a505c; paint-order: stroke; stroke: #ffffff; stroke-width: 5px; }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #1e2129; }
      .box { fill: #17332f; stroke: #4db6ac; }
      .other { fill: #2a2e38; stroke: #9aa0aa; }
      .warm { fill: #3a2c12; stroke: #ffb74d; }
      .cold { fill: #1d2a45; stroke: #82aaff; }
      .bad { fill: #3f1d1a; stroke: #ef7f74; }
      .room { stroke: #767c88; }
      .arrow { stroke: #c3c8d2; }
      .head { fill: #c3c8d2; }
      text { fill: #e6e8ee; }
      .small { fill: #b4bac6; }
      .over { fill: #b4bac6; stroke: #1e2129; }
    }
"""


@dataclass
class Drawing:
    """One picture; `about` is what somebody hears who cannot see it."""

    width: int
    height: int
    about: str
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> None:
        """Write one line; y is its baseline."""
        kind = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{escape(words)}</text>')

    def box(
        self, x: float, y: float, w: float, h: float, title: str, *lines: str, style: str = "box"
    ) -> None:
        """Draw a box with a title and lines below it, all in its middle."""
        self.parts.append(f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="7"/>')
        top = y + h / 2 - (len(lines) * _LINE) / 2 + 5
        self.text(x + w / 2, top, title, "title")
        for number, line in enumerate(lines, start=1):
            self.text(x + w / 2, top + number * _LINE, line, "small")

    def room(self, x: float, y: float, w: float, h: float, title: str) -> None:
        """Draw a dashed frame around what belongs together."""
        self.parts.append(f'<rect class="room" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="10"/>')
        self.text(x + 12, y + 20, title, "small", "start")

    def arrow(
        self,
        *points: Point,
        words: str = "",
        at: Point | None = None,
        dashed: bool = False,
        anchor: str = "middle",
    ) -> None:
        """Draw a line through points with a head at the last, and words at a place of their own or above its middle."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        style = "arrow dashed" if dashed else "arrow"
        self.parts.append(f'<path class="{style}" d="{path}" marker-end="url(#head)"/>')
        if words:
            (x1, y1), (x2, y2) = points[0], points[-1]
            x, y = at or ((x1 + x2) / 2, (y1 + y2) / 2 - 6)
            self.text(x, y, words, "over", anchor)

    def svg(self) -> str:
        """Return the file's text."""
        return "\n".join(
            (
                "<!-- Generated from hack/drawings.py; do not edit. Change it there and run: make generate -->",
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img"'
                f' width="{self.width}" height="{self.height}">',
                f"  <title>{escape(self.about)}</title>",
                f"  <style>{_STYLE}  </style>",
                '  <defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
                ' orient="auto-start-reverse"><path class="head" d="M0 0 L10 5 L0 10 z"/></marker></defs>',
                f'  <rect class="ground" width="{self.width}" height="{self.height}" rx="12"/>',
                *(f"  {part}" for part in self.parts),
                "</svg>\n",
            )
        )


def overview() -> Drawing:
    """Return what runs where, and who tells whom."""
    d = Drawing(
        860,
        486,
        "People and programs write pools and leases to the API server. The operator watches them and writes what it"
        " decides. A reporter on each node writes what it measures. Pods wait until the operator lets them go.",
    )
    d.box(20, 30, 180, 64, "Who runs the pools", "CapacityPool", style="other")
    d.box(
        20,
        150,
        180,
        82,
        "Who needs capacity",
        "CapacityLease, renewals;",
        "people, CI, controllers",
        style="other",
    )
    kinds = ("CapacityPool", "CapacityLease", "NodeReport", "sessions (Lease)")
    d.box(310, 30, 180, 202, "API server", *kinds, style="cold")
    d.room(610, 20, 230, 236, "operator")
    d.box(625, 52, 200, 52, "watch", "what changed, nothing else")
    d.box(625, 118, 200, 52, "gather, plan, apply", "one worker for each pool")
    d.box(625, 184, 200, 52, "look ahead", "whose turn comes when")
    d.room(20, 290, 820, 176, "every node that lends")
    d.box(40, 330, 180, 64, "reporter", "psutil, PSI, cgroups")
    d.box(310, 330, 180, 64, "pods in a lease", "gated, then pinned", style="warm")
    d.box(625, 330, 200, 64, "everything else", "measured, not lent", style="other")
    d.arrow((200, 62), (310, 62), words="declares")
    d.arrow((200, 191), (310, 191), words="asks, renews")
    d.arrow((490, 78), (625, 78), words="list, watch", at=(550, 72))
    d.arrow((625, 144), (490, 144), words="commit, grant", at=(550, 138))
    d.arrow((625, 210), (490, 210), words="estimates", at=(550, 204))
    d.arrow((195, 330), (195, 262), (352, 262), (352, 232), words="NodeReport", at=(262, 256))
    d.arrow(
        (420, 232),
        (420, 330),
        words="lifts the gate; evicts at the end",
        at=(430, 276),
        anchor="start",
        dashed=True,
    )
    books = (
        "scheduler and kubelets are the cluster's own; without enforcement a lease is an entry in the books"
    )
    d.text(430, 424, books, "small")
    d.text(
        430, 446, "one operator leads each shard, others stand by; no part keeps anything on disk", "small"
    )
    return d


def life() -> Drawing:
    """Return the life of a lease."""
    d = Drawing(
        930,
        376,
        "A lease is Pending, perhaps Scheduled, then Bound and Active; it drains, is releasing, and ends Released,"
        " Expired or Revoked. What a node does not confirm is Quarantined. What can never be granted is Failed.",
    )
    d.parts.append('<rect class="room" x="345" y="44" width="325" height="214" rx="10"/>')
    d.box(20, 60, 120, 52, "Pending", "waits", style="other")
    d.box(190, 60, 120, 52, "Scheduled", "promised", style="cold")
    d.box(360, 60, 120, 52, "Bound", "granted")
    d.box(530, 60, 120, 52, "Active", "claimed, in use")
    d.box(530, 190, 120, 52, "Draining", "has its grace", style="warm")
    d.box(360, 190, 120, 52, "Releasing", "to be confirmed", style="warm")
    d.box(160, 190, 150, 52, "Quarantined", "not confirmed in time", style="bad")
    d.box(20, 190, 120, 52, "Failed", "never", style="bad")
    d.box(360, 310, 290, 46, "Released · Expired · Revoked", style="other")
    d.arrow((140, 86), (190, 86))
    d.arrow((310, 86), (360, 86))
    d.arrow((80, 60), (80, 24), (420, 24), (420, 60), words="grant: there is room", at=(230, 18))
    d.arrow((480, 86), (530, 86), words="claim", at=(505, 78))
    d.arrow((600, 60), (600, 24), (700, 24), (700, 80), (650, 80))
    d.text(710, 46, "renewal: a new term, from now", "small", "start")
    d.arrow((620, 112), (620, 190))
    d.text(682, 142, "notice: revoked, preempted,", "small", "start")
    d.text(682, 159, "drained, idle", "small", "start")
    d.arrow((560, 112), (560, 160), (450, 160), (450, 190), words="term over, silent, done", at=(505, 154))
    d.arrow((390, 112), (390, 190), words="not claimed", at=(384, 148), anchor="end")
    d.arrow((530, 216), (480, 216))
    d.arrow((360, 216), (310, 216))
    d.arrow((240, 242), (240, 333), (360, 333), words="confirmed, or forced", at=(230, 292), anchor="end")
    d.arrow((420, 242), (420, 310), words="confirmed, or nothing to confirm", at=(430, 290), anchor="start")
    d.arrow((60, 112), (60, 190), words="refused, or too late", at=(70, 156), anchor="start")
    d.text(682, 246, "within the frame it holds capacity", "small", "start")
    return d


def capacity() -> Drawing:
    """Return what becomes of a node's capacity."""
    d = Drawing(
        860,
        330,
        "Of a node's total something is reserved; the rest, times allocationPercent, may be lent. Leases hold a"
        " part of that, what others need is held back, and what is left is free.",
    )

    def bar(y: float, label: str, *parts: tuple[float, str, str]) -> None:
        d.text(20, y + 29, label, "title", "start")
        x = 190.0
        for width, words, style in parts:
            d.parts.append(
                f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="46" rx="4"/>'
            )
            d.text(x + width / 2, y + 28, words)
            x += width

    bar(30, "total", (640, "what the node allocates, or less if less was measured", "other"))
    bar(96, "limit", (560, "(total − reserved) × allocationPercent", "cold"), (80, "reserved", "other"))
    bar(162, "held, others", (250, "leases", "box"), (110, "outside leases", "warm"), (200, "free", "cold"))
    bar(228, "measured use", (150, "by leases", "box"), (110, "by others", "warm"))
    d.text(190, 300, "free = limit − max(held + outside leases, measured use)", "small", "start")
    d.text(
        190,
        318,
        "outside leases: measured use that no lease explains, or requests of pods without one if larger",
        "small",
        "start",
    )
    return d


def commit() -> Drawing:
    """Return how a grant is committed, and why two operators cannot both make it."""
    d = Drawing(
        970,
        430,
        "Operator A commits to the pool and is paused. Operator B raises the epoch, lists the leases, finishes what A"
        " began, and goes on. A wakes up; its next commit is refused, because the pool has changed.",
    )
    columns = {
        "operator A": 110.0,
        "pool (API server)": 430.0,
        "lease (API server)": 640.0,
        "operator B": 860.0,
    }
    for name, x in columns.items():
        d.box(x - 85, 20, 170, 34, name, style="box" if "operator" in name else "cold")
        d.parts.append(f'<path class="arrow dashed" d="M{x:g} 54 V415"/>')
    a, pool, lease, b = columns.values()
    steps: tuple[tuple[float, float, float, str, bool], ...] = (
        (90, a, pool, "1  commit: sequence 7 → 8, in flight: lease L", False),
        (200, b, pool, "3  take over: epoch 4 → 5", False),
        (236, lease, b, "4  list leases (quorum)", False),
        (272, b, lease, "5  finish L: token 8", False),
        (308, b, pool, "6  in flight: nothing", False),
    )
    for y, start, end, words, dashed in steps:
        middle = (start + end) / 2
        d.arrow((start, y), (end, y), words=words, at=(middle, y - 6), dashed=dashed)
    d.box(a - 85, 116, 170, 50, "2  paused", "before it writes L", style="warm")
    d.arrow(
        (a, 352),
        (lease, 352),
        words="7  late write of L: conflict, L has changed",
        at=((a + lease) / 2, 346),
        dashed=True,
    )
    d.arrow((a, 388), (pool, 388), words="8  next commit: conflict", at=((a + pool) / 2, 382), dashed=True)
    d.text(pool + 14, 408, "epoch 5 is not mine: stand by", "over", "start")
    return d


DRAWINGS: Final[dict[str, Callable[[], Drawing]]] = {
    "overview": overview,
    "life": life,
    "capacity": capacity,
    "commit": commit,
}


def files() -> Iterable[tuple[str, str]]:
    """Yield each drawing's name and SVG."""
    for name, draw in DRAWINGS.items():
        yield name, draw().svg()
