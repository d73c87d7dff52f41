"""The commit protocol, searched through every interleaving of two operators, their crashes and stale caches.

A search is no proof for every size. But whichever rule is taken away, the search finds what breaks, so it has power;
and its steps are the methods of the code, so it speaks of what is shipped.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.core.protocol.model import METHODS, Found, Variant, new_pool, search
from tests.core.protocol.world import (
    DOUBLE,
    EARLY,
    HELD,
    HOLDER,
    LOST,
    ORPHAN,
    PROMISE,
    STALE,
    TOKEN,
    VANISHED,
    Entry,
    Lease,
    Pool,
    World,
)

from leasehold.adapters import pool

WHOLE = Variant()
WITHOUT_CLOCKS = WHOLE._replace(checks_leadership=False)
"""Nobody's idea of who leads is trusted: an operator that was overtaken goes on until it finds out."""
WITHOUT_LOOKS = WHOLE._replace(rechecks_epoch=False, heeds_fence=False)
"""Who leads by the clock is trusted instead: no request is sent once another was elected."""

_HELD = Lease(HELD, term=1, token=1)
_LONGER = _HELD._replace(term=2)

STORIES: dict[str, World] = {
    "two leases, room for one": new_pool(Lease(), Lease()),
    "two leases, three take-overs": new_pool(Lease(), Lease(), take_overs=3),
    "two leases, an answer lost": new_pool(Lease(), Lease(), lost_answers=1),
    "two leases, one changes its mind": new_pool(Lease(), Lease(), wishes=("change 0",)),
    "one lease, changed, three take-overs": new_pool(Lease(), take_overs=3, wishes=("change 0",)),
    "no finalizer, deleted": new_pool(Lease(finalizer=False), wishes=("delete 0",)),
    "a term ends or is renewed": new_pool(_HELD, Lease(), ticks=1, wishes=("renew 0",)),
    "a term ends, three take-overs": new_pool(_HELD, Lease(), ticks=1, wishes=("renew 0",), take_overs=3),
    "a term ends, an answer lost": new_pool(_HELD, Lease(), ticks=1, wishes=("renew 0",), lost_answers=1),
    "given back": new_pool(_HELD, Lease(), wishes=("release 0",)),
    "deleted while held": new_pool(_HELD, Lease(), wishes=("delete 0",)),
    "the pool is deleted": new_pool(_HELD, Lease(), wishes=("drain 0",), take_overs=3),
    "a promised start": new_pool(_LONGER, Lease(start=2), ticks=1, wishes=("renew 0",)),
    "a promise made again, an answer lost": new_pool(
        *(_LONGER, Lease(start=2)), ticks=1, wishes=("renew 0", "change 1"), lost_answers=1, take_overs=1
    ),
    "a promise behind a grant": new_pool(Lease(), Lease(start=2), ticks=1, take_overs=1),
    "some of a lease, which is given back": new_pool(_LONGER, Lease(parent=0), wishes=("release 0",)),
    "some of a lease, half done": new_pool(_LONGER, Lease(parent=0), wishes=("release 0",))._replace(
        pool=Pool(version=3, epoch=1, sequence=2, in_flight=(Entry(1, 2, 0, 0, 1, 2, 0),))
    ),
    "some of a lease, its term ends": new_pool(_HELD, Lease(parent=0), ticks=1),
    "two want some of a lease": new_pool(_LONGER, Lease(parent=0), Lease(parent=0)),
    "handed over twice": new_pool(_LONGER, wishes=("hand 0", "hand 0")),
    "handed over, an answer lost": new_pool(_LONGER, wishes=("hand 0", "release 0"), lost_answers=1),
    "a promise that arrives late": new_pool(_LONGER._replace(asked=1), Lease(start=2), now=1, lost_answers=1),
}


@cache
def played(variant: Variant, story: str) -> Found:
    return search(variant, STORIES[story])


@pytest.mark.parametrize("story", STORIES)
def test_nothing_breaks_in_any_interleaving_whatever_clocks_say(story: str) -> None:
    found = played(WITHOUT_CLOCKS, story)
    assert not found.broken, f"{found.broken}: {' | '.join(found.way)}"
    assert found.states > 200, "the search looked at too little to mean anything"


@pytest.mark.parametrize(
    "story", ["two leases, one changes its mind", "a term ends, three take-overs", "a promised start"]
)
def test_an_election_whose_clocks_can_be_trusted_spares_the_looks(story: str) -> None:
    found = played(WITHOUT_LOOKS, story)
    assert not found.broken, f"{found.broken}: {' | '.join(found.way)}"


class Weaker(NamedTuple):
    """A protocol without one of its rules, where that matters, and what breaks."""

    missing: str
    story: str
    breaks: str
    of: Variant = WHOLE

    @property
    def variant(self) -> Variant:
        return self.of._replace(**{self.missing: False})


WEAKER = [
    Weaker("raises_epoch", "two leases, room for one", DOUBLE, WITHOUT_CLOCKS),
    Weaker("raises_epoch_before_list", "two leases, room for one", DOUBLE, WITHOUT_CLOCKS),
    Weaker("rechecks_epoch", "two leases, room for one", DOUBLE, WITHOUT_CLOCKS),
    Weaker("heeds_fence", "a promised start", PROMISE, WITHOUT_CLOCKS),
    Weaker("checks_leadership", "two leases, room for one", DOUBLE, WITHOUT_LOOKS),
    Weaker("checks_leadership", "a promised start", PROMISE, WITHOUT_LOOKS),
    Weaker("lists_before_deciding", "a term ends or is renewed", DOUBLE),
    Weaker("keeps_in_flight", "two leases, room for one", DOUBLE),
    Weaker("writes_inherited_first", "two leases, room for one", LOST),
    Weaker("versions_lease_writes", "two leases, room for one", TOKEN),
    Weaker("versions_ends", "a term ends or is renewed", EARLY),
    Weaker("versions_pool_writes", "two leases, room for one", TOKEN),
    Weaker("counts_committed", "two leases, room for one", DOUBLE),
    Weaker("counts_until_release_is_known", "a term ends or is renewed", DOUBLE),
    Weaker("looks_up_unknown_grants", "two leases, an answer lost", DOUBLE),
    Weaker("checks_request", "two leases, one changes its mind", STALE),
    Weaker("stores_sequence", "two leases, room for one", TOKEN),
    Weaker("hears_pending_renewal", "a term ends or is renewed", EARLY),
    Weaker("needs_finalizer", "no finalizer, deleted", VANISHED),
    Weaker("forgets_settled_when_deposed", "one lease, changed, three take-overs", LOST),
    Weaker("waits_until_drained", "the pool is deleted", VANISHED),
    Weaker("fences_promises", "a promised start", PROMISE),
    Weaker("fences_unknown_renewals", "a promise made again, an answer lost", PROMISE),
    Weaker("checks_inherited_promises", "a promise that arrives late", PROMISE),
    Weaker("keeps_planned_end", "a promise behind a grant", PROMISE),
    Weaker("expects_renewals", "a promised start", PROMISE),
    Weaker("fences_parents", "some of a lease, which is given back", ORPHAN, WITHOUT_CLOCKS),
    Weaker("fences_parents", "some of a lease, half done", ORPHAN, WITHOUT_CLOCKS),
    Weaker("ends_children_first", "some of a lease, which is given back", ORPHAN),
    Weaker("commits_handovers", "handed over twice", TOKEN),
    Weaker("checks_holder", "handed over twice", HOLDER),
    Weaker("versions_lease_writes", "handed over twice", HOLDER),
]


@pytest.mark.parametrize("weaker", WEAKER, ids=lambda weaker: f"{weaker.missing}-{weaker.story}")
def test_a_protocol_without_one_of_its_rules_breaks(weaker: Weaker) -> None:
    found = search(weaker.variant, STORIES[weaker.story])
    assert found.broken == weaker.breaks
    assert len(found.way) <= 25, found.way


@pytest.mark.parametrize(
    "missing", ["writes_inherited_first", "versions_lease_writes", "versions_pool_writes"]
)
def test_what_breaks_something_smaller_first_also_lends_twice(missing: str) -> None:
    weaker = WITHOUT_CLOCKS._replace(**{missing: False})
    found = search(weaker, STORIES["two leases, room for one"], {DOUBLE})
    assert found.broken == DOUBLE, f"without {missing} the search should have found a way to lend twice"


def test_every_rule_is_taken_away_somewhere() -> None:
    assert {weaker.missing for weaker in WEAKER} == set(Variant._fields)


# --- the model and the code ---


class Method(NamedTuple):
    """A method of a class in the package, or a function of a module, whose `owner` is ""."""

    owner: str
    name: str


def test_every_step_of_the_model_is_a_method_of_the_code_and_is_taken() -> None:
    named = Counter(method.name for method in _methods())
    assert {name: named[name] for name in METHODS} == dict.fromkeys(METHODS, 1)
    taken = frozenset[str]().union(*(played(WITHOUT_CLOCKS, story).methods for story in STORIES))
    assert taken - {""} == METHODS.keys()


def test_every_method_that_writes_belongs_to_a_step_of_the_model() -> None:
    methods = _methods()
    writers = {method for method, body in methods.items() if _writes(body)}
    assert {"_patch_pool", "patch_lease"} <= {name for _, name in writers}, "writes are no longer recognised"
    calls = {method: set(_called(method.owner, body, methods.keys())) for method, body in methods.items()}
    reached: set[Method] = set()
    new = {method for method in methods if method.name in METHODS}
    while new:
        reached |= new
        new = {called for method in new for called in calls[method]} - reached
    assert writers - reached == set()


_CHANGES = ("patch", "replace_status", "create", "delete")


@cache
def _methods() -> dict[Method, ast.AST]:
    """Return every method of the package of a pool's worker with its body."""
    found: dict[Method, ast.AST] = {}
    for file in sorted(Path(pool.__path__[0]).glob("*.py")):
        module = ast.parse(file.read_text())
        owners = {"": module.body, **{n.name: n.body for n in module.body if isinstance(n, ast.ClassDef)}}
        for owner, body in owners.items():
            functions = [n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {Method(owner, function.name): function for function in functions}
    return found


def _called(owner: str, body: ast.AST, known: Set[Method]) -> Iterator[Method]:
    """Yield the methods that one names: its own by `self`, those of others by whatever holds them."""
    for node in ast.walk(body):
        if isinstance(node, ast.Name):
            yield from {Method("", node.id)} & known
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield from {Method(owner, node.attr)} & known
            elif not node.attr.startswith("_"):
                yield from (method for method in known if method.owner and method.name == node.attr)


def _writes(body: ast.AST) -> bool:
    """Tell whether a method itself asks the API server to change something."""
    nodes = list(ast.walk(body))
    if any(isinstance(n, ast.Name) and n.id == "write_status" for n in nodes):
        return True
    found = [n for n in nodes if isinstance(n, ast.Attribute)]
    return any(n.attr in _CHANGES and _is_client(n.value) for n in found)


def _is_client(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id == "client") or (
        isinstance(node, ast.Attribute) and node.attr == "client"
    )
