import re
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum

import pytest

from leasehold.api import names
from leasehold.api.names import (
    LEASE_REASONS,
    POOL_REASONS,
    REPORT_REASONS,
    LeaseCondition,
    LeaseReason,
    Named,
    PoolCondition,
    PoolReason,
    ReportCondition,
    ReportReason,
)

ENUMS = [value for value in vars(names).values() if isinstance(value, type) and issubclass(value, Named)]
MEMBERS = [member for enum in ENUMS for member in enum]
TABLES = [
    (LeaseCondition, LeaseReason, LEASE_REASONS),
    (PoolCondition, PoolReason, POOL_REASONS),
    (ReportCondition, ReportReason, REPORT_REASONS),
]


def test_the_hot_path_does_not_load_pydantic() -> None:
    code = "import sys, leasehold.api.names, leasehold.api.quantity; sys.exit('pydantic' in sys.modules)"
    environment = {"PYTHONPATH": "operator"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: f"{type(member).__name__}.{member}")
def test_a_name_is_its_text_and_says_what_it_means(member: Named) -> None:
    text = member.value
    assert member == text
    assert hash(member) == hash(text)
    assert f"{member}" == text
    assert type(member)(text) is member
    assert member.meaning
    # Reasons and conditions must pass the CRD; so must everything that a field of 32 characters carries.
    assert re.fullmatch(r"[A-Z][A-Za-z]*", text)
    assert len(text) <= 32


@pytest.mark.parametrize(("conditions", "reasons", "table"), TABLES)
def test_every_condition_and_every_reason_has_its_place(
    conditions: type[StrEnum],
    reasons: type[StrEnum],
    table: Mapping[Named, Mapping[Named, tuple[Named, ...]]],
) -> None:
    assert list(table) == list(conditions)
    assert {
        reason for statuses in table.values() for placed in statuses.values() for reason in placed
    } == set(reasons)
    for statuses in table.values():
        placed = [reason for reasons_ in statuses.values() for reason in reasons_]
        assert len(placed) == len(set(placed)), "a reason of one condition stands for one status"
