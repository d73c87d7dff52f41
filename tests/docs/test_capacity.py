"""The example on the page about capacity is what the operator would work out."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT

from leasehold.core.capacity import Row
from leasehold.core.nodes import Verdict

PAGE = (ROOT / "docs" / "capacity.md").read_text()


def shown(label: str) -> int:
    found = re.search(rf"^\| \**{label}[^|]*\| \**(\d+)\** \|$", PAGE, re.MULTILINE)
    assert found is not None, label
    return int(found[1])


def free(limit: int, held: int, used: int, outside: int) -> int:
    verdict = Verdict(
        total=(shown("total"),),
        limit=(limit,),
        used=(used,),
        unmanaged=(outside,),
        use_permille=0,
        reason="",
        pressured=frozenset(),
        revisit_at=None,
    )
    (found,) = Row(labels={}, verdict=verdict, held=(held,)).free()
    return found


def test_the_sum_comes_out_as_the_page_says() -> None:
    limit, held, outside = shown("limit"), shown("held"), shown("outside leases")
    assert free(limit, held, 2600, outside) == shown("free") == 2800


def test_so_it_does_without_attribution() -> None:
    said = re.search(r"7500 − max\(4000, 2600\) = (\d+)", PAGE)
    assert said is not None
    assert free(shown("limit"), shown("held"), 2600, 0) == int(said[1])
