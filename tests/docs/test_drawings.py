"""Drawings are well-formed, say what they show to who cannot see them, and nothing sticks out of them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hack import drawings
from tests.docs.blocks import PAGES, ROOT

SVG = "{http://www.w3.org/2000/svg}"
WIDTHS = {"title": 8.6, "": 7.4, "small": 6.9, "over": 6.9}
"""Pixels of a letter, in a wide font."""

ROOTS = {name: ElementTree.fromstring(text) for name, text in drawings.files()}


def spans(root: ElementTree.Element) -> list[tuple[str, float, float]]:
    """Each text, and from where to where it goes."""
    found = []
    for text in root.iter(f"{SVG}text"):
        words, x = text.text or "", float(text.attrib["x"])
        width = len(words) * WIDTHS[text.attrib.get("class", "")]
        start = {"start": x, "middle": x - width / 2, "end": x - width}[text.attrib["text-anchor"]]
        found.append((words, start, start + width))
    return found


@pytest.mark.parametrize("name", ROOTS)
def test_a_drawing_says_what_it_shows(name: str) -> None:
    title = ROOTS[name].find(f"{SVG}title")
    assert title is not None
    assert len((title.text or "").split()) > 10


@pytest.mark.parametrize("name", ROOTS)
def test_no_words_stick_out_of_a_drawing(name: str) -> None:
    width = float(ROOTS[name].attrib["width"])
    assert [words for words, start, end in spans(ROOTS[name]) if start < 0 or end > width] == []


@pytest.mark.parametrize("name", ROOTS)
def test_words_fit_into_their_box(name: str) -> None:
    boxes = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in ROOTS[name].iter(f"{SVG}rect")
        if rect.attrib["class"] not in ("ground", "room")
    ]
    texts = list(ROOTS[name].iter(f"{SVG}text"))
    for (words, start, end), text in zip(spans(ROOTS[name]), texts, strict=True):
        middle, y = (start + end) / 2, float(text.attrib["y"])
        for x, top, width, height in boxes:
            if x < middle < x + width and top < y < top + height:
                assert x - 4 <= start, words
                assert end <= x + width + 4, words


@pytest.mark.parametrize("name", ROOTS)
def test_a_drawing_can_be_read_in_the_dark(name: str) -> None:
    """Every colour of the light has one for the dark."""
    style = ROOTS[name].find(f"{SVG}style")
    assert style is not None
    assert style.text is not None
    light, _, dark = style.text.partition("@media (prefers-color-scheme: dark)")
    coloured = {kind for kind, rule in re.findall(r"([.\w]+) \{([^}]*)\}", light) if "#" in rule}
    assert coloured == {kind for kind, rule in re.findall(r"([.\w]+) \{([^}]*)\}", dark) if "#" in rule}


def test_every_drawing_is_shown_somewhere() -> None:
    shown = {
        name for page in PAGES for name in re.findall(r"!\[[^\]]+\]\(drawings/(\w+)\.svg\)", page.read_text())
    }
    assert shown == set(ROOTS) == {path.stem for path in (ROOT / "docs" / "drawings").glob("*.svg")}
