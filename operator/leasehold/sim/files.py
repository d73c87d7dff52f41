"""Text files line by line, compressed or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from leasehold.sim.problems import BadInput, Problems

_GZIP: Final = b"\x1f\x8b"


def lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers from 1. What the file begins with tells whether it is gzip.

    A compressed file that breaks off is counted as a problem and gives the lines before the break. Raises BadInput
    when the file cannot be read.
    """
    number = 0
    try:
        with path.open("rb") as probe:
            compressed = probe.read(2) == _GZIP
        with gzip.open(path, "rb") if compressed else path.open("rb") as stream:
            for raw in stream:
                number += 1
                yield number, raw.decode("utf-8", "replace")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        problems.note(number + 1, "the compressed file is damaged or breaks off here", "ended")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """Return a whole file. Raises BadInput when it cannot be read or is no text."""
    try:
        return path.read_text()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is no text file: {error}") from error
