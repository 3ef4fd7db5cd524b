"""The compiled passes: word for word what NumPy gives, on every level this CPU has, and nobody needs them."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiled import build_script, compiled, using
from medveil.identity import Secret
from medveil.tensors import Update
from privacy.encoding import BLOCK_WORDS, CHUNK_WORDS, LANES, EncodingParams, OutOfRange
from privacy.secagg import kernel as module
from privacy.secagg.checkword import AlteredSum, verify_sum
from privacy.secagg.kernel import LEVELS, Encoding, Kernel, Words
from privacy.secagg.masks import PAD_WORDS, PADS, Mask, add_masks
from privacy.secagg.vector import masked_update
from tries import tries
from unmasked import checked, encode, whole

LANE_BITS = sorted(LANES)
KEY = Secret(b"k" * 32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def kernels(file: Path) -> list[Kernel]:
    """One for each set of instructions that this CPU has."""
    assert Kernel(file).level < len(LEVELS)
    return [Kernel(file, level) for level in range(Kernel(file).level + 1)]


def _update(p: EncodingParams, seed: int = 0) -> Update:
    """All over the range; every tenth entry at its ends or at zero."""
    drawn = np.random.default_rng(seed)
    values = drawn.uniform(-p.clip, p.clip, p.parameters).astype(np.float32)
    values[::10] = drawn.choice(np.float32([-p.clip, 0, p.clip]), len(values[::10]))
    return Update(np.clip(values, -np.float32(p.clip), np.float32(p.clip)))


def _masked(p: EncodingParams, masks: list[Mask], weight: int, rounding: bytes) -> np.ndarray:
    metrics = np.arange(p.metrics, dtype=np.uint64) * np.uint64(10**6)
    return whole(
        masked_update(
            _update(p),
            p,
            weight=weight,
            metrics=metrics,
            check_key=KEY,
            index=2,
            masks=masks,
            random_bytes=lambda size: rounding[:size],
        )
    )


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@given(data=st.data())
@settings(max_examples=tries(25), deadline=None)
def test_a_masked_vector_has_the_words_that_numpy_gives(
    kernels: list[Kernel], lane_bits: int, data: st.DataObject
) -> None:
    p = EncodingParams(
        parameters=data.draw(st.integers(0, 6000)),
        metrics=data.draw(st.integers(0, 3)),
        lane_bits=lane_bits,
        clip=data.draw(st.sampled_from([1e-6, 0.1, 1 / 3, 12345.678])),
        max_weight=100,
        cohort=data.draw(st.sampled_from([1, 5, 200])),
    )
    signs = data.draw(st.lists(st.sampled_from([1, -1]), min_size=1, max_size=2 * PADS + 2))
    masks = [Mask(Secret(secrets.token_bytes(32)), sign) for sign in signs]
    weight, rounding = data.draw(st.integers(1, 100)), secrets.token_bytes(32)
    with using(None):
        wanted = _masked(p, masks, weight, rounding)
    for kernel in kernels:
        with using(kernel):
            assert np.array_equal(_masked(p, masks, weight, rounding), wanted)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize("words", [PAD_WORDS + 1, BLOCK_WORDS + 33, 2 * CHUNK_WORDS - 5])
def test_also_over_the_borders_of_blocks_pieces_and_chunks(
    kernels: list[Kernel], words: int, lane_bits: int
) -> None:
    p = EncodingParams(LANES[lane_bits] * words - 1, 1, lane_bits, clip=0.1, max_weight=9, cohort=5)
    masks, rounding = [Mask(Secret(b"m" * 32), 1), Mask(Secret(b"n" * 32), -1)], b"r" * 32
    with using(None):
        wanted = _masked(p, masks, 7, rounding)
    for kernel in kernels:
        with using(kernel):
            assert np.array_equal(_masked(p, masks, 7, rounding), wanted)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_each_side_finds_the_others_check_word_right_and_an_altered_one_wrong(
    kernels: list[Kernel], lane_bits: int
) -> None:
    p = EncodingParams(100_001, 0, lane_bits, clip=0.1, max_weight=9, cohort=5)
    made: dict[str, Any] = {"weight": 9, "metrics": np.zeros(0, np.uint64), "random_bytes": bytes}
    for one, other in ((None, kernels[-1]), (kernels[-1], None), (kernels[0], None)):
        with using(one):
            words = checked(encode(_update(p), p, **made), KEY, p, index=1)
        with using(other):
            verify_sum(words, KEY, p, survivors=[1])
            words[777] ^= np.uint64(2)
            with pytest.raises(AlteredSum):
                verify_sum(words, KEY, p, survivors=[1])


@pytest.mark.parametrize("rows", [0, 3, 4, 11])
@pytest.mark.parametrize("length", [1, 64, PAD_WORDS + 3])
def test_masks_that_are_taken_off_leave_nothing(kernels: list[Kernel], rows: int, length: int) -> None:
    masks = [Mask(Secret(bytes([i]) * 32), 1 if i % 3 else -1) for i in range(rows)]
    for kernel in kernels:
        words = np.arange(length, dtype=np.uint64)
        with using(kernel):
            add_masks(words, masks)
        with using(None):
            add_masks(words, [Mask(m.seed, -m.sign) for m in masks])
        assert np.array_equal(words, np.arange(length))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.nextafter(np.float32(0.1), np.float32(1))])
@pytest.mark.parametrize("place", [0, 999])
def test_one_bad_coordinate_is_found_wherever_it_is(kernels: list[Kernel], bad: float, place: int) -> None:
    p = EncodingParams(1000, 0, 32, clip=0.1, max_weight=9, cohort=5)
    update = _update(p)
    update.values[place] = bad
    for kernel in [None, *kernels]:
        with using(kernel), pytest.raises(OutOfRange):
            encode(update, p, weight=9, metrics=np.zeros(0, np.uint64), random_bytes=bytes)


@pytest.mark.parametrize("content", [b"", b"no library", None])
def test_a_file_that_is_missing_or_no_such_library_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "_kernel.so").write_bytes(content)
    monkeypatch.setattr(module, "FILE", tmp_path / "_kernel.so")
    assert module.kernel.__wrapped__() is None


def test_a_file_that_adds_otherwise_is_done_without(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE", file)
    assert module.kernel.__wrapped__() is not None
    honest = Kernel.adder
    monkeypatch.setattr(
        Kernel, "adder", lambda self, *to: lambda a, n, plus, minus: honest(self, *to)(a, n, plus, 0)
    )
    assert module.kernel.__wrapped__() is None


@pytest.mark.parametrize("lanes", [2, 3, 4])
def test_a_file_that_rounds_otherwise_is_done_without(
    file: Path, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    honest = Kernel.encode

    def wrong(self: Kernel, what: Encoding, start: int, words: Words) -> None:
        honest(self, what, start, words)
        if what.lane_bits == 64 // lanes:
            words[-1] += np.uint64(1)

    monkeypatch.setattr(module, "FILE", file)
    monkeypatch.setattr(Kernel, "encode", wrong)
    assert module.kernel.__wrapped__() is None


def test_without_a_compiler_the_reason_is_said_and_no_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = build_script()
    for compiler in ("no-such-compiler", "false"):
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(script.NotCompiled, match=compiler):
            script.compile_kernel(tmp_path / "_kernel.so")
    assert list(tmp_path.iterdir()) == []
