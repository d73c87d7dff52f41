"""Plays the story on a stage: observer, screen, chapters, summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from leasehold.demo import looking, picture, summary
from leasehold.demo.errors import DemoError, NotAsExpected
from leasehold.demo.nodes import REPORTS
from leasehold.demo.observer import Observer
from leasehold.demo.scene import Scene
from leasehold.demo.screen import Screen, plain, wants_live
from leasehold.demo.stage import Place
from leasehold.demo.story import STORY, Chapter
from leasehold.testing.errors import ApiError

_PICTURE_LINES = 72


def play(
    place: Place,
    console: Console,
    *,
    speed: float = 1.0,
    svg: Path | None = None,
    check: Callable[[], None] = lambda: None,
    story: Sequence[Chapter] = STORY,
) -> None:
    """Play the story and print the summary. `check` raises when a process of the stage has died.

    Raises NotAsExpected when the API server does not say what the story promises.
    """
    with place.client() as client:
        screen = Screen(console, live=wants_live(console), now=lambda: scene.clock.now())
        observer = screen.observer = Observer(client, screen.tell)
        scene = Scene(place, client, observer, speed=speed, check=check)
        observer.start()
        try:
            with screen:
                _play_chapters(scene, screen, story)
            report = client.get(REPORTS, place.host).get("status") or {}
        finally:
            scene.close()
            observer.stop()
    figures = observer.figures
    if figures.early:
        raise NotAsExpected(f"ended before their deadline: {', '.join(figures.early)}")
    said = summary.rows(figures, chapters=len(story), checked=scene.checked, report=report)
    console.print()
    for line in summary.lines(said):
        console.print(line, soft_wrap=True)
    if svg is not None:
        picture.save(svg, [screen.frame(_PICTURE_LINES), "", *summary.lines(said)], "make demo")
        console.print(f"wrote {svg}", highlight=False)


def _play_chapters(scene: Scene, screen: Screen, story: Sequence[Chapter]) -> None:
    for number, chapter in enumerate(story, start=1):
        screen.chapter(number, len(story), chapter.title)
        try:
            chapter.play(scene)
        except (DemoError, ApiError) as error:
            scene.observer.say("failed", f"FAILED: {str(error).splitlines()[0]}")
            raise


def show_kubectl(place: Place, console: Console) -> None:
    """Print what kubectl shows of the result, where there is a kubectl."""
    kubectl = looking.find_kubectl()
    if kubectl is None:
        return
    for arguments in (("get", "cpool"), ("get", "clease", "-A")):
        console.print(f"\n[bold]$ kubectl {' '.join(arguments)}[/]", highlight=False)
        console.print(
            plain(looking.shown(place, kubectl, *arguments).rstrip()), highlight=False, soft_wrap=True
        )


def show_commands(console: Console, title: str, lines: Sequence[str]) -> None:
    """Print commands so that they can be copied."""
    console.print(f"\n[bold]{title}[/]", highlight=False)
    for line in lines:
        console.print(f"  {plain(line)}", highlight=False, soft_wrap=True)
