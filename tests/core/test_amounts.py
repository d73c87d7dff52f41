import pytest

from leasehold.core.amounts import minus, plus, times, zero


def test_vectors_add_and_subtract_place_by_place() -> None:
    assert plus((1, 2), (3, 4)) == (4, 6)
    assert minus((1, 2), (3, 1)) == (-2, 1)
    assert times((1, 2), 3) == (3, 6)
    assert zero(2) == (0, 0)


def test_vectors_of_different_pools_do_not_mix() -> None:
    with pytest.raises(ValueError):
        plus((1, 2), (1, 2, 3))
    with pytest.raises(ValueError):
        minus((1,), (1, 2))
