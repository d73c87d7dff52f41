"""The report as people read it."""

import pytest

from leasehold.reporter.table import align, readable, table

STATUS = {
    "bootID": "b",
    "reportTime": "2026-01-01T00:00:00Z",
    "capacity": {"cpu": "4", "memory": "16Gi"},
    "usage": [
        {"name": "cpu", "current": "1500m", "trend": "1", "p90": "2", "p95": "2", "max": "4"},
        {"name": "memory", "current": "4Gi", "trend": "4Gi", "p90": "4Gi", "p95": "5Gi", "max": "5Gi"},
    ],
    "filesystems": [{"name": "nodefs", "capacity": "100Gi", "available": "60Gi"}],
    "pressure": [{"name": "io", "some60Permille": 12, "full60Permille": 3}],
    "memory": {"available": "12Gi"},
    "load": {"load1Milli": 500, "load5Milli": 1250, "load15Milli": 0},
    "stealPermille": 7,
    "agent": {"cpuMicroPerSecond": 1, "residentBytes": 20 << 20},
    "leases": [
        {"uid": "u-1", "state": "Present", "cpu": "500m", "memory": "1Gi"},
        {"uid": "u-2", "state": "Gone"},
    ],
    "conditions": [{"type": "Ready", "status": "True", "reason": "Reporting", "message": ""}],
}

EXPECTED = """\
Node  n1
Boot  b
Time  2026-01-01T00:00:00Z

RESOURCE  CAPACITY  USED  TREND   P90   P95   MAX   USE
cpu           4.00  1.50   1.00  2.00  2.00  4.00  38 %
memory       16 Gi  4 Gi   4 Gi  4 Gi  5 Gi  5 Gi  25 %

FILESYSTEM  CAPACITY  AVAILABLE  INODES  FREE
nodefs        100 Gi      60 Gi       -     -

PRESSURE 60 S   SOME   FULL
io             1.2 %  0.3 %

LEASE  STATE    CPU   MEMORY
u-1    Present  0.50  1 Gi
u-2    Gone     -     -

Memory available              12 Gi
Memory working set (kubelet)  -
Memory free in per-CPU lists  -
Swap used, total              0, 0
Load over 1, 5, 15 min        0.50, 1.25, 0.00
CPU stolen by the hypervisor  0.7 %
This process                  20 Mi resident

CONDITION  STATUS  REASON     MESSAGE
Ready      True    Reporting
"""


def test_a_report_is_printed_in_aligned_sections():
    assert table("n1", STATUS) == EXPECTED


def test_sections_with_nothing_in_them_are_left_out():
    bare = {**STATUS, "usage": [], "filesystems": [], "pressure": [], "swap": {"used": "1Mi", "total": "2Gi"}}
    del bare["leases"]
    printed = table("n1", bare)
    assert "RESOURCE" not in printed
    assert "FILESYSTEM" not in printed
    assert "PRESSURE" not in printed
    assert "LEASE" not in printed
    assert "1 Mi, 2 Gi" in printed


@pytest.mark.parametrize(
    ("name", "quantity", "text"),
    [
        ("cpu", "250m", "0.25"),
        ("memory", "0", "0"),
        ("memory", "1023", "1023"),
        ("memory", "1536Mi", "1.5 Gi"),
        ("memory", "1023Mi", "1023 Mi"),
        ("memory", "24105Mi", "23.5 Gi"),
        ("x", "3Ti", "3 Ti"),
        ("x", "2Ki", "2 Ki"),
    ],
)
def test_amounts_have_three_digits_and_a_unit(name, quantity, text):
    assert readable(name, quantity) == text


def test_no_rows_are_no_text():
    assert align([]) == ""
