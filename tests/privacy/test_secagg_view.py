"""What the aggregator sees is what it could have made up from the sum, the sets and the public keys.

The masks of the real machines are replaced by true randomness, and all of it is enumerated in the ring Z_2^2
(Z_2^3 in ``make test-all``; quotients of Z_2^64, so the real additions are the real code's). That the
keystream cannot be told from randomness is the assumption on AES-256; nothing else is assumed here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from linked import Consortium
from medveil.identity import Secret
from medveil.rounds import Phase
from privacy.encoding import EncodingParams
from privacy.secagg import masks as masks_module
from privacy.secagg.messages import MESSAGES
from privacy.secagg.server import ServerState
from unmasked import checked, mask

RING = 4
SECRETS = ("b1", "b2", "b3", "p12", "p13", "p23")


class _Column:
    """A stand-in for the keystream: the values of one mask over all enumerated cases."""

    def __init__(self, values: np.ndarray) -> None:
        self._bytes, self._place = values.astype("<u8").tobytes(), 0

    def update_into(self, zeros: memoryview, out: memoryview) -> None:
        out[: len(zeros)] = self._bytes[self._place : self._place + len(zeros)]
        self._place += len(zeros)


@pytest.fixture(params=[4, pytest.param(8, marks=pytest.mark.slow)])
def ring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "RING", request.param)


@pytest.fixture
def views(
    ring: None, consortium: Callable[..., Consortium], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, np.ndarray]]:
    """(inputs, masks held fixed) → every value the aggregator may come to see, over all other masks."""
    world = consortium(3, words=1).play_until(Phase.AGREE)
    held = {i: world.hospitals[i].state.masks for i in (1, 2, 3)}
    names = {1: ("b1", "p12", "p13"), 2: ("b2", "p12", "p23"), 3: ("b3", "p13", "p23")}
    seeds = {m.seed.reveal(): n for i in held for m, n in zip(held[i], names[i], strict=True)}
    assert len(seeds) == 6  # each pair of hospitals derived one common seed, each hospital one of its own

    def build(inputs: tuple[int, int, int], **fixed: int) -> dict[str, np.ndarray]:
        free = [n for n in SECRETS if n not in fixed]
        cases = np.indices((RING,) * len(free)).reshape(len(free), -1).astype(np.uint64)
        columns = dict(zip(free, cases, strict=True))
        columns |= {n: np.full(cases.shape[1], v, np.uint64) for n, v in fixed.items()}
        monkeypatch.setattr(masks_module, "stream", lambda seed, number: _Column(columns[seeds[seed]]))
        seen = dict(columns)
        for i, value in enumerate(inputs, start=1):
            encoded = np.full(cases.shape[1], value, np.uint64)
            seen[f"y{i}"] = mask(encoded, held[i]).words % RING
        return seen

    return build


def _distribution(seen: dict[str, np.ndarray], *names: str) -> np.ndarray:
    code = np.zeros(len(seen["y1"]), np.int64)
    for name in names:
        code = code * RING + seen[name].astype(np.int64)
    return np.bincount(code, minlength=RING ** len(names))


SAME_SUM = ((1, 2, 3), (7, 7, 0), (0, 0, 6))
"""Inputs of three hospitals whose sum is 6 mod 8, and 2 mod 4."""


def test_before_unmasking_the_uploads_are_uniform(views: Callable[..., dict[str, np.ndarray]]) -> None:
    for inputs in ((0, 0, 0), (1, 2, 3), (7, 7, 7)):
        counts = _distribution(views(inputs, p12=3), "y1", "y2", "y3")
        assert (counts == counts[0]).all()


def test_after_unmasking_only_the_sum_is_told(views: Callable[..., dict[str, np.ndarray]]) -> None:
    seen = "y1", "y2", "y3", "b3"
    for first, second in itertools.product(range(RING), repeat=2):  # all 4^6 or 8^6 cases, in 16 or 64 parts
        inputs = SAME_SUM if first == second else SAME_SUM[:2]
        shown = [_distribution(views(x, b1=first, b2=second), *seen) for x in inputs]
        assert all(np.array_equal(shown[0], other) for other in shown[1:])
    other_sum = _distribution(views((1, 2, 4), b1=first, b2=second), *seen)
    assert not (shown[0] * other_sum).any()  # and the test can tell different sums apart


def test_after_a_dropout_the_lost_update_stays_hidden_even_if_it_arrives_late(
    views: Callable[..., dict[str, np.ndarray]],
) -> None:
    """Hospital 3 dropped: the aggregator rebuilds p13 and p23, holds y3, but never gets b3."""
    for first, second in itertools.product(range(RING), repeat=2):
        shown = [
            _distribution(views(x, b1=first, b2=second), "y1", "y2", "y3", "p13", "p23")
            for x in ((4, 5, 0), (9, 0, 13))
        ]
        assert np.array_equal(*shown)
    without_self_mask = views((4, 5, 0), b1=0, b2=0, b3=0), views((9, 0, 13), b1=0, b2=0, b3=0)
    shown = [_distribution(v, "y3", "p13", "p23") for v in without_self_mask]
    assert not np.array_equal(*shown)  # which is what the self mask is for


def test_a_colluding_hospital_sees_the_sum_of_the_others_only(
    views: Callable[..., dict[str, np.ndarray]],
) -> None:
    for first, second in itertools.product(range(RING), repeat=2):
        shown = [
            _distribution(views(x, b1=first, b2=second), "y1", "y2", "p13", "p23", "b3")
            for x in ((4, 5, 2), (9, 0, 2))
        ]
        assert np.array_equal(*shown)


CHECKED = EncodingParams(parameters=3, metrics=1, lane_bits=21, clip=1.0, max_weight=9, cohort=3)


def _checked_sum(lanes: list[list[int]], key: Secret) -> np.ndarray:
    """The words of the sum of these hospitals' vectors (three lanes, weight, metric), check word last."""
    total = np.zeros(CHECKED.words, np.uint64)
    for index, (*three, weight, metric) in enumerate(lanes, start=1):
        word = sum(q << (21 * lane) for lane, q in enumerate(three))
        encoded = np.array([word, weight, metric, 0], np.uint64)
        total += checked(encoded, key, CHECKED, index=index)
    return total


def test_the_check_word_of_the_sum_is_a_function_of_the_sum_and_the_key() -> None:
    """So whoever has the key, a colluding hospital too, could have computed it from the sum alone."""
    one = [[5, 0, 9, 1, 3], [7, 2, 0, 2, 3], [0, 0, 1, 3, 4]]
    other = [[0, 1, 2, 2, 10], [12, 0, 4, 2, 0], [0, 1, 4, 2, 0]]
    assert np.array_equal(np.sum(one, axis=0), np.sum(other, axis=0))
    for number in range(20):
        key = Secret(bytes([number]) * 32)
        assert np.array_equal(_checked_sum(one, key), _checked_sum(other, key))


def test_without_the_key_the_check_word_of_any_sum_is_a_uniform_word() -> None:
    """Which is what the simulator puts there. Chi-square over four bits: 15 degrees of freedom each."""
    for lanes in ([[0, 0, 0, 1, 0]] * 3, [[2**19, 7, 1, 9, 5], [5, 5, 5, 5, 5]]):
        words = [int(_checked_sum(lanes, Secret(n.to_bytes(32, "big")))[-1]) for n in range(640)]
        for shift in range(0, 64, 4):
            counts = np.bincount([w >> shift & 15 for w in words], minlength=16)
            assert ((counts - 40) ** 2 / 40).sum() < 70


SIMULATOR: dict[str, dict[str, str]] = {
    "advertise": {
        "sender": "the set U1",
        "signature": "identity keys, which do not depend on any update",
        "channel_key": "a fresh key pair, made before anything is known of the update",
        "mask_key": "a fresh key pair, made before anything is known of the update",
    },
    "shares": {
        "sender": "the set of those who shared",
        "signature": "identity keys",
        "commitment": "hash of 32 uniform bytes, drawn anew",
        "check_commitment": "hash of 32 uniform bytes, drawn anew",
        "share_commitments": "hashes of points of random polynomials, drawn anew",
        "sealed": "encryptions of zeros of the same length; for a colluder, fewer than t uniform values",
    },
    "ready": {"sender": "the set U2", "signature": "identity keys"},
    "upload": {
        "sender": "the set U3",
        "signature": "identity keys",
        "committed_hash": "the set U2 and the transcript",
        "segments": "hashes of uniform words that add up to the sum and the revealed masks",
        "relay": "a public key that the hospital's operator has named before any update",
    },
    "agree": {
        "sender": "the set of those who agreed",
        "signature": "identity keys",
        "committed_hash": "the set U2 and the transcript",
        "survivors": "the set U3",
    },
    "unmask": {
        "sender": "the set of those who answered",
        "signature": "identity keys",
        "self_shares": "a fresh sharing of self-mask secrets that were drawn before the uploads were chosen",
        "key_shares": "a fresh sharing of the dropped hospitals' simulated mask keys",
    },
    "abort": {"sender": "the set of those who gave the attempt up", "signature": "identity keys"},
    "state": {
        "setting": "public: plan, round, attempt, kind, model, thresholds",
        "phase": "public",
        "transcript": "hash of the messages below",
        "advertised": "messages above",
        "shared": "messages above",
        "ready": "messages above",
        "committed": "the set U2",
        "uploaded": "messages above; the vectors are uniform words with the right sum, in which the check"
        " word is a uniform word too (for somebody with the check key: computed from the sum)",
        "survivors": "the set U3",
        "agreed": "messages above",
        "unmasked": "messages above",
        "aborted": "messages above",
        "failed_in": "public",
    },
}
"""How a simulator, given the sum, the sets and the public keys, makes each thing the aggregator sees."""


def test_every_field_that_the_aggregator_sees_can_be_simulated() -> None:
    """Whoever adds a field must say how it is made without the updates, or this fails."""
    seen: dict[str, Any] = {name: set(kind.model_fields) for name, kind in MESSAGES.items()}
    seen["state"] = {f.name for f in fields(ServerState)}
    assert {name: set(table) for name, table in SIMULATOR.items()} == seen
