"""Whatever arrives, with or without good credentials: no fault of ours, and only documented answers."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from aggregator.storage.register import Role
from door import Door
from medveil.identity import Identity, sign_request
from world import make_sites, make_world, play

Sign = Callable[[Any], Any]
QUICK, LONG = 1, 40
SENDERS = ("nobody", "hospital", "researcher", "token", "admin")


pytestmark = pytest.mark.filterwarnings("default")  # a test tool's own warnings are not ours


def as_bytes(_: Any, value: Any) -> bytes:
    """A generated body as it is: nothing of it is a message, and some of it is no bytes."""
    return value.data if hasattr(value, "data") else cbor2.dumps(value)


@pytest.fixture(scope="module")
def schemathesis() -> Any:
    """Loaded by the process that uses it: it takes two seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("schemathesis", reason="not installed: pip install schemathesis")
    found.serializer("application/cbor", "application/pkcs10")(as_bytes)
    return found


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    world = make_world(tmp_path_factory.mktemp("conformance"))
    play(world, make_sites(world), until=lambda: world.phase == "share")
    opened = Door(world)
    opened.service.stopping = True  # nobody waits for news
    yield opened
    opened.service.close()


@pytest.fixture(scope="module")
def senders(door: Door) -> dict[str, Sign]:
    """Who asks → what completes a prepared request with that sender's credentials."""

    def signing(who: Identity) -> Sign:
        def sign(request: Any) -> Any:
            body = request.body or b""
            body = body.encode() if isinstance(body, str) else body
            request.headers.update(sign_request(who, request.method, request.path_url, body).headers())
            return request

        return sign

    def bearing(token: str) -> Sign:
        def bear(request: Any) -> Any:
            request.headers["Authorization"] = f"Bearer {token}"
            return request

        return bear

    researcher = door.enrolled("reader", "researcher")
    door.service.register.grant(door.world.plan.id, "reader")
    return {
        "nobody": lambda request: request,
        "hospital": signing(door.hospital()),
        "researcher": signing(researcher),
        "token": bearing(door.token("script", Role.AUDITOR)),
        "admin": bearing(door.token("boss", Role.ADMIN)),
    }


def running(door: Door) -> Any:
    """The application as it runs: its start is not repeated for every request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await door.app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return app


def probe(schemathesis: Any, door: Door, signs: Sequence[Sign], examples: int) -> int:
    """Send generated requests to every operation, by each in turn; how many were sent."""
    # A message is signed CBOR: no schema can say which bytes are one, so generated ones may be refused.
    unfit = [importlib.import_module("schemathesis.specs.openapi.checks").positive_data_acceptance]
    signed = sign_request(door.hospital(), "GET", "/openapi.json", b"").headers()
    schema = schemathesis.openapi.from_asgi("/openapi.json", running(door), headers=signed)
    sent = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def one(case: Any) -> None:
            nonlocal sent
            sent += 1
            if "plan" in case.path_parameters and sent % 2:
                case.path_parameters["plan"] = door.world.plan.id
            door.service.callers.quotas._shares.clear()
            door.service.callers.newcomers._buckets.clear()
            case.call_and_validate(auth=signs[sent % len(signs)], excluded_checks=unfit)

        one()
    return sent


def test_no_generated_request_meets_a_fault_or_an_undocumented_answer(
    schemathesis: Any, door: Door, senders: dict[str, Sign]
) -> None:
    assert probe(schemathesis, door, list(senders.values()), QUICK) >= 10 * QUICK


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sender", SENDERS)
def test_no_generated_request_meets_a_fault_or_an_undocumented_answer_for_long(
    schemathesis: Any, door: Door, senders: dict[str, Sign], sender: str
) -> None:
    assert probe(schemathesis, door, [senders[sender]], LONG) >= 10 * LONG


def test_every_address_documents_who_may_ask_and_how_it_refuses(door: Door) -> None:
    for path, methods in door.app.openapi()["paths"].items():
        for method, operation in methods.items():
            answers = set(operation["responses"])
            assert {"404", "422", "503"} <= answers, (method, path)
            if path not in ("/healthz", "/leadz", "/readyz"):
                assert {"401", "403", "429"} <= answers
                assert operation["security"]
