"""The blind function is RFC 9497's, and whatever else may come over the wire is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.oprf.errors import BadElement, BadEvaluation
from privacy.oprf.group import ORDER, A, B, Element, P, add, hash_to_element, multiple, multiple_of_base
from privacy.oprf.voprf import Proof, blind, evaluate, finish, scalar_of

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "voprf_p256.json").read_text(encoding="utf-8")
)
KEY = int(VECTORS["sk"], 16)
PUBLIC = multiple_of_base(KEY)
scalars = st.integers(1, ORDER - 1)


@pytest.mark.parametrize("vector", VECTORS["vectors"])
def test_every_step_is_that_of_the_vectors_of_rfc_9497(vector: dict[str, Any]) -> None:
    assert PUBLIC.to_bytes().hex() == VECTORS["pk"]
    texts = [bytes.fromhex(text) for text in vector["inputs"]]
    sent = [blind(t, int(b, 16)) for t, b in zip(texts, vector["blinds"], strict=True)]
    assert [one.element.to_bytes().hex() for one in sent] == vector["blinded"]
    made, proof = evaluate(KEY, [one.element for one in sent], int(vector["random"], 16))
    assert [one.to_bytes().hex() for one in made] == vector["evaluated"]
    assert proof.to_bytes().hex() == vector["proof"]
    assert Proof.from_bytes(proof.to_bytes()) == proof
    assert [one.hex() for one in finish(PUBLIC, sent, made, proof)] == vector["outputs"]


@pytest.mark.parametrize("vector", VECTORS["hash_to_curve"]["vectors"], ids=lambda v: v["msg"][:8])
def test_hashing_to_the_curve_is_that_of_the_vectors_of_rfc_9380(vector: dict[str, str]) -> None:
    made = hash_to_element(vector["msg"].encode(), VECTORS["hash_to_curve"]["dst"].encode())
    assert (made.x, made.y) == (int(vector["x"], 16), int(vector["y"], 16))


def openssl(scalar: int) -> Element:
    numbers = ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers()
    return Element(numbers.x, numbers.y)


@settings(max_examples=12, deadline=None)
@given(one=scalars, other=scalars)
def test_multiples_and_sums_obey_the_group(one: int, other: int) -> None:
    assert multiple(one, openssl(other)) == openssl(one * other % ORDER)
    if (one + other) % ORDER:
        assert add(openssl(one), openssl(other)) == openssl((one + other) % ORDER)


@pytest.mark.parametrize("scalar", [1, 2, 3, ORDER - 3, ORDER - 2, ORDER - 1])
def test_multiples_hold_at_the_ends_of_the_range(scalar: int) -> None:
    assert multiple(scalar, openssl(7)) == openssl(7 * scalar % ORDER)
    assert add(openssl(5), openssl(5)) == openssl(10)
    with pytest.raises(BadElement):
        add(openssl(5), openssl(ORDER - 5))


off_curve = next(x for x in range(1, 99) if pow((x**3 + A * x + B) % P, (P - 1) // 2, P) != 1)
BAD = {
    "empty": b"",
    "the identity": b"\0",
    "the identity, padded": bytes(33),
    "not compressed": b"\4" + bytes(64),
    "one byte short": PUBLIC.to_bytes()[:-1],
    "one byte more": PUBLIC.to_bytes() + b"\0",
    "another first byte": b"\5" + PUBLIC.to_bytes()[1:],
    "no point of the curve": b"\2" + off_curve.to_bytes(32, "big"),
    "beyond the field": b"\2" + (P + 5).to_bytes(32, "big"),
}


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_element_are_refused(name: str) -> None:
    with pytest.raises(BadElement):
        Element.from_bytes(BAD[name])


@settings(max_examples=4, deadline=None)
@given(texts=st.lists(st.binary(max_size=40), min_size=1, max_size=3), key=scalars, random=scalars)
def test_the_output_depends_on_key_and_input_alone_and_the_element_sent_on_the_blind(
    texts: list[bytes], key: int, random: int
) -> None:
    outputs, elements = [], []
    for turn in (b"one", b"two"):
        sent = [blind(t, scalar_of(turn * 16 + bytes([i]), b"test")) for i, t in enumerate(texts)]
        made, proof = evaluate(key, [one.element for one in sent], random)
        outputs.append(finish(multiple_of_base(key), sent, made, proof))
        elements.append([one.element for one in sent])
    assert outputs[0] == outputs[1]
    assert not set(elements[0]) & set(elements[1])


def lies() -> dict[str, tuple[Element, list[Element], Proof]]:
    """What a keeper may answer to two elements in place of the truth: public key, elements, proof."""
    sent = [blind(bytes([i]), 11 + i).element for i in range(2)]
    made, proof = evaluate(KEY, sent, 99)
    other, others = evaluate(KEY + 1, sent, 99)
    return {
        "another key": (PUBLIC, other, others),
        "another key with the right proof": (PUBLIC, other, proof),
        "one element of another key": (PUBLIC, [made[0], other[1]], proof),
        "in another order": (PUBLIC, made[::-1], proof),
        "one too few": (PUBLIC, made[:1], proof),
        "a proof of another batch": (PUBLIC, made, evaluate(KEY, sent[:1], 99)[1]),
        "an altered proof": (PUBLIC, made, Proof(proof.challenge, proof.response - 1)),
        "another published key": (multiple_of_base(KEY + 1), made, proof),
        "the elements as they came": (PUBLIC, sent, proof),
    }


@pytest.mark.parametrize("name", lies())
def test_an_answer_that_is_not_of_the_published_key_is_refused(name: str) -> None:
    sent = [blind(bytes([i]), 11 + i) for i in range(2)]
    with pytest.raises(BadEvaluation):
        finish(lies()[name][0], sent, *lies()[name][1:])


@pytest.mark.parametrize("data", [b"", bytes(64), b"\xff" * 64, bytes(63) + b"\1", bytes(65)])
def test_a_proof_has_two_numbers_below_the_order(data: bytes) -> None:
    with pytest.raises(BadEvaluation):
        Proof.from_bytes(data)


def test_no_input_blind_or_element_is_shown() -> None:
    one = blind(b"9434765919", 4711)
    assert not any(word in repr(one) for word in ("943", "4711", str(one.element.x)))
