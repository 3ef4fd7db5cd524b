"""SIGTERM: the process ends within ten seconds, whatever its peers are doing."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from aggregator.access.tokens import make_token
from aggregator.settings import Limits
from aggregator.storage.register import Role
from medveil.identity import sign_request
from served import Served, received, served
from world import World, make_world


def request(world: World, method: str, path: str, body: bytes, *lines: str) -> bytes:
    proof = sign_request(world.identities[0], method, path, body).headers()
    head = [f"{method} {path} HTTP/1.1", "Host: here", *(f"{k}: {v}" for k, v in proof.items()), *lines]
    return "\r\n".join([*head, "", ""]).encode()


def open_lines(server: Served, world: World) -> list[socket.socket]:
    """An idle connection, a half head, a half body, and a long poll (the last)."""
    at = f"/v1/plans/{world.plan.id}"
    half = request(world, "POST", f"{at}/approval", bytes(4_000), "Content-Length: 4000")
    poll = request(world, "GET", f"{at}/work?seen=finished%20False%200&wait_s=30", b"")
    lines = []
    for start in (b"", b"GET /heal", half + bytes(1_000), poll):
        line = server.connect()
        line.sendall(start)
        lines.append(line)
    return lines


@pytest.mark.slow
def test_the_process_ends_in_time_and_answers_its_long_polls(tmp_path: Path) -> None:
    world = make_world(tmp_path, approvals=0)
    world.admin.save(world.folder / "admin.key")
    token, kept = make_token("monitor", Role.MONITOR, now=time.time(), expires=time.time() + 60)
    world.store.register.add_api_token(kept)
    world.store.close()
    scrape = (
        f"GET /metrics HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
    with served(world.folder, Limits(grace_s=0.5)) as server:
        lines = open_lines(server, world)
        while b'medveil_requests_in_hand{state="now"} 3.0' not in server.answer(scrape.encode())[1]:
            assert server.process.poll() is None
        assert server.stop() < 30  # the long poll alone would have held it for longer
        assert received(lines[-1])[0] == 200
        assert received(lines[-2])[0] in (0, 400)
        for line in lines:
            with contextlib.suppress(OSError):
                line.close()
    text = server.log.read_text()
    assert "Traceback" not in text
    assert "Cancel" not in text
