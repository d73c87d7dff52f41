"""Leases, pools and reports as rows: what is there, what is not there yet, and what is odd."""

import pytest

from leasehold.cli import rows, words
from leasehold.cli.output import clock, moment

NOW = moment("2026-11-28T10:00:00Z")


def lease(*conditions, spec=None, **status):
    rows_ = [
        {"type": type_, "status": state, "reason": reason, "message": f"{reason} it is."}
        for type_, state, reason in conditions
    ]
    return {
        "metadata": {"name": "l", "namespace": "n", "creationTimestamp": "2026-11-28T09:55:00Z"},
        "spec": {"poolRef": {"name": "ci"}, "resources": {"cpu": "2"}, **(spec or {})},
        "status": {"conditions": rows_, **status},
    }


HELD = (("Ready", "True", "Held"), ("Allocated", "True", "Granted"))
WAITS = (("Ready", "False", "WaitingForCapacity"), ("Allocated", "False", "WaitingForCapacity"))


class TestLeases:
    def test_one_that_nobody_has_looked_at(self):
        found = {"metadata": {"name": "l"}, "spec": {"resources": {"cpu": "1"}}}
        assert rows.lease_cells(found, NOW)[:7] == ("l", "()", *["<none>"] * 3, "-", "<unknown>")
        assert "not been looked at" in words.standing(found, NOW)

    def test_one_that_is_held(self):
        found = lease(
            *HELD,
            spec={"holder": {"identity": "me"}, "count": 3},
            deadlines={"expirationTime": "2026-11-28T10:09:30Z"},
            fencingToken=7,
            allocation={"slices": [{"nodeName": "a"}, {"nodeName": "b"}, {"nodeName": "a"}]},
        )
        assert rows.lease_cells(found, NOW) == (
            *("l", "ci", "me", "True", "Held", "9m30s", "5m"),
            *("3x cpu=2", "a,b", "7", "-"),
        )
        assert words.standing(found, NOW).startswith("holds its room in pool ci until")

    def test_one_whose_term_is_over_and_that_is_held_still(self):
        assert rows.expires(lease(*HELD, deadlines={"expirationTime": "2026-11-28T09:00:00Z"}), NOW) == "over"

    def test_one_that_waits(self):
        queue = {"approximatePosition": 4, "estimatedStartTime": "2026-11-28T10:20:00Z"}
        found = lease(*WAITS, queue=queue)
        assert rows.turn(found, NOW) == "#4 ~20m"
        assert words.standing(found, NOW).startswith(
            "waits for room in pool ci, as number 4 in line; its turn"
        )
        assert words.standing(lease(*WAITS), NOW) == "waits for room in pool ci"

    def test_one_that_is_promised_a_start(self):
        found = lease(*WAITS, reservation={"startTime": "2026-11-28T12:00:00Z"})
        assert rows.turn(found, NOW) == "~120m"
        assert "is promised its room in pool ci from" in words.standing(found, NOW)

    def test_one_that_is_promised_a_start_and_late(self):
        start = "2026-11-28T09:50:00Z"
        found = lease(*WAITS, reservation={"startTime": start}, queue={"approximatePosition": 1})
        assert rows.turn(found, NOW) == "#1"
        said = f"waits for the room in pool ci that it was promised from {clock(start, NOW)} (10m ago)"
        assert words.standing(found, NOW) == said

    def test_one_that_is_part_of_another(self):
        part = {"parentRef": {"name": "batch"}}
        queue = {"approximatePosition": 1}
        assert words.standing(lease(*WAITS, spec=part, queue=queue), NOW).startswith(
            "waits for room in lease batch, as number 1 in line"
        )
        held = lease(*HELD, spec=part, deadlines={"expirationTime": "2026-11-28T10:09:30Z"})
        assert words.standing(held, NOW).startswith("holds its room in lease batch until")

    def test_one_for_any_pool(self):
        found = lease(*WAITS, spec={"poolRef": None, "poolSelector": {"matchLabels": {"tier": "gpu"}}})
        assert rows.pool_of(found) == "(tier=gpu)"

    @pytest.mark.parametrize(
        ("conditions", "said", "why"),
        [
            (
                (*HELD[1:], ("DisruptionTarget", "True", "Preempted")),
                "is being taken back (Preempted)",
                "Preempted",
            ),
            (
                (("Finished", "True", "Expired"), ("DisruptionTarget", "True", "HeartbeatLost")),
                "is over: Expired (HeartbeatLost)",
                "Expired",
            ),
            ((("Finished", "True", "Released"),), "is over: Released", "Released"),
            (
                (("Accepted", "False", "PoolNotFound"),),
                "cannot be granted as it is (PoolNotFound)",
                "PoolNotFound",
            ),
            (
                (("Allocated", "False", "NoMatchingNodes"),),
                "cannot be granted as it is (NoMatchingNodes)",
                "NoMatchingNodes",
            ),
        ],
    )
    def test_what_happens_to_it_is_said_in_a_sentence(self, conditions, said, why):
        found = lease(*conditions)
        assert words.standing(found, NOW) == said
        assert words.in_the_way(found)["reason"] == why
        assert rows.turn(found, NOW) == "-" or conditions[0][0] != "Finished"


class TestPoolsAndReports:
    def test_new_ones_have_no_figures(self):
        new = {"metadata": {"name": "p", "creationTimestamp": "2026-11-28T09:55:00Z"}, "spec": {}}
        assert rows.pool_cells(new, NOW)[:9] == ("p", *["<none>"] * 7, "5m")
        assert rows.report_cells(new, NOW)[:5] == ("p", *["<none>"] * 4)

    def test_a_report_tells_its_age_and_its_clock(self):
        found = {
            "metadata": {"name": "r"},
            "status": {
                "reportTime": "2026-11-28T09:59:18Z",
                "clockOffsetMilliseconds": 0,
                "usage": [{"name": "memory", "p90": "1610612736"}],
            },
        }
        assert rows.report_cells(found, NOW) == (
            *("r", "<none>", "<none>", "1.5Gi", "42s", "<unknown>"),
            *("Active", "0ms", "<none>", "<none>"),
        )

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (None, "<none>"),
            ("0", "0"),
            ("999", "999"),
            ("1023", "1Ki"),
            ("1Ki", "1Ki"),
            ("1536Mi", "1.5Gi"),
            ("20.4Gi", "20Gi"),
            ("5000Ti", "5000Ti"),
            ("what", "what"),
        ],
    )
    def test_bytes_have_three_digits_at_most(self, text, shown):
        assert rows.rounded(text) == shown
