"""The release script, on a clone of this repository: what it checks and makes, and that it does nothing unasked."""

import subprocess
import sys
from pathlib import Path

import pytest
from hack import release

ROOT = Path(__file__).resolve().parents[2]


class Repository:
    def __init__(self, path):
        self.path = path

    def git(self, *arguments):
        return subprocess.run(
            ["git", *arguments], cwd=self.path, capture_output=True, text=True, check=True
        ).stdout.strip()

    def release(self, *arguments):
        """Run the clone's own script, as people do."""
        ended = subprocess.run(
            [sys.executable, "hack/release.py", *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout, ended.stderr

    def version(self):
        return release._ASSIGNED.search((self.path / release.VERSION_FILE).read_text())[1]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """The working tree as it stands, committed: what is being worked on is what is tried."""
    path = tmp_path_factory.mktemp("snapshot") / "repository"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes((ROOT / name).read_bytes())
    made = Repository(path)
    made.git("init", "--quiet")
    made.git("config", "user.name", "somebody")
    made.git("config", "user.email", "somebody@example.com")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "snapshot")
    return made


@pytest.fixture
def repository(snapshot, tmp_path):
    subprocess.run(["git", "clone", "--quiet", str(snapshot.path), str(tmp_path / "clone")], check=True)
    made = Repository(tmp_path / "clone")
    made.git("config", "user.name", "somebody")
    made.git("config", "user.email", "somebody@example.com")
    return made


def test_unasked_it_only_says_what_it_would_do(repository):
    before = repository.git("rev-parse", "HEAD")
    code, out, err = repository.release("minor")
    assert (code, err) == (0, "")
    assert out.startswith("## 0.2.0 (")
    assert "nothing was done" in out
    assert (repository.git("status", "--porcelain"), repository.git("rev-parse", "HEAD")) == ("", before)
    assert repository.git("tag") == ""


def test_with_go_everything_is_in_one_commit_with_a_tag(repository):
    waiting = {path.name for path in (repository.path / "changelog.d").glob("*.*.md")}
    assert waiting
    code, out, err = repository.release("0.2.0", "--go", "--no-manifests")
    assert (code, err) == (0, "")
    assert "git push --follow-tags" in out
    assert repository.version() == "0.2.0"
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("log", "-1", "--format=%s") == "Release 0.2.0"
    assert repository.git("rev-parse", "v0.2.0^{commit}") == repository.git("rev-parse", "HEAD")
    assert {path.name for path in (repository.path / "changelog.d").iterdir()} == {"README.md"}
    changed = repository.git("show", "--stat", "--format=", "HEAD")
    assert "helm/leasehold/Chart.yaml" in changed, "what is generated has the new version, too"
    text = (repository.path / "CHANGELOG.md").read_text()
    assert text.startswith("# Changes\n\nWhat users can see")
    assert "\n## 0.2.0 (" in text
    assert "\n### New\n\n- " in text
    # And there is nothing left to release.
    code, _, err = repository.release("0.3.0", "--go", "--no-manifests")
    assert code == 1
    assert "nothing to release" in err


@pytest.mark.parametrize(
    ("prepare", "wanted", "why"),
    [
        (lambda r: (r.path / "new.txt").write_text("x"), "minor", "the tree is not clean"),
        (lambda r: r.git("tag", "v0.2.0"), "minor", "there is a tag v0.2.0 already"),
        (lambda r: None, "0.0.9", "0.0.9 is before 0.1.0"),
        (lambda r: None, "next", "'next' is no version"),
        (
            lambda r: (r.path / "changelog.d" / "8.novelty.md").write_text("x"),
            "minor",
            "8.novelty.md is no fragment",
        ),
        (
            lambda r: (r.path / "changelog.d" / "8.feature.md").write_text(" \n"),
            "minor",
            "8.feature.md is no fragment",
        ),
    ],
)
def test_what_must_be_done_first_is_said_and_nothing_is_done(repository, prepare, wanted, why):
    prepare(repository)
    before = repository.git("rev-parse", "HEAD")
    code, _, err = repository.release(wanted, "--go", "--no-manifests")
    assert code == 1
    assert why in err
    assert repository.git("rev-parse", "HEAD") == before


def test_generated_files_that_are_out_of_date_are_named(repository):
    page = repository.path / "docs/reference/cli.md"
    page.write_text(page.read_text() + "edited\n")
    repository.git("commit", "--quiet", "--all", "--message", "edit")
    code, _, err = repository.release("minor", "--go", "--no-manifests")
    assert code == 1
    assert "docs/reference/cli.md is out of date" in err


@pytest.mark.parametrize(
    ("current", "wanted", "version"),
    [
        ("0.1.0", "0.1.0", "0.1.0"),
        ("0.1.9", "patch", "0.1.10"),
        ("0.9.3", "minor", "0.10.0"),
        ("0.9.3", "major", "1.0.0"),
        ("1.2.3", "2.0.0", "2.0.0"),
    ],
)
def test_versions(current, wanted, version):
    assert release.bumped(current, wanted) == version


def test_sections_are_newest_first_with_what_breaks_first():
    found = [
        release.Fragment(Path("a"), 9, "feature", "Nine.\nMore of it."),
        release.Fragment(Path("b"), 10, "removal", "Gone."),
        release.Fragment(Path("c"), 8, "feature", "- Eight."),
    ]
    new = release.section("0.2.0", "2026-12-01", found)
    assert new == (
        "## 0.2.0 (2026-12-01)\n\n### Removed\n\n- Gone.\n\n### New\n\n- Eight.\n- Nine.\n  More of it.\n"
    )
    changelog = release.with_section("# Changes\n\nWords.\n", "## 0.1.0 (x)\n\n- First.\n")
    assert release.with_section(changelog, new) == (
        f"# Changes\n\nWords.\n\n{new}\n## 0.1.0 (x)\n\n- First.\n"
    )
