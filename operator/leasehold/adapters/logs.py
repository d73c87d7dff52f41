"""Log lines: one JSON object each, with the object, generation and pool they are about."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

_FIELDS: Final = ("object", "generation", "pool", "epoch")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON; newlines in a message cannot forge a second line. Times are UTC."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: getattr(record, key) for key in _FIELDS if hasattr(record, key)})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(level: str, style: str) -> None:
    """Send all logs to standard error, as JSON or as text. kopf's chatter on each object stays out below DEBUG."""
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    quiet = logging.DEBUG if level == "DEBUG" else logging.WARNING
    for name in ("kopf.objects", "kopf.activities", "kopf._core", "aiohttp.access", "asyncio"):
        logging.getLogger(name).setLevel(quiet)
