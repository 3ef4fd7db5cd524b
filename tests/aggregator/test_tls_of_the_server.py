"""What a connection is offered before anybody is known: modern suites, and no redirect to a made-up host."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.access.tls import make_certificates
from aggregator.settings import Limits
from door import Door
from served import Served, served
from world import World, make_world


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    world = make_world(tmp_path_factory.mktemp("tls"))
    world.admin.save(world.folder / "admin.key")
    world.store.close()
    make_certificates(world.folder / "tls", ("localhost",))
    with served(world.folder, Limits()) as process:
        yield process


def suite_of(server: Served, wanted: str, authority: Path) -> str:
    """The TLS 1.2 suite that is agreed on. Raises: OSError if there is none."""
    context = ssl.create_default_context(cafile=str(authority))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(wanted)
    with context.wrap_socket(server.connect(), server_hostname="localhost") as line:
        agreed = line.cipher()
        assert agreed is not None
        return agreed[0]


def test_tls_1_2_takes_authenticated_encryption_and_no_cbc(server: Served) -> None:
    authority = server.settings.folder / "tls" / "ca.pem"
    assert "GCM" in suite_of(server, "ECDHE-ECDSA-AES256-GCM-SHA384", authority)
    for old in ("ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"):
        with pytest.raises((ssl.SSLError, ConnectionError, socket.timeout)):
            suite_of(server, f"{old}:@SECLEVEL=0", authority)


def test_no_answer_sends_anybody_to_the_host_that_the_asker_names(build: Callable[..., World]) -> None:
    door = Door(build())
    for path in ("/healthz/", "/v1/plans/", "/v1/status/"):
        answer = door.raw("GET", path, b"", {"Host": "evil.example"})
        door.refused(answer, 404, "not-found")
        assert "location" not in answer.headers
        assert "evil" not in answer.text + str(answer.headers)
    door.service.close()
