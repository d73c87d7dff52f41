"""Instants as integer milliseconds since the epoch, and their RFC 3339 text.

Milliseconds are exact integers, so a deadline compares the same after a round trip through the API server.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from leasehold.core.errors import InvalidObject

SECOND = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_FIRST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST = (datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC) - _EPOCH) // _MILLISECOND

_REMEMBERED = 4096
"""So many instants are not read or written out again: a lease's few are asked for over and over."""

FAR_FUTURE = (datetime(9000, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
"""No start is later: whatever follows from it can still be written down."""


def parse_time(text: str) -> int:
    """Read an RFC 3339 instant; finer than a millisecond is cut off.

    Raises InvalidObject when the text is no RFC 3339 instant or has no offset.
    """
    try:
        return _read(text)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidObject(f"{text!r} is not an RFC 3339 time; write e.g. 2026-11-22T19:00:00Z") from error


@lru_cache(_REMEMBERED)
def _read(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND


@lru_cache(_REMEMBERED)
def format_time(instant: int) -> str:
    """Write an instant as RFC 3339 in UTC; whole seconds get no fraction.

    RFC 3339 knows the years 1 to 9999. What somebody asked for beyond them is written as the first or last instant.
    """
    seconds, millis = divmod(min(max(instant, _FIRST), _LAST), SECOND)
    text = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    return f"{text}.{millis:03d}Z" if millis else f"{text}Z"


def earliest(*instants: int | None) -> int | None:
    """Return the earliest of the instants that are given, or None when none is."""
    return min((instant for instant in instants if instant is not None), default=None)
