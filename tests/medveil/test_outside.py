"""The door for bytes from outside: what is not plain is refused before a parser sees it."""

from __future__ import annotations

import ast
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bombs import BOMBS, COLLIDING, JSON_BOMBS, head, shared_doubling
from medveil.ids import canonical
from medveil.messages import Approval, BadMessage, Enrol, PlanOffer, PlanOffers, Work
from medveil.outside import DEPTH, NotPlain, decode_cbor, decode_json, look_through
from medveil.tensors import (
    BadModelFile,
    ModelSpec,
    TensorSpec,
    from_safetensors,
    largest_file,
    to_safetensors,
)
from privacy.secagg.messages import (
    MESSAGES,
    Advertised,
    Certificates,
    Committed,
    Published,
    Quorum,
    Survivors,
)
from tries import tries

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("platform", "privacy", "hospital_node", "aggregator")
EVERY_MESSAGE = (
    *(
        Approval,
        Enrol,
        PlanOffer,
        PlanOffers,
        Work,
        Advertised,
        Committed,
        Survivors,
        Quorum,
        Published,
        Certificates,
    ),
    *MESSAGES.values(),
)


LARGE = ("many items", "many items on two levels")
"""Bombs that one message tells of in `make test`, and every message in `make test-all`."""


@pytest.mark.parametrize("name", LARGE)
def test_a_large_bomb_is_refused(name: str) -> None:
    with pytest.raises(BadMessage):
        Work.from_bytes(BOMBS[name])


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in BOMBS])
def test_every_known_bomb_is_refused_by_every_message_with_the_same_code(name: str) -> None:
    with pytest.raises(NotPlain):
        decode_cbor(BOMBS[name])
    for message in EVERY_MESSAGE:
        with pytest.raises(BadMessage) as refused:
            message.from_bytes(BOMBS[name])
        assert refused.value.code == "bad-message"


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_inside_a_field_of_a_message_is_refused_too(name: str) -> None:
    inside = head(5, 2) + b"\x66status" + BOMBS[name] + b"\x65token\x61x"
    with pytest.raises(BadMessage):
        Work.from_bytes(inside)


def test_looking_through_builds_nothing_whatever_the_heads_promise() -> None:
    data = head(4, 999) + b"\xa0" * 999  # as many items as may be take a hundred times as long to trace
    tracemalloc.start()
    assert look_through(data) == 1000
    for name in BOMBS.keys() - set(LARGE):
        with pytest.raises(NotPlain):
            decode_cbor(BOMBS[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_the_steps_of_looking_through_are_bounded_by_the_items_and_not_by_what_they_share() -> None:
    # Time is counted in lines of the walk, not in seconds: a busy machine changes nothing.
    def steps(data: bytes) -> int:
        lines = 0

        def count(frame: Any, event: str, argument: Any) -> Any:
            nonlocal lines
            lines += event == "line"
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            with pytest.raises(NotPlain):
                decode_cbor(data)
        finally:
            sys.settrace(before)
        return lines

    assert steps(shared_doubling(31)) < 1_000
    assert steps(head(5, 20_000) + COLLIDING * 100) < 1_000


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 2**64 - 1)
    | st.integers(-(2**63), -1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 2**32 - 1), inner, max_size=6)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(PLAIN)
def test_what_is_plain_passes_and_comes_out_as_it_went_in(value: Any) -> None:
    def levels(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
        return 0 if inner is None else 1 + max(map(levels, inner), default=0)

    data = canonical(value)
    if levels(value) > DEPTH:
        with pytest.raises(NotPlain):
            decode_cbor(data)
    else:
        assert decode_cbor(data) == value


@settings(deadline=None, max_examples=tries(300))
@given(st.binary(max_size=80))
def test_any_bytes_are_decoded_or_refused_and_what_is_decoded_is_what_the_library_reads(data: bytes) -> None:
    try:
        value = decode_cbor(data)
    except NotPlain:
        return
    again = cbor2.loads(data)
    assert repr(_listed(value)) == repr(again)  # NaN is not equal to itself


def _listed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_listed(v) for v in value]
    return {k: _listed(v) for k, v in value.items()} if isinstance(value, dict) else value


def test_the_largest_messages_of_two_thousand_hospitals_pass() -> None:
    everybody = range(1, 2_001)
    advertise = MESSAGES["advertise"](sender=1, channel_key=bytes(32), mask_key=bytes(32))  # type: ignore[call-arg]
    advertised = Advertised(messages=tuple(advertise.model_copy(update={"sender": i}) for i in everybody))
    committed = Committed(
        members=tuple(everybody),
        inbox=dict.fromkeys(everybody, bytes(114)),
        dealt=dict.fromkeys(everybody, bytes(32)),
    )
    for message in (advertised, committed):
        assert type(message).from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize("name", JSON_BOMBS)
def test_every_known_bomb_in_json_is_refused(name: str) -> None:
    with pytest.raises(NotPlain):
        decode_json(JSON_BOMBS[name], max_bytes=2**20)
    with pytest.raises(NotPlain):
        decode_json(JSON_BOMBS[name].encode(), max_bytes=2**20)


def test_json_longer_than_its_place_allows_or_no_text_is_refused() -> None:
    assert decode_json(b'{"a": "[[[[[[[[[[[[[[[[[[[[["}', max_bytes=40) == {"a": "[" * 21}
    with pytest.raises(NotPlain):
        decode_json(b'{"a": "[[[[[[[[[[[[[[[[[[[[["}', max_bytes=10)
    with pytest.raises(NotPlain):
        decode_json(b"\xff", max_bytes=10)


@settings(deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**64), 2**64)
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
        max_leaves=10,
    )
)
def test_plain_json_passes(value: Any) -> None:
    text = json.dumps(value)
    assert decode_json(text, max_bytes=len(text)) == value


SPEC = ModelSpec((TensorSpec(name="w", shape=(2, 3)), TensorSpec(name="b", shape=(3,))))


def test_a_model_files_header_is_bounded_by_the_model_and_read_through_the_same_door() -> None:
    good = to_safetensors(np.arange(9, dtype=np.float32), SPEC)
    assert len(good) <= largest_file(SPEC)
    length = int.from_bytes(good[:8], "little")
    text = good[8 : 8 + length].rstrip()
    spaced = text + b" " * (400 - len(text))
    assert from_safetensors((400).to_bytes(8, "little") + spaced + good[8 + length :], SPEC).shape == (9,)
    deep = b'{"w":' + b"[" * 200 + b"]" * 200 + b"}"
    for bad in (
        text + b" " * 4_000,
        deep,
        text.replace(b"[2,3]", b"[2,3" + b"0" * 50 + b"]"),
        text[:-1] + b',"w":{}}',
    ):
        with pytest.raises(BadModelFile) as refused:
            from_safetensors(len(bad).to_bytes(8, "little") + bad + good[8 + length :], SPEC)
        assert refused.value.code == "bad-model-file"


def test_no_other_place_of_the_product_decodes_cbor() -> None:
    allowed = {
        "platform/medveil/outside.py": {"loads", "CBORDecodeError"},
        "platform/medveil/ids.py": {"dumps"},
    }
    found: dict[str, set[str]] = {}
    for path in (p for room in ROOMS for p in (ROOT / room).rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        if "cbor2" not in text:
            continue
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "cbor2"
            ):
                found.setdefault(name, set()).add(node.attr)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("cbor2", "_cbor2")):
                found.setdefault(name, set()).add(f"from {node.module}")
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] in ("cbor2", "_cbor2") and (
                        alias.asname or alias.name != "cbor2"
                    ):
                        found.setdefault(name, set()).add(f"import {alias.name} as {alias.asname}")
    assert found == allowed
