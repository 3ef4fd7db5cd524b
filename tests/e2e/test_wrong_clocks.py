"""Whole processes under a wrong or jumping clock: refused with both clocks named, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.access.tls import make_certificates
from aggregator.settings import Limits
from medveil.identity import sign_request
from served import Served, served
from world import World, make_world

LIBRARIES = sorted(Path("/usr").glob("lib*/*/faketime/libfaketime.so.1"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed: apt-get install faketime"),
]
PATIENCE_S = 120.0
Shift = Callable[[str], None]


@pytest.fixture
def shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shift:
    """Sets the clock of every process that is started from here on, also while it runs."""
    file = tmp_path / "clock"

    def to(offset: str) -> None:
        file.write_text(offset)

    to("+0")
    monkeypatch.setenv("LD_PRELOAD", str(LIBRARIES[0]))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(file))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    return to


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path / "aggregator")
    made.admin.save(made.folder / "admin.key")
    made.store.close()
    return made


@pytest.fixture
def server(world: World, shift: Shift) -> Iterator[Served]:
    with served(world.folder, Limits()) as running:
        yield running


def ask(server: Served, world: World) -> tuple[int, bytes]:
    """As a node asks: again while the aggregator is not ready, which under that library takes seconds."""
    begun = time.monotonic()
    while True:
        proof = sign_request(world.identities[0], "GET", "/v1/plans", b"").headers()
        lines = ["GET /v1/plans HTTP/1.1", "Host: here", *(f"{k}: {v}" for k, v in proof.items())]
        status, answer = server.answer("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        if b"not-ready" not in answer or time.monotonic() - begun > PATIENCE_S:
            return status, answer
        time.sleep(0.5)


@pytest.mark.parametrize("jump", ["+3d", "-3d", "+10m", "-10m"])
def test_an_aggregator_whose_clock_jumps_says_so_and_goes_on_when_it_is_right_again(
    server: Served, world: World, shift: Shift, jump: str
) -> None:
    status, answer = ask(server, world)
    assert status == 200, answer
    shift(jump)
    status, answer = ask(server, world)
    assert status == 401
    assert b"stale-request" in answer
    assert b" UTC" in answer
    shift("+0")
    status, answer = ask(server, world)
    assert status == 200, answer
    assert server.process.poll() is None


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        ("-3d", ("certificate-refused", "not yet valid")),
        ("+500d", ("certificate-refused", "expired")),
        ("+10m", ("stale-request", "+600 s off the aggregator's")),
    ],
)
def test_an_operator_whose_clock_is_wrong_is_told_so(
    world: World, tmp_path: Path, offset: str, words: tuple[str, ...]
) -> None:
    make_certificates(world.folder / "tls", ("127.0.0.1",))

    def medveil(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medveil", "node", *arguments, "--folder", str(tmp_path / "node")]
        environment = {**os.environ, "COLUMNS": "200", **variables}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    with served(world.folder, Limits()) as server:
        made = medveil(
            *("init", "--name", "st-marys", "--aggregator", f"https://127.0.0.1:{server.port}"),
            *("--authority", str(world.folder / "tls" / "ca.pem"), "--data", str(tmp_path)),
        )
        assert made.returncode == 0, made.stderr
        told = medveil("enroll", "token", LD_PRELOAD=str(LIBRARIES[0]), FAKETIME=offset)
    assert told.returncode == 1
    said = told.stdout + told.stderr
    assert all(word in said for word in (*words, " UTC")), said
