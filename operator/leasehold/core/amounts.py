"""Amounts of a pool's resources, as vectors of integers in the pool's order of resources.

A vector is a tuple: cpu in millicores, everything else in base units (bytes, counts). The order is the pool's
`spec.resources`. Quantities as text stop at `api.quantity`; past this module nobody adds them by hand.
"""

from collections.abc import Sequence

Vector = tuple[int, ...]


def zero(size: int) -> Vector:
    """Return the vector of nothing."""
    return (0,) * size


def plus(left: Sequence[int], right: Sequence[int]) -> Vector:
    """Add two vectors."""
    return tuple(a + b for a, b in zip(left, right, strict=True))


def minus(left: Sequence[int], right: Sequence[int]) -> Vector:
    """Subtract the right vector from the left one; the result may be negative."""
    return tuple(a - b for a, b in zip(left, right, strict=True))


def times(vector: Sequence[int], factor: int) -> Vector:
    """Multiply each amount by a whole number."""
    return tuple(a * factor for a in vector)
