import shutil
from pathlib import Path

import pytest
import yaml
from hack import generate

from leasehold.api import crd


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what is committed, to be changed at will."""
    for path in generate.generated():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(generate.ROOT / path, tmp_path / path)
    return tmp_path


def test_what_is_committed_is_what_the_models_say(capsys: pytest.CaptureFixture[str]) -> None:
    status = generate.main(["--check"])
    assert (status, capsys.readouterr().out) == (0, "")


def test_a_changed_file_and_a_missing_one_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "crds/capacitypools.yaml").write_text("# edited\n")
    (root / "docs/reference/api.md").unlink()
    assert generate.main(["--check"], root) == 1
    out = capsys.readouterr().out
    assert "crds/capacitypools.yaml is out of date" in out
    assert "docs/reference/api.md is out of date" in out
    assert "capacityleases" not in out
    assert (root / "crds/capacitypools.yaml").read_text() == "# edited\n", "--check must not write"


def test_a_crd_that_no_model_makes_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "crds/forgotten.yaml").write_text("{}")
    assert generate.main(["--check"], root) == 1
    assert "crds/forgotten.yaml is not generated" in capsys.readouterr().out


def test_writing_restores_what_differs_and_touches_nothing_else(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "crds/capacitypools.yaml").write_text("# edited\n")
    assert generate.main([], root) == 0
    assert capsys.readouterr().out == "wrote crds/capacitypools.yaml\n"
    assert generate.main(["--check"], root) == 0


def test_manifests_read_back_as_what_was_written() -> None:
    for kind in crd.KINDS:
        text = generate.generated()[Path(f"crds/{kind.info.plural}.yaml")]
        assert text.startswith("# Generated from")
        assert yaml.safe_load(text) == crd.document(kind)
    policy = generate.generated()[Path("crds/finalizer-policy.yaml")]
    assert list(yaml.safe_load_all(policy)) == crd.release_finalizer_policy()


def test_the_reference_names_every_field_once() -> None:
    page = generate.page()
    for field in (
        "spec.nodeSelector",
        "spec.leasePolicy.idle.belowPercent",
        "status.ledger.inFlight[].nodes",
    ):
        assert page.count(f"| `{field}` |") == 1
    assert "| `spec.liveness` | one of `None`, `Renew`, `Session` | `None` |" in page
    assert "| `Allocated` | `False` | `WaitingForCapacity` |" in page
