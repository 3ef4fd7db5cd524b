"""Messages: one spelling each, and bytes that are no message give BadMessage and nothing else."""

from __future__ import annotations

import secrets
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medveil.identity import BadSignature, Identity
from medveil.ids import canonical
from medveil.messages import MAX_MESSAGE_BYTES, BadMessage, Wire
from medveil.rounds import RoundKind
from privacy.secagg.keys import Context, Setting
from privacy.secagg.messages import (
    MESSAGES,
    Abort,
    Advertise,
    Advertised,
    Agree,
    Certificate,
    Certificates,
    Committed,
    Quorum,
    Ready,
    Shares,
    Survivors,
    Unmask,
    Upload,
    committed_hash,
    transcript_of,
)
from tries import tries

KEY, SIGNATURE = b"k" * 32, b"s" * 64
ADVERTISE = Advertise(sender=1, signature=SIGNATURE, channel_key=KEY, mask_key=b"m" * 32)
AGREE = Agree(sender=2, signature=SIGNATURE, committed_hash=KEY, survivors=(1, 2, 3))
CERTIFICATE = Certificate(round=1, attempt=2, signatures={2: SIGNATURE, 3: SIGNATURE})
EXAMPLES: tuple[Wire, ...] = (
    ADVERTISE,
    Shares(
        sender=1,
        signature=SIGNATURE,
        commitment=KEY,
        check_commitment=KEY,
        share_commitments={1: KEY, 300: KEY},
        sealed={2: b"x" * 114, 300: b"y" * 114},
    ),
    Ready(sender=10_000, signature=SIGNATURE),
    Upload(sender=1, signature=SIGNATURE, committed_hash=KEY, segments=(KEY, KEY)),
    AGREE,
    Unmask(sender=3, signature=SIGNATURE, self_shares={1: b"a" * 33}, key_shares={2: b"b" * 33}),
    Abort(sender=3, signature=SIGNATURE),
    CERTIFICATE,
    Certificates(certificates=(CERTIFICATE,)),
    Advertised(messages=(ADVERTISE,)),
    Committed(members=(1, 2, 3), inbox={1: b"x" * 114}, dealt={1: KEY}),
    Survivors(members=(1, 2)),
    Quorum(signatures={2: SIGNATURE}),
)
KINDS = sorted({type(m) for m in EXAMPLES}, key=lambda t: t.__name__)
CONTEXT = Context(b"p" * 32, 1, 1, RoundKind.TRAIN, b"m" * 32)


def _refuse(kind: type[Wire], data: bytes) -> None:
    with pytest.raises(BadMessage):
        kind.from_bytes(data)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_survives_the_wire(message: Wire) -> None:
    again = type(message).from_bytes(message.to_bytes())
    assert again == message
    assert again.to_bytes() == message.to_bytes()


def test_every_kind_of_message_is_tested_here() -> None:
    views = {Advertised, Committed, Survivors, Quorum, Certificate, Certificates}
    assert set(MESSAGES.values()) | views == set(KINDS)
    assert len({m.label for m in MESSAGES.values()}) == len(MESSAGES)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_cut_and_every_addition_is_refused(message: Wire) -> None:
    data = message.to_bytes()
    for end in range(len(data)):
        _refuse(type(message), data[:end])
    for tail in (b"\x00", b"\xf6", data):
        _refuse(type(message), data + tail)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_another_spelling_of_the_same_message_is_refused(message: Wire) -> None:
    value = message.model_dump()
    backwards = dict(reversed(list(cbor2.loads(canonical(value)).items())))
    if len(backwards) > 1:
        _refuse(type(message), cbor2.dumps(backwards))
    _refuse(type(message), b"\xd9\xd9\xf7" + message.to_bytes())  # self-described CBOR
    _refuse(type(message), b"\xbf" + message.to_bytes()[1:] + b"\xff")  # indefinite length


def test_numbers_and_keys_have_one_spelling() -> None:
    data = Survivors(members=(1, 2)).to_bytes()
    assert data.endswith(b"\x82\x01\x02")
    _refuse(Survivors, data[:-3] + b"\x82\x18\x01\x02")  # 1 in two bytes
    _refuse(Survivors, data[:-3] + b"\x82\xc2\x41\x01\x02")  # 1 as a big number
    _refuse(Survivors, data[:-3] + b"\x82\xf9\x3c\x00\x02")  # 1.0
    name = data[1 : data.index(b"members") + 7]
    _refuse(Survivors, b"\xa2" + 2 * (name + b"\x82\x01\x02"))  # the same key twice


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_extra_missing_and_mistyped_fields_are_refused(message: Wire) -> None:
    fields = message.model_dump()
    _refuse(type(message), canonical({**fields, "extra": 1}))
    for name in fields:
        _refuse(type(message), canonical({k: v for k, v in fields.items() if k != name}))
        for wrong in (None, True, 1.5, -1, "text", b"", [], {}, [[]], {"a": 1}, 0, 2**70):
            value = {**fields, name: wrong}
            if wrong == [] and name in ("members", "survivors", "segments", "messages", "certificates"):
                continue  # an empty set is a message; the machines refuse it
            if wrong == {} and name in (
                "sealed",
                "inbox",
                "dealt",
                "share_commitments",
                "self_shares",
                "key_shares",
                "signatures",
            ):
                continue
            _refuse(type(message), canonical(value))


@pytest.mark.parametrize("kind", KINDS)
def test_deep_wide_and_huge_input_is_refused(kind: type[Wire]) -> None:
    _refuse(kind, b"\x81" * 100_000 + b"\x00")
    _refuse(kind, b"\xa1\x00" * 50_000 + b"\x00")
    _refuse(kind, b"\x9f" * 10_000)
    _refuse(kind, b"\x9b" + b"\xff" * 8)  # an array that claims 2^64 - 1 entries
    _refuse(kind, b"\x5b\x7f" + b"\xff" * 7)  # a string that claims 2^63 bytes
    _refuse(kind, bytes(MAX_MESSAGE_BYTES + 1))
    _refuse(kind, b"\xd8\x1c" + b"\x81\xd8\x1d\x00")  # a list that contains itself
    _refuse(kind, b"")


@given(st.binary(max_size=200), st.sampled_from(KINDS))
@settings(max_examples=tries(300), deadline=None)
def test_noise_gives_bad_message_and_nothing_else(data: bytes, kind: type[Wire]) -> None:
    _refuse(kind, data)


@given(st.sampled_from(EXAMPLES), st.data())
@settings(max_examples=tries(300), deadline=None)
def test_a_changed_byte_gives_another_message_or_bad_message(message: Wire, data: st.DataObject) -> None:
    raw = bytearray(message.to_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        assert type(message).from_bytes(bytes(raw)) != message
    except BadMessage:
        return


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(_JSON, st.sampled_from(KINDS))
@settings(max_examples=tries(200), deadline=None)
def test_well_formed_cbor_of_another_shape_is_refused(value: Any, kind: type[Wire]) -> None:
    _refuse(kind, canonical(value))


@pytest.mark.parametrize("index", [0, -1, 10_001])
def test_an_index_off_the_scale_is_refused(index: int) -> None:
    _refuse(Survivors, canonical({"members": [index]}))
    _refuse(Ready, canonical({"sender": index, "signature": SIGNATURE}))


def test_a_signature_covers_every_field_the_context_and_the_transcript() -> None:
    identity, stranger = Identity.generate("a"), Identity.generate("b")
    for message in EXAMPLES[:6]:
        signed = message.signed_by(identity, CONTEXT, b"t")
        signed.check(identity.public_key, CONTEXT, b"t")
        changed = [signed.model_copy(update={name: _other(value)}) for name, value in signed]
        for wrong in changed:
            with pytest.raises(BadSignature):
                wrong.check(identity.public_key, CONTEXT, b"t")
        for key, context, transcript in (
            (stranger.public_key, CONTEXT, b"t"),
            (identity.public_key, Context(b"p" * 32, 2, 1, RoundKind.TRAIN, b"m" * 32), b"t"),
            (identity.public_key, CONTEXT, b"u"),
        ):
            with pytest.raises(BadSignature):
                signed.check(key, context, transcript)


def _other(value: Any) -> Any:
    if isinstance(value, int):
        return value + 1
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:] if value else b"x" * 32
    if isinstance(value, tuple):
        return value[:-1]
    return {k: v for k, v in value.items() if k == 9_999}  # one entry fewer


def test_what_is_signed_of_an_agreement_is_its_canonical_form() -> None:
    context = Context(b"p" * 32, 1, 1, RoundKind.TRAIN, b"m" * 32)
    for sender in (1, 23, 24, 255, 256, 10_000):
        for members in ((1, 2, 3), (sender,), tuple(range(1, 300))):
            message = Agree(sender=sender, signature=SIGNATURE, committed_hash=KEY, survivors=members)
            whole = canonical(message.model_dump(exclude={"signature"}))
            assert message._signed_parts(context, b"t") == (context.bytes, b"t", whole)


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    identity = Identity.generate("a")
    signed = Ready(sender=1).signed_by(identity, CONTEXT, b"t")
    for kind in (k for k in MESSAGES.values() if k is not Ready):
        with pytest.raises(BadSignature):
            kind.model_construct(
                sender=1, signature=signed.signature, committed_hash=KEY, survivors=()
            ).check(identity.public_key, CONTEXT, b"t")


def test_hashes_name_the_whole_set_in_any_order() -> None:
    others = [ADVERTISE.model_copy(update={"sender": i}) for i in (2, 3)]
    assert transcript_of((ADVERTISE, *others)) == transcript_of((*others, ADVERTISE))
    assert transcript_of((ADVERTISE, *others)) != transcript_of((ADVERTISE, others[0]))
    changed = others[1].model_copy(update={"signature": secrets.token_bytes(64)})
    assert transcript_of((ADVERTISE, *others)) != transcript_of((ADVERTISE, others[0], changed))
    hashes = {
        committed_hash(CONTEXT, b"t", (1, 2, 3)),
        committed_hash(CONTEXT, b"u", (1, 2, 3)),
        committed_hash(CONTEXT, b"t", (1, 2)),
        committed_hash(Context(b"q" * 32, 1, 1, RoundKind.TRAIN, b"m" * 32), b"t", (1, 2, 3)),
    }
    assert len(hashes) == 4
    assert committed_hash(CONTEXT, b"t", (3, 1, 2)) == committed_hash(CONTEXT, b"t", (1, 2, 3))


def _traffic(hospitals: int, colluders: int) -> dict[str, int]:
    """Bytes of every message that one node sends and is shown in a round, without the masked vector."""
    everybody = range(1, hospitals + 1)
    threshold = Setting(CONTEXT, {}, min_hospitals=colluders + 3, colluders=colluders).threshold(hospitals)
    others = everybody[1:]
    sent = (
        ADVERTISE,
        Shares(
            sender=1,
            commitment=KEY,
            check_commitment=KEY,
            share_commitments=dict.fromkeys(everybody, KEY),
            sealed=dict.fromkeys(others, b"x" * 114),
        ),
        Ready(sender=1),
        Upload(sender=1, committed_hash=KEY, segments=(KEY,) * 3),
        Agree(sender=1, committed_hash=KEY, survivors=tuple(everybody)),
        Unmask(sender=1, self_shares=dict.fromkeys(everybody, b"s" * 33), key_shares={}),
    )
    shown = (
        Advertised(messages=tuple(ADVERTISE.model_copy(update={"sender": i}) for i in everybody)),
        Committed(
            members=tuple(everybody),
            inbox=dict.fromkeys(others, b"x" * 114),
            dealt=dict.fromkeys(others, KEY),
        ),
        Survivors(members=tuple(everybody)),
        Quorum(signatures=dict.fromkeys(range(1, threshold + 1), SIGNATURE)),
    )
    return {type(m).__name__: len(m.to_bytes()) for m in (*sent, *shown)}


def test_all_messages_of_a_node_and_round_stay_below_120_kb_with_200_hospitals() -> None:
    traffic = _traffic(200, colluders=50)
    assert sum(traffic.values()) <= 120_000, traffic
    assert sum(_traffic(100, colluders=20).values()) <= 60_000
