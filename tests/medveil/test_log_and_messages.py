"""Logs carry allowed fields only; a message has one spelling and everything else is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import cbor2
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from medveil import log
from medveil.errors import Error
from medveil.identity import Secret
from medveil.ids import canonical
from medveil.messages import BadMessage, Enrol, PlanOffers, Wire, Work
from privacy.secagg.messages import MESSAGES, Advertised, Committed, Quorum, Survivors

TYPES: list[type[Wire]] = [
    Enrol,
    PlanOffers,
    Work,
    Advertised,
    Committed,
    Quorum,
    Survivors,
    *MESSAGES.values(),
]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    log.set_up()
    yield stream
    structlog.reset_defaults()


def test_allowed_fields_are_written_as_json(lines: io.StringIO) -> None:
    log.get_logger().info("round.closed", plan="p", round=3, survivors=4, epsilon=1.5)
    event = json.loads(lines.getvalue())
    assert event["timestamp"].endswith("Z")
    del event["timestamp"]
    expected = {"event": "round.closed", "plan": "p", "round": 3, "survivors": 4, "epsilon": 1.5}
    assert event == expected | {"level": "info"}


@given(st.text(min_size=1, max_size=12))
def test_no_other_field_is_ever_written(name: str) -> None:
    event = {"event": "x", name: "canary-4711"}
    kept = log._only_allowed(None, "info", dict(event))
    assert (name in kept and kept[name] == "canary-4711") == (name in log.ALLOWED)
    assert set(kept) <= log.ALLOWED


def test_a_dropped_field_leaves_a_note_but_not_its_name_or_value(lines: io.StringIO) -> None:
    log.get_logger().warning(
        "x", patient="canary-4711", share=Secret(b"canary"), exc_info=ValueError("canary")
    )
    assert "canary" not in lines.getvalue()
    assert "patient" not in lines.getvalue()
    assert json.loads(lines.getvalue())["reason"].startswith("3 field(s)")


def test_no_field_exists_for_what_must_not_be_logged() -> None:
    forbidden = "patient file path key seed share nonce signature mask weight loss values token image tag"
    assert not log.ALLOWED & set(forbidden.split())


def test_an_error_says_what_it_means_and_what_to_do() -> None:
    error = Error(what="A.", meaning="B.", remedy="C.")
    assert str(error) == "A. B. C. [error]"


def test_a_message_survives_the_wire() -> None:
    work = Work(mark="t", status="running", round=2, attempt=1, kind="train", phase="share", model=b"m" * 32)
    assert Work.from_bytes(work.to_bytes()) == work
    enrol = Enrol(token="t" * 24)
    assert Enrol.from_bytes(enrol.to_bytes()) == enrol


def test_what_a_poll_has_seen_is_called_token_on_the_wire_and_nothing_else() -> None:
    plain = {"token": "t", "status": "waiting", "round": 0, "attempt": 0, "kind": "", "phase": ""}
    plain |= {"model": b"", "payload": b"", "head": None}
    assert Work(mark="t", status="waiting").to_bytes() == canonical(plain)
    assert Work.from_bytes(canonical(plain)).mark == "t"
    renamed = {"mark" if key == "token" else key: value for key, value in plain.items()}
    for wrong in (renamed, plain | {"mark": "t"}):
        with pytest.raises(BadMessage):
            Work.from_bytes(canonical(wrong))


@pytest.mark.parametrize("kind", TYPES)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(kind: type[Wire], data: bytes) -> None:
    with pytest.raises(BadMessage):
        kind.from_bytes(data)


HARD = [
    "9bffffffffffffffff", "bbffffffffffffffff", "5bffffffffffffffff", "9b00000000ffffffff",
    "d81c9fd81d00ff", "c4821b7fffffffffffffff01", "d8236128", "fb7ff8000000000000", "f7", "9f" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("data", HARD)
def test_hostile_encodings_are_refused_at_once(data: str) -> None:
    with pytest.raises(BadMessage):
        Survivors.from_bytes(bytes.fromhex(data))


def test_a_message_has_one_spelling() -> None:
    good = Survivors(members=(1, 2)).to_bytes()
    assert Survivors.from_bytes(good).members == (1, 2)
    others = [
        good + b"\0",
        cbor2.dumps({"members": [1, 2], "x": 1}),
        cbor2.dumps({"members": [1.0, 2]}),
        cbor2.dumps({"members": ["1", 2]}),
        cbor2.dumps({"members": [True, 2]}),
        cbor2.dumps({"members": [0, 2]}),
        b"\xbf" + good[1:] + b"\xff",
        good.replace(b"\x82\x01", b"\x82\x18\x01"),
        canonical([1, 2]),
    ]
    for other in others:
        assert other != good
        with pytest.raises(BadMessage):
            Survivors.from_bytes(other)
