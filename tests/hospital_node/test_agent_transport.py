"""The node's connection: a retry repeats the same bytes, and only a real acknowledgement counts as one."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from structlog.testing import capture_logs

from aggregator.access.tls import make_certificates
from hospital_node import transport as module
from hospital_node.line import AggregatorProblem, Unreachable
from hospital_node.transport import Transport
from medveil.identity import Identity, RequestProof, verify_request
from medveil.messages import BadMessage, PlanOffers, Work
from medveil.rounds import AttemptKey
from privacy.secagg.messages import Published

ME = Identity.generate("hospital-1")
Answer = httpx.Response | Exception


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder, ("127.0.0.1",))
    return folder / "ca.pem"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No real waiting; the pauses that would have been made."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    return made


def unread(answer: httpx.Response) -> httpx.Response:
    """The same answer with its body still on the line."""

    async def body() -> AsyncIterator[bytes]:
        yield answer.content

    return httpx.Response(answer.status_code, headers=answer.headers, content=body())


def talk(
    authority: Path, answers: list[Answer], action: Callable[[Transport], Any], *, patience_s: float = 90.0
) -> tuple[Any, list[Any]]:
    """Run one call against prepared answers; its result (or error) and the requests."""
    requests = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append((request.method, request.url.raw_path.decode(), request.read(), request.headers))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return unread(answer)

    async def run() -> Any:
        async with Transport("https://here:1", authority, ME, patience_s=patience_s) as transport:
            await transport._client.aclose()
            transport._client = httpx.AsyncClient(
                base_url="https://here:1", transport=httpx.MockTransport(handle)
            )
            try:
                return await action(transport)
            except (AggregatorProblem, Unreachable) as error:
                return error

    return asyncio.run(run()), requests


def send(transport: Transport) -> Any:
    data = b"the masked bytes"
    return transport.segment(AttemptKey("p", 1, 2), 0, data, digest=hashlib.sha256(data).digest())


def test_a_lost_answer_is_repeated_with_identical_bytes_and_a_new_signature(
    authority: Path, pauses: list[float]
) -> None:
    lost: list[Answer] = [
        httpx.ReadError("reset"),
        httpx.ConnectTimeout("slow"),
        httpx.Response(503),
        httpx.Response(429),
        httpx.Response(204),
    ]
    result, requests = talk(authority, lost, send)
    assert result is None
    assert len({(method, target, body) for method, target, body, _ in requests}) == 1
    proofs = [RequestProof.from_headers(headers) for *_, headers in requests]
    assert len({p.nonce for p in proofs}) == 5
    for (method, target, body, _), proof in zip(requests, proofs, strict=True):
        verify_request(ME.public_key, proof, method, target, body, now=proof.time)
    assert len(pauses) == 4
    assert max(pauses) <= 10 * 1.5 + 1


def test_a_line_that_is_lost_and_found_is_told_of(authority: Path) -> None:
    gone = httpx.ConnectError("refused")
    with capture_logs() as logs:

        async def offers(transport: Transport) -> None:
            await transport.offers()
            await transport.offers()

        good = httpx.Response(200, content=PlanOffers(offers=()).to_bytes())
        talk(authority, [gone, gone, good, good], offers)
    told = [one["event"] for one in logs]
    assert told == ["aggregator.unreachable", "aggregator.unreachable", "aggregator.reached"]


@pytest.mark.parametrize(("header", "least"), [("7", 7), ("0", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1)])
def test_a_busy_aggregator_is_not_asked_again_before_the_time_it_names(
    authority: Path, pauses: list[float], header: str, least: float
) -> None:
    busy = httpx.Response(503, headers={"retry-after": header})
    assert talk(authority, [busy, httpx.Response(204)], send)[0] is None
    assert least < pauses[0] < least + 1


def test_nobody_can_make_a_node_wait_for_days(authority: Path, pauses: list[float]) -> None:
    busy = httpx.Response(429, headers={"retry-after": "9" * 400})
    assert talk(authority, [busy, httpx.Response(204)], send)[0] is None
    assert pauses[0] < 62


@pytest.mark.parametrize("status", [200, 201, 204])
def test_success_is_an_acknowledgement(authority: Path, status: int) -> None:
    assert talk(authority, [httpx.Response(status)], send)[0] is None


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 409, 500])
def test_nothing_else_is_an_acknowledgement(authority: Path, status: int) -> None:
    answer = httpx.Response(status, headers={"location": "https://login.example.org"}, content=b"<html>")
    error, requests = talk(authority, [answer], send)
    assert isinstance(error, AggregatorProblem)
    assert (error.status, error.code) == (status, "aggregator-error")
    assert len(requests) == 1


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b'"x"', b"\xff", b"{}"])
def test_a_problem_that_is_no_problem_document_is_still_a_problem(authority: Path, content: bytes) -> None:
    error, _ = talk(authority, [httpx.Response(422, content=content)], send)
    assert isinstance(error, AggregatorProblem)


def test_the_aggregators_code_is_kept(authority: Path) -> None:
    document = {"code": "wrong-round", "title": "Too late.", "detail": "Nothing was changed."}
    error, _ = talk(authority, [httpx.Response(409, json=document)], send)
    assert (error.status, error.code, error.what) == (409, "wrong-round", "Too late.")


def test_after_a_while_the_node_gives_up_and_says_so(authority: Path) -> None:
    error, _ = talk(authority, [httpx.ConnectError("refused")], send, patience_s=-1.0)
    assert isinstance(error, Unreachable)
    assert "ConnectError" in error.what


def test_a_poll_names_what_it_has_seen(authority: Path) -> None:
    work = Work(mark="1 1 share", status="waiting")

    def action(transport: Transport) -> Any:
        return transport.work("p", seen="1 1 share&x=y", wait_s=5.0)

    answer, requests = talk(authority, [httpx.Response(200, content=work.to_bytes())], action)
    assert answer == work
    assert requests[0][1] == "/v1/plans/p/work?seen=1%201%20share%26x%3Dy&wait_s=5"


def test_a_message_is_answered_with_work_and_never_acknowledged_without(authority: Path) -> None:
    work = Work(mark="1 1 share", status="waiting")

    def action(transport: Transport) -> Any:
        return transport.message(AttemptKey("p", 1, 2), "shares", b"signed", wait_s=5.0)

    answer, requests = talk(authority, [httpx.Response(200, content=work.to_bytes())], action)
    assert answer == work
    assert requests[0][:3] == ("POST", "/v1/plans/p/rounds/1/attempts/2/shares?wait_s=5", b"signed")
    with pytest.raises(BadMessage):
        talk(authority, [httpx.Response(204)], action)


def test_offers_are_read(authority: Path) -> None:
    offers = PlanOffers(offers=())
    answer, _ = talk(authority, [httpx.Response(200, content=offers.to_bytes())], lambda t: t.offers())
    assert answer == offers


def test_a_proof_and_a_sum_are_asked_for_by_version(authority: Path) -> None:
    proof = Published(
        round=3,
        attempt=1,
        transcript=bytes(32),
        members=(1, 2, 3),
        survivors=(1, 2, 3),
        signatures={},
        sum_hash=bytes(32),
    )
    answer, requests = talk(
        authority, [httpx.Response(200, content=proof.to_bytes())], lambda t: t.proof("p", 2)
    )
    assert answer == proof
    data, more = talk(authority, [httpx.Response(200, content=b"words")], lambda t: t.sum("p", 2, limit=5))
    assert data == b"words"
    assert [r[1] for r in (*requests, *more)] == [
        "/v1/plans/p/versions/2/proof",
        "/v1/plans/p/versions/2/sum",
    ]


def test_a_client_certificate_is_loaded_when_it_is_there_and_missed_by_nobody_when_it_goes(
    authority: Path,
) -> None:
    pair, folder = authority.with_name(module.CLIENT_PAIR), authority.parent

    async def come_and_go(transport: Transport) -> bool:
        await transport.approve("p", bytes(64))
        pair.write_bytes((folder / "server.pem").read_bytes() + (folder / "server.key").read_bytes())
        await transport.approve("p", bytes(64))
        loaded = transport._loaded == pair.stat().st_mtime_ns
        pair.unlink()
        await transport.approve("p", bytes(64))
        return loaded

    result, requests = talk(authority, [httpx.Response(204) for _ in range(3)], come_and_go)
    assert result
    assert len(requests) == 3


def test_a_segment_goes_out_in_pieces_and_no_second_one_lies_in_the_buffers(authority: Path) -> None:
    """Over real TLS: all that a segment of 16 MiB takes beside itself is below 4 MiB."""
    segment = memoryview(bytearray(16 * 2**20))
    digest = hashlib.sha256(segment).digest()
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"content-length: {len(segment)}\r\n".encode() in head.lower()
        hashed, left = hashlib.sha256(), len(segment)
        while left:
            piece = await reader.read(min(left, 2**16))
            assert piece
            hashed.update(piece)
            left -= len(piece)
        came.append(hashed.digest())
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def run() -> int:
        shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        shown.load_cert_chain(authority.with_name("server.pem"), authority.with_name("server.key"))
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=shown) as server:
            port = server.sockets[0].getsockname()[1]
            async with Transport(f"https://127.0.0.1:{port}", authority, ME) as transport:
                tracemalloc.start()
                try:
                    await transport.segment(AttemptKey("p", 1, 2), 0, segment, digest=digest)
                    return tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()

    assert asyncio.run(run()) < 4 * 2**20
    assert came == [digest]
