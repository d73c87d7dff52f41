"""Prometheus and promtool, built once into the cache."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from leasehold.testing import toolchain


@cache
def built(program: str) -> Path:
    """Return the directory that holds a program; the first time on a machine this takes minutes, and says so."""
    return toolchain.build(toolchain.PROMETHEUS, [program])
