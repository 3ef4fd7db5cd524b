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

from medveil.ids import canonical
from medveil.messages import Approval, BadMessage, Enrol, PlanOffer, PlanOffers, Work
from medveil.outside import DEPTH, DIGITS, ITEMS, JSON_DEPTH, NotPlain, decode_cbor, decode_json, look_through
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
    Committed,
    Published,
    Quorum,
    Survivors,
)

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("platform", "privacy", "hospital_node", "aggregator")
EVERY_MESSAGE = (
    *(Approval, Enrol, PlanOffer, PlanOffers, Work, Advertised, Committed, Survivors, Quorum, Published),
    *MESSAGES.values(),
)


def head(major: int, value: int) -> bytes:
    """The shortest head."""
    return (
        canonical(value)[:1].translate(bytes((b & 31) | (major << 5) for b in range(256)))
        + canonical(value)[1:]
    )


def shared_doubling(levels: int) -> bytes:
    """Lists that hold the one before twice, by the tags 28 and 29: 31 of them are 2^31 leaves."""
    data = b"\xd8\x1c\x80"
    for level in range(levels):
        data = b"\xd8\x1c\x82" + data + b"\xd8\x1d" + head(0, levels - level)
    return data


def nested(levels: int, opening: bytes = b"\x81") -> bytes:
    return opening * levels + b"\x00"


COLLIDING = b"".join(b"\xc2\x49" + (n * (2**61 - 1)).to_bytes(9, "big") + b"\x00" for n in range(1, 200))
BOMBS = {
    "shared references": shared_doubling(31),
    "shared references in a map": b"\xa1\x61a" + shared_doubling(5),
    "a big number": cbor2.dumps(2**64),
    "a negative big number": cbor2.dumps(-(2**70)),
    "string references": b"\xd9\x01\x00\x82\x61a\xd8\x19\x00",
    "a date": b"\xc1\x1a\x00\x00\x00\x01",
    "a decimal fraction of a huge exponent": b"\xc4\x82\x1a\x3b\x9a\xca\x00\x01",
    "a bigfloat": b"\xc5\x82\x1a\x3b\x9a\xca\x00\x01",
    "a regular expression": b"\xd8\x23\x66(a+)+$",
    "a set": b"\xd9\x01\x02\x81\x01",
    "self-described CBOR": b"\xd9\xd9\xf7\x00",
    "a tag in its longest spelling": b"\xdb" + bytes(7) + b"\x02\x41\x01",
    "keys that collide": head(5, 199) + COLLIDING,
    "keys that are large numbers": head(5, 1) + head(0, 2**61 - 1) + b"\x00",
    "keys that are negative": b"\xa1\x20\x00",
    "keys that are bytes": b"\xa1\x41a\x00",
    "keys that are lists": b"\xa1\x80\x00",
    "keys that are null": b"\xa1\xf6\x00",
    "keys that are floats": b"\xa1\xf9\x00\x00\x00",
    "a key twice": b"\xa2\x61a\x00\x61a\x01",
    "a key twice, in two spellings": b"\xa2\x00\x00\x18\x00\x01",
    "a list without end": b"\x9f\x00\xff",
    "a map without end": b"\xbf\x61a\x00\xff",
    "text without end": b"\x7f\x61a\xff",
    "bytes without end": b"\x5f\x41a\xff",
    "a break by itself": b"\xff",
    "nesting": nested(DEPTH + 1),
    "nesting of maps": nested(DEPTH + 1, b"\xa1\x00"),
    "deep nesting": nested(1_000_000),
    "many items": head(4, ITEMS) + bytes(ITEMS),
    "many empty maps": head(4, 4_000_000) + b"\xa0" * 4_000_000,
    "many items on two levels": head(4, 3) + (head(4, 40_000) + bytes(40_000)) * 3,
    "a length of 2^60": head(4, 2**60),
    "a map of 2^63 pairs": head(5, 2**63),
    "text of 2^60 bytes": head(3, 2**60) + b"x",
    "bytes of 2^64 - 1": head(2, 2**64 - 1) + b"x",
    "undefined": b"\xf7",
    "a simple value": b"\xe0",
    "a long simple value": b"\xf8\xff",
    "reserved heads": b"\x1c",
    "a number that could be shorter": b"\x18\x17",
    "a number that could be much shorter": b"\x1b" + bytes(7) + b"\x01",
    "a length that could be shorter": b"\x58\x01x",
    "trailing bytes": b"\x00\x00",
    "a second item": b"\x80\x80",
    "nothing": b"",
    "half a head": b"\x19\x01",
    "half a text": b"\x62a",
    "half a list": b"\x82\x00",
    "text that is no UTF-8": b"\x61\xff",
    "half a surrogate": b"\x63\xed\xa0\x80",
}


@pytest.mark.parametrize("name", BOMBS)
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
    data = head(4, ITEMS - 1) + b"\xa0" * (ITEMS - 1)
    tracemalloc.start()
    assert look_through(data) == ITEMS
    for bomb in BOMBS.values():
        with pytest.raises(NotPlain):
            decode_cbor(bomb)
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


@settings(deadline=None, max_examples=300)
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


JSON_BOMBS = {
    "nesting": "[" * (JSON_DEPTH + 1) + "]" * (JSON_DEPTH + 1),
    "deep nesting": "[" * 500_000,
    "a number of many digits": "1" * (DIGITS + 1),
    "a number of five thousand digits": "[" + "9" * 5_000 + "]",
    "a key twice": '{"a":1,"a":2}',
    "a key twice, in two spellings": '{"a":1,"\\u0061":2}',
    "NaN": "NaN",
    "infinity": "[-Infinity]",
    "many items": "[" + "0," * ITEMS + "0]",
    "many empty maps": "[" + "{}," * ITEMS + "{}]",
    "quotation marks": '"' * 400_000,
    "half strings": '"\\' * 200_000,
    "half a string": '"abc',
    "no JSON": "{",
    "two documents": "{}{}",
}


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
        tree, name = ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT))
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
