"""Keys: whatever is derived is bound to one purpose, one attempt and one set of advertised keys."""

from __future__ import annotations

import ast
import secrets
from dataclasses import fields, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

import privacy.secagg
from medveil.identity import Secret
from medveil.rounds import RoundKind
from privacy.secagg.keys import (
    PROTOCOL_1,
    Context,
    SecondSpelling,
    Setting,
    UnsafeCohort,
    WeakKey,
    channel_key,
    check_public_key,
    edge_number,
    new_key,
    pair_mask,
    pair_secret,
    public_bytes,
    self_commitment,
    self_mask,
)
from privacy.secagg.messages import MESSAGES

CONTEXT = Context(b"p" * 32, 7, 1, RoundKind.TRAIN, b"m" * 32)
OTHER_CONTEXTS = {
    "plan": replace(CONTEXT, plan=b"q" * 32),
    "round": replace(CONTEXT, round=8),
    "attempt": replace(CONTEXT, attempt=2),
    "kind": replace(CONTEXT, kind=RoundKind.EVALUATE),
    "model": replace(CONTEXT, model=b"n" * 32),
    "protocol": replace(CONTEXT, protocol=PROTOCOL_1),
}
SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]
"""Bernstein, "Curve25519", section 3: the points with which every exchange gives zero."""


def _derived(context: Context, transcript: bytes = b"t") -> dict[str, bytes]:
    a, b = Secret(b"a" * 32), Secret(b"b" * 32)
    peer = public_bytes(b)
    own = new_key(a)
    pair = pair_secret(own, peer)
    return {
        "channel 1-2": channel_key(own, peer, context, transcript, sender=1, receiver=2),
        "channel 2-1": channel_key(own, peer, context, transcript, sender=2, receiver=1),
        "channel 1-3": channel_key(own, peer, context, transcript, sender=1, receiver=3),
        "pair 1-2": pair_mask(pair, context, transcript, own=1, other=2).seed.reveal(),
        "pair 1-3": pair_mask(pair, context, transcript, own=1, other=3).seed.reveal(),
        "edge 1-2": edge_number(pair, context, transcript, own=1, other=2).to_bytes(8, "big"),
        "edge 1-3": edge_number(pair, context, transcript, own=1, other=3).to_bytes(8, "big"),
        "self": self_mask(a, context, transcript).seed.reveal(),
        "commitment 1": self_commitment(a, context, transcript, 1),
        "commitment 2": self_commitment(a, context, transcript, 2),
    }


def test_every_context_field_the_transcript_and_the_purpose_change_every_derived_value() -> None:
    assert set(OTHER_CONTEXTS) == {f.name for f in fields(Context)}  # a new field needs its line above
    contexts = [(CONTEXT, b"t"), (CONTEXT, b"u"), *((c, b"t") for c in OTHER_CONTEXTS.values())]
    values = [v for context, transcript in contexts for v in _derived(context, transcript).values()]
    assert len(set(values)) == len(values)


def test_two_hospitals_derive_the_same_keys_and_opposite_signs() -> None:
    a, b = Secret(secrets.token_bytes(32)), Secret(secrets.token_bytes(32))
    one, two = pair_secret(new_key(a), public_bytes(b)), pair_secret(new_key(b), public_bytes(a))
    assert one == two
    mine = pair_mask(one, CONTEXT, b"t", own=3, other=9)
    theirs = pair_mask(two, CONTEXT, b"t", own=9, other=3)
    assert (mine.seed, mine.sign) == (theirs.seed, -theirs.sign)
    ends = {"own": 9, "other": 3}
    assert edge_number(one, CONTEXT, b"t", own=3, other=9) == edge_number(two, CONTEXT, b"t", **ends)
    sealing = channel_key(new_key(a), public_bytes(b), CONTEXT, b"t", sender=3, receiver=9)
    assert sealing == channel_key(new_key(b), public_bytes(a), CONTEXT, b"t", sender=3, receiver=9)


def test_two_contexts_never_share_their_bytes() -> None:
    near = [
        CONTEXT,
        *OTHER_CONTEXTS.values(),
        replace(CONTEXT, round=71, attempt=1),
        replace(CONTEXT, round=7, attempt=11),
        replace(CONTEXT, plan=b"p" * 31, model=b"p" + b"m" * 32),
    ]
    assert len({c.bytes for c in near}) == len(near)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda p: p[:4].hex())
def test_a_key_of_small_order_is_refused(point: bytes) -> None:
    with pytest.raises(WeakKey):
        check_public_key(point)
    with pytest.raises(WeakKey):
        pair_secret(new_key(Secret(secrets.token_bytes(32))), point)


def test_the_threshold_lets_nobody_see_both_secrets_or_two_quorums() -> None:
    for advertised in range(3, 61):
        for colluders in range(advertised - 1):
            setting = Setting(CONTEXT, {}, min_hospitals=max(3, colluders + 2), colluders=colluders)
            t = setting.threshold(advertised)
            assert 2 * t > advertised + colluders
            assert 2 * (t - 1) <= advertised + colluders  # and it is the smallest such number
            assert setting.least(advertised) == max(t, setting.min_hospitals)
            assert setting.least(advertised) <= advertised  # a complete round can always succeed
            never = setting.closing(advertised) - colluders  # honest hospitals that never give a share
            assert advertised - never == t - 1  # so many are left that may, and one more would be too many


def test_the_quorum_is_of_the_roster_so_that_no_two_sets_of_keys_have_one_each() -> None:
    for size in range(3, 30):
        for colluders in range(size - 1):
            roster = dict.fromkeys(range(1, size + 1), b"k" * 32)
            setting = Setting(CONTEXT, roster, min_hospitals=max(3, colluders + 2), colluders=colluders)
            assert {setting.quorum(m) for m in range(size + 1)} == {(size + colluders) // 2 + 1}
            assert 2 * setting.quorum(3) > size + colluders
            assert setting.smallest == max(setting.quorum(3), setting.min_hospitals) <= size
            for advertised in range(setting.smallest, size + 1):
                assert setting.least(advertised) == setting.smallest <= advertised
            before = replace(setting, context=replace(CONTEXT, protocol=PROTOCOL_1))
            assert before.quorum(3) == before.threshold(3)  # as it was when such a proof was made


@pytest.mark.parametrize("change", ["top bit", "prime and more"])
def test_a_second_spelling_of_a_key_is_refused(change: str) -> None:
    key = (7).to_bytes(32, "little")
    check_public_key(key)
    x = 7 + (2**255 if change == "top bit" else 2**255 - 19)
    assert new_key(Secret(b"s" * 32)).exchange(
        X25519PublicKey.from_public_bytes(x.to_bytes(32, "little"))
    ) == new_key(Secret(b"s" * 32)).exchange(X25519PublicKey.from_public_bytes(key))
    with pytest.raises(SecondSpelling):
        check_public_key(x.to_bytes(32, "little"))


@pytest.mark.parametrize(
    ("advertised", "colluders", "threshold"),
    [(3, 0, 2), (5, 1, 4), (10, 2, 7), (20, 5, 13), (50, 10, 31), (100, 20, 61), (200, 50, 126)],
)
def test_thresholds_are_those_of_the_specification(advertised: int, colluders: int, threshold: int) -> None:
    setting = Setting(CONTEXT, {}, min_hospitals=max(3, colluders + 2), colluders=colluders)
    assert setting.threshold(advertised) == threshold


@pytest.mark.parametrize(("minimum", "colluders"), [(0, 0), (2, 0), (3, 2), (4, 3), (5, 10)])
def test_a_cohort_that_hides_too_few_is_refused(minimum: int, colluders: int) -> None:
    with pytest.raises(UnsafeCohort):
        Setting(CONTEXT, {}, min_hospitals=minimum, colluders=colluders)


def test_labels_of_keys_hashes_and_signatures_are_used_once() -> None:
    """Read from the source: the strings given to the functions that take a label."""
    folder = Path(privacy.secagg.__path__[0])
    labels = [m.label for m in MESSAGES.values()]
    takes_label = {"_hkdf": 1, "digest": 0}
    for file in folder.glob("*.py"):
        for call in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)):
            place = takes_label.get(getattr(call.func, "id", ""))
            if place is not None and isinstance(call.args[place], ast.Constant):
                labels.append(call.args[place].value)
    expected = "channel pair edge check self self-mask share dealt check-contribution transcript committed"
    assert set(expected.split()) <= set(labels)
    assert len(set(labels)) == len(labels)
