"""A certificate is trusted before it serves, and serves before the one before it is trusted no longer."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.core.certificates import (
    LIFETIME,
    RETIRE,
    SETTLE,
    SKEW,
    Certificate,
    Pair,
    Stock,
    bundle,
    plan,
    serves,
)

HOST = frozenset({"leasehold-webhook.leasehold-system.svc"})
NOW = 1_800_000_000_000
_NUMBERS = count()


def pair(now: int = NOW, names: frozenset[str] = HOST) -> Pair:
    number = next(_NUMBERS)
    return Pair(Certificate(f"pem {number}", names, now - SKEW, now + LIFETIME), f"key {number}")


def trusting(*pairs: Pair) -> set[str]:
    return {each.certificate.pem for each in pairs}


# --- one step ---


def test_where_there_is_nothing_a_certificate_is_made_and_serves_as_soon_as_it_is_trusted() -> None:
    assert plan(Stock(), HOST, (), None, NOW, NOW) == (Stock(), True)
    new = pair()
    untrusted = Stock(coming=new)
    assert plan(untrusted, HOST, (), None, NOW, NOW) == (untrusted, False)
    # Whoever makes it serves by it at once, and need not wait for itself either.
    for serving in (None, new.certificate):
        assert plan(untrusted, HOST, trusting(new), serving, NOW, NOW) == (Stock(current=new), False)


def test_a_certificate_is_renewed_when_two_thirds_of_its_time_are_over() -> None:
    old = pair()
    due = old.certificate.renewal
    assert due - NOW == LIFETIME * 2 // 3 - SKEW // 3
    kept = Stock(current=old)
    assert plan(kept, HOST, trusting(old), old.certificate, due - 1, NOW) == (kept, False)
    assert plan(kept, HOST, trusting(old), old.certificate, due, NOW) == (kept, True)


def test_a_new_certificate_serves_only_once_every_api_server_has_had_time_to_hear_of_it() -> None:
    old, new = pair(), pair()
    kept, trusted = Stock(current=old, coming=new), trusting(old, new)
    assert plan(kept, HOST, trusting(old), old.certificate, NOW + SETTLE, NOW) == (kept, False)
    assert plan(kept, HOST, trusted, old.certificate, NOW + SETTLE - 1, NOW) == (kept, False)
    promoted = Stock(current=new, former=(old.certificate,))
    assert plan(kept, HOST, trusted, old.certificate, NOW + SETTLE, NOW) == (promoted, False)


def test_the_one_before_is_trusted_until_every_replica_has_had_time_to_leave_it() -> None:
    old, new = pair(), pair()
    kept, trusted = Stock(current=new, former=(old.certificate,)), trusting(old, new)
    assert plan(kept, HOST, trusted, new.certificate, NOW + RETIRE - 1, NOW) == (kept, False)
    assert set(bundle(kept, NOW)) == trusted
    left = Stock(current=new)
    assert plan(kept, HOST, trusted, new.certificate, NOW + RETIRE, NOW) == (left, False)
    assert set(bundle(left, NOW)) == trusting(new)


def test_what_is_served_still_is_trusted_when_the_secret_is_lost() -> None:
    old = pair()
    found = plan(Stock(), HOST, trusting(old), old.certificate, NOW, NOW)
    assert found == (Stock(former=(old.certificate,)), True)
    new = pair()
    kept = found.stock._replace(coming=new)
    assert serves(kept, old, NOW) == old
    assert plan(kept, HOST, trusting(old, new), old.certificate, NOW, NOW) == (kept, False)
    later = NOW + SETTLE
    promoted = Stock(current=new, former=(old.certificate,))
    assert plan(kept, HOST, trusting(old, new), old.certificate, later, NOW) == (promoted, False)


def test_what_is_served_still_is_trusted_beside_what_was_served_before() -> None:
    """Found by breaking the Secret twice within RETIRE: there was room for one former certificate."""
    old, older = pair(), pair()
    former = (older.certificate, old.certificate)
    broken = Stock(former=(older.certificate,))
    assert plan(broken, HOST, trusting(old, older), old.certificate, NOW, NOW) == (Stock(former=former), True)


def test_who_breaks_the_secret_all_the_time_does_not_make_it_grow() -> None:
    kept = Stock()
    for _ in range(50):
        kept = plan(kept, HOST, (), pair().certificate, NOW, NOW).stock
    assert len(kept.former) == 8


def test_a_certificate_for_another_host_is_replaced() -> None:
    old = pair(names=frozenset({"old.example"}))
    kept = Stock(current=old)
    assert plan(kept, HOST, trusting(old), old.certificate, NOW, NOW) == (kept, True)
    wrong = Stock(current=pair(), coming=old)
    assert plan(wrong, HOST, (), None, NOW, NOW) == (Stock(wrong.current), False)


def test_what_has_expired_is_neither_served_nor_trusted() -> None:
    old = pair()
    late = old.certificate.end
    assert serves(Stock(current=old), old, late) is None
    assert bundle(Stock(current=old, former=(old.certificate,)), late) == ()
    kept = Stock(current=old, coming=old, former=(old.certificate,))
    assert plan(kept, HOST, trusting(old), None, late, NOW) == (Stock(), True)


# --- many steps ---


@dataclass
class World:
    """API servers, replicas and leaders that hear of things late, and somebody who breaks the Secret by hand."""

    stock: Stock = field(default_factory=Stock)
    trusted: frozenset[str] = frozenset()
    heard: list[tuple[int, frozenset[str]]] = field(default_factory=list)
    replicas: list[Pair | None] = field(default_factory=lambda: [None, None, None])
    now: int = NOW
    seen: object = None
    since: int = NOW

    def lead(self, replica: int) -> None:
        """One look of the leader, as the keeper takes it."""
        if (self.stock, self.trusted) != self.seen:
            self.seen, self.since = (self.stock, self.trusted), self.now
        mine = self.replicas[replica]
        serving = mine.certificate if mine and mine.certificate.good(self.now) else None
        wanted, make = plan(self.stock, HOST, self.trusted, serving, self.now, self.since)
        if make:
            wanted = wanted._replace(coming=pair(self.now))
        self.stock = wanted
        self.hear(replica)
        trusted = frozenset(bundle(wanted, self.now))
        if trusted != self.trusted:
            self.trusted = trusted
            self.heard.append((self.now, trusted))

    def hear(self, replica: int) -> None:
        self.replicas[replica] = (
            serves(self.stock, self.replicas[replica], self.now) or self.replicas[replica]
        )

    def believed(self) -> list[frozenset[str]]:
        """What API servers may trust by now: each has heard all that was said SETTLE ago."""
        last = [trust for at, trust in self.heard if at <= self.now - SETTLE][-1:]
        return last + [trust for at, trust in self.heard if at > self.now - SETTLE]


STEPS = st.lists(
    st.tuples(st.integers(1, 20), st.booleans(), st.booleans()),  # days at most, and whether each hears
    min_size=5,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, breaks=st.dictionaries(st.integers(0, 60), st.sampled_from(["all", "current"])))
def test_every_replica_is_trusted_by_every_api_server_at_every_moment(
    steps: list[tuple[int, bool, bool]], breaks: dict[int, str]
) -> None:
    """Steps are short, as the keeper's, or days long; replicas hear within a minute; the leader stays."""
    world = World()
    for _ in range(5):
        world.lead(0)
        for replica in (1, 2):
            world.hear(replica)
        world.now += SETTLE
    for number, (days, *hears) in enumerate(steps):
        if number in breaks:
            world.stock = Stock() if breaks[number] == "all" else world.stock._replace(current=None)
        for _ in range(4):
            world.lead(0)
            for replica, hear in zip((1, 2), hears, strict=True):
                if hear:
                    world.hear(replica)
            for served in world.replicas:
                assert served is not None
                assert served.certificate.good(world.now)
                for trust in world.believed():
                    assert served.certificate.pem in trust
            world.now += SETTLE // 3
        for replica in (1, 2):
            world.hear(replica)
        world.now += days * 24 * 3600 * 1000 // (1 if number % 7 == 0 else 100_000)
