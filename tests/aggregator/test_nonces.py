"""No request is carried out twice, not even by the next process and with a clock that is ahead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.access import nonces
from aggregator.access.nonces import EarlyNonces
from aggregator.access.signatures import Gatekeeper, Replayed, SignedBeforeStart
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.register import Party
from door import Door
from medveil import identity as signing
from medveil.identity import FRESHNESS_S, Identity, RequestProof, StaleRequest, sign_request
from world import Clock, World

HOSPITAL = Identity.generate("st-marys")
PARTY = Party("st-marys", "hospital", HOSPITAL.public_key)
NOW = 1_700_000_000.5


def request(at: float, monkeypatch: pytest.MonkeyPatch) -> RequestProof:
    """A request by a clock that shows ``at``."""
    monkeypatch.setattr(signing.time, "time", lambda: at)
    return sign_request(HOSPITAL, "GET", "/v1/plans", b"")


def admit(gate: Gatekeeper, proof: RequestProof) -> None:
    gate.admit(PARTY, proof, "GET", "/v1/plans")
    if gate.outlives(proof):
        gate.keep(proof)


@pytest.mark.parametrize("ahead", [1.0, 60.0, 299.0])
def test_a_fast_clocks_request_cannot_be_used_again_after_a_restart(
    folder: Path, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = Clock(NOW), folder / "nonces"
    proof = request(NOW + ahead, monkeypatch)
    admit(Gatekeeper(clock, EarlyNonces(path)), proof)
    clock.now = NOW + 1
    admit(Gatekeeper(clock, EarlyNonces(folder / "lost")), proof)  # it is the file that keeps it out
    for wait in (1.0, ahead, FRESHNESS_S - 2.0):
        clock.now = NOW + wait
        with pytest.raises((Replayed, StaleRequest, SignedBeforeStart)):
            admit(Gatekeeper(clock, EarlyNonces(path)), proof)


def test_an_honest_clock_costs_no_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, path = Clock(NOW), folder / "nonces"
    gate = Gatekeeper(clock, EarlyNonces(path))
    for late in range(5):
        clock.now = NOW + 10 + late
        admit(gate, request(clock.now - late, monkeypatch))
    assert path.read_bytes() == b""


def test_a_line_that_was_cut_off_is_left_out_and_the_others_count(folder: Path) -> None:
    path = folder / "nonces"
    path.write_text("2000000000 st-marys aa\n1000 st-marys bb\nx y z\n2000000000 st-marys c")
    early = EarlyNonces(path)
    assert early.existed
    assert list(early.used(1001)) == [("st-marys", "aa")]


def test_the_file_does_not_grow_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonces, "MANY", 20)
    clock, path = Clock(NOW), folder / "nonces"
    gate = Gatekeeper(clock, EarlyNonces(path))
    for _ in range(100):
        clock.now += 1
        admit(gate, request(clock.now + 5, monkeypatch))
    assert len(path.read_text().splitlines()) <= 20
    assert len(list(EarlyNonces(path).used(int(clock.now)))) >= 5


def test_a_request_whose_nonce_cannot_be_kept_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gatekeeper(Clock(NOW), EarlyNonces(folder / "nonces"))
    (folder / "nonces").unlink()
    (folder / "nonces").mkdir()
    with pytest.raises(StorageFailed):
        admit(gate, request(NOW + 60, monkeypatch))
    with pytest.raises(StorageFailed):
        EarlyNonces(folder / "nonces")


def test_a_nonce_of_another_form_is_refused_and_leaves_nothing_behind(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to stand in memory and not on disk; then nobody whose clock is ahead was let in any more."""
    monkeypatch.setattr(nonces, "MANY", 3)
    world = build()
    door, path = Door(world), world.folder / "nonces"
    behind = Clock(time.time() - 100)
    door.service.callers.gatekeeper = Gatekeeper(behind, EarlyNonces(path))
    for nonce in ("é" * 32, "a b" + "0" * 29, "A" * 32, "0" * 33, "\n" * 32):
        proof = replace(sign_request(door.hospital(), "GET", "/v1/plans", b""), nonce=nonce)
        parts = signing._request_parts(
            proof.sender, "GET", "/v1/plans", proof.digest, proof.time, nonce
        )  # its signature is good
        good = replace(proof, signature=door.hospital().sign("request", *parts))
        headers = {k: v.encode("latin-1") for k, v in good.headers().items()}
        door.refused(door.raw("GET", "/v1/plans", b"", headers), 401, "bad-signature")
    assert path.read_bytes() == b""
    for _ in range(8):
        assert door.ask(door.hospital(), "GET", "/v1/plans").status_code == 200
    assert len(list(EarlyNonces(path).used(0))) == 8
    door.service.close()


def test_a_nonce_that_could_not_be_written_is_not_counted_as_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "nonces"
    early = EarlyNonces(path)
    with monkeypatch.context() as full:
        full.setattr(nonces.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(StorageFailed):
            early.keep(request(NOW, monkeypatch), now=NOW)
    assert list(early.used(0)) == []


def test_a_clock_far_ahead_does_not_make_every_request_write_the_whole_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nonces, "MANY", 10)
    whole = []
    monkeypatch.setattr(nonces, "write_durably", lambda path, data: whole.append(len(data)))
    early = EarlyNonces(folder / "nonces")
    for _ in range(200):
        early.keep(request(NOW + 200, monkeypatch), now=NOW)
    assert len(whole) <= 6


def test_the_application_keeps_what_a_restart_would_forget(build: Callable[..., World]) -> None:
    world = build()
    door = Door(world)
    path = world.folder / "nonces"
    behind = Clock(time.time() - 100)
    door.service.callers.gatekeeper = Gatekeeper(behind, EarlyNonces(path))
    signed = sign_request(door.hospital(), "GET", "/v1/plans", b"").headers()
    assert door.raw("GET", "/v1/plans", b"", signed).status_code == 200
    behind.now += 10
    door.service.callers.gatekeeper = Gatekeeper(behind, EarlyNonces(path))
    door.refused(door.raw("GET", "/v1/plans", b"", signed), 409, "replayed-request")
    door.service.close()


def test_nonces_are_forgotten_only_when_they_can_no_longer_be_used() -> None:
    now = [1000.0]
    gate = Gatekeeper(lambda: now[0])
    for step in range(3):
        gate._remember(("a", str(step)), now[0])
        now[0] += 1.9 * FRESHNESS_S
    gate._remember(("a", "new"), now[0])
    assert ("a", "2") in gate._seen
    assert ("a", "0") not in gate._seen
