"""Both doors as functions of bytes, for fuzzing: whatever comes, only named refusals, and no second spelling.

The first byte chooses what the rest is taken for. Each function returns without a word, or raises what must
never happen. ``tests/fuzz/run.py`` calls it (Atheris), and ``tests/fuzz/test_fuzz.py`` (kept inputs).
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from door import Door
from hospital_node.governance import PlanRefused, read_offer, well_formed
from hospital_node.line import AggregatorProblem
from medveil.answers import AnswerTooLarge, Collected, EncodedAnswer, problem_in
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity, RequestProof, sign_request
from medveil.messages import (
    Approval,
    Enrol,
    LedgerEnd,
    PlanOffer,
    PlanOffers,
    Wire,
    Work,
    enrolment_path,
    seconds_to_wait,
)
from medveil.outside import ITEMS, JSON_DEPTH, NotPlain, decode_cbor, decode_json
from medveil.tensors import from_safetensors
from privacy.secagg.messages import (
    MESSAGES,
    Advertised,
    Certificates,
    Committed,
    Published,
    Quorum,
    Survivors,
)
from world import SPEC, make_sites, make_world, play

NEWCOMER = Identity.generate("newcomer")
Target = Callable[[bytes], None]


def message(kind: type[Wire]) -> Target:
    """Decode as this kind of message."""

    def decode(data: bytes) -> None:
        with suppress(RemoteProtocolError):
            assert kind.from_bytes(data).to_bytes() == data

    return decode


def plain_cbor(data: bytes) -> None:
    """Anything at all."""
    with suppress(NotPlain):
        decode_cbor(data)


def plain_json(data: bytes) -> None:
    """What passes is what the library reads, and is bounded."""
    try:
        value = decode_json(data, max_bytes=65_536)
    except NotPlain:
        return
    assert _size(value) <= 2 * ITEMS
    assert _depth(value) <= JSON_DEPTH
    assert json.loads(data) == value


def headers(data: bytes) -> None:
    """The five headers of a signed request, one on each line."""
    names = ("sender", "time", "nonce", "digest", "signature")
    given = dict(zip((f"medveil-{n}" for n in names), data.decode("latin-1").split("\r\n"), strict=False))
    with suppress(RemoteProtocolError):
        proof = RequestProof.from_headers(given)
        assert {k.lower(): v for k, v in proof.headers().items()} == given
        proof.nonce.encode("ascii")


def request(data: bytes) -> None:
    """A request to the real application: a line of method, path and sender, then the body."""
    line, _, body = data.partition(b"\n")
    method, _, rest = line.decode("latin-1").partition(" ")
    path, _, who = rest.partition(" ")
    door, loop = _door()
    path = path.replace("{at}", door.at).replace("{enrol}", enrolment_path(NEWCOMER.public_key))
    if method not in ("GET", "POST", "PUT") or not path.startswith("/") or not path.isascii():
        return
    sender = {"1": door.hospital(1), "2": door.hospital(2), "n": NEWCOMER}.get(who)
    signed = {} if sender is None else sign_request(sender, method, path, body).headers()
    door.service.callers.quotas._shares.clear()
    door.service.callers.newcomers._buckets.clear()
    status, kind, answer = loop.run_until_complete(_ask(door, method, path, body, signed))
    assert status not in (0, 500), (status, answer)
    if status >= 400:
        assert kind == b"application/problem+json"
        assert json.loads(answer)["code"]


def ledger_end(data: bytes) -> None:
    """Where a hospital's ledger ends, as it stands in an address."""
    text = data.decode("latin-1")
    with suppress(RemoteProtocolError):
        assert str(LedgerEnd.parse(text)) == text


def offers(data: bytes) -> None:
    """Plans on offer, each read as the node reads it."""
    with suppress(RemoteProtocolError):
        for offer in PlanOffers.from_bytes(data).offers:
            _read(offer)


def plan_text(data: bytes) -> None:
    """The text of one plan."""
    _read(
        PlanOffer(plan=data.decode("latin-1"), admin_key=bytes(32), admin_signature=bytes(64), approvals={})
    )


def _read(offer: object) -> None:
    with suppress(RemoteProtocolError, PlanRefused):
        read_offer(well_formed(offer))


def work(data: bytes) -> None:
    """Work, and its payload as each view."""
    with suppress(RemoteProtocolError):
        payload = Work.from_bytes(data).payload
        for kind in VIEWS:
            message(kind)(payload)


def refusal(data: bytes) -> None:
    """A problem document, shown and logged."""
    told = problem_in(data)
    error = AggregatorProblem(
        status=400, code=told.get("code", ""), title=told.get("title", ""), detail=told.get("detail", "")
    )
    for text in (error.what, error.meaning, error.remedy, error.code):
        assert len(text) <= 700
        assert text.isprintable()


def model_file(data: bytes) -> None:
    """A model file."""
    with suppress(Error):
        assert from_safetensors(data, SPEC).shape == (SPEC.size,)


def answer_head(data: bytes) -> None:
    """Headers of an answer: length, encoding, when to come back."""
    text = data.decode("latin-1")
    assert 0 <= seconds_to_wait(text) <= 60
    length, _, encoding = text.partition("\n")
    with suppress(AnswerTooLarge, EncodedAnswer):
        Collected({"content-length": length, "content-encoding": encoding or "identity"}, 100).add(data[:100])


VIEWS: tuple[type[Wire], ...] = (Advertised, Committed, Survivors, Quorum)
AGGREGATOR: tuple[Target, ...] = (
    plain_cbor,
    headers,
    request,
    message(Enrol),
    message(Approval),
    *(message(kind) for kind in MESSAGES.values()),
    ledger_end,
)
NODE: tuple[Target, ...] = (
    *(plain_cbor, plain_json, work, offers, plan_text, refusal, model_file, answer_head),
    *(message(kind) for kind in (Published, *VIEWS, Certificates)),
)


def aggregator_door(data: bytes) -> None:
    """What a node, or anybody else, can send."""
    if data:
        AGGREGATOR[data[0] % len(AGGREGATOR)](data[1:])


def node_door(data: bytes) -> None:
    """What an aggregator can answer."""
    if data:
        NODE[data[0] % len(NODE)](data[1:])


DOORS: dict[str, Target] = {"aggregator": aggregator_door, "node": node_door}


@cache
def _door() -> tuple[Door, asyncio.AbstractEventLoop]:
    """One application for the whole run; its world is in a phase that takes messages."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    world = make_world(Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)))
    play(world, make_sites(world), until=lambda: world.phase == "share")
    door = Door(world, lambda: time.time())
    door.service.stopping = True  # nobody waits for news
    return door, asyncio.new_event_loop()


async def _ask(
    door: Door, method: str, path: str, body: bytes, signed: dict[str, str]
) -> tuple[int, bytes, bytes]:
    target, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in signed.items()]
        + [(b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
        "server": ("here", 443),
        "state": {},
    }
    told: dict[str, Any] = {"status": 0, "kind": b"", "body": b""}
    pieces: Iterator[dict[str, Any]] = iter(({"type": "http.request", "body": body, "more_body": False},))

    async def receive() -> dict[str, Any]:
        return next(pieces, {"type": "http.disconnect"})

    async def send(event: Any) -> None:
        if event["type"] == "http.response.start":
            told["status"] = event["status"]
            told["kind"] = dict(event["headers"]).get(b"content-type", b"")
        else:
            told["body"] += event.get("body", b"")

    await door.app(scope, receive, send)
    return told["status"], told["kind"], told["body"]


def _size(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_size, inner))


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)
