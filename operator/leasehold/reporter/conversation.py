"""What to ask the API server next, and what its answers mean. No sockets, no clock: times and answers come
in.

    read ──found──▶ known ──due──▶ write ──▶ known          404 to any: create, then write
                      └──30 s──▶ read                       422, 409: read again, for the sequence
                                                            anything else: wait, longer every time
"""

from collections.abc import Callable
from typing import Any, Final, Literal

from leasehold.adapters.lean_http import MERGE_PATCH
from leasehold.api.names import API_VERSION, GROUP, REPORT_KIND, REPORT_PLURAL, VERSION
from leasehold.core.estimators import ClockOffset
from leasehold.core.reporting import Conditions, Facts, Instructions, Pace, instructions_of
from leasehold.reporter.link import Answer, Request
from leasehold.reporter.log import Log

Step = Literal["read", "create", "write"]

READ_SECONDS: Final = 30.0
"""How often the spec is read while nothing is written; an answered write brings it along."""

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 30.0
LONGEST_ASKED_WAIT: Final = 300.0

_OK, _CREATED = 200, 201
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _INVALID = 401, 403, 404, 409, 422
_MAX_DETAIL: Final = 240

_COLLECTION: Final = f"/apis/{GROUP}/{VERSION}/{REPORT_PLURAL}"


class Conversation:
    """One node's side of the talk with the API server about its NodeReport."""

    def __init__(
        self, node: str, pace: Pace, conditions: Conditions, log: Log, chance: Callable[[], float]
    ) -> None:
        self._node = node
        self._pace = pace
        self._conditions = conditions
        self._log = log
        self._chance = chance
        self.offset = ClockOffset()
        self.instructions = Instructions()
        self._generation: tuple[str, int] = ("", -1)
        self._sequence = 0
        self._boot_id = ""
        self._known = False
        self._missing = False
        self._under_way: Step | None = None
        self._sent: tuple[float, Facts] | None = None
        self._read_at = 0.0
        self._wait_until = 0.0
        self._failures = 0

    def next_step(self, now: float, due: str) -> Step | None:
        """Return what to ask for now; ``due`` is why a report should be written, "" if none should."""
        if self._under_way is not None or now < self._wait_until:
            return None
        if self._missing:
            return "create"
        if not self._known:
            return "read"
        if due:
            return "write"
        return "read" if now >= self._read_at else None

    def read(self) -> Request:
        """Ask for the object. A look for a new spec may come from the API server's cache."""
        self._under_way = "read"
        # The first look must not: an old sequence would be taken up and refused.
        return Request("GET", f"{_COLLECTION}/{self._node}{'?resourceVersion=0' if self._known else ''}")

    def create(self) -> Request:
        """Ask for the object to exist. What the spec says is not the reporter's business."""
        self._under_way = "create"
        body = {
            "apiVersion": API_VERSION,
            "kind": REPORT_KIND,
            "metadata": {"name": self._node},
            "spec": {},
        }
        return Request("POST", _COLLECTION, body)

    def next_sequence(self, boot_id: str) -> int:
        """Return the number of the next report. Numbers are not used twice, even if their report was lost."""
        if boot_id != self._boot_id:
            self._boot_id, self._sequence = boot_id, 0
        self._sequence += 1
        return self._sequence

    def write(self, now: float, facts: Facts, patch: dict[str, Any]) -> Request:
        """Ask for the status to be written. ``facts`` is what it says."""
        self._under_way, self._sent = "write", (now, facts)
        self._pace.tried(now)
        return Request("PATCH", f"{_COLLECTION}/{self._node}/status", patch, MERGE_PATCH)

    def hear(self, now: float, answer: Answer, boot_id: str) -> None:
        """Take in the answer to the request under way."""
        step, self._under_way = self._under_way, None
        if answer.date is not None:
            self.offset.observe(now, answer.sent, answer.received, answer.date)
        if answer.status in {_OK, _CREATED}:
            self._understood(now, step, answer.document, boot_id)
        elif answer.status == _NOT_FOUND and step != "create":
            self._missing = True
            self._pace.forget()
        else:
            self._refused(now, step, answer)

    def _understood(self, now: float, step: Step | None, document: dict[str, Any], boot_id: str) -> None:
        self._known, self._missing, self._failures = True, False, 0
        self._read_at = now + READ_SECONDS * (0.8 + 0.4 * self._chance())
        self._learn(document)
        for each in ("read", "create", "write"):
            self._log.over(f"cannot {each} the report")
        if step == "write" and self._sent is not None:
            self._pace.written(*self._sent, self._chance())
            self._log.debug("written", sequence=self._sequence)
        elif step == "read":
            self._recognise(document.get("status"), boot_id)
        elif step == "create":
            self._log.info("created", report=self._node)

    def _learn(self, document: dict[str, Any]) -> None:
        """Follow the spec, unless the document is older than one already seen (a cache may lag behind)."""
        metadata = document.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        uid, generation = str(metadata.get("uid", "")), int(metadata.get("generation") or 0)
        if uid == self._generation[0] and generation < self._generation[1]:
            return
        self._generation = uid, generation
        instructions = instructions_of(document.get("spec"), generation, uid)
        if instructions != self.instructions:
            self.instructions = instructions
            self._log.info(
                "instructed",
                period=instructions.period,
                window=instructions.window,
                excluded=instructions.excluded,
                leases=len(instructions.lease_uids),
                pods=len(instructions.pods),
                generation=generation,
            )

    def _recognise(self, status: object, boot_id: str) -> None:
        """Go on where an earlier process of this boot stopped; notice a report that somebody emptied."""
        if not isinstance(status, dict) or not status.get("reportTime"):
            self._pace.forget()
            return
        self._conditions.adopt(status.get("conditions"))
        sequence = status.get("sequence")
        if status.get("bootID") == boot_id and isinstance(sequence, int):
            self._boot_id, self._sequence = boot_id, max(self._sequence, sequence)

    def _refused(self, now: float, step: Step | None, answer: Answer) -> None:
        if answer.status in {_CONFLICT, _INVALID}:
            self._known = self._missing = False
        wait = min(FIRST_WAIT * 2 ** min(self._failures, 16), LONGEST_WAIT) * (0.5 + 0.5 * self._chance())
        asked = min(answer.retry_after or 0.0, LONGEST_ASKED_WAIT)
        self._failures += 1
        self._wait_until = now + max(wait, asked)
        self._log.trouble(now, f"cannot {step} the report", status=answer.status, why=_explain(step, answer))


def _explain(step: Step | None, answer: Answer) -> str:
    said = answer.error or str(answer.document.get("message") or "no reason given")
    hint = {
        _UNAUTHORIZED: "the API server does not accept the reporter's token or certificate",
        _FORBIDDEN: "the reporter's role needs nodereports get and create, nodereports/status patch",
        _NOT_FOUND: "the API server does not know the kind; install Leasehold's CRDs",
    }.get(answer.status)
    text = f"{hint}: {said}" if hint else said
    return text[:_MAX_DETAIL]
