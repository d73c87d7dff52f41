"""Amounts of a pool's resources, as vectors of integers in the pool's order of resources.

A vector is a tuple: cpu in millicores, everything else in base units (bytes, counts). The order is the pool's
`spec.resources`. Quantities as text stop at `api.quantity`; past this module nobody adds them by hand.
"""

from collections.abc import Iterable, Sequence

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


def fits_within(need: Sequence[int], room: Sequence[int]) -> bool:
    """Tell whether each needed amount is there. What is not needed may be short: room may be negative."""
    return all(n <= r for n, r in zip(need, room, strict=True) if n)


def total(vectors: Iterable[Sequence[int]], size: int) -> Vector:
    """Add up any number of vectors of the given size."""
    result = [0] * size
    for vector in vectors:
        for index, amount in enumerate(vector):
            result[index] += amount
    return tuple(result)
