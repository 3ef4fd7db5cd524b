"""The researcher's connection: an aggregator that has no time is asked again later, and never for ever."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2 as httpx
import pytest

from aggregator.access.tls import make_certificates
from medveil.identity import Identity, RequestProof
from medveil.reports import PlanStatus
from medveil_research import client as module
from medveil_research.client import Client, NoAnswer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping moves."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def ask(folder: Path, answers: list[httpx.Response]) -> tuple[bytes | NoAnswer, list[httpx.Request]]:
    """Ask for a model against prepared answers; the last one is given for ever."""
    make_certificates(folder, ("127.0.0.1",))
    requests = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return httpx.Response(found.status_code, headers=found.headers, content=iter([found.content]))

    with Client("https://here:1", folder / "ca.pem", Identity.generate("researcher-1")) as client:
        client._client = httpx.Client(base_url="https://here:1", transport=httpx.MockTransport(handle))
        try:
            return client.model("p", "m"), requests
        except NoAnswer as error:
            return error, requests


def test_a_busy_aggregator_is_asked_again_at_the_time_it_names(tmp_path: Path, clock: list[float]) -> None:
    busy = httpx.Response(429, headers={"retry-after": "3"})
    answer, requests = ask(tmp_path, [busy, busy, httpx.Response(200, content=b"model")])
    assert answer == b"model"
    assert clock[0] == pytest.approx(106)
    assert len({RequestProof.from_headers(r.headers).nonce for r in requests}) == 3


def test_an_aggregator_that_stays_busy_is_reported(tmp_path: Path, clock: list[float]) -> None:
    answer, requests = ask(tmp_path, [httpx.Response(503, headers={"retry-after": "4"})])
    assert isinstance(answer, NoAnswer)
    assert "503" in answer.what
    assert clock[0] - 100 <= module.PATIENCE_S
    assert len(requests) == 8


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_a_refusal_is_not_repeated(tmp_path: Path, clock: list[float], status: int) -> None:
    answer, requests = ask(tmp_path, [httpx.Response(status, headers={"retry-after": "1"})])
    assert isinstance(answer, NoAnswer)
    assert len(requests) == 1
    assert clock[0] == 100


STATUS = {
    "plan": "0" * 64, "name": "films", "finished": False, "hospitals": ["h1", "h2", "h3"],
    "approved": ["h1"], "in_reach": [], "open": None, "waiting_for": None, "attempts": [], "versions": [],
}  # fmt: skip


def told(folder: Path, value: object) -> PlanStatus | NoAnswer:
    """What the client makes of a status."""
    content = json.dumps(value).encode()
    make_certificates(folder, ("127.0.0.1",))
    with Client("https://here:1", folder / "ca.pem", Identity.generate("researcher-1")) as client:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=iter([content])))
        client._client = httpx.Client(base_url="https://here:1", transport=transport)
        try:
            return client.status("0" * 64)
        except NoAnswer as error:
            return error


def test_a_status_is_read_as_what_it_is_and_a_newer_aggregators_too(tmp_path: Path) -> None:
    found = told(tmp_path, STATUS | {"a key of next year": 1})
    assert isinstance(found, PlanStatus)
    assert (found.name, found.hospitals, found.attempts) == ("films", ("h1", "h2", "h3"), ())


@pytest.mark.parametrize(
    "change",
    [{"name": "\x1b[2J"}, {"hospitals": "h1"}, {"attempts": [{"round": -1}]}, {"plan": "x"}, {"versions": 7}],
    ids=["name", "hospitals", "attempts", "plan", "versions"],
)
def test_what_is_no_status_is_refused_in_words(tmp_path: Path, change: dict[str, object]) -> None:
    found = told(tmp_path, STATUS | change)
    assert isinstance(found, NoAnswer)
    assert "what it sent is no status" in found.what
