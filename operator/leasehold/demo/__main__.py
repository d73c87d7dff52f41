"""`python -m leasehold.demo`: the story in one go, or everything up in the background, or down again."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from leasehold.adapters.host import HostReadError
from leasehold.core.errors import LeaseholdError
from leasehold.demo import looking, pods
from leasehold.demo.background import Run, State
from leasehold.demo.errors import NotWelcome
from leasehold.demo.play import play, show_commands, show_kubectl
from leasehold.demo.screen import plain
from leasehold.demo.stage import Consent, Stage, what_is_written
from leasehold.testing import providers, toolchain
from leasehold.testing.errors import ControlPlaneError
from leasehold.testing.kubeconfig import Connection
from leasehold.testing.providers import Existing
from leasehold.testing.toolchain import print_progress

_FAILED, _INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 all shown, 1 something failed, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.pods and options.kubeconfig:
        parser.error("--pods needs servers of its own: leave out --kubeconfig")
    console = Console(highlight=False)
    run = Run(options.dir)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.serve:
            return run.serve(_stage(run, options, console))
        with run.locked(print_progress):
            if options.down:
                ended = run.down()
                console.print(f"down: {ended}" if ended else f"nothing is up in {run.directory}")
                return 0
            return _up(run, options, console) if options.keep else _demo(run, options, console)
    except KeyboardInterrupt:
        console.print("\ninterrupted; everything the demo started has ended")
        return _INTERRUPTED
    except (LeaseholdError, ControlPlaneError, HostReadError) as error:
        console.print(f"\n[bold red]failed[/]  {plain(str(error))}", soft_wrap=True)
        console.print(f"logs: {run.directory}/*.log", soft_wrap=True)
        return _FAILED
    finally:
        signal.signal(signal.SIGTERM, before)


def _demo(run: Run, options: argparse.Namespace, console: Console) -> int:
    if (state := run.read()) is not None:
        console.print(
            f"`make up` runs in {run.directory} ({state.place.server}); end it with `{_ending(run)}`"
        )
        return _FAILED
    with _stage(run, options, console) as stage:
        assert stage.place is not None
        show_commands(
            console,
            "To look around while it runs, in another terminal:",
            looking.commands(stage.place)[:3],
        )
        if not options.no_story:
            play(stage.place, console, speed=options.speed, svg=options.svg, check=stage.check)
            show_kubectl(stage.place, console)
    console.print("\nEverything has ended. `make up` does the same and keeps it running.")
    return 0


def _up(run: Run, options: argparse.Namespace, console: Console) -> int:
    state = run.read()
    if state is not None:
        console.print(f"up already: {state.place.server}")
    else:
        state = _start(run, options, console)
        try:
            if not options.no_story:
                play(state.place, console, speed=options.speed, svg=options.svg, check=state.check)
        except KeyboardInterrupt:
            run.down()
            raise
        except (LeaseholdError, ControlPlaneError):
            console.print(
                f"\nThe rest still runs, to look at: {plain(state.place.kubeconfig)}; to end it: {_ending(run)}",
                soft_wrap=True,
            )
            raise
    linked = run.directory / "bin" / "kubectl"
    path_line = f'export PATH={shlex.quote(str(linked.parent))}:"$PATH"' if linked.exists() else ""
    looking.write_environment(run.directory, state.place, path_line)
    show_commands(console, "It keeps running. To look around:", looking.commands(state.place, path_line))
    show_commands(console, "To end it:", [_ending(run)])
    return 0


def _ending(run: Run) -> str:
    """Return the command that ends what runs in a directory."""
    if run.directory == Path(".run").resolve():
        return "make down"
    return f"{sys.executable} -m leasehold.demo --down --dir {shlex.quote(str(run.directory))}"


def _start(run: Run, options: argparse.Namespace, console: Console) -> State:
    """Build what is missing and ask what must be asked while somebody can see it; then start in the background."""
    provider = providers.choose(providers.default_wish(kubeconfig=options.kubeconfig))
    if isinstance(provider, Existing):
        server = Connection.read(provider.kubeconfig).url
        if not _consent(options, console)(what_is_written(server)):
            raise NotWelcome("Nothing was written. Say yes when asked, or give --yes.")
    looking.provide_kubectl(run.directory, print_progress)
    if options.pods:
        for program in pods.PROGRAMS:
            toolchain.build(toolchain.MODULES[program], [program])
    return run.up(options.kubeconfig, print_progress, with_pods=options.pods)


def _stage(run: Run, options: argparse.Namespace, console: Console) -> Stage:
    return Stage(
        run.directory,
        kubeconfig=options.kubeconfig,
        with_pods=options.pods,
        say=lambda text: console.print(plain(text), soft_wrap=True),
        consent=_consent(options, console),
    )


def _consent(options: argparse.Namespace, console: Console) -> Consent:
    def ask(text: str) -> bool:
        if options.yes:
            return True
        if not sys.stdin.isatty():
            return False
        console.print(plain(text), soft_wrap=True)
        return input("Go on? [yes/no] ").strip().lower() == "yes"

    return ask


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leasehold.demo",
        description="A real API server, this host as a node, and leases granted, renewed, expired and reclaimed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--keep", action="store_true", help="start in the background and keep it running after the story")
    add("--down", action="store_true", help="end what --keep started")
    add("--no-story", action="store_true", help="only bring everything up")
    add("--dir", type=Path, default=Path(".run"), help="for logs, the kubeconfig and what runs (.run)")
    add(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="play on this cluster instead of starting one; asks before it writes",
    )
    add("--pods", action="store_true", help="let pods run on the simulated nodes, played by kwok")
    add("--yes", action="store_true", help="do not ask: the cluster of --kubeconfig may be written to")
    add("--speed", type=_speed, default=1.0, metavar="X", help="divide pauses and terms by X (1)")
    add("--svg", type=Path, metavar="FILE", help="also save a picture of the result")
    add("--serve", action="store_true", help=argparse.SUPPRESS)  # what --keep runs in the background
    return parser


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0.1 <= speed <= 20:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 20")
    return speed


if __name__ == "__main__":
    sys.exit(main())
