"""A report as a plain text table, for people. Amounts come out of the report's own quantities."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from leasehold.api.names import CPU
from leasehold.api.quantity import parse

Json = Mapping[str, Any]

_STEPS = ((1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


def table(node: str, status: Json) -> str:
    """Return the report of a node as text, in sections with aligned columns."""
    about = [("Node", node), ("Boot", status["bootID"]), ("Time", status["reportTime"])]
    sections = (
        align(about),
        align(_usage(status), figures=True),
        align(_filesystems(status), figures=True),
        align(_pressure(status), figures=True),
        align(_leases(status)),
        align(_others(status)),
        align(_conditions(status)),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def align(rows: Sequence[Sequence[str]], *, figures: bool = False) -> str:
    """Return the rows with their columns two spaces apart; ``figures`` stand to the right, after the first column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths, figures=figures) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int], *, figures: bool) -> str:
    cells = (
        cell.rjust(width) if figures and column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def readable(name: str, quantity: str) -> str:
    """Return an amount of a resource as people read it: cores, or bytes with three digits and a binary unit."""
    amount = parse(quantity)
    if name == CPU:
        return f"{float(amount):.2f}"
    for size, unit in _STEPS:
        if amount >= size:
            return (
                f"{float(amount / size):.3g} {unit}" if amount < 1000 * size else f"{amount // size} {unit}"
            )
    return str(int(amount))


def _usage(status: Json) -> list[tuple[str, ...]]:
    capacity, rows = status["capacity"], []
    for row in status["usage"]:
        name = row["name"]
        share = parse(row["current"]) / (parse(capacity[name]) or Fraction(1)) * 100
        figures = (readable(name, row[key]) for key in ("current", "trend", "p90", "p95", "max"))
        rows.append((name, readable(name, capacity[name]), *figures, f"{float(share):.0f} %"))
    heads = ("RESOURCE", "CAPACITY", "USED", "TREND", "P90", "P95", "MAX", "USE")
    return [heads, *rows] if rows else []


def _filesystems(status: Json) -> list[tuple[str, ...]]:
    rows = [
        (
            row["name"],
            readable("", row["capacity"]),
            readable("", row["available"]),
            str(row.get("inodes", "-")),
            str(row.get("inodesFree", "-")),
        )
        for row in status["filesystems"]
    ]
    return [("FILESYSTEM", "CAPACITY", "AVAILABLE", "INODES", "FREE"), *rows] if rows else []


def _pressure(status: Json) -> list[tuple[str, ...]]:
    rows = [
        (row["name"], _percent(row["some60Permille"]), _percent(row["full60Permille"]))
        for row in status["pressure"]
    ]
    return [("PRESSURE 60 S", "SOME", "FULL"), *rows] if rows else []


def _leases(status: Json) -> list[tuple[str, ...]]:
    rows = [
        (row["uid"], row["state"], _or_dash(CPU, row.get("cpu")), _or_dash("", row.get("memory")))
        for row in status.get("leases", ())
    ]
    return [("LEASE", "STATE", "CPU", "MEMORY"), *rows] if rows else []


def _others(status: Json) -> list[tuple[str, ...]]:
    memory, load = status["memory"], status["load"]
    swap = status.get("swap", {"used": "0", "total": "0"})
    loads = (f"{load[key] / 1000:.2f}" for key in ("load1Milli", "load5Milli", "load15Milli"))
    rows: Iterable[tuple[str, str]] = (
        ("Memory available", _or_dash("", memory.get("available"))),
        ("Memory working set (kubelet)", _or_dash("", memory.get("workingSet"))),
        ("Memory free in per-CPU lists", _or_dash("", memory.get("pcpCached"))),
        ("Swap used, total", f"{readable('', swap['used'])}, {readable('', swap['total'])}"),
        ("Load over 1, 5, 15 min", ", ".join(loads)),
        ("CPU stolen by the hypervisor", _percent(status["stealPermille"])),
        ("This process", f"{status['agent']['residentBytes'] >> 20} Mi resident"),
    )
    return list(rows)


def _conditions(status: Json) -> list[tuple[str, ...]]:
    rows = [(row["type"], row["status"], row["reason"], row["message"]) for row in status["conditions"]]
    return [("CONDITION", "STATUS", "REASON", "MESSAGE"), *rows]


def _percent(permille: int) -> str:
    return f"{permille / 10:.1f} %"


def _or_dash(name: str, quantity: str | None) -> str:
    return "-" if quantity is None else readable(name, quantity)
