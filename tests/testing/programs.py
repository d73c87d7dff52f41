"""Fake programs: directories that stand in for PATH, with scripts of a few lines."""

from __future__ import annotations

import sys
from pathlib import Path


def script(directory: Path, name: str, body: str = "exit 0") -> Path:
    """Make a shell script and return its path."""
    return _executable(directory / name, f"#!/bin/sh\n{body}\n")


def python(directory: Path, name: str, body: str) -> Path:
    """Make a script run by this interpreter, for what needs more than a shell."""
    return _executable(directory / name, f"#!{sys.executable} -IS\n{body}\n")


def _executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
