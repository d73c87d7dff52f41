"""The short form of the campaign: each experiment once, on an API server of this process."""

from __future__ import annotations

import pytest
from tests.faults.campaign import SEED
from tests.faults.experiment import SHORT, Arena, experiments

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("number", list(experiments()))
def test_nothing_is_promised_twice_or_lost(number: int, faults_arena: Arena) -> None:
    outcome = experiments()[number].run(faults_arena, SHORT, SEED)
    told = "\n".join([*outcome.violations, "notes:", *outcome.notes])
    assert not outcome.violations, f"experiment {number}, seed {SEED} ({outcome.name}):\n{told}"
    assert outcome.delivered > 0, f"experiment {number} ({outcome.name}) delivered no fault"
