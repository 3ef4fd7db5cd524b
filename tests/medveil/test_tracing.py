"""One trace for each attempt, over aggregator and node, told to a collector over HTTP; off by default."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import ValidationError
from structlog.testing import capture_logs

from aggregator.monitoring import Monitoring
from aggregator.telling.traces import spans_of
from hospital_node.settings import NodeSettings
from lines import follow, scene
from medveil import tracing as module
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, Phase, RoundKind
from medveil.trace_target import TraceTarget
from medveil.tracing import NOBODY, Span, TraceSender, encoded, root_id, span, trace_id, tracing
from receivers import Hook, listening, tls_in
from world import World, make_world

Build = Callable[..., World]
KEY = AttemptKey("ab" * 32, 3, 1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world")
    yield made
    made.store.close()


def spans_in(body: bytes) -> tuple[str, list[Any]]:
    """The service and its spans, parsed as OpenTelemetry itself does; ids are hexadecimal in its JSON."""
    told = json.loads(body)
    for one in told["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in one:
                one[name] = base64.b64encode(bytes.fromhex(one[name])).decode()
    request = json_format.ParseDict(told, ExportTraceServiceRequest())
    (resource,) = request.resource_spans
    (service,) = (a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
    return service, list(resource.scope_spans[0].spans)


def target(port: int, **changes: Any) -> TraceTarget:
    return TraceTarget(**({"endpoint": f"http://127.0.0.1:{port}/v1/traces"} | changes))


def test_node_and_aggregator_tell_one_trace_of_each_attempt(world: World) -> None:
    agent, _, _ = scene(world)
    with listening((hook := Hook()).serve) as port:
        node = TraceSender(target(port), "medveil-node", side="hospital-1")
        own = TraceSender(target(port), "medveil-aggregator")
        runs = world.coordinator.runs
        runs.on_end.append(lambda run, report: own.add(*spans_of(run.plan.id, report, ended=time.time())))
        with tracing(node):
            assert follow(agent)
        asyncio.run(node.flush())
        asyncio.run(own.flush())
    found = dict(spans_in(body) for _, _, body in hook.taken)
    for number in (1, 2, 3):
        key = AttemptKey(world.plan.id, number, 1)
        ours = {s.name: s for s in found["medveil-aggregator"] if s.trace_id.hex() == trace_id(key)}
        theirs = {s.name: s for s in found["medveil-node"] if s.trace_id.hex() == trace_id(key)}
        phases = {phase.value for phase in Phase} - {"abort", "done", "failed"}
        assert set(ours) == phases | {"round", "aggregate", "publish"}
        assert {"keys", "share", "ready", "mask", "send", "upload", "agree", "unmask"} <= set(theirs)
        assert ours["round"].span_id.hex() == root_id(key)
        assert not ours["round"].parent_span_id
        children = [*theirs.values(), *(s for name, s in ours.items() if name != "round")]
        assert {s.parent_span_id.hex() for s in children} == {root_id(key)}
        assert len({s.span_id for s in (*ours.values(), *theirs.values())}) == len(ours) + len(theirs)
        assert all(s.end_time_unix_nano >= s.start_time_unix_nano for s in (*ours.values(), *theirs.values()))
    told = b"".join(body for *_, body in hook.taken).decode()
    for word in (*world.plan.names, world.plan.study.name, world.plan.id):
        assert f'"{word}"' not in told


def test_where_nobody_traces_nothing_is_measured() -> None:
    assert span(KEY, "mask") is NOBODY
    assert Monitoring().traces is None
    assert NodeSettings.model_fields["traces"].default is None


def test_phases_follow_each_other_and_publishing_is_what_is_left() -> None:
    report = AttemptReport(
        round=3,
        attempt=1,
        kind=RoundKind.TRAIN,
        outcome="done",
        seconds=10.0,
        phases={"advertise": 1.0, "commit": 5.0, "aggregate": 2.0, "unknown": 9.0},
        survivors=("a", "b"),
    )
    whole, *parts = spans_of(KEY.plan, report, ended=1000.0)
    assert (whole.began, whole.ended, whole.told["survivors"]) == (990.0, 1000.0, 2)
    assert [(p.name, p.began, p.ended) for p in parts] == [
        ("advertise", 990.0, 991.0),
        ("commit", 991.0, 996.0),
        ("aggregate", 996.0, 998.0),
        ("publish", 998.0, 1000.0),
    ]
    failed = report.model_copy(update={"outcome": "failed", "reason": "below-threshold"})
    whole, *parts = spans_of(KEY.plan, failed, ended=1000.0)
    assert (whole.failed, whole.told["reason"], parts[-1].name) == ("below-threshold",) * 2 + ("aggregate",)
    _, (first, *_) = spans_in(encoded([whole], "medveil-aggregator"))
    assert (first.status.code, first.status.message) == (2, "below-threshold")


def test_a_span_tells_what_is_on_the_list_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="loss"):
        Span(KEY, "training", 0.0, 1.0, {"loss": 3})
    made = TraceSender(target(1), "medveil-node", side="st-marys")

    def fail() -> None:
        with tracing(made), span(KEY, "training"):
            raise ValueError("patient Quillfeather")

    with pytest.raises(ValueError, match="Quillfeather"):
        fail()
    body = encoded(list(made._kept), "medveil-node")
    assert b"Quillfeather" not in body
    assert b"st-marys" not in body
    assert spans_in(body)[1][0].status.message == "ValueError"


def test_a_collector_that_is_away_costs_old_spans_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 40)
    monkeypatch.setattr(module, "AT_ONCE", 16)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = TraceSender(target(port), "medveil-node")
    many = [Span(KEY, "mask", float(n), n + 1.0) for n in range(module.MOST_KEPT + 10)]
    made.add(*many)
    asyncio.run(made.flush())
    asyncio.run(made.close())
    assert list(made._kept) == many[10:]
    with listening((hook := Hook()).serve) as there, capture_logs() as logs:
        back = TraceSender(target(there), "medveil-node")
        back.add(*made._kept)
        asyncio.run(back.flush())
        for answer in ("503 No", "503 No", "204 No Content", "503 No"):
            hook.answer = answer
            back.add(many[0])
            asyncio.run(back.flush())
    assert sum(len(spans_in(body)[1]) for *_, body in hook.taken[:-4]) == module.MOST_KEPT
    assert list(back._kept) == [many[0]]
    assert [one["event"] for one in logs] == ["traces.away", "traces.back", "traces.away"]


def test_a_collector_elsewhere_is_told_over_tls_with_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("let-me-in\n")
    with listening((hook := Hook(tls_in(tmp_path / "tls"))).serve) as port:
        there = {"endpoint": f"https://localhost:{port}/v1/traces", "token": tmp_path / "token"}
        for authority, taken in ((None, 0), (tmp_path / "tls" / "ca.pem", 1)):
            sender = TraceSender(target(port, **there, authority=authority), "medveil-node")
            sender.add(Span(KEY, "mask", 0.0, 1.0))
            asyncio.run(sender.flush())
            assert len(hook.taken) == taken
    ((path, headers, _),) = hook.taken
    assert (path, headers["authorization"]) == ("/v1/traces", "Bearer let-me-in")
    for wrong in ("http://collector.example.org:4318/v1/traces", "ftp://x", "https://a b"):
        with pytest.raises(ValidationError):
            TraceTarget(endpoint=wrong)
