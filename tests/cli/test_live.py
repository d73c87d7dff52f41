"""`top --live` on a screen of textual's own making."""

import asyncio
from types import SimpleNamespace

import pytest

from leasehold.adapters.lean_http import UnreachableError
from leasehold.cli import live
from leasehold.cli.figures import NODE_HEADINGS, POOL_HEADINGS, Figures

POOL = ("ci", "cpu", "4", "1", "3", "3", "25%", "1", "0", "True")
NODE = ("a", "500m", "12%", "1Gi", "12%", "0%", "1", "3s ago", "True")


@pytest.fixture
def looks(monkeypatch):
    """What each look finds, in turn; the last one again and again."""
    found = [Figures([POOL], [NODE])]
    asked = []

    def look(cluster, what, names, selector):
        asked.append((what, names, selector))
        answer = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(live, "look", look)
    return SimpleNamespace(found=found, asked=asked)


def app(what="", interval=60.0):
    cluster = SimpleNamespace(access=SimpleNamespace(context="dev"))
    return live.Top(cluster, what, (), "", interval)


async def shown(top, pilot, test):
    async with asyncio.timeout(20):
        while not test():
            await pilot.pause(0.02)
    return top


def rows(top, name):
    table = top.query_one(f"#{name}", live.DataTable)
    return [tuple(str(cell) for cell in table.get_row_at(n)) for n in range(table.row_count)]


async def test_both_tables_are_on_the_screen_and_q_ends_it(looks):
    top = app()
    async with top.run_test(size=(120, 40)) as pilot:
        await shown(top, pilot, lambda: rows(top, "pools") == [POOL])
        assert rows(top, "nodes") == [NODE]
        headings = [str(column.label) for column in top.query_one("#pools", live.DataTable).columns.values()]
        assert tuple(headings) == POOL_HEADINGS
        assert top.sub_title == "dev"
        await pilot.press("q")
    assert top.return_code == 0


async def test_only_nodes_where_only_they_are_asked_for(looks):
    top = app("nodes")
    async with top.run_test(size=(120, 40)) as pilot:
        await shown(top, pilot, lambda: rows(top, "nodes") == [NODE])
        assert not top.query("#pools")
        assert len(NODE_HEADINGS) == len(NODE)
    assert looks.asked[0][0] == "nodes"


async def test_a_server_that_does_not_answer_is_told_and_the_old_figures_stay(looks):
    looks.found.append(UnreachableError("nobody there: [Errno 111] [/red] refused"))
    top = app()
    async with top.run_test(size=(120, 40)) as pilot:
        await shown(top, pilot, lambda: rows(top, "pools") == [POOL])
        await pilot.press("r")
        said = top.query_one("#said", live.Static)
        await shown(top, pilot, lambda: "[Errno 111] [/red] refused" in str(said.render()))
        assert rows(top, "pools") == [POOL]


async def test_paused_it_looks_no_more(looks):
    top = app(interval=0.05)
    async with top.run_test(size=(120, 40)) as pilot:
        await shown(top, pilot, lambda: len(looks.asked) > 2)
        await pilot.press("p")
        await shown(top, pilot, lambda: top.sub_title == "paused")
        await top.workers.wait_for_complete()
        asked = len(looks.asked)
        await pilot.press("r")
        await pilot.pause(0.3)
        assert len(looks.asked) == asked
