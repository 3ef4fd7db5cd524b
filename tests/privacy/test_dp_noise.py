"""Noise: distribution, independence, and no way for a fixed seed to reach it."""

from __future__ import annotations

import ast
import copy
import math
import pickle
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from monai.utils import set_determinism
from scipy import stats

import privacy
from privacy.dp.noise import NoiseSource, normal

KEY = bytes(range(32))
DRAWS = 1_000_000


def test_a_million_draws_have_the_moments_and_shape_of_a_normal_distribution() -> None:
    values = NoiseSource(KEY).gaussian(DRAWS, 2.5)
    assert values.dtype == np.float64
    assert abs(values.std() / 2.5 - 1) < 0.005
    assert abs(values.mean()) < 5 * 2.5 / math.sqrt(DRAWS)
    assert abs(stats.skew(values)) < 5 * math.sqrt(6 / DRAWS)
    assert abs(stats.kurtosis(values)) < 5 * math.sqrt(24 / DRAWS)
    assert stats.kstest(values / 2.5, "norm").pvalue > 1e-4
    assert len(np.unique(values)) > DRAWS - 10


def value(chance: int, sign: int = 0) -> float:
    """The value of one word: ``chance`` is its upper 63 bits."""
    return float(normal(np.array([chance << 1 | sign], np.uint64))[0])


def test_the_map_is_exact_at_both_ends_and_finite_and_symmetric() -> None:
    ends = np.array([0, 1, 2**64 - 2, 2**64 - 1], np.uint64)
    low, high, middle, other = normal(ends)
    with mpmath.workdps(60):
        farthest = float(mpmath.sqrt(2) * mpmath.erfinv(1 - mpmath.mpf(2) ** -64))
    assert low == pytest.approx(-farthest, rel=1e-13)
    assert (low, middle) == (-high, -other)
    assert 9.15 < high < 9.16
    assert middle == other == 0
    draw = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)
    assert np.array_equal(normal(draw), -normal(draw ^ np.uint64(1)))
    assert np.isfinite(normal(draw)).all()


@pytest.mark.parametrize("far", [0.5, 3.0, 6.15, 6.3, 8.0, 8.5, 9.0])
def test_each_tail_has_exactly_its_share_of_the_words(far: float) -> None:
    """Not a sample: the map is monotone, so the words beyond ``far`` are counted by halving."""
    least, most = 0, 2**63  # value(least) <= -far < value(most)
    while most - least > 1:
        half = (least + most) // 2
        least, most = (half, most) if value(half) <= -far else (least, half)
    with mpmath.workdps(60):
        share = mpmath.ncdf(-mpmath.mpf(far)) * mpmath.mpf(2) ** 64
        assert abs(most - share) <= 1 + share * mpmath.mpf(2) ** -48
    assert value(least, 1) >= far > value(most, 1)


def test_the_tails_have_no_holes_where_a_step_draws_millions() -> None:
    """Neighbouring words near six deviations lie closer than any grid that the sum is rounded to."""
    for chance in (2**34, 2**44, 2**62):
        assert 0 < value(chance + 2**10) - value(chance) < 2.0**-20


def test_two_sources_are_independent_and_one_source_never_repeats() -> None:
    first, second = NoiseSource.fresh(), NoiseSource.fresh()
    a, b, c = first.gaussian(200_000, 1.0), second.gaussian(200_000, 1.0), first.gaussian(200_000, 1.0)
    for x, y in [(a, b), (a, c)]:
        assert abs(np.corrcoef(x, y)[0, 1]) < 5 / math.sqrt(200_000)
        assert not np.intersect1d(x, y).size > 2


def test_fixing_every_global_seed_does_not_make_noise_repeat() -> None:
    drawn = []
    try:
        for _ in range(2):
            torch.manual_seed(0)
            set_determinism(0)
            drawn.append(NoiseSource.fresh().gaussian(1000, 1.0))
    finally:
        set_determinism(None)
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.2


def test_drawing_noise_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state()
    NoiseSource.fresh().gaussian(1000, 1.0)
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_in_the_privacy_room_names_a_general_purpose_generator() -> None:
    files = sorted(Path(privacy.__file__).parent.rglob("*.py"))
    assert len(files) > 5
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"random", "default_rng"}, file.name
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & {"random", "torch"}, file.name
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in {"random", "torch"}, file.name
                assert (node.module or "") != "numpy.random", file.name


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_coins_fall_with_the_given_chance_and_by_themselves(rate: float) -> None:
    coins = NoiseSource(KEY).coins(400_000, rate)
    spread = math.sqrt(rate * (1 - rate) / len(coins))
    assert abs(coins.mean() - rate) <= 5 * spread
    both = (coins[:-1] & coins[1:]).mean()
    assert abs(both - rate**2) <= 5 * math.sqrt(3 * rate**2 * (1 - rate) / len(coins) + 1e-18)


def test_chosen_images_are_different_and_every_image_is_chosen_equally_often() -> None:
    source, counts = NoiseSource(KEY), np.zeros(6)
    for _ in range(5000):
        chosen = source.choose(6, 4)
        assert len(set(chosen.tolist())) == 4
        assert list(chosen) == sorted(chosen)
        counts[chosen] += 1
    assert stats.chisquare(counts).pvalue > 1e-4
    assert list(source.choose(3, 4)) == [0, 1, 2]


def test_the_stream_is_fixed_by_its_key_whatever_the_chunks() -> None:
    whole = NoiseSource(KEY).gaussian(10, 1.0)
    parts = NoiseSource(KEY)
    assert np.array_equal(whole, np.concatenate([parts.gaussian(4, 1.0), parts.gaussian(6, 1.0)]))


def test_a_source_shows_no_key_and_cannot_be_copied_or_pickled() -> None:
    source = NoiseSource(KEY)
    assert KEY.hex() not in repr(source)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="never be used twice"):
            attempt(source)
    with pytest.raises(ValueError, match="32 bytes"):
        NoiseSource(b"short")
