"""What people see: tables as kubectl's, ages as kubectl's, and nothing that a terminal would act on."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.cli.output import (
    Table,
    age,
    clock,
    json_text,
    moment,
    plain,
    resources,
    span,
    styled,
    yaml_text,
)

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86_400, 365 * 86_400


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (9 * MINUTE + 59, "9m59s"),
        (10 * MINUTE + 59, "10m"),
        (179 * MINUTE, "179m"),
        (3 * HOUR, "3h"),
        (7 * HOUR + 5 * MINUTE, "7h5m"),
        (8 * HOUR + 59 * MINUTE, "8h"),
        (47 * HOUR, "47h"),
        (2 * DAY, "2d"),
        (7 * DAY + 23 * HOUR, "7d23h"),
        (8 * DAY + HOUR, "8d"),
        (729 * DAY, "729d"),
        (2 * YEAR, "2y"),
        (2 * YEAR + 40 * DAY, "2y40d"),
        (9 * YEAR + 40 * DAY, "9y"),
    ],
)
def test_lengths_of_time_are_written_as_kubectl_does(seconds, shown):
    """The examples are those of HumanDuration in k8s.io/apimachinery, at its edges."""
    assert span(seconds) == shown


@given(st.floats(min_value=0, max_value=1e10), st.floats(min_value=0, max_value=1e10))
def test_a_longer_time_is_never_written_as_a_shorter_one(one, two):
    def least(text):
        units = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "y": YEAR}
        total, number = 0, ""
        for letter in text:
            if letter.isdigit():
                number += letter
            else:
                total += int(number) * units[letter]
                number = ""
        return total

    shorter, longer = sorted((one, two))
    assert least(span(shorter)) <= least(span(longer)) <= longer


def test_ages_and_times_that_cannot_be_read_are_no_error():
    assert age("2026-11-28T10:00:00Z", moment("2026-11-28T10:05:00.5Z")) == "5m"
    assert age(None, 0) == "<unknown>"
    assert moment("soon") is None
    assert clock("soon", 0) == "<none>"


def test_a_time_on_the_day_of_now_is_told_without_its_date_whatever_day_it_is():
    at = "2001-02-03T12:00:00Z"
    assert clock(at, moment(at)).count("-") == 0
    assert clock(at, moment(at) + 86400).startswith("2001-02-0")
    assert clock(at, moment(at) - 86400).startswith("2001-02-0")


class TestTables:
    def written(self, *batches, **options):
        stream = io.StringIO()
        table = Table(("NAME", "AGE"), stream, **options)
        for batch in batches:
            table.write(batch)
        return stream.getvalue().splitlines()

    def test_columns_are_aligned_and_lines_end_with_their_last_cell(self):
        assert self.written([("a", "1s"), ("longer", "12m")]) == [
            "NAME     AGE",
            "a        1s",
            "longer   12m",
        ]

    def test_later_rows_keep_the_widths_of_earlier_ones(self):
        assert self.written([("longer", "1s")], [("a", "2s")], [("very-much-longer", "3s")]) == [
            "NAME     AGE",
            "longer   1s",
            "a        2s",
            "very-much-longer   3s",
        ]

    def test_without_headings_their_widths_do_not_count(self):
        assert self.written([("a", "1s")], headed=False) == ["a   1s"]

    def test_letters_that_take_two_columns_or_none_are_counted_so(self):
        assert self.written([("ab", "1s"), ("借用", "2s"), ("e\u0301a", "3s")]) == [
            "NAME   AGE",
            "ab     1s",
            "借用   2s",
            "e\u0301a     3s",
        ]

    def test_what_others_wrote_cannot_steer_the_terminal(self):
        (_, row) = self.written([("\x1b[31mred\r\n", "1s")])
        assert row == "\\x1b[31mred\\x0d\\x0a   1s"

    @given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
    def test_each_row_is_one_line_whatever_is_in_it(self, rows):
        assert len(self.written(rows)) == 1 + len(rows)


def test_lines_stay_where_they_are_meant():
    assert plain("one\ntwo\x07", lines=True) == "one\ntwo\\x07"


class TestStyles:
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def test_on_a_terminal_there_are_colours_unless_nobody_wants_any(self, monkeypatch):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        assert styled("x", "bad", self.Terminal()) == "\x1b[31mx\x1b[0m"
        monkeypatch.setenv("NO_COLOR", "1")
        assert styled("x", "bad", self.Terminal()) == "x"

    @pytest.mark.parametrize(("term", "stream"), [("dumb", Terminal()), ("xterm", io.StringIO())])
    def test_elsewhere_there_are_none(self, monkeypatch, term, stream):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", term)
        assert styled("x", "bad", stream) == "x"


def test_documents_are_written_for_programs():
    assert json_text({"a": 1}) == '{\n    "a": 1\n}\n'
    assert yaml_text({"b": "yes", "a": [1]}) == "a:\n- 1\nb: 'yes'\n"
    # To kubectl, which may be given it again, these are no texts unless they are quoted.
    for text in ("y", "N", "1e9", "1.5E+3", ".5e1", "0o17"):
        assert yaml_text({"a": text}) == f"a: '{text}'\n"
    assert yaml_text({"a": "4Gi", "b": "500m", "c": "1e", "d": "yn"}) == "a: 4Gi\nb: 500m\nc: 1e\nd: yn\n"
    assert resources({"cpu": "2", "memory": "4Gi"}) == "cpu=2,memory=4Gi"
    assert resources(None) == "<none>"
