"""A pair of aggregators behind deploy/nginx.conf: who leads answers, and nobody can shut the others out."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from aggregator.access.tls import make_certificates
from aggregator.web.problems import STATUS
from medveil.identity import Identity, sign_request
from nginx import INSTALL, NGINX, PRETENDED, front_of
from pair import Pair, pair_of
from postgres import Cluster

pytestmark = pytest.mark.skipif(NGINX is None, reason=INSTALL)


class Front:
    """Requests through nginx; nothing is tried twice."""

    def __init__(self, here: Path, port: int, pair: Pair) -> None:
        self.pair = pair
        context = ssl.create_default_context(cafile=str(here / "front" / "ca.pem"))
        self.client = httpx.Client(verify=context, base_url=f"https://localhost:{port}", timeout=60)

    def ask(self, who: Identity, path: str = "/v1/plans", *, at: float | None = None) -> httpx.Response:
        """A signed request; ``at`` is the time that it claims."""
        proof = sign_request(who, "GET", path, b"", **({} if at is None else {"now": at}))
        return self.client.get(path, headers=proof.headers() | self._address(who))

    def send(self, who: Identity, path: str, body: bytes, method: str = "PUT") -> httpx.Response:
        proof = sign_request(who, method, path, body)
        headers = proof.headers() | self._address(who)
        return self.client.request(method, path, headers=headers, content=body)

    def _address(self, who: Identity) -> dict[str, str]:
        """Each hospital has an address of its own, so that nginx counts it alone."""
        return {PRETENDED: f"10.0.0.{self.pair.world.identities.index(who) + 1}"}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Front]:
    here = tmp_path_factory.mktemp("pair")
    make_certificates(here / "front", ("localhost", "127.0.0.1"))
    with (
        pair_of(here, cluster) as pair,
        front_of(here, [pair.one.port, pair.other.port], pair.authority) as port,
    ):
        opened = Front(here, port, pair)
        yield opened
        opened.client.close()


def test_a_proxy_passes_a_request_on_for_not_leading_and_for_nothing_else() -> None:
    assert [code for code, status in STATUS.items() if status == 502] == ["not-leading"]


@pytest.mark.slow
def test_a_hospital_that_draws_503_on_demand_costs_the_others_no_request(front: Front) -> None:
    """With the old recipe one 503 of the leader took it away from everybody for ten seconds."""
    enough, drawn = threading.Event(), Counter[int]()
    attacker, neighbour = front.pair.world.identities[0], front.pair.world.identities[1]

    def draw() -> None:
        while not enough.is_set():
            drawn[front.ask(attacker, at=time.time() - 200).status_code] += 1

    drawing = threading.Thread(target=draw)
    drawing.start()
    try:
        while not drawn[503]:
            time.sleep(0.01)
        answers = Counter(front.ask(neighbour).status_code for _ in range(60))
    finally:
        enough.set()
        drawing.join()
    assert set(drawn) <= {503, 429}
    assert answers == {200: 60}


@pytest.mark.slow
def test_every_message_goes_to_the_process_that_leads_and_a_segment_to_any(front: Front) -> None:
    """nginx cannot send a body twice that it does not keep, so it asks first who leads."""
    world = front.pair.world
    at = f"/v1/plans/{world.plan.id}/rounds/7/attempts/1"
    answers = [front.send(world.identities[1], f"{at}/segments/0", bytes(2**20)) for _ in range(12)]
    assert Counter(answer.json()["code"] for answer in answers) == {"wrong-round": 12}
    answers = [front.send(world.identities[1], f"{at}/ready", bytes(2**9), method="POST") for _ in range(12)]
    assert Counter(answer.json()["code"] for answer in answers) == {"wrong-round": 12}
    for server in (front.pair.one, front.pair.other):
        assert "/segments/{segment}" in server.log.read_text()


@pytest.mark.slow
def test_when_the_leader_is_killed_the_standby_answers_through_the_same_address(front: Front) -> None:
    """The last of this module: the pair is one afterwards."""
    front.pair.one.process.kill()
    front.pair.one.process.wait()
    answers: list[int] = []
    while not answers or answers[-1] != 200:
        assert len(answers) < 3000
        answers.append(front.ask(front.pair.world.identities[1]).status_code)
        time.sleep(0.02)
    assert set(answers) <= {200, 502, 503}  # a standby's own answer, and a request that was signed too early
    assert {front.ask(front.pair.world.identities[1]).status_code for _ in range(20)} == {200}
