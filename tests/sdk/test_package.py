"""What comes with the package, and what does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

import leasehold.sdk as sdk
from leasehold.sdk import errors


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_to_import_it_costs_nothing_and_to_use_it_no_operator() -> None:
    program = "import sys, leasehold.sdk; print('aiohttp' in sys.modules, 'asyncio' in sys.modules)"
    assert run(program).split() == ["False", "False"]
    heavy = "{'kopf', 'pydantic', 'prometheus_client', 'psutil', 'uvloop'}"
    program = f"import sys, leasehold.sdk.sync; leasehold.sdk.Client; print({heavy} & set(sys.modules))"
    assert run(program).strip() == "set()"


def test_every_name_is_there_and_they_are_in_order() -> None:
    assert sdk.__all__ == sorted(sdk.__all__)
    assert set(sdk.__all__) <= set(dir(sdk))
    for name in sdk.__all__:
        assert getattr(sdk, name).__name__ == name
        assert getattr(sdk, name).__doc__
    with pytest.raises(AttributeError, match="Nothing"):
        _ = sdk.Nothing


def test_all_errors_are_of_one_tree_and_drawn() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, errors.LeaseholdError) or kind is errors._Base for kind in kinds)
    assert errors.__doc__ is not None
    for kind in kinds:
        assert kind.__name__ in errors.__doc__ or kind is errors._Base
    assert set(errors.REMEDIES) == set(errors.LostCause)
    lost = errors.LeaseLost("It is lost.", "Stop.", name="a", cause=errors.LostCause.EXPIRED, token=7)
    assert (str(lost), lost.remedy, lost.name, lost.token) == ("It is lost. Stop.", "Stop.", "a", 7)
