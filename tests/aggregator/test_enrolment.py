"""Who comes in: one token, one newcomer; a stranger learns nothing and fills nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from aggregator.storage.editions import Edition
from aggregator.storage.register import Party
from door import Door
from medveil.identity import Identity, sign_request
from medveil.ids import canonical
from medveil.messages import Enrol, enrolment_path
from world import World

Build = Callable[..., World]


@pytest.fixture
def entrance(build: Build) -> Iterator[Door]:
    opened = Door(build())
    yield opened
    opened.service.close()


TOKEN = "a-token-of-more-than-20-letters"


def enrol(door: Door, who: Identity, *, token: str = TOKEN, name: str | None = None) -> httpx.Response:
    body, path = Enrol(token=token).to_bytes(), enrolment_path(who.public_key)
    signer = who if name is None else Identity(name, who._key)
    return door.ask(signer, "POST", path, body)


def test_a_token_enrols_one_newcomer_once_and_a_lost_answer_may_be_repeated(entrance: Door) -> None:
    newcomer, store = Identity.generate("newcomer"), entrance.world.store
    store.register.add_token(TOKEN, name="newcomer", role="hospital", expires=time.time() + 60)
    assert enrol(entrance, newcomer).status_code == 204
    before = entrance.world.dump()
    assert enrol(entrance, newcomer).status_code == 204
    entrance.refused(enrol(entrance, Identity.generate("newcomer")), 403, "token-refused")
    assert entrance.world.dump() == before
    assert entrance.ask(newcomer, "GET", "/v1/plans").status_code == 200


def test_expired_wrong_and_foreign_tokens_enrol_nobody(entrance: Door) -> None:
    newcomer, store = Identity.generate("newcomer"), entrance.world.store
    store.register.add_token(TOKEN, name="newcomer", role="hospital", expires=time.time() - 1)
    store.register.add_token(TOKEN + "2", name="somebody-else", role="hospital", expires=time.time() + 60)
    store.register.add_token(TOKEN + "3", name="hospital-1", role="hospital", expires=time.time() + 60)
    before = entrance.world.dump()
    for token in (TOKEN, TOKEN + "2", TOKEN + "?"):
        entrance.refused(enrol(entrance, newcomer, token=token), 403, "token-refused")
    taken = Identity.generate("hospital-1")
    entrance.refused(enrol(entrance, taken, token=TOKEN + "3"), 409, "already-there")
    assert entrance.world.dump() == before
    assert TOKEN not in json.dumps(before[0])  # only a hash of it is kept


def test_an_enrolment_must_be_signed_with_the_key_that_it_brings(entrance: Door) -> None:
    newcomer, other = Identity.generate("newcomer"), Identity.generate("newcomer")
    entrance.world.store.register.add_token(TOKEN, name="newcomer", role="hospital", expires=time.time() + 60)
    before = entrance.world.dump()
    body, path = Enrol(token=TOKEN).to_bytes(), enrolment_path(newcomer.public_key)
    entrance.refused(entrance.ask(other, "POST", path, body), 401, "bad-signature")
    proof = sign_request(newcomer, "POST", path, body)
    renamed = replace(proof, sender="another")
    entrance.refused(entrance.raw("POST", path, body, renamed.headers()), 401, "bad-signature")
    swapped = enrolment_path(other.public_key)
    entrance.refused(entrance.raw("POST", swapped, body, proof.headers()), 401, "bad-signature")
    entrance.refused(entrance.raw("POST", path, body + b"x", proof.headers()), 401, "bad-signature")
    assert entrance.world.dump() == before


def test_the_enrolment_of_an_older_version_is_refused_before_its_body_is_read(entrance: Door) -> None:
    newcomer = Identity.generate("newcomer")
    old = canonical({"token": TOKEN, "name": "newcomer", "public_key": newcomer.public_key})
    entrance.refused(entrance.ask(newcomer, "POST", "/v1/enrol", old), 422, "bad-request")
    path = enrolment_path(newcomer.public_key)
    entrance.refused(entrance.ask(newcomer, "POST", path, old), 422, "bad-message")
    for key in (newcomer.public_key.hex().upper(), "00", newcomer.public_key.hex() + "%0a"):
        entrance.refused(
            entrance.ask(newcomer, "POST", f"/v1/enrol?key={key}", Enrol(token=TOKEN).to_bytes()),
            422,
            "bad-request",
        )


def test_nothing_of_an_enrolment_is_read_or_parsed_before_its_signature_holds(
    entrance: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    async def body() -> Any:
        read.append(1)
        yield b"\xd8\x1c\x80"

    newcomer, other = Identity.generate("newcomer"), Identity.generate("newcomer")
    path = enrolment_path(newcomer.public_key)
    signed = sign_request(newcomer, "POST", path, b"\xd8\x1c\x80").headers()
    forged = sign_request(other, "POST", path, b"\xd8\x1c\x80").headers()
    for headers in (
        {},
        forged,
        signed | {"MedVeil-Nonce": "é" * 32},
        signed | {"MedVeil-Sender": "who else"},
    ):
        encoded = {k: v.encode("latin-1") for k, v in headers.items()}
        assert entrance.raw("POST", path, body(), encoded).status_code == 401
    assert read == []
    entrance.refused(entrance.raw("POST", path, body(), signed), 422, "bad-message")
    too_long = sign_request(newcomer, "POST", path, bytes(300))
    entrance.refused(entrance.raw("POST", path, bytes(300), too_long.headers()), 413, "too-large")


def test_a_refusal_does_not_tell_whether_somebody_of_that_name_is_enrolled(entrance: Door) -> None:
    """The same status, the same text and the same questions to the register, known for long or not."""
    asked: list[str] = []
    question = entrance.service.register.party_as_of

    def party_as_of(name: str) -> tuple[Party | None, Edition | None]:
        asked.append(name)
        return question(name)

    entrance.service.register.party_as_of = party_as_of  # type: ignore[method-assign]

    def try_name(name: str) -> tuple[int, dict[str, str], int]:
        asked.clear()
        answer = entrance.ask(Identity.generate(name), "GET", "/v1/plans")
        return answer.status_code, answer.json(), len(asked)

    assert entrance.ask(entrance.hospital(), "GET", "/v1/plans").status_code == 200  # now it is in memory
    enrolled, another, nobody = try_name("hospital-1"), try_name("hospital-2"), try_name("hospital-99")
    assert enrolled == another == nobody
    assert (nobody[0], nobody[1]["code"], nobody[2]) == (401, "unknown-sender", 1)


def test_a_name_that_is_missing_for_a_moment_is_no_fault_of_the_server(entrance: Door) -> None:
    """The open file goes on; only the look at its time, to spare a query, has nothing to look at."""
    assert isinstance(entrance.world.database, Path)
    entrance.world.database.rename(entrance.world.database.with_name("elsewhere.db"))
    assert entrance.ask(entrance.hospital(), "GET", "/v1/plans").status_code == 200
