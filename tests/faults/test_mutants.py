"""The mutants still fit the code, and are really made and found: the rest is `make mutants`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.faults.mutants import MUTANTS, ROOT, Mutant, apply, copy_of_the_tree, run_tests, verdict


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_applies_and_is_python(mutant: Mutant, tmp_path: Path) -> None:
    for edit in mutant.edits:
        place = tmp_path / edit.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text((ROOT / edit.file).read_text())
    apply(mutant, tmp_path)
    for edit in mutant.edits:
        changed = (tmp_path / edit.file).read_text()
        ast.parse(changed)
        assert changed != (ROOT / edit.file).read_text()


def test_there_are_enough_and_each_names_tests_that_exist() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 12
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert not name or f"def {name.partition('[')[0]}(" in text, f"there is no {test}"


def test_a_text_that_moved_is_told(tmp_path: Path) -> None:
    edit = MUTANTS[0].edits[0]
    (tmp_path / edit.file).parent.mkdir(parents=True)
    (tmp_path / edit.file).write_text(edit.old * 2)
    with pytest.raises(ValueError, match="2 times, not once"):
        apply(MUTANTS[0], tmp_path)


def test_a_mistake_is_found_where_it_was_made_and_only_there() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "a-second-early")
    with copy_of_the_tree() as place:
        assert verdict(run_tests(place, mutant.tests)) == "SURVIVED"
        apply(mutant, place)
        assert verdict(run_tests(place, mutant.tests)).startswith(
            "caught by test_a_lease_is_held_to_the_last"
        )
        assert verdict(run_tests(place, ["tests/no_such_test.py"])).startswith("NOTHING LEARNED")
