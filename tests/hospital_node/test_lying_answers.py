"""Whatever an aggregator answers, a node reads no more than the question allows and names what it refuses."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aggregator.access.tls import make_certificates, make_nodes_authority, sign_node_certificate
from hospital_node import transport as module
from hospital_node.certificate import get_certificate
from hospital_node.line import AggregatorProblem, Unreachable
from hospital_node.settings import Node, NodeSettings
from hospital_node.transport import CLIENT_PAIR, Transport
from liar import HEAD, Answer, Liar, endless, liar, whole
from medveil.answers import BYTES_PER_S, PATIENCE_S, PROBLEM_BYTES, AnswerTooLarge, Collected, EncodedAnswer
from medveil.errors import Error
from medveil.identity import Identity
from medveil.messages import MAX_MESSAGE_BYTES, BadMessage, Work
from medveil.rounds import AttemptKey
from medveil_research.client import Client, NoAnswer

ME = Identity.generate("hospital-1")
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
Ask = Callable[[Transport], Awaitable[Any]]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder, ("127.0.0.1",))
    return folder


def talk(tls: Path, answer: Answer, ask: Ask) -> tuple[Any, Liar]:
    """The result (or the error) of one call of a real transport, and the liar behind it."""

    async def run(address: str) -> Any:
        async with Transport(address, tls / "ca.pem", ME, patience_s=-1.0) as transport:
            try:
                return await ask(transport)
            except Error as error:
                return error

    with liar(tls, answer) as server:
        return asyncio.run(run(server.url)), server


def poll(transport: Transport) -> Awaitable[Any]:
    return transport.work("p", seen="", wait_s=0.0)


ASKED: dict[str, tuple[Ask, int]] = {
    "enrol": (lambda t: t.enrol("token"), PROBLEM_BYTES),
    "certificate": (lambda t: t.certificate(b"csr"), PROBLEM_BYTES),
    "offers": (lambda t: t.offers(), MAX_MESSAGE_BYTES),
    "approve": (lambda t: t.approve("p", bytes(64)), PROBLEM_BYTES),
    "work": (poll, MAX_MESSAGE_BYTES),
    "model": (lambda t: t.model("p", "m", limit=100_000), 100_000),
    "proof": (lambda t: t.proof("p", 1), MAX_MESSAGE_BYTES),
    "sum": (lambda t: t.sum("p", 1, limit=80_000), 80_000),
    "message": (lambda t: t.message(AttemptKey("p", 1, 1), "ready", b"x", wait_s=0.0), MAX_MESSAGE_BYTES),
    "segment": (lambda t: t.segment(AttemptKey("p", 1, 1), 0, b"x", digest=bytes(32)), PROBLEM_BYTES),
}
everything = pytest.mark.parametrize("question", ASKED)
BESIDE = 8 * 2**20
"""Memory that a question may take beside twice its limit."""


def on_the_line() -> int:
    """What the two sides' sockets may hold of an answer that nobody reads: Linux lets them grow so far."""
    kernel = Path("/proc/sys/net/ipv4")
    return sum(int((kernel / name).read_text().split()[2]) for name in ("tcp_rmem", "tcp_wmem"))


@everything
def test_an_answer_without_end_is_ended_at_the_questions_limit(tls: Path, question: str) -> None:
    ask, limit = ASKED[question]
    tracemalloc.start()
    error, server = talk(tls, endless(), ask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(error, AnswerTooLarge)
    assert error.code == "answer-too-large"
    assert len(server.requests) == 1  # it is not asked for again
    assert server.sent < limit + on_the_line()
    assert peak < 2 * limit + BESIDE


@everything
def test_a_length_above_the_questions_limit_is_refused_before_anything_is_read(
    tls: Path, question: str
) -> None:
    ask, limit = ASKED[question]
    for length in (str(limit + 1), "9" * 30, str(2**63)):
        answer = HEAD + f"content-length: {length}\r\n\r\n".encode()
        error, _ = talk(tls, lambda answer=answer: (answer,), ask)  # type: ignore[misc]
        assert isinstance(error, AnswerTooLarge | Unreachable), length  # 30 digits are no HTTP at all


@everything
@pytest.mark.parametrize(
    "encoding",
    [
        *("gzip", ""),
        *(
            pytest.param(e, marks=pytest.mark.slow)
            for e in ("deflate", "br", "zstd", "identity, gzip", "GZIP")
        ),
    ],
)
def test_a_compressed_answer_is_refused_and_never_unpacked(tls: Path, question: str, encoding: str) -> None:
    ask, _ = ASKED[question]
    bomb = gzip.compress(bytes(10 * 2**20))
    tracemalloc.start()
    error, server = talk(tls, whole(bomb, b"content-encoding: " + encoding.encode()), ask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(error, EncodedAnswer)
    assert error.code == "encoded-answer"
    assert peak < 6 * 2**20
    assert b"accept-encoding: identity" in server.requests[0].lower()
    assert server.requests[0].lower().count(b"accept-encoding") == 1


def test_what_is_not_said_to_be_compressed_is_not_unpacked_either(tls: Path) -> None:
    bomb = gzip.compress(bytes(10 * 2**20))
    assert talk(tls, whole(bomb), ASKED["model"][0])[0] == bomb


PROBLEMS = {
    "without end": endless(b"HTTP/1.1 422 No\r\ncontent-type: application/problem+json\r\n" + CHUNKED),
    "too long": whole(b'{"code": "' + b"a" * 20_000 + b'"}', status=b"400 No"),
    "compressed": whole(gzip.compress(b'{"code": "x"}'), b"content-encoding: gzip", status=b"403 Forbidden"),
    "nested": whole(b'{"code": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", status=b"404 Not Found"),
    "a number": whole(b'{"code": ' + b"9" * 5_000 + b"}", status=b"409 Conflict"),
    "a code that is a page": whole(json.dumps({"code": "x" * 4_000}).encode(), status=b"409 Conflict"),
    "a code that obeys nobody": whole(json.dumps({"code": "\x1b[2J[/]ok"}).encode(), status=b"500 No"),
    "a code of another kind": whole(b'{"code": ["wrong-round"], "title": {}, "detail": 7}', status=b"409 C"),
    "a code twice": whole(b'{"code": "wrong-round", "code": "revoked"}', status=b"409 Conflict"),
    "a log-in page": whole(b"<html>", b"location: https://elsewhere/", status=b"302 Found"),
    "no content": whole(b"", status=b"418 Teapot"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_document_is_short_and_plain_or_has_no_say(tls: Path, name: str) -> None:
    error, server = talk(tls, PROBLEMS[name], poll)
    assert isinstance(error, AggregatorProblem)
    assert error.code == "aggregator-error"
    for text in (error.what, error.meaning, error.remedy):
        assert len(text) <= 700
        assert text.isprintable()
    assert len(server.requests) == 1
    assert server.sent < on_the_line()


def test_a_busy_aggregators_endless_excuse_is_not_read(tls: Path) -> None:
    error, server = talk(tls, endless(b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\n" + CHUNKED), poll)
    assert isinstance(error, Unreachable)
    assert server.sent < on_the_line()


BROKEN = {
    "a head without end": lambda: (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",),
    "a header without end": lambda: (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000,),
    "no HTTP": lambda: (b"\x00" * 1_000 + b"\r\n\r\n",),
    "half a body": lambda: (HEAD + b"content-length: 10\r\nconnection: close\r\n\r\nhalf",),
    "two lengths": lambda: (HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx",),
    "a chunk of no size": lambda: (HEAD + CHUNKED + b"zz\r\n",),
    "a chunk of any size": lambda: (HEAD + CHUNKED + b"f" * 30 + b"\r\n",),
    "a chunk extension without end": lambda: (HEAD + CHUNKED + b"1;" + b"x" * 1_000_000,),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_http_is_no_answer(tls: Path, name: str) -> None:
    def answer() -> Any:
        yield from BROKEN[name]()
        raise OSError  # the line ends here

    error, _ = talk(tls, answer, poll)
    assert isinstance(error, Unreachable)


def test_hints_without_end_do_not_hold_a_node(tls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hints() -> Any:
        while True:
            yield b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"

    monkeypatch.setattr(module, "time_for", lambda body: 0.5)
    assert isinstance(talk(tls, hints, poll)[0], Unreachable)


def test_an_answer_that_drips_is_given_up_and_an_honest_slow_one_is_not() -> None:
    now = [0.0]

    def read(pieces: int, size: int, every_s: float) -> bytes:
        now[0] = 0.0
        answer = Collected({}, 10 * 2**20, lambda: now[0])
        for _ in range(pieces):
            now[0] += every_s
            answer.add(bytes(size))
        return answer.data

    with pytest.raises(TimeoutError):
        read(100, 1, 10.0)
    with pytest.raises(TimeoutError):
        read(1_000, BYTES_PER_S // 2, 1.0)
    assert len(read(600, 16_384, 1.0)) == 600 * 16_384  # the least speed that an aggregator asks for
    assert len(read(1, 10, PATIENCE_S)) == 10


def test_no_answer_makes_a_client_carry_a_cookie(tls: Path) -> None:
    work = Work(mark="x", status="waiting").to_bytes()

    async def twice(transport: Transport) -> None:
        await poll(transport)
        await poll(transport)

    cookie = b"set-cookie: follow=me; Path=/; Max-Age=99999"
    _, server = talk(tls, whole(work, cookie, b"set-cookie: a=b"), twice)
    assert len(server.requests) == 2
    assert b"cookie" not in b"".join(server.requests).lower()


@pytest.mark.parametrize("kind", [b"text/html", b"application/json", b"image/svg+xml; charset=x", b""])
def test_the_content_type_decides_nothing(tls: Path, kind: bytes) -> None:
    work = Work(mark="x", status="waiting")
    assert talk(tls, whole(work.to_bytes(), b"content-type: " + kind), poll)[0] == work
    assert isinstance(talk(tls, whole(b"<html>", b"content-type: application/cbor"), poll)[0], BadMessage)


def test_a_large_message_is_decoded_beside_the_event_loop(tls: Path) -> None:
    seen = []
    large = Work(mark="x", status="waiting", payload=bytes(100_000))
    original = Work.from_bytes.__func__  # type: ignore[attr-defined]

    def watched(cls: Any, data: bytes) -> Any:
        seen.append(threading.current_thread() is threading.main_thread())
        return original(cls, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "from_bytes", classmethod(watched))
        assert talk(tls, whole(large.to_bytes()), poll)[0] == large
        small = Work(mark="x", status="waiting")
        assert talk(tls, whole(small.to_bytes()), poll)[0] == small
    assert seen == [False, True]


def request_for(name: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key, request.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("lie", ["nothing", "garbage", "another key's", "a private key"])
def test_only_a_certificate_for_the_nodes_own_key_gets_into_its_folder(
    tls: Path, tmp_path: Path, lie: str
) -> None:
    make_nodes_authority(tls)
    foreign, request = request_for("hospital-1")
    private = foreign.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signed = sign_node_certificate(tls, request, "hospital-1")
    lies = {"nothing": b"", "garbage": b"-----BEGIN", "another key's": signed, "a private key": private}
    values = {"name": "hospital-1", "aggregator": "https://x", "data": tmp_path, "dataset": "d"}
    node = Node(tmp_path, NodeSettings.model_validate(values))
    (tmp_path / CLIENT_PAIR).write_bytes(b"as it was")

    async def ask(transport: Transport) -> None:
        await get_certificate(node, transport)

    assert isinstance(talk(tls, whole(lies[lie]), ask)[0], BadMessage)
    assert (tmp_path / CLIENT_PAIR).read_bytes() == b"as it was"


RESEARCH: dict[str, tuple[Answer, type[Error], str]] = {
    "an endless status": (endless(), AnswerTooLarge, "answer-too-large"),
    "a compressed status": (whole(b"x", b"content-encoding: gzip"), EncodedAnswer, "encoded-answer"),
    "a status that nests": (whole(b"[" * 100_000), NoAnswer, "no-answer"),
    "a status of long numbers": (whole(b"[" + b"1" * 5_000 + b"]"), NoAnswer, "no-answer"),
    "a status of another kind": (whole(b'{"plans": []}'), NoAnswer, "no-answer"),
    "a status of numbers": (whole(b"[1, 2]"), NoAnswer, "no-answer"),
    "a plan whose name draws": (
        whole(json.dumps([{"plan": "0" * 64, "name": "\x1b[2J", "finished": False, "rounds": 1}]).encode()),
        NoAnswer,
        "no-answer",
    ),
    "a redirect": (whole(b"[]", b"location: https://x/", status=b"307 No"), NoAnswer, "no-answer"),
    "a refusal without end": (endless(b"HTTP/1.1 403 No\r\n" + CHUNKED), NoAnswer, "no-answer"),
    "a refusal that draws": (
        whole(json.dumps({"title": "\x1b[2J" * 99, "code": "[/]"}).encode(), status=b"403 No"),
        NoAnswer,
        "no-answer",
    ),
}


@pytest.mark.parametrize("name", RESEARCH)
def test_a_researchers_client_is_no_softer(tls: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medveil_research.client.STATUS_BYTES", 2**20)
    answer, kind, code = RESEARCH[name]
    with (
        liar(tls, answer) as server,
        Client(server.url, tls / "ca.pem", Identity.generate("anna")) as client,
        pytest.raises(kind) as refused,
    ):
        client.plans()
    assert refused.value.code == code
    assert refused.value.what.isprintable()
    assert len(refused.value.what) < 400
    assert server.sent < on_the_line()


def test_a_researchers_model_has_a_limit(tls: Path) -> None:
    with (
        liar(tls, endless()) as server,
        Client(server.url, tls / "ca.pem", Identity.generate("anna")) as client,
        pytest.raises(AnswerTooLarge),
    ):
        client.model("p", "m", limit=100_000)
