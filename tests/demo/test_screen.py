from __future__ import annotations

import io

import pytest
from rich.console import Console
from tests.demo.objects import held, lease, over, pool

from leasehold.core.times import parse_time
from leasehold.demo import picture, summary
from leasehold.demo.news import News
from leasehold.demo.observer import Figures, Line, Observer
from leasehold.demo.screen import Screen, plain, wants_live

NOON = parse_time("2026-11-22T12:00:00Z")


def console_of(width: int = 140, height: int = 40, *, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=terminal)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def screen_on(console: Console, *, live: bool) -> Screen:
    screen = Screen(console, live=live, now=lambda: NOON)
    screen.observer = Observer(None, screen.tell)  # type: ignore[arg-type]
    for name in ("ended-1", "ended-2"):
        screen.observer.lease_event("ADDED", over(name))
    screen.observer.lease_event("ADDED", held("build-1"))
    screen.observer.lease_event("ADDED", lease("waits"))
    screen.observer.pools = [pool(), pool("idle", allocated="0", free="8")]
    return screen


@pytest.mark.parametrize(
    ("terminal", "environ", "live"), [(True, {}, True), (True, {"CI": "true"}, False), (False, {}, False)]
)
def test_a_table_is_drawn_only_for_people(terminal: bool, environ: dict[str, str], live: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, _environ={"TERM": "xterm"})
    assert wants_live(console, environ) is live


def test_without_a_terminal_each_line_is_printed_once_without_colour() -> None:
    console = console_of()
    with screen_on(console, live=False) as screen:
        screen.chapter(1, 7, "What fits [is granted]")
        for count in (1, 2):
            screen.tell(Line(1.5, News("renewed", "report", f"renewed, {count} so far")))
        screen.tell(Line(2.0, News("told", "", "nobody in particular")))
    shown = text_of(console)
    assert "1/7  What fits" in shown
    assert "\x1b" not in shown
    assert shown.count("renewed, 1 so far") == 1
    assert "renewed, 2" not in shown
    assert "   2.0 s  nobody in particular" in shown


def test_the_timeline_keeps_the_last_renewal() -> None:
    screen = screen_on(console_of(), live=True)
    for count in (1, 2):
        screen.tell(Line(count, News("renewed", "report", f"renewed, {count} so far")))
    renewals = [line.news.what for line in screen.lines if line.news.kind == "renewed"]
    assert renewals == ["renewed, 2 so far"]


def test_the_last_frame_stays_on_the_terminal() -> None:
    console = console_of(terminal=True)
    with screen_on(console, live=True) as screen:
        screen.chapter(2, 7, "This host")
    shown = text_of(console)
    assert "This host" in shown
    assert "ci" not in shown.split("POOL")[0]
    for word in ("build-1", "Active", "ended-1", "Expired", "lab", "waits", "Pending"):
        assert word in shown


def test_a_small_terminal_drops_what_is_over_first() -> None:
    console = console_of(height=12)
    screen = screen_on(console, live=True)
    console.print(screen.frame(12))
    table = text_of(console).partition("What happened")[0]
    assert "build-1" in table
    assert "ended-1" not in table


def test_a_screen_without_an_observer_is_empty() -> None:
    console = console_of()
    console.print(Screen(console, live=True, now=lambda: NOON).frame())
    assert "LEASE" in text_of(console)


def test_markup_in_texts_of_others_is_shown_as_it_stands() -> None:
    console = console_of()
    console.print(plain("[bold]x[/bold]"))
    assert text_of(console) == "[bold]x[/bold]\n"


def test_the_picture_loads_nothing_and_starts_texts_where_they_are_seen() -> None:
    screen = screen_on(console_of(), live=True)
    said = summary.rows(Figures(), chapters=7, checked=40, report={})
    svg = picture.draw([screen.frame(), *summary.lines(said)], "make demo")
    assert svg.startswith("<svg")
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "").replace(
        "https://www.textualize.io", ""
    )
    assert ">&#160;&#160;" not in svg
    assert "build-1" in svg
