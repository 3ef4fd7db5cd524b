"""API tokens: shown once, kept as an argon2id hash, ended at once, and no way to keep the aggregator busy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from aggregator import cli
from aggregator.access import tokens
from aggregator.access.tokens import BadToken, TokenCheck, make_token
from aggregator.admin import set_up_aggregator
from aggregator.adminkey import open_store
from aggregator.cli_people import RoleName
from aggregator.errors import Overloaded, TooManyRequests
from aggregator.settings import Settings
from aggregator.storage.register import ApiToken, Role, UnknownPerson
from aggregator.storage.store import Store
from aggregator.storage.transactions import AlreadyThere
from door import Door
from medveil.identity import sign_request
from medveil.ids import fingerprint
from world import Clock, World

Build = Callable[..., World]
DAY = 86_400.0
PRODUCTS = tokens.HASHER
"""As it is outside of tests."""


@pytest.fixture
def door(build: Build) -> Iterator[Door]:
    opened = Door(build())
    yield opened
    opened.service.close()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every hash that argon2 was asked to check."""
    asked: list[str] = []
    real = tokens.HASHER.verify

    class Counting:
        hash = staticmethod(tokens.HASHER.hash)

        def verify(self, kept: str, secret: bytes) -> bool:
            asked.append(kept)
            return bool(real(kept, secret))

    monkeypatch.setattr(tokens, "HASHER", Counting())
    return asked


def checking(kept: ApiToken | None, clock: Clock) -> TokenCheck:
    async def find(_: str) -> ApiToken | None:
        return kept

    return TokenCheck(find, clock)


def forged(text: str) -> str:
    """The same id with another secret."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def test_a_token_is_kept_as_an_argon2id_hash_and_nothing_else(door: Door) -> None:
    text = door.token("anna", Role.AUDITOR)
    rows = "\n".join(door.world.dump()[0])
    assert "$argon2id$" in rows
    assert (PRODUCTS.time_cost, PRODUCTS.memory_cost) == (2, 19_456)
    assert text.split("_")[2] not in rows
    assert text not in rows


def test_a_good_token_opens_and_every_other_one_is_refused_alike(door: Door) -> None:
    text = door.token("anna", Role.AUDITOR)
    assert door.show(text, "GET", "/v1/status").status_code == 200
    wrong = ("", "mvp_", forged(text), "mvp_" + "0" * 16 + text[20:], text + "0", text.upper(), "Basic x")
    answers = [door.show(token, "GET", "/v1/status") for token in wrong]
    for answer in answers:
        door.refused(answer, 401, "bad-token")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert len({answer.text for answer in answers}) == 1


def test_a_token_does_not_replace_a_signature_that_is_there_too(door: Door) -> None:
    text = door.token("anna", Role.AUDITOR)
    signed = sign_request(door.hospital(), "GET", "/v1/status", b"").headers()
    answer = door.raw("GET", "/v1/status", b"", signed | {"Authorization": f"Bearer {text}"})
    door.refused(answer, 401, "bad-token")


def test_a_revoked_or_expired_token_is_refused_even_while_it_is_remembered(door: Door) -> None:
    text, register = door.token("anna", Role.AUDITOR), door.service.register
    assert door.show(text, "GET", "/v1/status").status_code == 200
    elsewhere = Store(door.world.database, door.world.admin)  # as the admin's command does it
    elsewhere.register.revoke("anna", now=time.time())
    elsewhere.close()
    door.refused(door.show(text, "GET", "/v1/status"), 401, "bad-token")
    old, kept = make_token("ben", Role.AUDITOR, now=0.0, expires=1.0)
    register.add_api_token(kept)
    door.refused(door.show(old, "GET", "/v1/status"), 401, "bad-token")


def test_one_of_two_tokens_can_be_ended_and_a_name_keeps_its_role(door: Door) -> None:
    register = door.service.register
    first, second = door.token("anna", Role.AUDITOR), door.token("anna", Role.AUDITOR)
    with pytest.raises(AlreadyThere):
        door.token("anna", Role.ADMIN)
    with pytest.raises(AlreadyThere):
        door.token("hospital-1", Role.AUDITOR)
    with pytest.raises(UnknownPerson):
        register.revoke_api_token(first.split("_")[1], name="ben", now=1.0)
    register.revoke_api_token(first.split("_")[1], name="anna", now=1.0)
    door.refused(door.show(first, "GET", "/v1/status"), 401, "bad-token")
    assert door.show(second, "GET", "/v1/status").status_code == 200


def test_an_unknown_id_costs_no_hashing_and_a_good_token_only_once_a_minute(hashed: list[str]) -> None:
    clock = Clock()
    text, kept = make_token("anna", Role.AUDITOR, now=clock.now, expires=clock.now + DAY)

    async def scene() -> None:
        with pytest.raises(BadToken):
            await checking(None, clock).check(f"Bearer {text}")
        assert hashed == []
        check = checking(kept, clock)
        for _ in range(5):
            assert (await check.check(f"Bearer {text}")).name == "anna"
        assert len(hashed) == 1
        clock.now += tokens.REMEMBER_S + 1
        await check.check(f"bearer {text}")
        assert len(hashed) == 2

    asyncio.run(scene())


def test_wrong_guesses_at_a_token_are_counted_and_do_not_shut_out_its_owner(hashed: list[str]) -> None:
    clock = Clock()
    text, kept = make_token("anna", Role.AUDITOR, now=clock.now, expires=clock.now + DAY)
    check = checking(kept, clock)

    async def guess() -> type[Exception]:
        try:
            await check.check(f"Bearer {forged(text)}")
        except (BadToken, TooManyRequests) as refusal:
            return type(refusal)
        raise AssertionError("a wrong secret was taken")

    async def scene() -> None:
        await check.check(f"Bearer {text}")
        assert [await guess() for _ in range(15)] == [BadToken] * 10 + [TooManyRequests] * 5
        assert len(hashed) == 11
        await check.check(f"Bearer {text}")
        clock.now += tokens.WRONG_S
        assert await guess() is BadToken

    asyncio.run(scene())


def test_a_crowd_of_tokens_is_hashed_one_by_one_and_the_queue_is_short(hashed: list[str]) -> None:
    clock = Clock()
    made = [make_token("anna", Role.AUDITOR, now=clock.now, expires=clock.now + DAY) for _ in range(20)]
    kept = {token.id: token for _, token in made}

    async def find(token_id: str) -> ApiToken | None:
        return kept[token_id]

    async def scene() -> list[object]:
        check = TokenCheck(find, clock)
        return await asyncio.gather(*(check.check(f"Bearer {t}") for t, _ in made), return_exceptions=True)

    answers = asyncio.run(scene())
    refused = [a for a in answers if isinstance(a, Overloaded)]
    assert len(refused) == len(made) - tokens.QUEUE
    assert len(hashed) == tokens.QUEUE


def test_a_hash_that_is_damaged_opens_nothing() -> None:
    clock = Clock()
    text, kept = make_token("anna", Role.AUDITOR, now=clock.now, expires=clock.now + DAY)
    for damaged in ("", "x", kept.hash[:-4], kept.hash.replace("argon2id", "argon2x")):
        with pytest.raises(BadToken):
            asyncio.run(checking(replace(kept, hash=damaged), clock).check(f"Bearer {text}"))


def test_the_commands_add_list_grant_and_revoke_without_showing_a_token_twice(build: Build) -> None:
    world = build()
    world.store.close()
    Settings(world.folder).save()
    world.admin.save(world.folder / "admin.key")
    plan, at = world.plan.id, ["--folder", str(world.folder)]

    def run(*words: str) -> str:
        result = CliRunner().invoke(cli.app, [*words, *at])
        assert result.exit_code == 0, result.output
        return result.output

    text = run("people", "add", "anna", "--role", "researcher", "--study", plan[:12]).strip()
    register = world.store.register
    assert register.readable("anna") == {plan}
    token_id, secret = text.split("_")[1:]
    listed = run("people", "list")
    assert token_id in listed
    assert "researcher" in listed
    assert secret not in listed
    told = [json.loads(line) for line in run("people", "list", "--json").splitlines()]
    (anna,) = (one for one in told if one["name"] == "anna")
    assert (anna["role"], anna["token"], anna["key"], anna["state"]) == ("researcher", token_id, None, "open")
    assert anna["reads"] == [plan]
    assert secret not in str(told)
    (key,) = (one for one in told if one["name"] == "hospital-1")
    assert (key["token"], key["until"], key["key"]) == (
        None,
        None,
        fingerprint(world.identities[0].public_key),
    )
    run("people", "grant", "anna", plan, "--withdraw")
    assert register.readable("anna") == set()
    run("people", "grant", "anna", plan)
    run("people", "revoke", "anna")
    assert "revoked" in run("people", "list")
    assert register.readable("anna") == set()
    run("revoke", "hospital-1")
    found = register.party("hospital-1")
    assert found is not None
    assert found.revoked
    for wrong in (("people", "grant", "anna", plan), ("people", "revoke", "nobody"), ("revoke", "nobody")):
        refused = CliRunner().invoke(cli.app, [*wrong, *at])
        assert isinstance(refused.exception, UnknownPerson)


def test_no_person_exists_before_the_admin_makes_one(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "aggregator")
    set_up_aggregator(settings)
    store = open_store(settings)
    register = store.register
    assert register.api_tokens() == []
    assert register.enrolled_keys() == []
    store.close()


def test_a_key_is_read_once_while_nothing_is_written_and_refused_at_the_next_request_after_a_revocation(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asked = door.world.database, []
    assert isinstance(file, Path)
    register = door.service.register
    real = register.party_as_of
    monkeypatch.setattr(register, "party_as_of", lambda name: (asked.append(name), real(name))[1])
    for _ in range(3):
        assert door.ask(door.hospital(), "GET", "/v1/plans").status_code == 200
    assert asked == ["hospital-1"]
    elsewhere = Store(file, door.world.admin)
    elsewhere.register.revoke("hospital-1", now=time.time())
    elsewhere.close()
    door.refused(door.ask(door.hospital(), "GET", "/v1/plans"), 403, "revoked")
    assert len(asked) == 2


def test_the_command_line_names_every_role() -> None:
    assert set(get_args(RoleName)) == {role.value for role in Role}
