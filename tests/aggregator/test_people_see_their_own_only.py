"""Two consortia on one aggregator: over every address, neither can tell that the other is there."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest

from aggregator.access.sessions import COOKIE, begun, new_cookie
from aggregator.storage.register import Role
from aggregator.web.dashboard.screens import all_screens
from aggregator.work.versions import first_version
from door import Door
from medveil.identity import Identity
from medveil.messages import Approval, Refusal
from medveil.plan import Plan, sign_approval
from medveil.rounds import Phase
from medveil.tensors import model_hash, to_safetensors
from visitor import Visitor
from world import SPEC, World, make_plan, make_sites, make_study, make_world, other_start, play

Build = Callable[..., World]
Ask = Callable[[str, str, bytes], httpx.Response]
OPEN = {"/healthz", "/readyz", "/leadz", "/v1/enrol"}
"""Addresses that ask nobody who is there."""


@dataclass
class Tenant:
    """One consortium with every kind of credential it has."""

    plan: Plan
    model: str
    asks: dict[str, Ask]


def signing(door: Door, who: Identity) -> Ask:
    return lambda method, path, body: door.ask(who, method, path, body)


def bearing(door: Door, token: str) -> Ask:
    return lambda method, path, body: door.raw(method, path, body, {"Authorization": f"Bearer {token}"})


def second_plan(world: World) -> tuple[Plan, list[Identity]]:
    """Another consortium's plan in the same database."""
    others = [Identity.generate(f"clinic-{i}") for i in range(1, 4)]
    for one in others:
        token = secrets.token_urlsafe(24)
        world.store.register.add_token(token, name=one.name, role="hospital", expires=2.0)
        world.store.register.enrol(token, name=one.name, public_key=one.public_key, now=1.0)
    model = make_study().model.model_copy(update={"initial_model": model_hash(other_start(1), SPEC).hex()})
    plan = make_plan(others, make_study(name="southern", model=model))
    first = first_version(plan, to_safetensors(other_start(1), SPEC), world.blobs, now=1.0)
    world.store.plans.add(plan, world.admin.sign("create-plan", plan.hash), first, 1.0)
    for one in others:
        world.store.plans.add_approval(plan.id, one.name, sign_approval(plan, one))
    world.coordinator.runs.reload()
    return plan, others


def opened_over(world: World) -> Door:
    later = 2  # the initial model and one made from a sum, whose proof is kept
    play(
        world,
        make_sites(world),
        until=lambda: world.phase == Phase.SHARE and len(world.status["versions"]) == later,
    )
    return Door(world)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """For tests that change nothing in it, and say so."""
    opened = opened_over(make_world(tmp_path_factory.mktemp("tenants") / "world"))
    yield opened
    opened.service.close()
    opened.world.store.close()


@pytest.fixture
def own_door(build: Build) -> Iterator[Door]:
    opened = opened_over(build())
    yield opened
    opened.service.close()


@pytest.fixture(scope="module")
def tenants(door: Door) -> tuple[Tenant, Tenant]:
    return tenants_of(door)


def tenants_of(door: Door) -> tuple[Tenant, Tenant]:
    world = door.world
    other, clinics = second_plan(world)

    def tenant(name: str, plan: Plan, hospital: Identity) -> Tenant:
        key, token = door.enrolled(f"{name}-key", "researcher"), door.token(f"{name}-token", Role.RESEARCHER)
        relay = door.enrolled(f"{name}-relay", "relay")
        for reader in (f"{name}-key", f"{name}-token", f"{name}-relay"):
            door.service.register.grant(plan.id, reader)
        asks = {"hospital": signing(door, hospital), "key": signing(door, key), "token": bearing(door, token)}
        asks["relay"] = signing(door, relay)
        return Tenant(plan, plan.study.model.initial_model, asks)

    return tenant("north", world.plan, world.identities[0]), tenant("south", other, clinics[0])


def routes(door: Door) -> list[tuple[str, str]]:
    """Every (method, address) of the OpenAPI document but the open ones."""
    return [(m.upper(), path) for path, methods in paths(door).items() for m in methods if path not in OPEN]


PATHS: dict[str, Any] = {}


def paths(door: Door) -> dict[str, Any]:
    """Of the OpenAPI document, which takes long and is the same for each of these tests."""
    PATHS.update(PATHS or door.app.openapi()["paths"])
    return PATHS


def filled(path: str, plan: str, model: str) -> str:
    numbers = {"number": "1", "attempt": "1", "segment": "0", "letter": "0" * 32}
    return path.format(plan=plan, model=model, kind="shares", keeper="keeper-1", **numbers)


def body_for(method: str, path: str) -> bytes:
    if path.endswith("approval"):
        return Approval(signature=bytes(64)).to_bytes()
    if path.endswith("refusal"):
        return Refusal(kind="refused", reason="not now", signature=bytes(64)).to_bytes()
    return b"\xa0" * (method != "GET")


def test_the_ids_of_one_consortium_lead_the_other_nowhere(door: Door, tenants: tuple[Tenant, Tenant]) -> None:
    ours, theirs = tenants
    with_ids = [(m, p) for m, p in routes(door) if "{plan}" in p]
    assert len(with_ids) >= 6
    before = door.world.dump()
    for owner, stranger in ((ours, theirs), (theirs, ours)):
        for method, path in with_ids:
            body = body_for(method, path)
            for who, ask in stranger.asks.items():
                real = ask(method, filled(path, owner.plan.id, owner.model), body)
                made_up = ask(method, filled(path, "0" * 64, owner.model), body)
                assert real.status_code in (403, 404), (method, path, who, real.text)
                assert (real.status_code, real.text) == (made_up.status_code, made_up.text), (
                    method,
                    path,
                    who,
                )
    assert door.world.dump() == before


def test_what_is_refused_to_strangers_is_there_for_its_owner(
    door: Door, tenants: tuple[Tenant, Tenant]
) -> None:
    ours, _ = tenants
    for method, path in (r for r in routes(door) if "{plan}" in r[1]):
        answers = {
            who: ask(method, filled(path, ours.plan.id, ours.model), body_for(method, path)).status_code
            for who, ask in ours.asks.items()
        }
        assert set(answers.values()) - {403, 404}, (method, path, answers)


def test_lists_hold_the_askers_own_and_nothing_of_the_other(
    door: Door, tenants: tuple[Tenant, Tenant]
) -> None:
    ours, theirs = tenants
    seen = 0
    for method, path in (r for r in routes(door) if "{" not in r[1]):
        for owner, other in ((ours, theirs), (theirs, ours)):
            for ask in owner.asks.values():
                answer = ask(method, path, b"")
                for word in told_of(other):
                    assert word.encode() not in answer.content, (method, path, word)
                seen += answer.status_code == 200 and owner.plan.id.encode() in answer.content
    assert seen >= 4  # a researcher's key and token, in both consortia


def test_no_page_stream_or_filter_tells_a_researcher_of_the_other_consortium(
    door: Door, tenants: tuple[Tenant, Tenant]
) -> None:
    """Pages and streams are in no OpenAPI document: they are gone through screen by screen, signed in."""
    shown = 0
    for name, owner, other in (("north", *tenants), ("south", *tenants[::-1])):
        browser = signed_in(door, f"{name}-key")
        words, typed_words = told_of(other), (other.plan.id, other.plan.study.name)
        for screen in all_screens():
            for path in (screen.path, screen.twin):
                own = filled(path, owner.plan.id, owner.model)
                typed = [("", own), *((w, f"{own}?{f}={w}") for f in screen.filters for w in typed_words)]
                for word, address in typed:  # what was typed may be said again
                    answer = browser.get(address)
                    told = [one for one in words if one != word and one.encode() in answer.content]
                    assert not told, (address, told)
                    shown += answer.status_code == 200
            if "{plan}" in screen.path:
                for path in (screen.path, screen.twin, screen.twin.replace(".json", ".live")):
                    theirs = browser.get(filled(path, other.plan.id, owner.model))
                    nowhere = browser.get(filled(path, "0" * 64, owner.model))
                    assert theirs.status_code in (403, 404), path
                    assert (theirs.status_code, theirs.text) == (nowhere.status_code, nowhere.text), path
    assert shown > 2 * len(all_screens())


def told_of(tenant: Tenant) -> tuple[str, ...]:
    """What gives a consortium away; "tiny" may be a word of anybody's fingerprint."""
    name = tenant.plan.study.name
    return (tenant.plan.id, *tenant.plan.names, *(() if name == "tiny" else (name,)))


def signed_in(door: Door, name: str) -> Visitor:
    """A browser of an enrolled researcher for whom a provider has vouched."""
    browser, now = Visitor(door), door.service.visitors.clock()
    browser.cookies[COOKIE] = cookie = new_cookie()
    session = begun(cookie, name=name, role="researcher", shown=name, way="sso", now=now, life_s=3600.0)
    door.service.visitors.sessions.sign_in(session)
    return browser


def test_each_role_reads_what_it_should_and_no_role_changes_anything(
    door: Door, tenants: tuple[Tenant, Tenant]
) -> None:
    ours, _ = tenants
    asks = {role: bearing(door, door.token(f"a-{role}", role)) for role in Role if role != Role.RESEARCHER}
    may = {
        "/metrics": {Role.ADMIN, Role.MONITOR},
        "/v1/status": {Role.ADMIN, Role.AUDITOR},
        "/v1/plans/{plan}/status": {Role.ADMIN, Role.AUDITOR},
        "/v1/audit": {Role.ADMIN, Role.AUDITOR},
        "/v1/plans/{plan}": {Role.ADMIN, Role.AUDITOR},
        "/v1/plans/{plan}/models/{model}": {Role.ADMIN},
        "/v1/plans/{plan}/versions/{number}/proof": {Role.ADMIN, Role.AUDITOR},
        "/v1/plans/{plan}/rounds/{number}/certificates": {Role.ADMIN, Role.AUDITOR},
        "/v1/plans/{plan}/versions/{number}/sum": {Role.ADMIN},
    }
    may |= {screen.twin: set(screen.roles) - {Role.RESEARCHER} for screen in all_screens()}
    before = door.world.dump()
    for method, path in routes(door):
        for role, ask in asks.items():
            status = ask(method, filled(path, ours.plan.id, ours.model), body_for(method, path)).status_code
            expected = 200 if method == "GET" and role in may.get(path, set()) else 403
            assert status == expected, (method, path, role)
    assert door.world.dump() == before


def test_a_researcher_loses_a_study_that_is_withdrawn_and_everything_when_revoked(own_door: Door) -> None:
    door = own_door
    ours, _ = tenants_of(door)
    path, register = f"/v1/plans/{ours.plan.id}/status", door.service.register
    assert ours.asks["key"]("GET", path, b"").status_code == 200
    register.withdraw(ours.plan.id, "north-key")
    door.refused(ours.asks["key"]("GET", path, b""), 404, "not-found")
    register.revoke("north-key", now=1.0)
    door.refused(ours.asks["key"]("GET", path, b""), 403, "revoked")


def test_a_revoked_hospital_is_refused_at_every_address_with_a_named_error(own_door: Door) -> None:
    door = own_door
    ours, _ = tenants_of(door)
    door.service.register.revoke(door.hospital().name, now=1.0)
    before = door.world.dump()
    for method, path in routes(door):
        answer = ours.asks["hospital"](method, filled(path, ours.plan.id, ours.model), body_for(method, path))
        door.refused(answer, 403, "revoked")
    assert door.world.dump() == before
    assert door.ask(door.hospital(2), "GET", f"/v1/plans/{ours.plan.id}/work").status_code == 200
