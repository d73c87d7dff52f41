"""Kubernetes quantities, exactly: ``500m``, ``4Gi``, ``1e3`` to whole units and back. Never a float.

The grammar is that of ``k8s.io/apimachinery/pkg/api/resource`` (``ParseQuantity``), with four refusals of
its own: negative amounts, texts without a digit (the API server reads ``k`` as 0), texts longer than 32
characters, and amounts beyond a signed 64-bit integer (which the API server caps, wraps or keeps, depending
on how they are written). The CRDs refuse these too, so what a stored object says can always be read.
Amounts finer than a billionth are rounded up to a billionth, as the API server does on reading.

Whole units are millicores for ``cpu`` and the base unit (bytes, pieces) for everything else.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

from leasehold.api.names import CPU, EPHEMERAL_STORAGE, MEMORY

MAX_LENGTH: Final = 32
"""Longest text accepted, in characters. The canonical form of any 64-bit amount is shorter."""

MAX_AMOUNT: Final = 2**63 - 1
"""Largest amount accepted, in whole units: a signed 64-bit integer, as in the API server."""

PATTERN: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2}|[KMGTPE]i|[numkMGTPE])?$"
"""The grammar for a CRD's ``pattern``. Signs pass, so that a rule can refuse them in plain words."""

_NANO: Final = 10**9
_MILLI: Final = 1000

_TEXT: Final = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<part>[0-9]*))?(?P<suffix>[eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE]|)",
)
_SUFFIXES: Final[dict[str, Fraction]] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "": Fraction(1),
    **{suffix: Fraction(10 ** (3 * power)) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Fraction(2 ** (10 * power)) for power, suffix in enumerate("KMGTPE", start=1)},
}
_BINARY: Final = tuple(
    (1024**power, f"{suffix}i") for power, suffix in reversed([*enumerate("KMGTPE", start=1)])
)
_BYTES: Final = frozenset({MEMORY, EPHEMERAL_STORAGE, "storage"})
_HUGE_PAGES: Final = "hugepages-"

# Beyond this an exponent alone decides whether 32 characters are too large or below a billionth, and
# raising ten to it would let a short text cost seconds.
_EXPONENT_SPAN: Final = 64


class QuantityError(ValueError):
    """The text is not an amount Leasehold can lend. The message names the text and what to write instead."""


def parse(text: str) -> Fraction:
    """Return the exact amount a text stands for, in base units (``"500m"`` is one half).

    Raises:
        QuantityError: the text is malformed, negative, longer than ``MAX_LENGTH`` or larger than
            ``MAX_AMOUNT``; the author of the object has to correct it.
    """
    if len(text) > MAX_LENGTH:
        raise QuantityError(
            f"quantity {text[:MAX_LENGTH]!r}... is {len(text)} characters long; write it with a suffix, "
            f"in at most {MAX_LENGTH} characters"
        )
    match = _TEXT.fullmatch(text)
    if match is None or not (match["whole"] or match["part"]):
        raise QuantityError(
            f"{text!r} is not a quantity; write a number with an optional suffix, as in 500m, 2 or 4Gi"
        )
    part = match["part"] or ""
    value = Fraction(int((match["whole"] or "") + part), 10 ** len(part))
    if not value:
        return value
    if match["sign"] == "-":
        raise QuantityError(
            f"quantity {text!r} is negative; capacity is counted from 0 up, write an amount of 0 or more"
        )
    value *= _factor(match["suffix"], text)
    if value > MAX_AMOUNT:
        raise QuantityError(_too_large(text))
    nanos = value * _NANO
    return value if nanos.denominator == 1 else Fraction(-(-nanos.numerator // nanos.denominator), _NANO)


def _factor(suffix: str, text: str) -> Fraction:
    factor = _SUFFIXES.get(suffix)
    if factor is not None:
        return factor
    exponent = int(suffix[1:])
    if exponent > _EXPONENT_SPAN:
        raise QuantityError(_too_large(text))
    return Fraction(10) ** max(exponent, -_EXPONENT_SPAN)


def _too_large(text: str) -> str:
    return f"quantity {text!r} is larger than a 64-bit integer can count; write a smaller amount"


def amount(resource_name: str, text: str | int, *, round_up: bool = True) -> int:
    """Return an amount in whole units: millicores for ``cpu``, base units for everything else.

    Round requests up and capacity down, so that an inexact amount never promises what is not there.

    Raises:
        QuantityError: as ``parse``, and when the whole units are more than ``MAX_AMOUNT``.
    """
    if type(text) is int:
        text = str(text)
    return _amount(resource_name == CPU, text, round_up)


@lru_cache(maxsize=8192)
def _amount(in_millicores: bool, text: str | int, round_up: bool) -> int:
    if not isinstance(text, str):
        raise QuantityError(
            f"{text!r} is not a quantity; write a whole number or a text such as 500m, 2 or 4Gi"
        )
    value = parse(text)
    numerator = value.numerator * _MILLI if in_millicores else value.numerator
    whole = -(-numerator // value.denominator) if round_up else numerator // value.denominator
    if whole > MAX_AMOUNT:
        raise QuantityError(_too_large(text))
    return whole


def format_amount(resource_name: str, whole_units: int) -> str:
    """Return the canonical text of an amount; ``amount`` of that text is the same number again.

    ``cpu`` is written in cores where it is whole (``"2"``) and in millicores where not (``"1500m"``); bytes
    with the largest binary suffix that divides them (``"1536Mi"``); everything else as a plain number.

    Raises:
        QuantityError: the amount is negative or more than ``MAX_AMOUNT``. The calling code is at fault.
    """
    if not 0 <= whole_units <= MAX_AMOUNT:
        raise QuantityError(
            f"{whole_units} of {resource_name} is no quantity, which is between 0 and 2^63-1; "
            "this is a bug in the code that computed it, please report it"
        )
    if resource_name == CPU:
        cores, rest = divmod(whole_units, _MILLI)
        return f"{whole_units}m" if rest else str(cores)
    if whole_units and (resource_name in _BYTES or resource_name.startswith(_HUGE_PAGES)):
        for size, suffix in _BINARY:
            if whole_units % size == 0:
                return f"{whole_units // size}{suffix}"
    return str(whole_units)
