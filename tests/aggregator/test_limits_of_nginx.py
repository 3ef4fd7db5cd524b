"""The nginx front of deploy/, with a real nginx before a real server: signatures pass, slow heads do not."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.settings import Limits
from aggregator.tls import make_certificates
from hospital_node.transport import AggregatorProblem, Transport
from medveil.identity import Identity
from served import ROOT, received, served
from world import World, make_world

NGINX = shutil.which("nginx") or next((p for p in ("/usr/sbin/nginx",) if Path(p).exists()), None)
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx")
MAIN = """
{user} daemon off; pid {here}/nginx.pid; error_log {here}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/f;
    lingering_timeout 1s; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
    {site}
}}
"""


def configuration(here: Path, front: int, back: int) -> str:
    """deploy/nginx.conf with this machine's ports and folders, and a shorter deadline for heads."""
    site = (ROOT / "deploy" / "nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{front} ssl"),
        ("    listen [::]:443 ssl;\n", ""),
        ("server 127.0.0.1:8443", f"server 127.0.0.1:{back}"),
        ("/etc/nginx/medveil/server.pem", f"{here}/front/server.pem"),
        ("/etc/nginx/medveil/server.key", f"{here}/front/server.key"),
        ("/etc/nginx/medveil/aggregator-ca.pem", f"{here}/world/tls/ca.pem"),
        ("/var/log/nginx/medveil.log", f"{here}/access.log"),
        ("client_header_timeout 10s", "client_header_timeout 1s"),
    ):
        assert old in site, old
        site = site.replace(old, new)
    return MAIN.format(here=here, site=site, user="user root;" if os.geteuid() == 0 else "")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path, World]]:
    here = tmp_path_factory.mktemp("nginx")
    world = make_world(here / "world")
    world.admin.save(world.folder / "admin.key")
    world.store.close()
    make_certificates(here / "world" / "tls", ("localhost", "127.0.0.1"))
    make_certificates(here / "front", ("localhost", "127.0.0.1"))
    with served(world.folder, Limits()) as server, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        listener.close()
        (here / "nginx.conf").write_text(configuration(here, port, server.port))
        command = [str(NGINX), "-p", str(here), "-e", f"{here}/error.log", "-c", str(here / "nginx.conf")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, (here / "error.log").read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield port, here, world
        finally:
            process.terminate()
            process.wait(10)


def transport(front: tuple[int, Path, World], who: Identity) -> Transport:
    port, here, _ = front
    return Transport(f"https://localhost:{port}", here / "front" / "ca.pem", who, patience_s=5)


def test_a_signed_request_with_a_query_and_one_with_a_large_body_pass_unchanged(
    front: tuple[int, Path, World],
) -> None:
    world = front[2]

    async def scene() -> None:
        async with transport(front, world.identities[0]) as line:
            (offer,) = (await line.offers()).offers
            assert json.loads(offer.plan)["study"]["name"] == "tiny"
            work = await line.work(world.plan.id, seen="a b/c", wait_s=0.0)
            assert work.status in ("waiting", "running")
            large = bytes(16 * 2**20)
            digest = hashlib.sha256(large).digest()
            with pytest.raises(AggregatorProblem) as refused:
                await line.segment(world.plan.id, 1, 1, 0, large, digest=digest)
            assert refused.value.code in (
                "wrong-round",
                "out-of-phase",
                "wrong-length",
            )  # signed, read, judged
        async with transport(front, Identity.generate("stranger")) as line:
            with pytest.raises(AggregatorProblem) as unknown:
                await line.offers()
            assert unknown.value.code == "unknown-sender"

    asyncio.run(scene())


def test_a_slow_head_and_a_body_above_the_limit_end_at_nginx(front: tuple[int, Path, World]) -> None:
    port, here, _ = front
    context = ssl.create_default_context(cafile=str(here / "front" / "ca.pem"))
    starts = (b"GET /hea", b"PUT /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18000000\r\n\r\n")
    answers = []
    for start in starts:
        started = time.monotonic()
        plain = socket.create_connection(("127.0.0.1", port), 20)
        with context.wrap_socket(plain, server_hostname="localhost") as line:
            line.sendall(start)
            answers.append(received(line)[0])
        assert time.monotonic() - started < 8
    assert answers[0] in (0, 408)
    assert answers[1] == 413
