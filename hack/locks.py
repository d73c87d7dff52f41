"""The parts of requirements.lock that the image needs: what runs in it, and what builds the wheel."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]

RUN_EXTRAS: Final = ("api", "operator", "reporter")
_HEADER: Final = "# Generated from requirements.lock; do not edit. Run: make generate\n"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Pin(NamedTuple):
    """One package of the lock: its lines, and the packages that want it."""

    text: str
    wanted_by: frozenset[str]


def pins(lock: str) -> dict[str, Pin]:
    """Read a lock that uv wrote: pins with hashes, each followed by who wants it."""
    found = {}
    for block in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]:
        lines = block.rstrip("\n").split("\n")
        kept = [line for line in lines if not line.startswith("    #")]
        wanted_by = {
            _name(line.strip(" #").removeprefix("via ")) for line in lines if line.startswith("    #")
        }
        found[_name(block)] = Pin("\n".join(kept) + "\n", frozenset(wanted_by))
    return found


def subset(known: dict[str, Pin], roots: Iterable[str]) -> str:
    """Return the lock of these packages and of all that they want. Raises KeyError for one that is not locked."""
    chosen = {_name(root) for root in roots}
    for name in chosen:
        known[name]
    while more := {name for name, pin in known.items() if pin.wanted_by & chosen} - chosen:
        chosen |= more
    return _HEADER + "".join(known[name].text for name in sorted(chosen))


def for_image() -> dict[Path, str]:
    """Return the two locks of the image."""
    known = pins((ROOT / "requirements.lock").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    run = {_name(line) for extra in RUN_EXTRAS for line in extras[extra]} - {"leasehold"}
    build = {_name(line) for line in project["build-system"]["requires"]}
    return {
        Path("hack/image/run.lock"): subset(known, run),
        Path("hack/image/build.lock"): subset(known, build),
    }


def _name(text: str) -> str:
    found = _NAME.match(text)
    return found[0].lower().replace("_", "-") if found else ""
