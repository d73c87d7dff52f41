"""The campaign's table and verdicts, without an API server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.campaign import BEGIN, END, failed, main, table, write_page
from tests.faults.experiment import LONG, SHORT, Outcome, experiments

OUTCOME = Outcome(4, "the past", "no end by it", seed=7, runs=3, delivered=12, seconds=8.4)


def test_every_outcome_is_a_row() -> None:
    *_, row = table([OUTCOME]).splitlines()
    assert row == "| 4 | the past | no end by it | 3 | 12 | 0 | 8 |"


def test_the_table_replaces_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    page.write_text(f"# Tried\n\n{BEGIN}\nstale row\n{END}\n\nMore.\n")
    write_page([OUTCOME], page)
    write_page([OUTCOME], page)
    text = page.read_text()
    assert text.startswith(f"# Tried\n\n{BEGIN}\n3 trials, seed 7, of the long form")
    assert text.endswith(f"{END}\n\nMore.\n")
    assert "stale row" not in text
    assert text.count("| 4 | the past |") == 1


def test_a_page_without_a_place_for_the_table_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    page.write_text("# Tried\n")
    with pytest.raises(SystemExit, match="no markers"):
        write_page([OUTCOME], page)
    assert page.read_text() == "# Tried\n"


def test_what_broke_a_promise_or_tried_nothing_failed() -> None:
    assert not failed(OUTCOME)
    assert failed(Outcome(4, "", "", 7, delivered=12, violations=["token at revision 3: twice"]))
    assert failed(Outcome(4, "", "", 7, delivered=0))


def test_an_unknown_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "99"])
    assert "there is no experiment [99]" in capsys.readouterr().err


def test_experiments_say_what_they_are() -> None:
    found = experiments()
    assert list(found) == sorted(found)
    assert all(one.name and one.invariant for one in found.values())
    assert (SHORT.pick(1, 2), LONG.pick(1, 2)) == (1, 2)
