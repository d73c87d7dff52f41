"""A reverse proxy between one operator and the API server that knows what each request means, and can spoil it.

Plain HTTP on loopback towards the operator, TLS towards the API server; the operator's credentials pass through.
What is to go wrong is a list of rules: a fault, and which requests it meets. A rule counts only what it delivered,
so that an experiment can tell a fault that was survived from one that never happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import aiohttp
from aiohttp import web

from leasehold.testing.kubeconfig import Connection
from leasehold.testing.processes import wait_until

Object = dict[str, Any]

WRITES: Final = {"POST": "create", "PUT": "put", "PATCH": "patch", "DELETE": "delete"}
_NOT_FORWARDED: Final = {
    "accept-encoding",
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "transfer-encoding",
}
_START_SECONDS: Final = 10.0
_STEP_SECONDS: Final = 0.02
_END: Final = b""
_BROKEN: Final = b"-"
_EXPIRED: Final = (
    b'"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure"'
)
_REASONS: Final = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Hangup(Exception):
    """Close the connection to the operator without an answer, or in the middle of one."""


@dataclass(frozen=True)
class Call:
    """One request as the proxy understands it.

    `verb` is get, list, watch, create, put, patch or delete. `write` numbers the writes of Leasehold's own objects
    from 1 on, in the order in which they arrived; it is 0 for everything else. `time` is when it arrived (monotonic).
    """

    number: int
    write: int
    verb: str
    method: str
    path: str
    query: Mapping[str, str]
    group: str
    resource: str
    namespace: str
    name: str
    subresource: str
    headers: Mapping[str, str]
    body: bytes
    time: float

    @property
    def changes(self) -> bool:
        """The request is a write."""
        return self.method in WRITES

    @property
    def ours(self) -> bool:
        """The request is about an object of Leasehold's."""
        return self.group == "leasehold.dev"

    @property
    def selects(self) -> bool:
        """A list or watch of only some objects."""
        return "fieldSelector" in self.query or "labelSelector" in self.query

    def document(self) -> Object:
        """The body as JSON, {} where there is none."""
        return dict(json.loads(self.body)) if self.body else {}

    def status(self) -> Object:
        """What is written as the status of one of our objects, {} where the request is none for that."""
        return dict(self.document().get("status") or {}) if self.ours and self.subresource == "status" else {}

    def entries(self) -> list[Object]:
        """The in-flight entries that a pool's ledger gets by this write."""
        if self.resource != "capacitypools":
            return []
        return list((self.status().get("ledger") or {}).get("inFlight") or ())

    def __str__(self) -> str:
        place = "/".join(filter(None, (self.resource, self.namespace, self.name, self.subresource)))
        return f"#{self.number} {self.verb} {place}" + (f" (write {self.write})" if self.write else "")


@dataclass
class Answer:
    """What is said to the operator. A `cut` answer ends after so many bytes, and the connection with it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None


_GO_ON: Final = Answer(200)
"""What a fault gets that forwards a watch: let it begin now."""


class Fault:
    """What happens to a request. `deliver` is given the way on, and returns what the operator gets to hear."""

    name = "none"

    async def deliver(self, exchange: Exchange) -> Answer:
        """Let the request pass."""
        return await exchange.forward()


class StreamFault(Fault):
    """What happens to the events of a watch."""

    def take(self, exchange: Exchange, count: int, line: bytes) -> bytes | None:
        """Return the line to pass on, or None to lose it. `count` numbers the stream's events from 1 on."""
        return line


class Pass(Fault):
    """Nothing: for counting, and for being told."""

    name = "pass"


@dataclass
class Drop(Fault):
    """Close the connection: before the request was forwarded, or after, so that only the answer is lost."""

    after: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        return "answer lost" if self.after else "request lost"

    async def deliver(self, exchange: Exchange) -> Answer:
        if self.after:
            await exchange.forward()
        raise Hangup


@dataclass
class Delay(Fault):
    """Hold the request, or its answer, for a while."""

    seconds: float
    spread: float = 0.0
    after: bool = False
    name = "delayed"

    async def deliver(self, exchange: Exchange) -> Answer:
        pause = max(0.0, self.seconds + exchange.dice.uniform(-self.spread, self.spread))
        if not self.after:
            await asyncio.sleep(pause)
            return await exchange.forward()
        answer = await exchange.forward()
        await asyncio.sleep(pause)
        return answer


@dataclass
class Duplicate(Fault):
    """Forward the request twice, as a retry below HTTP does; the operator hears the first or the second answer."""

    second: bool = False
    name = "duplicated"

    async def deliver(self, exchange: Exchange) -> Answer:
        answers = [await exchange.forward(), await exchange.forward()]
        return answers[self.second]


@dataclass
class Overtake(Fault):
    """Hold a write until another one that arrived later has passed; let it go after `patience` seconds otherwise."""

    patience: float = 1.0
    name = "overtaken"

    async def deliver(self, exchange: Exchange) -> Answer:
        if not await exchange.overtaken(self.patience):
            exchange.spare()
        return await exchange.forward()


@dataclass
class Hold(Fault):
    """Keep the request back until the rule is lifted, then forward it, whether the operator still waits or not.

    With `after` it is the answer that is kept back. With a `code` the operator is told that at once, and goes on while
    its request is still on its way.
    """

    after: bool = False
    code: int | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        if self.code is not None:
            return f"{self.code}, and late"
        return "answer held back" if self.after else "held back"

    async def deliver(self, exchange: Exchange) -> Answer:
        if self.after:
            answer = await exchange.forward()
            await exchange.until_lifted()
            exchange.proxy.let_go += 1
            return answer
        if self.code is not None:
            exchange.in_the_background(self._late(exchange))
            return _failure(self.code)
        return await self._late(exchange)

    @staticmethod
    async def _late(exchange: Exchange) -> Answer:
        await exchange.until_lifted()
        answer = await exchange.forward()
        exchange.proxy.let_go += 1
        return answer


@dataclass
class Status(Fault):
    """Answer with an error, instead of forwarding or after it."""

    code: int
    after: bool = False
    retry_after: int | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.code} after" if self.after else str(self.code)

    async def deliver(self, exchange: Exchange) -> Answer:
        if self.after:
            await exchange.forward()
        return _failure(self.code, self.retry_after)


def _failure(code: int, retry_after: int | None = None) -> Answer:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "injected",
        "reason": _REASONS.get(code, "Unknown"),
        "code": code,
    }
    headers = {"Content-Type": "application/json"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Answer(code, headers, json.dumps(body).encode())


@dataclass
class BlackHole(Fault):
    """Accept the request and never answer it, until the rule is lifted; then the connection is closed."""

    after: bool = False
    name = "half-open"

    async def deliver(self, exchange: Exchange) -> Answer:
        if self.after:
            await exchange.forward()
        await exchange.until_lifted()
        raise Hangup


@dataclass
class Truncate(Fault):
    """End the answer in its middle."""

    share: float = 0.5
    name = "truncated"

    async def deliver(self, exchange: Exchange) -> Answer:
        answer = await exchange.forward()
        answer.cut = int(len(answer.body) * self.share)
        return answer


@dataclass
class Strike(Fault):
    """Do something to the operator at this request: before it is forwarded, or once the API server answered.

    The operator never hears the answer.
    """

    action: Callable[[], None]
    after: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        return "struck after" if self.after else "struck before"

    async def deliver(self, exchange: Exchange) -> Answer:
        if self.after:
            await exchange.forward()
        await asyncio.to_thread(self.action)
        raise Hangup


@dataclass
class Tell(Fault):
    """Tell somebody of the request, before it is forwarded or after, and let it pass."""

    action: Callable[[Call], None]
    after: bool = False
    name = "told"

    async def deliver(self, exchange: Exchange) -> Answer:
        if not self.after:
            await asyncio.to_thread(self.action, exchange.call)
            return await exchange.forward()
        answer = await exchange.forward()
        await asyncio.to_thread(self.action, exchange.call)
        return answer


@dataclass
class LoseEvents(StreamFault):
    """Lose watch events of these types, of the objects that `about` names (all by default)."""

    types: frozenset[str]
    about: Callable[[Object], bool] = lambda _: True
    name = "event lost"

    def take(self, exchange: Exchange, count: int, line: bytes) -> bytes | None:
        event = json.loads(line)
        if event["type"] in self.types and self.about(event["object"]) and exchange.claim():
            return None
        return line


@dataclass
class CutWatch(StreamFault):
    """End a watch after so many events: cleanly, or in the middle of the next line."""

    events: int
    midline: bool = False
    name = "watch cut"

    def take(self, exchange: Exchange, count: int, line: bytes) -> bytes | None:
        if count <= self.events or not exchange.claim():
            return line
        if self.midline:
            exchange.last_words = line[: len(line) // 2]
        raise Hangup


@dataclass
class Gone410(StreamFault):
    """Say within a watch that its version is no longer kept, after so many events."""

    events: int = 0
    name = "410 in a watch"

    def take(self, exchange: Exchange, count: int, line: bytes) -> bytes | None:
        if count <= self.events or not exchange.claim():
            return line
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
        exchange.last_words = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
        raise Hangup


@dataclass
class Rule:
    """A fault and which requests it meets: those that every given criterion allows.

    The first `skip` of them pass; after `times` deliveries the rule is spent. `chance` is the share that is hit.
    """

    fault: Fault
    verbs: frozenset[str] = frozenset()
    resource: str = ""
    subresource: str | None = None
    name: str = ""
    where: Callable[[Call], bool] = lambda _: True
    times: int | None = None
    skip: int = 0
    chance: float = 1.0
    seen: int = 0
    delivered: int = 0
    lifted: bool = False

    def meets(self, call: Call) -> bool:
        """Tell whether the rule is about such a request."""
        return (
            not self.lifted
            and (not self.verbs or call.verb in self.verbs)
            and self.resource in ("", call.resource)
            and self.subresource in (None, call.subresource)
            and self.name in ("", call.name)
            and self.where(call)
        )

    def claim(self, dice: random.Random) -> bool:
        """Tell whether the fault is to happen now, and count it."""
        self.seen += 1
        spent = self.times is not None and self.delivered >= self.times
        if self.lifted or spent or self.seen <= self.skip or dice.random() >= self.chance:
            return False
        self.delivered += 1
        return True

    def lift(self) -> None:
        """Let no more happen, and end what is under way."""
        self.lifted = True


class Exchange:
    """One request on its way, as a fault sees it."""

    def __init__(self, proxy: FaultProxy, call: Call, rule: Rule, forward: Callable[[], Any]) -> None:
        self.proxy = proxy
        self.call = call
        self.rule = rule
        self.dice = proxy.dice
        self.last_words = b""
        self._forward = forward

    async def forward(self) -> Answer:
        """Send the request on and return the API server's answer."""
        answer: Answer = await self._forward()
        return answer

    def in_the_background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let something go on once the operator has got its answer; it ends with the proxy at the latest."""
        self.proxy.background.append(asyncio.ensure_future(work))

    def claim(self) -> bool:
        """Tell whether a fault of the stream is to happen now, and count it."""
        return self.rule.claim(self.dice)

    def spare(self) -> None:
        """Take back the count of a fault that did not happen after all."""
        self.rule.delivered -= 1

    async def until_lifted(self) -> None:
        """Wait until the rule is lifted or the proxy closed."""
        while not (self.rule.lifted or self.proxy.closing):
            await asyncio.sleep(_STEP_SECONDS)

    async def overtaken(self, patience: float) -> bool:
        """Wait until a later write was answered; tell whether one was."""
        deadline = time.monotonic() + patience
        while self.proxy.last_answered <= self.call.number:
            if time.monotonic() > deadline or self.proxy.closing:
                return False
            await asyncio.sleep(_STEP_SECONDS)
        return True


class FaultProxy:
    """The proxy, on an event loop of its own in a thread. Use it in a `with` block.

    `latency` and `jitter` (seconds) delay every request, `bytes_per_second` slows every answer, `page_size` makes small
    the pages of every list that is read in pages, and `watch_from` every watch one as of a version; they may be
    changed at any time, as may the rules. `codes` counts the answers of the API server itself, and `expired` the
    watches that it ended because their version is not kept (410). `errors` are failures of the proxy itself, which
    spoil a trial.
    """

    def __init__(self, upstream: Connection, dice: random.Random | None = None) -> None:
        self.upstream = upstream
        self.dice = dice or random.Random(0)
        self.port = 0
        self.latency = 0.0
        self.jitter = 0.0
        self.bytes_per_second: float | None = None
        self.page_size: int | None = None
        self.watch_from: int | None = None
        self.rules: tuple[Rule, ...] = ()
        self.calls: deque[Call] = deque(maxlen=20_000)
        self.writes = 0
        self.last_answered = 0
        self.slowed = 0
        self.withheld = 0
        self.let_go = 0
        self.codes: Counter[int] = Counter()
        self.expired = 0
        self.background: list[asyncio.Future[Any]] = []
        self.stale_lists = 0
        self.closing = False
        self.errors: list[str] = []
        self.counts: Callable[[Call], bool] = lambda call: call.changes and call.ours
        self._numbers = 0
        self._frozen: dict[str, int] = {}
        self._cut_all = 0
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> FaultProxy:
        """Listen on a free port of loopback."""
        self._thread.start()
        self._started.result(_START_SECONDS)
        return self

    def close(self) -> None:
        """Hang up on everybody and end. Safe to call again."""
        if self.closing:
            return
        self.closing = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_START_SECONDS)
        assert not self._thread.is_alive(), "the proxy does not end"

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads through the proxy, with the identity of the connection behind it."""
        return Connection(url=f"http://127.0.0.1:{self.port}", token=self.upstream.token).write(path)

    # --- what is to go wrong ---

    def add(self, fault: Fault, *, verbs: Iterable[str] = (), **criteria: Any) -> Rule:
        """Let a fault happen from now on; the criteria are those of `Rule`."""
        rule = Rule(fault, frozenset(verbs), **criteria)
        self.rules = (*self.rules, rule)
        return rule

    def on_write(self, number: int, fault: Fault) -> Rule:
        """Let a fault happen to the n-th write of one of our objects, once."""
        return self.add(fault, where=lambda call: call.write == number, times=1)

    def clear(self) -> None:
        """Lift every rule and every slowness, and thaw what is frozen."""
        for rule in self.rules:
            rule.lift()
        self.latency = self.jitter = 0.0
        self.bytes_per_second = self.watch_from = None
        self.thaw()

    def freeze(self, *resources: str, at: Mapping[str, int] | None = None) -> None:
        """Let whole lists be those of a version, and watches fall silent, while writes and reads of one go live.

        Lists of some objects only (field or label selectors) stay live: they are the quorum reads of a take-over.
        `at` names a version by resource; the present one is taken for the others.
        """
        from leasehold.testing.client import Client

        with Client(self.upstream) as client:
            for resource in resources:
                version = (at or {}).get(resource)
                if version is None:
                    version = int(client.list_object(resource, limit=1)["metadata"]["resourceVersion"])
                self._frozen = {**self._frozen, resource.partition(".")[0]: version}

    def thaw(self, *resources: str) -> None:
        """End the freeze of some resources, or of all: watches catch up."""
        kept = {} if not resources else {k: v for k, v in self._frozen.items() if k not in resources}
        self._frozen = kept

    def cut_watches(self) -> None:
        """Hang up on every watch that is open now."""
        self._cut_all += 1

    @property
    def delivered(self) -> Counter[str]:
        """How often each kind of fault happened."""
        found: Counter[str] = Counter()
        for rule in self.rules:
            found[rule.fault.name] += rule.delivered
        found["slowed"] += self.slowed
        found["stale list"] += self.stale_lists
        found["event withheld"] += self.withheld
        return +found

    def await_delivered(self, rule: Rule, count: int = 1, seconds: float = 20.0) -> None:
        """Wait until a rule was delivered so often. Raises AssertionError when it is not in time."""
        assert wait_until(lambda: rule.delivered >= count, seconds), (
            f"{rule.fault.name}: delivered {rule.delivered} times, not {count}, in {seconds} s"
        )

    # --- the server ---

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0, ssl=self.upstream.ssl_context())
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            application = web.Application(client_max_size=64 * 2**20)
            application.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._started.set_result(None)
            try:
                await self._stop.wait()
            finally:
                for late in self.background:
                    late.cancel()
                await asyncio.gather(*self.background, return_exceptions=True)
                await site.stop()
                await asyncio.sleep(_STEP_SECONDS)  # who was just accepted is known to the server by then
                await runner.cleanup()
                await asyncio.sleep(_STEP_SECONDS)  # aborted connections are closed in the next turns

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = self._understand(request, await request.read())
        self.calls.append(call)
        try:
            await self._dawdle()
            if call.verb == "watch":
                return await self._watch(request, call)
            answer = await self._answer(call)
            if call.changes:
                self.last_answered = max(self.last_answered, call.number)
            return await self._say(request, answer)
        except Hangup:
            return _hang_up(request)
        except (aiohttp.ClientError, OSError):  # the API server is away, or the operator is
            return _hang_up(request)
        except Exception as error:
            self.errors.append(f"{call}: {error!r}")
            raise

    def _understand(self, request: web.Request, body: bytes) -> Call:
        self._numbers += 1
        parts = [part for part in request.path.split("/") if part]
        group, rest = "", parts
        if parts[:1] == ["api"]:
            rest = parts[2:]
        elif parts[:1] == ["apis"]:
            group, rest = (parts[1] if len(parts) > 1 else ""), parts[3:]
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource, name, subresource = (*rest[:3], "", "", "")[:3]
        query = dict(parse_qsl(request.query_string, keep_blank_values=True))
        verb = WRITES.get(request.method, "get" if name else "list")
        if request.method == "GET" and query.get("watch") in ("true", "1"):
            verb = "watch"
        call = Call(
            number=self._numbers,
            write=0,
            verb=verb,
            method=request.method,
            path=request.path,
            query=query,
            group=group,
            resource=resource,
            namespace=namespace,
            name=name,
            subresource=subresource,
            headers=dict(request.headers),
            body=body,
            time=time.monotonic(),
        )
        if not self.counts(call):
            return call
        self.writes += 1
        return Call(**{**call.__dict__, "write": self.writes})

    async def _dawdle(self) -> None:
        if self.latency or self.jitter:
            self.slowed += 1
            await asyncio.sleep(max(0.0, self.latency + self.dice.uniform(-self.jitter, self.jitter)))

    async def _answer(self, call: Call) -> Answer:
        async def forward() -> Answer:
            return await self._forward(call)

        for rule in self.rules:
            if isinstance(rule.fault, StreamFault) or not rule.meets(call) or not rule.claim(self.dice):
                continue
            return await rule.fault.deliver(Exchange(self, call, rule, forward))
        return await forward()

    def _aged(self, call: Call) -> Mapping[str, str]:
        """Return the query with the size of a list's pages, and the version at which a frozen one is to be read."""
        query = call.query
        if call.verb == "list" and self.page_size is not None and "limit" in query:
            query = {**query, "limit": str(self.page_size)}
        if call.verb == "watch" and self.watch_from is not None:
            query = {**query, "resourceVersion": str(self.watch_from)}
        frozen = self._frozen.get(call.resource)
        if frozen is None or call.verb != "list" or "fieldSelector" in query or call.namespace:
            return query
        self.stale_lists += 1
        if "continue" in query:
            return query
        return {**query, "resourceVersion": str(frozen), "resourceVersionMatch": "Exact"}

    def _request(self, call: Call) -> Any:
        query = urlencode(self._aged(call))
        headers = {k: v for k, v in call.headers.items() if k.lower() not in _NOT_FORWARDED}
        return self._session.request(
            call.method,
            f"{self.upstream.url}{call.path}" + (f"?{query}" if query else ""),
            data=call.body or None,
            headers={**headers, "Accept-Encoding": "identity"},
            skip_auto_headers=("Content-Type", "User-Agent"),
        )

    async def _forward(self, call: Call) -> Answer:
        async with self._request(call) as response:
            body = await response.read()
            self.codes[response.status] += 1
            return Answer(response.status, _kept(response.headers), body)

    async def _say(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        if answer.cut is None and self.bytes_per_second is None:
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        for piece in _pieces(answer.body[: answer.cut], 4096):
            await self._pace(len(piece))
            await response.write(piece)
        if answer.cut is not None:
            return _hang_up(request)
        await response.write_eof()
        return response

    async def _pace(self, size: int) -> None:
        if self.bytes_per_second:
            self.slowed += 1
            await asyncio.sleep(size / self.bytes_per_second)

    # --- watches ---

    async def _watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        for rule in self.rules:
            if not isinstance(rule.fault, StreamFault) and rule.meets(call) and rule.claim(self.dice):
                answer = await rule.fault.deliver(Exchange(self, call, rule, self._go_on))
                if answer is not _GO_ON:
                    return await self._say(request, answer)
        began = self._cut_all
        async with self._request(call) as upstream:
            if upstream.status != 200:
                return await self._say(
                    request, Answer(upstream.status, _kept(upstream.headers), await upstream.read())
                )
            response = web.StreamResponse(headers=_kept(upstream.headers))
            response.enable_chunked_encoding()
            await response.prepare(request)
            lines: asyncio.Queue[bytes] = asyncio.Queue()
            reader = asyncio.create_task(_read_lines(upstream, lines))
            try:
                await self._tell(request, call, lines, response, began)
            except Hangup:
                return _hang_up(request)
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            await response.write_eof()
            return response

    @staticmethod
    async def _go_on() -> Answer:
        return _GO_ON

    async def _tell(
        self,
        request: web.Request,
        call: Call,
        lines: asyncio.Queue[bytes],
        response: web.StreamResponse,
        began: int,
    ) -> None:
        """Pass the events on, one by one, for as long as the API server tells any."""
        count = 0
        kept: deque[bytes] = deque()
        while True:
            if self.closing or self._cut_all != began:
                raise Hangup
            if kept and not self._silent(call, kept[0]):
                line = kept.popleft()
            else:
                try:
                    line = await asyncio.wait_for(lines.get(), _STEP_SECONDS if kept else 0.1)
                except TimeoutError:
                    if request.transport is None or request.transport.is_closing():
                        raise Hangup from None  # the operator hung up
                    continue
                if line == _END:
                    return
                if line == _BROKEN:
                    raise Hangup
                if kept or self._silent(call, line):
                    self.withheld += 1
                    kept.append(line)
                    continue
            count += 1
            self.expired += line.startswith(b'{"type":"ERROR"') and b'"code":410' in line
            told = self._spoil(call, count, line)
            if isinstance(told, Exchange):
                if told.last_words:
                    await response.write(told.last_words)
                    await asyncio.sleep(_STEP_SECONDS)  # so that it is sent before the connection is aborted
                raise Hangup
            if told is not None:
                await self._pace(len(told))
                await response.write(told)

    def _silent(self, call: Call, line: bytes) -> bool:
        frozen = self._frozen.get(call.resource)
        if frozen is None:
            return False
        version = json.loads(line)["object"].get("metadata", {}).get("resourceVersion", "0")
        return int(version) > frozen

    def _spoil(self, call: Call, count: int, line: bytes) -> bytes | Exchange | None:
        """Return the line as it is passed on, None where it is lost, or the exchange at which the stream ends."""
        for rule in self.rules:
            if isinstance(rule.fault, StreamFault) and rule.meets(call):
                exchange = Exchange(self, call, rule, self._go_on)
                try:
                    kept = rule.fault.take(exchange, count, line)
                except Hangup:
                    return exchange
                if kept is None:
                    return None
        return line


async def _read_lines(response: aiohttp.ClientResponse, lines: asyncio.Queue[bytes]) -> None:
    buffer = b""
    try:
        async for chunk in response.content.iter_any():
            *whole, buffer = (buffer + chunk).split(b"\n")
            for line in whole:
                if line:
                    lines.put_nowait(line + b"\n")
        lines.put_nowait(_END)
    except (aiohttp.ClientError, OSError):
        lines.put_nowait(_BROKEN)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in headers.items() if k.lower() not in _NOT_FORWARDED}


def _pieces(body: bytes, size: int) -> Iterable[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def _hang_up(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)
