"""Signatures bind sender, purpose and content; an absent check is a failed check."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medveil import identity as identity_module
from medveil.identity import (
    FRESHNESS_S,
    BadSignature,
    Identity,
    KeyFileExists,
    RequestProof,
    Secret,
    StaleRequest,
    sign_request,
    verify,
    verify_request,
)

ONE, OTHER = Identity.generate("one"), Identity.generate("other")
parts = st.lists(st.binary(max_size=40), max_size=4)


@given(st.text(max_size=10), parts)
def test_what_was_signed_verifies(label: str, signed: list[bytes]) -> None:
    verify(ONE.public_key, ONE.sign(label, *signed), label, *signed)


@given(st.text(max_size=10), parts, st.text(max_size=10), parts)
def test_another_label_or_content_does_not(
    label: str, signed: list[bytes], other_label: str, other: list[bytes]
) -> None:
    signature = ONE.sign(label, *signed)
    if (label, signed) != (other_label, other):
        with pytest.raises(BadSignature):
            verify(ONE.public_key, signature, other_label, *other)
    with pytest.raises(BadSignature):
        verify(OTHER.public_key, signature, label, *signed)


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(63), bytes(65)])
@pytest.mark.parametrize(
    "key", [ONE.public_key, b"", bytes(31), bytes(32)], ids=["own", "none", "short", "zero"]
)
def test_malformed_keys_and_signatures_are_refused_like_wrong_ones(key: bytes, signature: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(key, signature, "label")


def test_a_request_proof_survives_its_headers_and_proves_the_request() -> None:
    proof = sign_request(ONE, "PUT", "/v1/x?y=1", b"body")
    read = RequestProof.from_headers({k.lower(): v for k, v in proof.headers().items()})
    assert read == proof
    verify_request(ONE.public_key, read, "PUT", "/v1/x?y=1", b"body", now=time.time())


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [("GET", "/v1/x", b"b"), ("PUT", "/v1/y", b"b"), ("PUT", "/v1/x", b"c"), ("PUT", "/v1/x?", b"b")],
)
def test_a_proof_is_good_for_one_method_target_and_body(method: str, target: str, body: bytes) -> None:
    proof = sign_request(ONE, "PUT", "/v1/x", b"b")
    with pytest.raises(BadSignature):
        verify_request(ONE.public_key, proof, method, target, body, now=time.time())


def test_a_proof_cannot_be_given_another_time_nonce_digest_or_sender() -> None:
    proof = sign_request(ONE, "GET", "/", b"")
    changed = [
        replace(proof, sender="other"),
        replace(proof, time=proof.time + 1),
        replace(proof, nonce="0" * 32),
        replace(proof, digest=bytes(32)),
    ]
    for forged in changed:
        with pytest.raises(BadSignature):
            verify_request(ONE.public_key, forged, "GET", "/", b"", now=proof.time)


def test_a_proof_is_fresh_for_a_limited_time_in_both_directions() -> None:
    proof = sign_request(ONE, "GET", "/", b"")
    for drift in (-FRESHNESS_S, 0, FRESHNESS_S):
        verify_request(ONE.public_key, proof, "GET", "/", b"", now=proof.time + drift)
    for drift in (-FRESHNESS_S - 1, FRESHNESS_S + 1):
        with pytest.raises(StaleRequest):
            verify_request(ONE.public_key, proof, "GET", "/", b"", now=proof.time + drift)


NOW = 1_700_000_000
SIGNED = ["medveil-sender", "medveil-time", "medveil-nonce", "medveil-digest", "medveil-signature"]


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("value", [None, "", "x", "¼", "-"])
def test_a_missing_or_malformed_header_is_a_failed_check(name: str, value: str | None) -> None:
    headers = {k.lower(): v for k, v in sign_request(ONE, "GET", "/", b"").headers().items()}
    if value is None:
        del headers[name]
    else:
        headers[name] = value
    if (name, value) == ("medveil-sender", "x"):
        proof = RequestProof.from_headers(headers)
        with pytest.raises(BadSignature):
            verify_request(ONE.public_key, proof, "GET", "/", b"", now=proof.time)
    else:
        with pytest.raises(BadSignature):
            RequestProof.from_headers(headers)


RESPELT: list[tuple[str, Callable[[str], str]]] = [
    *(("medveil-sender", form.format) for form in ("{} ", " {}", "{}\n", "{}\x00", "{}-")),
    ("medveil-sender", str.upper),
    ("medveil-sender", lambda t: "ｏｎｅ"),
    *(("medveil-time", form.format) for form in ("+{}", "0{}", " {}", "{} ", "{}.0", "{}e0", "0x{}", "{}_0")),
    ("medveil-time", lambda t: "".join(chr(ord(c) + 0x630) for c in t)),
    ("medveil-nonce", str.upper),
    *(("medveil-nonce", lambda t, c=c: t[:5] + c + t[6:]) for c in ("g", " ", "é", "\n", "-", "．")),
    *(("medveil-nonce", form.format) for form in ("{}0", " {}", "{}\n")),
    ("medveil-digest", str.upper),
    ("medveil-digest", lambda t: t[:2] + " " + t[2:]),
    *(("medveil-digest", form.format) for form in (" {}", "{}\n", "{}00")),
    *(("medveil-signature", form.format) for form in ("{}=", "{}\n", " {}", "{}AA==")),
    ("medveil-signature", lambda t: t.rstrip("=")),
    ("medveil-signature", lambda t: t[:85] + chr(ord(t[85]) + 1) + "=="),
]


@pytest.mark.parametrize("number", range(len(RESPELT)))
def test_every_header_has_one_spelling(number: int) -> None:
    name, respell = RESPELT[number]
    headers = {k.lower(): v for k, v in sign_request(ONE, "GET", "/", b"", now=NOW).headers().items()}
    headers["medveil-nonce"] = "ab" * 16  # there is a letter to write large
    headers[name] = respell(headers[name])
    with pytest.raises(BadSignature) as refused:
        RequestProof.from_headers(headers)
    assert refused.value.code == "bad-signature"


def test_no_nonce_comes_twice() -> None:
    assert len({sign_request(ONE, "GET", "/", b"").nonce for _ in range(200)}) == 200


def test_a_key_file_is_private_never_overwritten_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "identity.key"
    ONE.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(KeyFileExists):
        OTHER.save(path)
    again = Identity.load("one", path)
    assert again.public_key == ONE.public_key
    assert again.sign("x") == ONE.sign("x")


def test_a_secret_shows_its_length_only() -> None:
    secret = Secret(b"very secret bytes")
    for text in (repr(secret), str(secret), f"{secret}", f"{[secret]}", f"{secret!r:>40}"):
        assert "very" not in text
        assert "Secret(17 bytes)" in text
    assert secret == Secret(b"very secret bytes") != Secret(b"another secret...")
    assert secret != b"very secret bytes"
    assert not hasattr(secret, "__dict__")
    assert repr(ONE) == "Identity(one)"


def test_a_process_that_remembers_good_signatures_lets_no_bad_one_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity_module, "_VERIFIED", None)
    identity_module.remember_verified()
    one, other = Identity.generate("one"), Identity.generate("other")
    signature = one.sign("label", b"a", b"b")
    for _ in range(2):
        verify(one.public_key, signature, "label", b"a", b"b")
        for key, signed, label, parts in (
            (other.public_key, signature, "label", (b"a", b"b")),
            (one.public_key, bytes(64), "label", (b"a", b"b")),
            (one.public_key, signature, "lab", (b"ela", b"b")),
            (one.public_key, signature, "label", (b"ab", b"")),
        ):
            with pytest.raises(BadSignature):
                verify(key, signed, label, *parts)
    assert len(identity_module._VERIFIED or ()) == 1
