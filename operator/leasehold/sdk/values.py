"""What people write for durations, amounts and times, read or refused with what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from leasehold.api.names import CPU, EPHEMERAL_STORAGE, MEMORY
from leasehold.api.quantity import QuantityError, amount
from leasehold.sdk.errors import Misuse

Duration: TypeAlias = str | int | float | timedelta
"""A length of time: ``"90s"``, ``"10m"``, ``"1h30m"``, ``"2d"``, a number of seconds, or a timedelta."""

Quantity: TypeAlias = str | int | float
"""An amount of a resource: ``2``, ``0.5``, ``"500m"``, ``"4Gi"``."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?")
_LONGEST_NAME: Final = 253


def seconds_of(value: Duration, what: str) -> float:
    """Return a duration in seconds.

    Raises Misuse when it is none, or not above zero.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Misuse(
            f"{what}={value!r} is no duration.", 'Write "90s", "10m", "1h30m" or a number of seconds.'
        )
    elif isinstance(value, str):
        text = value.strip().lower()
        if not _DURATION.fullmatch(text):
            raise Misuse(
                f"{what}={value!r} is no duration.", 'Write "90s", "10m", "1h30m" or a number of seconds.'
            )
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    else:
        seconds = float(value)
    if not 0 < seconds < float("inf"):
        raise Misuse(f"{what}={value!r} must be above zero.", 'Write "90s", "10m" or a number of seconds.')
    return seconds


def whole_seconds(value: Duration, what: str) -> int:
    """Return a duration in whole seconds, rounded up: at least 1."""
    return max(1, -int(-seconds_of(value, what) // 1))


def resources_of(
    cpu: Quantity | None, memory: Quantity | None, disk: Quantity | None, more: Mapping[str, Quantity] | None
) -> dict[str, str]:
    """Return what one slice holds, as the API wants it.

    Raises Misuse when nothing is asked for, an amount cannot be read, or one is named twice.
    """
    asked: dict[str, Quantity] = dict(more or {})
    for word, name, value in (
        ("cpu", CPU, cpu),
        ("memory", MEMORY, memory),
        ("disk", EPHEMERAL_STORAGE, disk),
    ):
        if value is None:
            continue
        if name in asked:
            raise Misuse(f"{word}= and resources={{{name!r}: …}} say the same.", "Give one of them.")
        asked[name] = value
    if not asked:
        raise Misuse(
            "Nothing is asked for.", 'Say how much: cpu="2", memory="4Gi", disk="10Gi" or resources={…}.'
        )
    return {name: _amount(name, value) for name, value in sorted(asked.items())}


def _amount(name: str, value: Quantity) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Misuse(f"{name}={value!r} is no amount.", 'Write 2, "500m" or "4Gi".')
    text = format(value, "f").rstrip("0").rstrip(".") if isinstance(value, float) else str(value).strip()
    try:
        units = amount(name, text)
    except QuantityError as error:
        raise Misuse(f"{name}={value!r}: {error}.", 'Write 2, "500m" or "4Gi".') from error
    if units <= 0:
        raise Misuse(f"{name}={value!r} must be above zero.", "Leave out what is not needed.")
    return text


def moment(value: datetime, what: str) -> str:
    """Return a time as RFC 3339.

    Raises Misuse when it has no time zone: what it means would depend on where it is read.
    """
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Misuse(
            f"{what}={value!r} has no time zone.", "Give a datetime with one, such as datetime.now(UTC)."
        )
    return value.isoformat()


def checked_name(value: str, what: str) -> str:
    """Return a name that Kubernetes takes.

    Raises Misuse when it does not.
    """
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not _NAME.fullmatch(value):
        raise Misuse(
            f"{what}={value!r} is no name Kubernetes takes.",
            "Use lower case letters, digits, '-' and '.', at most 253 characters.",
        )
    return value
