"""Traces of rounds: one trace for each attempt, over the aggregator and the nodes that are traced.

The trace's id follows from plan, round and attempt, so both sides name the same trace without a header of the
other's. Spans are told when they have ended, with names and attributes on allow-lists, as OTLP over HTTP in
its JSON form; nothing is needed for it but what is here. Where nobody traces, a span is a look at a variable.

Source: OpenTelemetry protocol 1.5 (OTLP/HTTP, JSON Protobuf encoding: ids in hexadecimal, times as text).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from medveil.errors import BadFile
from medveil.ids import digest
from medveil.log import get_logger
from medveil.reachability import proxy_to
from medveil.rounds import AttemptKey
from medveil.trace_target import TraceTarget

Name = Literal[
    "round", "advertise", "share", "commit", "upload", "agree", "unmask", "abort", "aggregate", "publish",
    "keys", "images", "training", "ready", "mask", "send", "vow",
]  # fmt: skip
"""What a span may be called: a whole attempt, its phases, and what aggregator and node do in them."""
ATTRIBUTES = frozenset("plan round attempt kind outcome reason survivors advertised committed".split())
"""What a span may tell: ids, kinds, codes and counts. No name, no figure, no loss, nothing of a patient."""
MOST_KEPT = 4096
"""Spans that wait for a collector that is away; older ones are dropped."""
EVERY_S, PATIENCE_S, AT_ONCE = 2.0, 10.0, 512
Told = str | int
NOBODY: AbstractContextManager[None] = nullcontext()
log = get_logger()


@dataclass(frozen=True)
class Span:
    """Something that took time in an attempt, and is over."""

    key: AttemptKey
    name: Name
    began: float
    ended: float
    """Unix seconds."""
    told: Mapping[str, Told] = field(default_factory=dict)
    failed: str = ""
    """The code of what it failed by."""
    side: str = ""
    """Which of several machines: part of the span's id, and never sent by itself."""

    def __post_init__(self) -> None:
        unknown = self.told.keys() - ATTRIBUTES
        if unknown:
            raise ValueError(f"a span tells no {', '.join(sorted(unknown))}")


def trace_id(key: AttemptKey) -> str:
    """The attempt's trace: the same on every machine."""
    return _id("trace", key)[:32]


def root_id(key: AttemptKey) -> str:
    """The aggregator's span of the whole attempt, the parent of all others."""
    return _id("trace-root", key)[:16]


def _id(label: str, key: AttemptKey, *more: str) -> str:
    what = "\n".join([key.plan, str(key.round), str(key.attempt), *more])
    return digest(label, what.encode()).hex()


def encoded(spans: Sequence[Span], service: str) -> bytes:
    """An OTLP request that tells these spans (ExportTraceServiceRequest as JSON)."""
    resource = {"service.name": service, "service.version": version("medveil")}
    scope = {"name": "medveil", "version": version("medveil")}
    told = [{"scope": scope, "spans": [_as_json(span, service) for span in spans]}]
    request = {"resourceSpans": [{"resource": {"attributes": _pairs(resource)}, "scopeSpans": told}]}
    return json.dumps(request, separators=(",", ":")).encode()


def _as_json(span: Span, service: str) -> dict[str, Any]:
    key = span.key
    place: dict[str, Told] = {"plan": key.plan[:16], "round": key.round, "attempt": key.attempt}
    parts = service, span.side, span.name, f"{span.began:.6f}"
    told: dict[str, Any] = {
        "traceId": trace_id(key),
        "spanId": root_id(key) if span.name == "round" else _id("trace-span", key, *parts)[:16],
        "name": span.name,
        "kind": 1,
        "startTimeUnixNano": str(int(span.began * 1e9)),
        "endTimeUnixNano": str(int(max(span.ended, span.began) * 1e9)),
        "attributes": _pairs({f"medveil.{name}": value for name, value in {**place, **span.told}.items()}),
        "status": {"code": 2, "message": span.failed[:100]} if span.failed else {"code": 1},
    }
    return told if span.name == "round" else told | {"parentSpanId": root_id(key)}


def _pairs(values: Mapping[str, Told]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(v)} if isinstance(v, int) else {"stringValue": v[:200]}}
        for key, v in values.items()
    ]


class TraceSender:
    """Keeps spans that have ended and tells them to a collector, beside the program's work.

    Args:
        service: ``medveil-aggregator`` or ``medveil-node``. side: tells several nodes apart, e.g. by a key.
        file: where the settings stand, for the words of a problem.
    """

    def __init__(self, target: TraceTarget, service: str, *, side: str = "", file: str = "node.json") -> None:
        self._target, self._service, self._file = target, service, file
        self.side = digest("trace-side", side.encode()).hex()[:16] if side else ""
        self._kept: deque[Span] = deque(maxlen=MOST_KEPT)
        self._away = False

    def add(self, *spans: Span) -> None:
        """These have ended. Any thread may call it; it waits for nothing."""
        self._kept.extend(spans)

    async def run(self) -> None:
        """Never returns. A collector that is away costs old spans and nothing else."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Tell everything that is kept; what was not taken is kept on."""
        while self._kept:
            batch = [self._kept.popleft() for _ in range(min(AT_ONCE, len(self._kept)))]
            if reason := await self._refusal(batch):
                self._kept.extendleft(reversed(batch[: MOST_KEPT - len(self._kept)]))
                if not self._away:
                    log.warning("traces.away", reason=reason)
                self._away = True
                return
            if self._away:
                log.info("traces.back")
            self._away = False

    async def _refusal(self, batch: Sequence[Span]) -> str:
        """Why the collector did not take them; empty if it did."""
        from medveil.outgoing import FAILURES, closing_lines, open_client, pinned

        target, headers = self._target, {"Content-Type": "application/json"}
        try:
            if target.token is not None:
                headers["Authorization"] = f"Bearer {target.token.read_text('ascii').strip()}"
            proxy = proxy_to(target.endpoint, target.proxy, file=self._file)
            context = ssl.create_default_context() if target.authority is None else pinned(target.authority)
            async with asyncio.timeout(PATIENCE_S), open_client("", context, proxy) as client:
                body = encoded(batch, self._service)
                request = client.build_request("POST", target.endpoint, content=body, headers=headers)
                async with closing_lines(request):
                    response = await client.send(request, stream=True)
                await response.aclose()
        except (*FAILURES, OSError, ValueError, BadFile) as error:
            return type(error).__name__
        return "" if response.is_success else f"it answered {response.status_code}"

    async def close(self) -> None:
        """Tell what is left, in a second or not at all."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.flush()


_SENDER: ContextVar[TraceSender | None] = ContextVar("medveil_traces", default=None)


@contextmanager
def tracing(sender: TraceSender) -> Iterator[None]:
    """Inside, :func:`span` tells this sender; also in tasks that begin inside, and copied contexts."""
    token = _SENDER.set(sender)
    try:
        yield
    finally:
        _SENDER.reset(token)


def span(key: AttemptKey, name: Name) -> AbstractContextManager[None]:
    """What is done inside is a span, if anybody traces."""
    sender = _SENDER.get()
    return NOBODY if sender is None else _measured(sender, key, name)


@contextmanager
def _measured(
    sender: TraceSender, key: AttemptKey, name: Name, now: Callable[[], float] = time.time
) -> Iterator[None]:
    began, failed = now(), ""
    try:
        yield
    except BaseException as error:
        failed = str(getattr(error, "code", type(error).__name__))
        raise
    finally:
        sender.add(Span(key, name, began, now(), failed=failed, side=sender.side))
