"""Who held what, when: a replay as one SVG that loads nothing and is readable in light and in dark.

A picture has room for a few thousand rectangles. Beyond that the ones that would be smallest are left out, which the
picture says; the curves below are of everything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import Final
from xml.sax.saxutils import escape

from leasehold.api.names import CPU
from leasehold.core.times import SECOND
from leasehold.sim.curve import Curve
from leasehold.sim.job import Finished, Situation
from leasehold.sim.pools import Pool

MOST: Final = 2500
"""Slices that are drawn at most."""

_WIDTH, _LEFT, _RIGHT = 1200, 96, 24
_PLOT: Final = _WIDTH - _LEFT - _RIGHT
_TOP, _ROWS, _CURVE, _GAP = 118, 430, 92, 42
_NAMED_ROWS: Final = 40
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE, _HOUR, _DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND
_STEPS: Final = (
    *(n * SECOND for n in (1, 5, 15, 30)),
    *(n * _MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 3, 7, 14, 30, 60, 120, 365, 730)),
)
_COLOURS: Final = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#d4a72c", "#b07aa1", "#ff9da7", "#9c755f", "#6c8ebf",
)  # fmt: skip
_OTHERS: Final = "#9aa3ad"
_STYLE: Final = (
    "text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#57606a}"
    ".h{font-size:17px;font-weight:600;fill:#24292f}.l{font-size:13px;font-weight:600;fill:#24292f}"
    ".p{fill:#f3f5f8}.g{stroke:#d0d7de;stroke-width:1}.e{text-anchor:end}.m{text-anchor:middle}"
    ".u{fill:#4e79a7;fill-opacity:.35;stroke:#4e79a7}.q{fill:#e15759;fill-opacity:.3;stroke:#e15759}"
    "@media(prefers-color-scheme:dark){text{fill:#9da7b3}.h,.l{fill:#e6edf3}.p{fill:#171c24}.g{stroke:#303843}}"
)
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Picture:
    """Watches a replay and draws it. Its memory holds the largest jobs and nothing of the others."""

    def __init__(self, pool: Pool, title: str, *, origin: int | None = None) -> None:
        """Begin. `origin` is the date (ms since the epoch) of instant 0, None where dates mean nothing."""
        self.pool = pool
        self.title = title
        self.origin = origin
        self._kept: list[tuple[int, int, Finished]] = []
        self._slices = 0
        self._jobs = 0
        self._areas: Counter[str] = Counter()
        self._all = 0
        self._last: Situation | None = None
        self._used = Curve(0)
        self._queue = Curve(0)
        self._start = 0
        self._end = 0

    def moment(self, at: Situation) -> None:
        """Take in how things stand from now on."""
        last = self._last
        if last is None:
            self._start = at.now
            self._used, self._queue = Curve(at.now), Curve(at.now)
        elif at.now > last.now:
            self._used.add(last.now, at.now, last.used)
            self._queue.add(last.now, at.now, last.waiting)
        self._last = at

    def ended(self, found: Finished) -> None:
        """Take in a job that is over."""
        area = (found.end - found.start) * found.job.units
        self._jobs += 1
        self._end = max(self._end, found.end)
        self._areas[found.job.owner] += area
        self._all += area
        heappush(self._kept, (area, -self._jobs, found))
        self._slices += len(found.nodes)
        while self._slices > MOST and len(self._kept) > 1:
            _, _, smallest = heappop(self._kept)
            self._slices -= len(smallest.nodes)

    def svg(self) -> str:
        """Return the picture."""
        rows_end = _TOP + _ROWS
        used_top = rows_end + _GAP
        queue_top = used_top + _CURVE + _GAP - 14
        height = queue_top + _CURVE + 40
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}"'
            f' height="{height}" role="img">',
            f"<title>{_text(self.title)}</title><style>{_STYLE}{self._classes()}</style>",
            *self._heading(),
            *self._panel(_TOP, _ROWS, "who held what"),
            *self._grid(_TOP, queue_top + _CURVE),
            *self._row_marks(),
            *self._boxes(),
            *self._time_marks(queue_top + _CURVE),
            *self._panel(used_top, _CURVE, f"{self.pool.resource} held"),
            *self._area(self._used, used_top, self.pool.capacity, "u", ("0 %", "100 %")),
        ]
        most = max((value for _, value in self._queue.points(self._end)), default=0)
        ceiling = _rounded_up(most)
        parts += self._panel(queue_top, _CURVE, "waiting")
        parts += self._area(self._queue, queue_top, ceiling, "q", ("0", f"{ceiling:,}"))
        parts.append("</svg>")
        return "\n".join(parts) + "\n"

    # --- what is around ---

    def _owners(self) -> list[str]:
        return [owner for owner, _ in sorted(self._areas.items(), key=lambda row: (-row[1], row[0]))][
            : len(_COLOURS)
        ]

    def _classes(self) -> str:
        colours = [f".c{i}{{fill:{colour}}}" for i, colour in enumerate((*_COLOURS, _OTHERS))]
        return "".join(colours)

    def _heading(self) -> Iterator[str]:
        yield f'<text class="h" x="{_LEFT}" y="28">{_text(self.title)}</text>'
        area = sum(row[0] for row in self._kept)
        drawn = (
            f"{self._jobs:,} leases"
            if len(self._kept) == self._jobs
            else (
                f"the {len(self._kept):,} largest of {self._jobs:,} leases, which held"
                f" {100 * area // max(1, self._all)} % of what was held"
            )
        )
        yield f'<text x="{_LEFT}" y="48">Drawn: {drawn}. The curves are of all leases.</text>'
        x = float(_LEFT)
        owners = self._owners()
        labels = [(owner, f"c{i}") for i, owner in enumerate(owners)]
        if len(self._areas) > len(owners):
            labels.append((f"{len(self._areas) - len(owners):,} others", f"c{len(_COLOURS)}"))
        for label, colour in labels:
            shown = label if len(label) <= 24 else f"{label[:23]}…"
            wide = 24 + 7.0 * len(shown)
            if x + wide > _WIDTH - _RIGHT:
                break
            yield f'<rect class="{colour}" x="{x:g}" y="65" width="11" height="11" rx="2"/>'
            yield f'<text x="{x + 16:g}" y="75">{_text(shown)}</text>'
            x += wide

    def _panel(self, top: int, height: int, label: str) -> Iterator[str]:
        yield f'<rect class="p" x="{_LEFT}" y="{top}" width="{_PLOT}" height="{height}"/>'
        yield f'<text class="l" x="{_LEFT}" y="{top - 7}">{_text(label)}</text>'

    def _x(self, instant: int) -> float:
        return _LEFT + _PLOT * (instant - self._start) / max(1, self._end - self._start)

    def _ticks(self) -> Iterator[tuple[int, str]]:
        span = max(1, self._end - self._start)
        step = next((step for step in _STEPS if span / step <= 10), span)
        zero = self._start if self.origin is None else -self.origin
        at = zero + -(-(self._start - zero) // step) * step
        while at <= self._end:
            yield at, self._label(at, step)
            at += step

    def _label(self, at: int, step: int) -> str:
        if self.origin is not None:
            when = _EPOCH + timedelta(milliseconds=self.origin + at)
            if step >= _DAY:
                return f"{when.day} {when:%b %Y}" if step >= 30 * _DAY else f"{when.day} {when:%b}"
            return f"{when.day} {when:%b %H:%M}" if step >= _MINUTE else f"{when:%H:%M:%S}"
        since = at - self._start
        if step >= _DAY:
            return f"day {since // _DAY}"
        if step >= _HOUR:
            return f"{since // _HOUR} h"
        return f"{since // _MINUTE} min" if step >= _MINUTE else f"{since // SECOND} s"

    def _grid(self, top: int, bottom: int) -> Iterator[str]:
        lines = "".join(f"M{self._x(at):.1f} {top}V{bottom}" for at, _ in self._ticks())
        yield f'<path class="g" d="{lines}" stroke-dasharray="2 4" fill="none"/>'

    def _time_marks(self, bottom: int) -> Iterator[str]:
        for at, label in self._ticks():
            x = self._x(at)
            if x > _WIDTH - _RIGHT - 20:
                continue
            yield f'<text class="m" x="{x:.1f}" y="{bottom + 18}">{label}</text>'
        if self.origin is not None:
            yield f'<text class="e" x="{_WIDTH - _RIGHT}" y="{bottom + 34}">times are UTC</text>'

    def _row_marks(self) -> Iterator[str]:
        bases = self._bases()
        total = bases[-1]
        names = self.pool.table.names
        if 1 < len(names) <= _NAMED_ROWS:
            for i, name in enumerate(names):
                y = _y(bases[i + 1], total)
                middle = (y + _y(bases[i], total)) / 2 + 4
                shown = name if len(name) <= 13 else f"…{name[-12:]}"
                yield f'<path class="g" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
                yield f'<text class="e" x="{_LEFT - 8}" y="{middle:.1f}">{_text(shown)}</text>'
            return
        if len(names) == 1:
            step = _rounded_up(total / 5)
            marks = [(value, self._amount(value)) for value in range(0, total + 1, step)]
            what = self.pool.resource
        else:
            step = _rounded_up(len(names) / 5)
            marks = [(bases[i], f"{i:,}") for i in range(0, len(names) + 1, step)]
            what = "nodes"
        for value, label in marks:
            yield f'<text class="e" x="{_LEFT - 8}" y="{_y(value, total) + 4:.1f}">{label}</text>'
        middle = _TOP + _ROWS // 2
        yield f'<text class="m" transform="translate(18 {middle})rotate(-90)">{_text(what)}</text>'

    def _amount(self, value: int) -> str:
        return f"{value // 1000:,}" if self.pool.resource == CPU else f"{value:,}"

    # --- boxes ---

    def _bases(self) -> list[int]:
        """Return where each node begins when all are stacked up, and the height of the stack."""
        bases = [0]
        for limit in self.pool.table.limits:
            bases.append(bases[-1] + max(0, limit[self.pool.measured_in]))
        return bases

    def _boxes(self) -> Iterator[str]:
        bases = self._bases()
        total = bases[-1]
        colours = {owner: i for i, owner in enumerate(self._owners())}
        for found, boxes in self._laid(bases):
            x, right = self._x(found.start), self._x(found.end)
            wide = max(0.4, right - x)
            path = ""
            for low, high in boxes:
                y, below = _y(high, total), _y(low, total)
                tall = max(0.4, below - y)
                # A hair between neighbours, where there is room for one.
                w, h = wide - 0.5 if wide > 3 else wide, tall - 0.5 if tall > 3 else tall
                path += f"M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h-{w:.1f}z"
            yield (
                f'<path class="c{colours.get(found.job.owner, len(_COLOURS))}" d="{path}">'
                f"<title>{_text(self._said(found))}</title></path>"
            )

    def _said(self, found: Finished) -> str:
        held, waited = found.end - found.start, found.wait
        amount = self._amount(found.job.units)
        return (
            f"{found.job.name} ({found.job.owner}): {amount} {self.pool.resource} for {_span(held)},"
            f" after waiting {_span(waited)}"
        )

    def _laid(self, bases: Sequence[int]) -> Iterator[tuple[Finished, list[tuple[int, int]]]]:
        """Give each job units of its nodes, the lowest that are free while it runs."""
        taken: dict[int, list[tuple[int, int, int]]] = {}
        for _, _, found in sorted(self._kept, key=lambda row: (row[2].start, -row[1])):
            need = found.job.request.shape.need[self.pool.measured_in]
            boxes: list[tuple[int, int]] = []
            for node, slices in sorted(Counter(found.nodes).items()):
                active = [box for box in taken.get(node, ()) if box[2] > found.start]
                parts = _free(active, need * slices, bases[node + 1] - bases[node])
                taken[node] = sorted([*active, *((low, high, found.end) for low, high in parts)])
                boxes += [(bases[node] + low, bases[node] + high) for low, high in parts]
            yield found, boxes

    # --- curves ---

    def _area(
        self, curve: Curve, top: int, ceiling: int, kind: str, labels: tuple[str, str]
    ) -> Iterator[str]:
        bottom = top + _CURVE
        points = curve.points(self._end)
        steps = ""
        for at, value in points:
            y = bottom - _CURVE * min(1.0, value / ceiling if ceiling else 0.0)
            steps += f"L{self._x(at):.1f} {y:.1f}" if not steps else f"H{self._x(at):.1f}V{y:.1f}"
        if steps:
            yield (
                f'<path class="{kind}" d="M{self._x(points[0][0]):.1f} {bottom}{steps}'
                f'H{self._x(self._end):.1f}V{bottom}z"/>'
            )
        yield f'<text class="e" x="{_LEFT - 8}" y="{bottom + 4}">{labels[0]}</text>'
        yield f'<text class="e" x="{_LEFT - 8}" y="{top + 9}">{labels[1]}</text>'


def _free(active: Sequence[tuple[int, int, int]], wanted: int, size: int) -> list[tuple[int, int]]:
    """Return unused units for an amount: the lowest gap that holds all of it, or else several."""
    gaps = []
    low = 0
    for begin, end, _ in active:
        if begin > low:
            gaps.append((low, begin))
        low = max(low, end)
    if size > low:
        gaps.append((low, size))
    for begin, end in gaps:
        if end - begin >= wanted:
            return [(begin, begin + wanted)]
    parts = []
    for begin, end in gaps:
        part = min(wanted, end - begin)
        if part:
            parts.append((begin, begin + part))
        wanted -= part
    return parts


def _y(value: int, total: int) -> float:
    return _TOP + _ROWS - _ROWS * value / max(1, total)


def _rounded_up(value: float) -> int:
    """Return the next of 1, 2, 5, 10, 20, 50, ... that is not less."""
    scale = 1
    while True:
        for digit in (1, 2, 5):
            if digit * scale >= value:
                return digit * scale
        scale *= 10


def _span(millis: int) -> str:
    if millis >= _DAY:
        return f"{millis / _DAY:.1f} days"
    if millis >= _HOUR:
        return f"{millis / _HOUR:.1f} h"
    return f"{millis / _MINUTE:.1f} min" if millis >= _MINUTE else f"{millis / SECOND:g} s"


def _text(value: str) -> str:
    return escape(_FORBIDDEN.sub("�", value))
