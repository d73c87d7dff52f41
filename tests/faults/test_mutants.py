"""The mutants still fit the code, and are really made and found: the rest is `make mutants`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.faults.campaign import put_table
from tests.faults.experiment import experiments
from tests.faults.mutants import (
    BEGIN,
    END,
    MUTANTS,
    ROOT,
    Finding,
    Mutant,
    apply,
    copy_of_the_tree,
    promise_of,
    run_tests,
    table,
    verdict,
)


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


def test_the_campaign_is_to_find_all_but_those_that_say_why_not() -> None:
    known = experiments()
    for mutant in MUTANTS:
        assert bool(mutant.experiments) != bool(mutant.unseen), mutant.name
        assert set(mutant.experiments) <= known.keys(), mutant.name
    assert sum(bool(mutant.experiments) for mutant in MUTANTS) >= 15


@pytest.mark.parametrize(
    ("violation", "promise"),
    [
        ("trial 2: capacity at revision 7: CapacityLease s/x: node n1 holds 8", "nothing twice (capacity)"),
        ("trial 12: at rest at the end: pool p: nobody leads it", "rest (at rest)"),
        ("trial 1: fight: a third party flips it: 200 writes", "no fight (fight)"),
        ("trial 1: story: not within 30 s: it is ready", "rest (story)"),
        ("script: StopIteration()", "rest (story)"),
    ],
)
def test_a_violation_is_read_as_the_promise_that_it_broke(violation: str, promise: str) -> None:
    assert promise_of(violation) == promise


def test_what_was_found_is_told_in_a_table_with_the_reasons_for_the_rest(tmp_path: Path) -> None:
    seen = next(mutant for mutant in MUTANTS if mutant.experiments)
    unseen = next(mutant for mutant in MUTANTS if mutant.unseen)
    text = table([Finding(seen, 8, "nothing early (renewal)", "trial 1: ...", 31.6)], [unseen])
    assert f"| {seen.name} | {seen.comes_to} | 8 | nothing early (renewal) | 32 |" in text
    assert unseen.unseen in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_table(page, BEGIN, END, text)
    assert page.read_text() == f"before\n{BEGIN}\n{text}\n{END}\nafter\n"


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
