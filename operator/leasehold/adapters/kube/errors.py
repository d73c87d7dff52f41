"""What can go wrong between us and the API server, and what it means for a write.

ApiError
├── NotFound          it is not there (404)
├── Conflict          somebody wrote in between (409); nothing was changed
├── Gone              the version asked for is no longer kept (410)
├── Refused           the object or we are at fault (400, 401, 403, 413, 422); nothing was changed
├── Busy              too many requests (429); nothing was changed; retry after a while
└── Unknown           no answer, or 5xx: the write may have happened, or may happen yet
"""

from __future__ import annotations

from leasehold.core.errors import LeaseholdError


class ApiError(LeaseholdError):
    """An answer of the API server that is not success. `code` is the HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, code: int = 0, retry_after: float = 0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class NotFound(ApiError):
    """It is not there."""


class Conflict(ApiError):
    """Somebody wrote in between; nothing was changed."""


class Gone(ApiError):
    """The version asked for is no longer kept; list again."""


class Refused(ApiError):
    """The object or the caller is at fault; nothing was changed."""


class Busy(ApiError):
    """Too many requests; nothing was changed."""


class Unknown(ApiError):
    """No answer that tells: the write may have happened, or may happen yet."""


_BY_CODE: dict[int, type[ApiError]] = {404: NotFound, 409: Conflict, 410: Gone, 429: Busy}


def error_of(code: int, message: str, retry_after: float = 0) -> ApiError:
    """Return the error for an HTTP status."""
    kind = _BY_CODE.get(code) or (Refused if 400 <= code < 500 else Unknown)
    return kind(message, code, retry_after)
