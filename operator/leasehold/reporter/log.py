"""One JSON line per event on standard error; the same trouble, over and over, at most once a minute."""

import json
import sys
import time
from typing import Final, TextIO

LEVELS: Final = ("debug", "info", "warning", "error")
REPEAT_SECONDS: Final = 60.0


class Log:
    """Writes events. Fields are plain values and never hold a token, a header or a body."""

    def __init__(self, level: str = "info", stream: TextIO | None = None) -> None:
        self._least = LEVELS.index(level)
        self._stream = sys.stderr if stream is None else stream
        self._troubles: dict[str, tuple[float, int]] = {}

    def debug(self, event: str, **fields: object) -> None:
        """Tell what is only of interest when looking for something."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Tell what happened."""
        self._write("info", event, fields)

    def trouble(self, now: float, event: str, **fields: object) -> None:
        """Warn of something that may go on for long: at once, then once a minute with how often it was."""
        said_at, unsaid = self._troubles.get(event, (None, 0))
        if said_at is not None and now - said_at < REPEAT_SECONDS:
            self._troubles[event] = said_at, unsaid + 1
            return
        self._troubles[event] = now, 0
        self._write("warning", event, {**fields, "repeated": unsaid} if unsaid else fields)

    def over(self, event: str, **fields: object) -> None:
        """Tell that a trouble has ended, if it was told of."""
        if self._troubles.pop(event, None) is not None:
            self._write("info", f"{event} is over", fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < self._least:
            return
        moment = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
        line = {"time": f"{stamp}.{int(moment % 1 * 1000):03d}Z", "level": level, "event": event, **fields}
        try:
            print(json.dumps(line, default=str), file=self._stream, flush=True)
        except OSError:  # nobody reads standard error any more: no reason to stop measuring
            self._least = len(LEVELS)
