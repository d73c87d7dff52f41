"""Makes a release: checks, bumps the version, collates changelog.d/ into CHANGELOG.md, generates, commits and tags.

    python hack/release.py minor            say what would be done, and do nothing
    python hack/release.py 0.2.0 --go       do it

Nothing is pushed: what it made can be looked at first, and undone by `git reset --hard HEAD~1; git tag -d vX.Y.Z`.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
VERSION_FILE: Final = Path("operator/leasehold/__init__.py")
CHANGELOG: Final = Path("CHANGELOG.md")
FRAGMENTS: Final = Path("changelog.d")

KINDS: Final[Mapping[str, str]] = {
    "removal": "Removed",
    "feature": "New",
    "bugfix": "Fixed",
    "doc": "Documentation",
    "misc": "Other",
}
"""The kinds of fragments in the order of a section, with their headings. What breaks somebody comes first."""

_VERSION: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_ASSIGNED: Final = re.compile(r'^__version__ = "([^"]*)"$', re.MULTILINE)
_FRAGMENT: Final = re.compile(r"(?P<issue>\d+)\.(?P<kind>[a-z]+)(?:\.\d+)?\.md")
_SECTION: Final = re.compile(r"^## ", re.MULTILINE)


class ReleaseError(Exception):
    """No release can be made; the message says what to do first."""


class Fragment(NamedTuple):
    """One entry of the changelog to be."""

    path: Path
    issue: int
    kind: str
    text: str


def bumped(current: str, wanted: str) -> str:
    """Return the version to release: the one that is named, or the next of a part. Raises ReleaseError."""
    found = _VERSION.fullmatch(current)
    if found is None:
        raise ReleaseError(f"{VERSION_FILE} has version {current!r}, which is not X.Y.Z; correct it")
    major, minor, patch = map(int, found.groups())
    parts = {
        "major": f"{major + 1}.0.0",
        "minor": f"{major}.{minor + 1}.0",
        "patch": f"{major}.{minor}.{patch + 1}",
    }
    version = parts.get(wanted, wanted)
    named = _VERSION.fullmatch(version)
    if named is None:
        raise ReleaseError(f"{wanted!r} is no version: give X.Y.Z, or one of {', '.join(parts)}")
    # The first release is of the version that stands there.
    if tuple(map(int, named.groups())) < (major, minor, patch):
        raise ReleaseError(f"{version} is before {current}; give a later one")
    return version


def fragments(root: Path) -> list[Fragment]:
    """Return what waits for a release. Raises ReleaseError for a file that is none, and where nothing waits."""
    found = []
    for path in sorted((root / FRAGMENTS).iterdir()):
        if path.name == "README.md":
            continue
        named = _FRAGMENT.fullmatch(path.name)
        text = path.read_text(encoding="utf-8").strip()
        if named is None or named["kind"] not in KINDS or not text:
            raise ReleaseError(
                f"{FRAGMENTS / path.name} is no fragment: name it NUMBER.KIND.md with a KIND of {', '.join(KINDS)}, "
                "and say in it what changes"
            )
        found.append(Fragment(path.relative_to(root), int(named["issue"]), named["kind"], text))
    if not found:
        raise ReleaseError(f"there is nothing in {FRAGMENTS}, so there is nothing to release")
    return found


def section(version: str, date: str, found: Iterable[Fragment]) -> str:
    """Return a section of the changelog."""
    known = sorted(found, key=lambda one: (one.issue, str(one.path)))
    parts = [f"## {version} ({date})\n"]
    for kind, heading in KINDS.items():
        entries = [_entry(one.text) for one in known if one.kind == kind]
        if entries:
            parts.append(f"### {heading}\n\n" + "".join(entries))
    return "\n".join(parts)


def _entry(text: str) -> str:
    first, *rest = text.splitlines()
    return "".join([f"- {first.removeprefix('- ')}\n", *(f"  {line}".rstrip() + "\n" for line in rest)])


def with_section(changelog: str, new: str) -> str:
    """Return the changelog with a section before all others."""
    at = _SECTION.search(changelog)
    head, rest = (changelog, "") if at is None else (changelog[: at.start()], changelog[at.start() :])
    return f"{head.rstrip()}\n\n{new}" + (f"\n{rest}" if rest else "")


def _today() -> str:
    return datetime.now(UTC).date().isoformat()  # noqa: TID251 - a date for people


class Release:
    """One release of a repository."""

    def __init__(self, root: Path, wanted: str, *, manifests: bool = True) -> None:
        self._root = root
        source = (root / VERSION_FILE).read_text(encoding="utf-8")
        assigned = _ASSIGNED.search(source)
        if assigned is None:
            raise ReleaseError(f"{VERSION_FILE} has no __version__")
        self.version = bumped(assigned[1], wanted)
        self.tag = f"v{self.version}"
        self.fragments = fragments(root)
        self.section = section(self.version, _today(), self.fragments)
        self._source = _ASSIGNED.sub(f'__version__ = "{self.version}"', source)
        self._manifests = manifests

    def check(self) -> None:
        """Raise ReleaseError where something must be done first."""
        changed = self._git("status", "--porcelain")
        if changed:
            raise ReleaseError(f"the tree is not clean; commit or remove what is there:\n{changed.rstrip()}")
        if self._git("tag", "--list", self.tag):
            raise ReleaseError(f"there is a tag {self.tag} already; give a later version")
        text = (self._root / CHANGELOG).read_text(encoding="utf-8")
        if f"\n## {self.version} " in text:
            raise ReleaseError(f"{CHANGELOG} has a section {self.version} already")
        self._run(sys.executable, "hack/generate.py", "--check", wrong="generated files are out of date")

    def make(self) -> None:
        """Do it: everything in one commit, and a tag on it."""
        (self._root / VERSION_FILE).write_text(self._source, encoding="utf-8")
        path = self._root / CHANGELOG
        path.write_text(with_section(path.read_text(encoding="utf-8"), self.section), encoding="utf-8")
        self._git("rm", "--quiet", *(str(one.path) for one in self.fragments))
        self._run(sys.executable, "hack/generate.py", wrong="generating failed")
        if self._manifests:
            self._run(sys.executable, "hack/generate.py", "--manifests", wrong="rendering manifests/ failed")
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", f"Release {self.version}")
        self._git("tag", "--annotate", self.tag, "--message", f"Leasehold {self.version}")

    def _git(self, *arguments: str) -> str:
        return self._run("git", *arguments, wrong=f"git {arguments[0]} failed")

    def _run(self, *command: str, wrong: str) -> str:
        ended = subprocess.run(command, cwd=self._root, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise ReleaseError(f"{wrong}:\n{(ended.stdout + ended.stderr).strip()}")
        return ended.stdout


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Make a release, or say what it would be; return the exit code."""
    parser = argparse.ArgumentParser(description="Make a release.")
    parser.add_argument("version", help="X.Y.Z, or patch, minor or major")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="say what would be done (this is the default)")
    how.add_argument("--go", action="store_true", help="do it: commit and tag, and push nothing")
    parser.add_argument(
        "--no-manifests", action="store_true", help="leave manifests/ as they are: they need Helm"
    )
    options = parser.parse_args(arguments)
    try:
        release = Release(root, options.version, manifests=not options.no_manifests)
        release.check()
        print(release.section)
        if not options.go:
            print(
                f"nothing was done; with --go: a commit with this and version {release.version}, and its tag"
            )
            return 0
        release.make()
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(f"made {release.tag}; look at it (git show {release.tag}), then: git push --follow-tags")
    return 0


if __name__ == "__main__":
    sys.exit(main())
