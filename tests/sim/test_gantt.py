"""The picture: valid XML, everything in its place, and the same however many leases there are."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.core.request import Request, Shape
from leasehold.core.timeline import Timeline
from leasehold.sim import scenario
from leasehold.sim.curve import BINS, Curve
from leasehold.sim.engine import replay
from leasehold.sim.gantt import MOST, Picture
from leasehold.sim.job import Finished, Job
from leasehold.sim.pools import default_spec, machine, nodes_of, pool_of
from leasehold.sim.scenario import PoolChoice

SVG = "{http://www.w3.org/2000/svg}"


def job(
    serial: int, processors: int, submit: int = 0, run: int = 1000, owner: str = "me", name: str = ""
) -> Job:
    request = Request(f"{serial}", (serial,), Shape("", (processors,), span=run))
    return Job(request, name or f"job {serial}", owner, submit, run, processors)


def drawn(jobs: list[Job], processors: int = 16, **how: int) -> ElementTree.Element:
    pool = machine(processors, "easy")
    picture = Picture(pool, "a <title> & more", **how)
    replay(Timeline(pool.table, pool.policy), jobs, [picture])
    return ElementTree.fromstring(picture.svg())


def boxes(svg: ElementTree.Element) -> list[ElementTree.Element]:
    return [path for path in svg.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None]


def texts(svg: ElementTree.Element) -> list[str]:
    return [found.text or "" for found in svg.iter(f"{SVG}text")]


def test_every_lease_is_a_box_with_its_story() -> None:
    svg = drawn([job(1, 16, run=7_200_000), job(2, 4, run=90_000)])
    assert [box.findtext(f"{SVG}title") for box in boxes(svg)] == [
        "job 1 (me): 16 processors for 2.0 h, after waiting 0 s",
        "job 2 (me): 4 processors for 1.5 min, after waiting 2.0 h",
    ]


def test_names_are_escaped_and_what_xml_forbids_is_replaced() -> None:
    svg = drawn([job(1, 1, owner="<b>&\x00\ud800", name='"</svg>')])
    assert "<b>&��" in texts(svg)
    assert "a <title> & more" in texts(svg)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 16), st.integers(0, 50), st.integers(1, 30)), min_size=1, max_size=30)
)
def test_boxes_never_overlap(rows: list[tuple[int, int, int]]) -> None:
    pool = machine(16, "easy")
    picture = Picture(pool, "t")
    order = sorted(rows, key=lambda row: row[1])
    replay(
        Timeline(pool.table, pool.policy),
        [job(i, p, s * 1000, r * 1000) for i, (p, s, r) in enumerate(order)],
        [picture],
    )
    laid = [(found, low, high) for found, parts in picture._laid([0, 16]) for low, high in parts]
    assert sum((high - low) * (found.end - found.start) for found, low, high in laid) == sum(
        p * r * 1000 for p, _, r in rows
    )
    for i, (one, low, high) in enumerate(laid):
        assert 0 <= low < high <= 16
        for other, under, over in laid[i + 1 :]:
            in_time = one.start < other.end and other.start < one.end
            assert not (in_time and low < over and under < high)


def test_a_picture_holds_a_few_thousand_boxes_and_says_so() -> None:
    pool = machine(16, "easy")
    picture = Picture(pool, "t")
    for i in range(2 * MOST):
        picture.ended(Finished(job(i, 1 + i % 16), i * 1000, (i + 1) * 1000, (0,)))
    assert len(picture._kept) == MOST
    svg = ElementTree.fromstring(picture.svg())
    assert len(boxes(svg)) == MOST
    assert any("2,500 largest of 5,000" in text for text in texts(svg))


def test_few_nodes_are_named_and_many_are_numbered() -> None:
    for nodes, label in (("3x cpu=4,memory=4Gi", "node-1"), ("100x cpu=4,memory=4Gi", "nodes")):
        found = scenario.of_nothing(50, PoolChoice(nodes=(nodes,)), 1, 90)
        picture = Picture(found.pool, "t")
        replay(Timeline(found.pool.table, found.pool.policy), found.jobs, [picture])
        assert label in texts(ElementTree.fromstring(picture.svg()))


@pytest.mark.parametrize(
    ("origin", "run", "label"),
    [
        (0, 10 * 86_400_000, "6 Jan"),
        (0, 3_600_000, "1 Jan 00:30"),
        (1_795_348_800_000, 2_000 * 86_400_000, " 2027"),
        (0, 8_000, "00:00:05"),
        (None, 10 * 86_400_000, "day 6"),
        (None, 7_200_000, "30 min"),
        (None, 86_400_000, "12 h"),
        (None, 8_000, "5 s"),
    ],
)
def test_time_is_told_in_dates_where_they_mean_something(origin, run, label) -> None:
    svg = drawn([job(1, 1, run=run)], origin=origin)
    assert any(label in text for text in texts(svg))


def test_a_picture_of_nothing_is_a_picture() -> None:
    pool = machine(16, "easy")
    assert ElementTree.fromstring(Picture(pool, "t").svg()).tag == f"{SVG}svg"


def test_boxes_lie_on_their_nodes() -> None:
    pool = pool_of("p", default_spec(("cpu",)), nodes_of("2x cpu=4"))
    picture = Picture(pool, "t")
    shape = Shape("", (1_000,), slices=3)
    spread = Job(Request("1", (1,), shape), "a", "me", 0, 1000, 3_000)
    picture.ended(Finished(spread, 0, 1000, (0, 1, 1)))
    assert list(picture._laid([0, 4_000, 8_000])) == [
        (Finished(spread, 0, 1000, (0, 1, 1)), [(0, 1_000), (4_000, 6_000)])
    ]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5_000), st.integers(0, 9)), min_size=1, max_size=60))
def test_a_curve_keeps_the_area_whatever_its_length(steps: list[tuple[int, int]]) -> None:
    curve = Curve(100)
    at = 100
    for length, value in steps:
        curve.add(at, at + length, value)
        at += length
    points = curve.points(at)
    assert len(points) <= BINS
    ends = [begin for begin, _ in points[1:]] + [at]
    area = sum(value * (end - begin) for (begin, value), end in zip(points, ends, strict=True))
    assert area == pytest.approx(sum(length * value for length, value in steps))


def test_the_picture_in_the_docs_is_one_of_ours() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulate.svg").read_text()
    assert re.search(r"http(?!://www\.w3\.org/2000/svg)", text) is None
    assert ElementTree.fromstring(text).tag == f"{SVG}svg"
