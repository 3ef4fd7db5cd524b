"""The nginx front of deploy/, a real nginx and a real server: signatures pass, what is too much does not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from aggregator.access.tls import make_certificates
from aggregator.settings import Limits
from hospital_node.line import AggregatorProblem
from hospital_node.transport import Transport
from medveil.identity import Identity
from medveil.messages import PlanOffer
from medveil.rounds import AttemptKey
from nginx import INSTALL, NGINX, PRETENDED, front_of
from served import received, served
from world import World, make_world

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason=INSTALL)]
PLACE = f"/v1/plans/{64 * 'a'}/rounds/1/attempts/1"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path, World]]:
    here = tmp_path_factory.mktemp("nginx")
    world = make_world(here / "world")
    world.admin.save(world.folder / "admin.key")
    world.store.close()
    make_certificates(here / "world" / "tls", ("localhost", "127.0.0.1"))
    make_certificates(here / "front", ("localhost", "127.0.0.1"))
    with (
        served(world.folder, Limits()) as server,
        front_of(here, [server.port], here / "world" / "tls" / "ca.pem") as port,
    ):
        yield port, here, world


def transport(front: tuple[int, Path, World], who: Identity) -> Transport:
    port, here, _ = front
    return Transport(f"https://localhost:{port}", here / "front" / "ca.pem", who, patience_s=5)


@contextlib.contextmanager
def line_to(front: tuple[int, Path, World]) -> Iterator[ssl.SSLSocket]:
    """A TLS connection on which anything can be said."""
    port, here, _ = front
    context = ssl.create_default_context(cafile=str(here / "front" / "ca.pem"))
    plain = socket.create_connection(("127.0.0.1", port), 20)
    with context.wrap_socket(plain, server_hostname="localhost") as line:
        yield line


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def status_of(line: ssl.SSLSocket) -> int:
    """The status of the next answer; the connection may stay open."""
    return int(line.recv(65_536).split(b" ", 2)[1])


def test_a_signed_request_with_a_query_and_one_with_a_large_body_pass_unchanged(
    front: tuple[int, Path, World],
) -> None:
    world = front[2]

    async def scene() -> None:
        async with transport(front, world.identities[0]) as line:
            (offer,) = (await line.offers()).offers
            assert isinstance(offer, PlanOffer)
            assert json.loads(offer.plan)["study"]["name"] == "tiny"
            work = await line.work(world.plan.id, seen="a b/c", wait_s=0.0)
            assert work.status in ("waiting", "running")
            large = bytes(16 * 2**20)
            digest = hashlib.sha256(large).digest()
            with pytest.raises(AggregatorProblem) as refused:
                await line.segment(AttemptKey(world.plan.id, 1, 1), 0, large, digest=digest)
            # signed and judged, by the aggregator and not by nginx, before it was read
            assert refused.value.code in ("wrong-round", "out-of-phase", "wrong-length")
            with pytest.raises(AggregatorProblem) as judged:
                await line.message(AttemptKey(world.plan.id, 1, 1), "advertise", bytes(3 * 2**20), wait_s=0.0)
            assert judged.value.code == "too-large"  # no message of this plan is so long
        async with transport(front, Identity.generate("stranger")) as line:
            with pytest.raises(AggregatorProblem) as unknown:
                await line.offers()
            assert unknown.value.code == "unknown-sender"

    asyncio.run(scene())


def test_a_slow_head_ends_at_nginx(front: tuple[int, Path, World]) -> None:
    with line_to(front) as line:
        line.sendall(b"GET /hea")
        assert received(line)[0] in (0, 408)


@pytest.mark.parametrize(
    ("method", "path", "most"),
    [
        ("POST", "/v1/enrol", 64 * 2**10),
        ("PUT", "/v1/x", 64 * 2**10),
        ("POST", f"/v1/plans/{64 * 'a'}/approval", 64 * 2**10),
        ("POST", f"{PLACE}/upload", 4 * 2**20),
        ("PUT", f"{PLACE}/segments/0", 17 * 2**20),
    ],
)
def test_only_messages_and_segments_may_be_large(
    front: tuple[int, Path, World], method: str, path: str, most: int
) -> None:
    with line_to(front) as line:
        line.sendall(head(method, path, f"Content-Length: {most + 1}"))
        assert status_of(line) == 413


@pytest.mark.parametrize("path", [f"{PLACE}/upload", f"{PLACE}/segments/0"])
def test_a_large_body_of_a_stranger_is_refused_before_it_is_sent_and_never_on_the_disk_of_nginx(
    front: tuple[int, Path, World], path: str
) -> None:
    """The old recipe kept 16 MiB of anybody on the disk before it asked who they are."""
    here, part = front[1], bytes(256 * 1024)
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(line_to(front)) for _ in range(8)]
        for line in lines:
            line.sendall(head("PUT" if "segments" in path else "POST", path, "Content-Length: 4000000"))
            line.sendall(part)
        assert {status_of(line) for line in lines} <= {400, 401}  # no signature: and the rest was never sent
        assert [p for p in (here / "body").rglob("*") if p.is_file()] == []


def test_an_ipv6_network_of_64_bits_is_one_sender(front: tuple[int, Path, World]) -> None:
    """Whoever rents one address has 2^64 of them: they count together, and nobody else with them."""
    port, here, _ = front
    context = ssl.create_default_context(cafile=str(here / "front" / "ca.pem"))

    def refused(addresses: list[str]) -> int:
        with httpx.Client(verify=context, base_url=f"https://localhost:{port}") as client:
            answers = [client.get("/healthz", headers={PRETENDED: a}).status_code for a in addresses]
        assert set(answers) <= {200, 429}
        return answers.count(429)

    assert refused([f"2001:db8:0:{n:x}::1" for n in range(400)]) == 0
    assert refused([f"10.0.{n % 200}.{n // 200}" for n in range(400)]) == 0
    started = time.monotonic()
    together = refused([f"2001:db8:1:1::{n:x}" for n in range(400)])
    let_through = 201 + 50 * (time.monotonic() - started)
    assert together >= 400 - let_through
