"""Slow, endless and malformed connections: cut at their deadline, by a real server on loopback."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from select import select
from typing import Any

import pytest

from aggregator.settings import Limits
from medveil.identity import sign_request
from served import Served, received, served
from world import World, make_world

LIMITS = Limits(connections=60, head_s=0.6, stall_s=1.5, bytes_per_s=1_000, idle_s=2.0, linger_s=0.3)
ENROL = "/v1/enrol?key=" + "0" * 64
PATIENCE_S = 120.0
"""What drips goes on for so long: whatever ends before was ended by the server, however busy the machine."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("served"))
    made.admin.save(made.folder / "admin.key")
    made.store.close()
    (made.folder / "models" / made.plan.study.model.initial_model).write_bytes(bytes(30 * 2**20))
    return made


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[Served]:
    with served(world.folder, LIMITS) as running:
        yield running


def head(method: str = "GET", path: str = "/healthz", *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *lines, "", ""]).encode("latin-1")


def signed(world: World, method: str, path: str, body: bytes, *lines: str) -> bytes:
    proof = sign_request(world.identities[0], method, path, body).headers()
    return head(method, path, *(f"{k}: {v}" for k, v in proof.items()), *lines)


def code(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["code"])


def healthy(line: socket.socket) -> None:
    """Read one good answer to /healthz."""
    data = b""
    while not data.endswith(b"}"):
        data += line.recv(65_536)
    assert data.startswith(b"HTTP/1.1 200")


def drip(server: Served, start: bytes, piece: bytes, every_s: float = 0.1) -> tuple[int, bytes, float]:
    """Send a start, then a piece again and again until the server has enough; (status, answer, seconds).

    Fails if the server never has enough.
    """
    started, data, left = time.monotonic(), b"", start
    with server.connect() as line:
        line.setblocking(False)
        while True:
            assert time.monotonic() - started < PATIENCE_S
            readable, writable, _ = select([line], [line] if left else [], [], every_s)
            if readable:
                try:
                    got = line.recv(65_536)
                except ConnectionError:
                    break
                if not got:
                    break
                data += got
            elif writable:
                try:
                    left = left[line.send(left) :]
                except ConnectionError:  # what it has answered can still be read
                    left = piece = b""
            elif not left:
                left = piece
    return (int(data.split(b" ", 2)[1]) if data else 0), data, time.monotonic() - started


@pytest.mark.parametrize("start", [b"", b"GET", b"GET /healthz HTTP/1.1\r\nHost: here\r\n"])
def test_a_head_that_drips_is_cut_at_its_deadline_however_busy_it_looks(server: Served, start: bytes) -> None:
    status, answer, seconds = drip(server, start, b"a" if start in (b"", b"GET") else b"X-A: b\r\n")
    assert (status, code(answer)) == (408, "too-slow")
    assert seconds >= LIMITS.head_s


def test_the_deadline_of_a_head_begins_anew_with_each_request_on_a_connection(server: Served) -> None:
    with server.connect() as line:
        for _ in range(3):
            line.sendall(head())
            healthy(line)
            time.sleep(LIMITS.head_s / 2)
        line.sendall(b"GET /heal")
        assert received(line)[0] == 408


def test_an_idle_connection_is_closed_without_a_word(server: Served) -> None:
    with server.connect() as line:
        line.sendall(head())
        healthy(line)
        started = time.monotonic()
        assert line.recv(65_536) == b""
        assert time.monotonic() - started >= LIMITS.idle_s - 0.2


@pytest.mark.slow
def test_a_body_that_drips_is_cut_and_one_that_is_merely_large_is_not(server: Served, world: World) -> None:
    path = f"/v1/plans/{world.plan.id}/approval"
    start = signed(world, "POST", path, bytes(4_000), "Content-Length: 4000")
    status, answer, seconds = drip(server, start, b"\0")
    assert (status, code(answer)) == (408, "too-slow")
    assert seconds >= LIMITS.stall_s
    start = signed(world, "POST", path, bytes(4_000), "Content-Length: 4000", "Connection: close")
    status, answer, seconds = drip(server, start, bytes(150))  # 1.5 kB/s: slower than a line, fast enough
    assert (status, code(answer)) == (422, "bad-message")
    assert seconds > LIMITS.stall_s + 0.5


def test_an_endless_body_that_nobody_reads_is_cut_soon_after_the_answer(server: Served) -> None:
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    for lines in (("Transfer-Encoding: chunked",), ("Content-Length: 9223372036854775807",)):
        status, answer, _ = drip(server, head("POST", ENROL, *lines), chunk, every_s=0.01)
        assert status == 401
        assert code(answer) == "bad-signature"


def test_an_endless_chunked_body_of_an_enrolled_sender_is_refused_and_costs_no_memory(
    server: Served, world: World
) -> None:
    before = server.resident
    path = f"/v1/plans/{world.plan.id}/approval"
    start = signed(world, "POST", path, b"", "Transfer-Encoding: chunked")
    status, answer, _ = drip(server, start, b"100000\r\n" + bytes(2**20) + b"\r\n", every_s=0.01)
    assert (status, code(answer)) == (413, "too-large")
    assert server.resident - before < 50 * 2**20


BIG = "x" * 200
REFUSED: list[tuple[bytes, int, str]] = [
    (head("POST", ENROL, "Content-Length: 99999999999"), 401, "bad-signature"),
    (head("POST", ENROL, "Content-Length: -1"), 400, "malformed-request"),
    (head("POST", ENROL, f"Content-Length: {2**63}"), 401, "bad-signature"),
    (head("POST", ENROL, "Content-Length: 1", "Content-Length: 2"), 400, "malformed-request"),
    (head("POST", ENROL, "Content-Length: 3", "Transfer-Encoding: chunked"), 400, "ambiguous-length"),
    (head("POST", ENROL, "Transfer-Encoding: gzip"), 400, "malformed-request"),
    (head("GET", "/healthz", "Content-Encoding: gzip"), 415, "encoded-body"),
    (head("GET", "/healthz", *(f"X-{i}: 1" for i in range(100))), 431, "head-too-large"),
    (head("GET", "/healthz", *(f"X-{i}: 1" for i in range(10_000))), 431, "head-too-large"),
    (head("GET", "/healthz", *(f"X-{i}: {BIG * 2}" for i in range(60))), 431, "head-too-large"),
    (head("GET", "/healthz?" + "a" * 4_000), 414, "target-too-long"),
    (head("GET", "/healthz?" + "a" * 2**20), 431, "head-too-large"),
    (head("GET", "/healthz", "X : y"), 400, "malformed-request"),
    (head("GET", "/healthz", "X: a\0b"), 400, "malformed-request"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400, "malformed-request"),
]


@pytest.mark.parametrize(("request_", "status", "expected"), REFUSED)
def test_a_head_that_lies_or_asks_too_much_is_refused_with_its_name(
    server: Served, request_: bytes, status: int, expected: str
) -> None:
    found, answer = server.answer(request_.replace(b"Host: here", b"Host: here\r\nConnection: close"))
    assert (found, code(answer)) == (status, expected)
    assert b"content-type: application/problem+json" in answer.lower()


def test_the_connection_after_the_last_one_is_told_to_come_back(server: Served) -> None:
    lines = [server.connect() for _ in range(LIMITS.connections)]
    status, answer = server.answer(head())
    assert (status, code(answer)) == (503, "overloaded")
    assert b"\r\nretry-after: 2\r\n" in answer.lower()
    for line in lines:
        line.close()
    wait_until(lambda: server.answer(head("GET", "/healthz", "Connection: close"))[0] == 200)


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_who_does_not_read_the_answer_is_cut_off(server: Served, world: World) -> None:
    path = f"/v1/plans/{world.plan.id}/models/{world.plan.study.model.initial_model}"
    with server.connect() as line:
        line.sendall(signed(world, "GET", path, b""))
        assert line.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: not server.holds(line))
        assert len(received(line)[1]) < 29 * 2**20  # what was on its way already, not the end


@pytest.mark.slow
def test_the_status_is_answered_while_hundreds_drip(world: World, tmp_path: Path) -> None:
    """R13: 300 connections that drip, and a status question every now and then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    other = make_world(tmp_path / "dripped")
    other.admin.save(other.folder / "admin.key")
    other.store.close()
    waits: list[float] = []
    with served(other.folder, Limits(head_s=5.0, stall_s=5.0)) as server:
        lines = [server.connect() for _ in range(300)]
        stop = threading.Event()

        def dripping() -> None:
            while not stop.wait(0.5):
                for line in lines:
                    try:
                        line.send(b"G")
                    except OSError:
                        continue

        crowd = threading.Thread(target=dripping)
        crowd.start()
        path = f"/v1/plans/{other.plan.id}/status"
        for _ in range(60):
            started = time.monotonic()
            assert server.answer(signed(other, "GET", path, b"", "Connection: close"))[0] == 200
            waits.append(time.monotonic() - started)
        stop.set()
        crowd.join()
        time.sleep(5)
        for line in lines:
            line.settimeout(5)
            assert received(line)[0] in (0, 408)
            line.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(waits)[-2] < 0.5
