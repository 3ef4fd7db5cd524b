"""The codec: sums of encodings are encodings of sums, rounding is fair, and nothing wrong gets in or out."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medveil.evaluation import Evaluation
from medveil.metrics import layout
from medveil.noise_policies import NoPrivacy
from medveil.rounds import RoundKind
from medveil.study import ModelChoice, SecureAggregation, Study, Training, Transforms
from medveil.tensors import ModelSpec, TensorSpec, Update
from privacy.encoding import (
    LANES,
    LIMB_BITS,
    METRIC_STEPS,
    EncodingParams,
    OutOfRange,
    SpoiledSum,
    _joined,
    decode,
    decode_metrics,
    encode_metrics,
    params_for,
)
from tries import tries
from unmasked import encode

NO_METRICS = np.zeros(0, np.uint64)
LANE_BITS = sorted(LANES)


def _params(
    parameters: int, lane_bits: int = 21, *, clip: float = 0.5, weight: int = 100, cohort: int = 5
) -> EncodingParams:
    return EncodingParams(parameters, 0, lane_bits, clip, weight, cohort)


def _study(lane_bits: int = 21, every_round: bool = True) -> Study:
    return Study(
        name="s",
        task="classification",
        classes=("well", "ill"),
        model=ModelChoice(
            name="m", tensors=ModelSpec((TensorSpec(name="w", shape=(7,)),)), initial_model="0" * 64
        ),
        transforms=Transforms(profile="xray", size=(8, 8)),
        training=Training(rounds=1, local_steps=1, learning_rate=0.1),
        privacy=NoPrivacy(),
        secure_aggregation=SecureAggregation(lane_bits=lane_bits, update_clip=0.5, max_weight=100),
        evaluation=Evaluation(bins=16, every_round=every_round),
    )


def _encode(values: object, p: EncodingParams, weight: int | None = None) -> np.ndarray:
    update = Update(np.asarray(values, np.float32))
    weight = p.max_weight if weight is None else weight
    return encode(update, p, weight=weight, metrics=NO_METRICS, random_bytes=secrets.token_bytes)


def _lanes(words: np.ndarray, p: EncodingParams) -> list[int]:
    """The coordinates' integers by Python's big-integer arithmetic: the reference of the packing."""
    mask = 2**p.lane_bits - 1
    packed = [int(w) for w in words[: p.packed_words]]
    planes = [[w >> (lane * p.lane_bits) & mask for w in packed] for lane in range(LANES[p.lane_bits])]
    return [q for plane in planes for q in plane][: p.parameters]


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@given(data=st.data())
@settings(max_examples=tries(40), deadline=None)
def test_the_sum_of_encodings_decodes_to_the_weighted_mean(lane_bits: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 30))
    p = _params(size, lane_bits, clip=data.draw(st.sampled_from([1e-6, 0.1, 0.5, 3.0, 1e4])))
    hospitals = data.draw(st.integers(1, p.cohort))
    entry = st.floats(-1, 1, width=32)
    rows = [
        np.float32(p.clip) * np.float32(data.draw(st.lists(entry, min_size=size, max_size=size)))
        for _ in range(hospitals)
    ]
    weights = [data.draw(st.integers(1, p.max_weight)) for _ in rows]
    total = sum((_encode(r, p, w) for r, w in zip(rows, weights, strict=True)), np.zeros(p.words, np.uint64))
    aggregate = decode(total, p, hospitals=hospitals, study=_study())
    exact = sum((w * np.float64(r) for r, w in zip(rows, weights, strict=True)), np.zeros(size)) / sum(
        weights
    )
    bound = hospitals * p.clip / p.steps * p.max_weight / sum(weights) + p.clip * 2.0**-20
    assert np.abs(aggregate.mean - exact).max(initial=0) <= bound
    assert (aggregate.total_weight, aggregate.hospitals) == (sum(weights), hospitals)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize(
    "size", [1, 2, 3, 4, 5, 2**16 + 3, pytest.param(4 * 2**16 + 1, marks=pytest.mark.slow)]
)
def test_packed_words_are_the_big_integers_of_their_lanes(lane_bits: int, size: int) -> None:
    p = _params(size, lane_bits)
    values = np.linspace(-p.clip, p.clip, size, dtype=np.float32)
    words = _encode(values, p)
    lanes = np.array(_lanes(words, p))
    exact = np.float64(values) / p.clip * p.steps + p.steps
    assert np.abs(lanes - exact).max() <= 1 + p.steps * 2.0**-21
    rebuilt = [0] * p.packed_words
    for i, q in enumerate(lanes):
        rebuilt[i % p.packed_words] |= int(q) << (i // p.packed_words * p.lane_bits)
    assert rebuilt == [int(w) for w in words[: p.packed_words]]  # also: every other bit is zero


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@given(
    rows=st.lists(st.lists(st.floats(-0.5, 0.5, width=32), min_size=7, max_size=7), min_size=1, max_size=5)
)
@settings(max_examples=tries(25), deadline=None)
def test_the_sum_of_words_is_the_word_of_lane_sums(lane_bits: int, rows: list[list[float]]) -> None:
    p = _params(7, lane_bits)
    encoded = [_encode(row, p) for row in rows]
    total = sum(encoded, np.zeros(p.words, np.uint64))
    columns = zip(*(_lanes(words, p) for words in encoded), strict=True)
    assert _lanes(total, p) == [sum(column) for column in columns]


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("clip", [0.1, 7e-7, 12345.678, 0.112, 0.016])
def test_a_full_cohort_at_the_clip_fills_the_lanes_and_spills_nowhere(
    lane_bits: int, sign: int, clip: float
) -> None:
    """All at +C or all at -C, also where float32 rounds C or the scale (the last two) up: the worst."""
    for cohort in (3, 10, 200):
        p = _params(4001, lane_bits, clip=clip, cohort=cohort)
        extreme = np.full(4001, sign * np.float32(clip), np.float32)
        words = _encode(extreme, p)
        lanes = np.array(_lanes(words, p))
        assert lanes.min() >= 0
        assert lanes.max() <= 2 * p.steps
        total = words * np.uint64(cohort)
        mean = decode(total, p, hospitals=cohort, study=_study()).mean
        assert np.abs(mean - sign * clip).max() <= clip / p.steps + clip * 2.0**-20


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@given(cohort=st.integers(1, 4096))
@settings(max_examples=tries(60), deadline=None)
def test_no_allowed_cohort_can_overflow_a_lane(lane_bits: int, cohort: int) -> None:
    try:
        p = _params(1, lane_bits, cohort=cohort)
    except OutOfRange:
        assert (2**lane_bits - 1) // (2 * cohort) < 8 + 2  # refused only where fewer than 8 even steps fit
        return
    assert 2 * p.steps * cohort < 2**lane_bits
    assert p.steps % 2 == 0
    assert 2 * (p.steps + 2) * cohort >= 2**lane_bits or p.steps == 2**20  # and no lane is wasted


@pytest.mark.parametrize(("lane_bits", "steps"), [(16, 3276), (21, 104856), (32, 2**20)])
def test_steps_for_ten_hospitals(lane_bits: int, steps: int) -> None:
    assert _params(1, lane_bits, cohort=10).steps == steps


@pytest.mark.slow  # the next test has the exact expectation
@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_rounding_is_unbiased(lane_bits: int) -> None:
    """Means of 150,000 roundings lie within the promised bias and five standard errors."""
    count = 150_000
    for place in (0.0, 0.001, 0.25, 0.5, 0.77, 0.999):
        p = _params(count, lane_bits, clip=1.0)
        value = np.float32((37 + place) / p.steps)
        exact = float(value) * p.steps + p.steps
        lanes = np.array(_lanes(_encode(np.full(count, value), p), p))
        assert set(np.unique(lanes)) <= {int(np.floor(exact + d)) for d in (-(2.0**-7), 0, 1, 1 + 2.0**-7)}
        fraction = exact % 1
        spread = np.sqrt(max(fraction * (1 - fraction), 1e-3) / count)
        assert abs(lanes.mean() - exact) <= 2.0**-16 + 38 * 2.0**-21 + 5 * spread


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_every_dither_together_is_fair_to_one_part_in_65536(
    lane_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a sample: all 65,536 dithers in turn, so the mean is the exact expectation."""

    class Counting:
        def update_into(self, zeros: memoryview, out: memoryview) -> None:
            out[: len(zeros)] = (self.next + np.arange(len(zeros) // 2)).astype("<u2").tobytes()
            self.next += len(zeros) // 2

        next = 0

    monkeypatch.setattr("privacy.encoding.stream", lambda seed: Counting())
    draw = np.random.default_rng(5)
    for value in np.float32(draw.uniform(-1, 1, 4)):
        p = _params(2**16, lane_bits, clip=1.0)
        exact = float(value) * p.steps + p.steps
        lanes = np.array(_lanes(_encode(np.full(2**16, value), p), p))
        assert abs(lanes.mean() - exact) <= 2.0**-16 + abs(float(value)) * p.steps * 2.0**-21


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_zero_stays_zero(lane_bits: int) -> None:
    p = _params(10_000, lane_bits)
    assert set(_lanes(_encode(np.zeros(10_000), p), p)) == {p.steps}


def test_two_encodings_of_one_update_differ() -> None:
    p = _params(1000)
    values = np.full(1000, 0.123456, np.float32)
    assert not np.array_equal(_encode(values, p), _encode(values, p))


def test_the_same_random_bytes_give_the_same_words() -> None:
    p, update = _params(1000), Update(np.full(1000, 0.123456, np.float32))
    one, two = (encode(update, p, weight=1, metrics=NO_METRICS, random_bytes=bytes) for _ in "12")
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    "bad", [np.nan, np.inf, -np.inf, 0.50001, -0.50001, np.nextafter(np.float32(0.5), np.float32(1))]
)
@pytest.mark.parametrize("place", [0, 2**16 - 1, 2**16, 299_999])
def test_a_coordinate_that_is_not_finite_or_over_the_clip_is_refused(bad: float, place: int) -> None:
    values = np.zeros(300_000, np.float32)
    values[place] = bad
    with pytest.raises(OutOfRange, match=r"^Every coordinate of the update must be finite and within ±0\.5"):
        _encode(values, _params(300_000))


@pytest.mark.parametrize("weight", [0, -1, 101])
def test_a_weight_of_zero_or_over_the_cap_is_refused(weight: int) -> None:
    with pytest.raises(OutOfRange, match=r"^The weight must be 1 to 100\."):
        _encode(np.zeros(3), _params(3), weight)


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), ()])
def test_an_update_of_the_wrong_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OutOfRange, match=r"^The length of the update must be 3 \+ 0 metrics\."):
        _encode(np.zeros(shape), _params(3))


def test_metrics_of_the_wrong_length_or_size_are_refused() -> None:
    p = replace(_params(1), metrics=2)
    for metrics in (NO_METRICS, np.zeros(3, np.uint64), np.array([0, p.tail_limit], np.uint64)):
        with pytest.raises(OutOfRange, match=r"^(The length of the update|Every metric word) must be [^N]"):
            encode(
                Update(np.zeros(1, np.float32)),
                p,
                weight=1,
                metrics=metrics,
                random_bytes=secrets.token_bytes,
            )


@pytest.mark.parametrize(
    "change",
    [
        {"lane_bits": 20},
        {"lane_bits": 64},
        {"parameters": -1},
        {"metrics": -1},
        {"clip": 0.0},
        {"clip": -1.0},
        {"clip": float("nan")},
        {"clip": float("inf")},
        {"clip": 1e-30},
        {"max_weight": 0},
        {"max_weight": 2**31 + 1},
        {"cohort": 0},
        {"cohort": 4097},
        {"lane_bits": 16, "cohort": 4096},
    ],
)
def test_parameters_that_could_not_keep_the_promise_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(OutOfRange):
        replace(_params(1), **change)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_a_spoiled_sum_is_refused(lane_bits: int) -> None:
    study = _study(lane_bits)
    p = _params(7, lane_bits)
    good = sum((_encode(np.full(7, 0.4), p) for _ in range(3)), np.zeros(p.words, np.uint64))
    decode(good, p, hospitals=3, study=study)
    unused_lane = np.uint64(1) << np.uint64((LANES[lane_bits] - 1) * lane_bits)
    spoiled = {
        "lane too high": _changed(good, 0, good[0] | np.uint64(2**lane_bits - 1)),
        "padding lane in use": _changed(good, p.packed_words - 1, good[p.packed_words - 1] | unused_lane),
        "weight zero": _changed(good, p.packed_words, 0),
        "weight below one each": _changed(good, p.packed_words, 2),
        "weight over the cap": _changed(good, p.packed_words, 301),
        "weight wrapped": _changed(good, p.packed_words, 2**64 - 1),
        "too short": good[:-1],
        "too long": np.append(good, np.uint64(0)),
        "empty": good[:0],
        "uniform": np.frombuffer(secrets.token_bytes(8 * p.words), np.uint64),
    }
    if lane_bits == 21:
        spoiled["bit above the lanes"] = _changed(good, 0, good[0] | np.uint64(2**63))
    accepted = []
    for name, total in spoiled.items():
        with contextlib.suppress(SpoiledSum):
            decode(total, p, hospitals=3, study=study)
            accepted.append(name)
    assert accepted == []
    for hospitals in (0, -1, 6):
        with pytest.raises(SpoiledSum):
            decode(good, p, hospitals=hospitals, study=study)


def _changed(words: np.ndarray, place: int, value: int | np.uint64) -> np.ndarray:
    words = words.copy()
    words[place] = value
    return words


@given(st.integers(1, 5), st.data())
@settings(max_examples=tries(20), deadline=None)
def test_metric_sums_arrive_in_fixed_point(hospitals: int, data: st.DataObject) -> None:
    study = _study()
    value = st.floats(0, 1e6)
    rows = [
        {
            name: np.array(data.draw(st.lists(value, min_size=n, max_size=n)))
            for name, n in layout(study).items()
        }
        for _ in range(hospitals)
    ]
    total = sum((encode_metrics(study, row) for row in rows), np.zeros(1, np.uint64))
    sums = decode_metrics(total, study, hospitals=hospitals)
    for name in layout(study):
        assert np.allclose(sums[name], sum(r[name] for r in rows), rtol=0, atol=hospitals / METRIC_STEPS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 2.0**29])
def test_a_metric_that_is_not_a_bounded_sum_is_refused(bad: float) -> None:
    study = _study()
    sums = {name: np.zeros(length) for name, length in layout(study).items()}
    with pytest.raises(OutOfRange):
        encode_metrics(study, sums | {"loss": np.array([bad])})
    with pytest.raises(OutOfRange):
        encode_metrics(study, sums | {"loss": np.zeros(2)})
    del sums["loss"]
    with pytest.raises(OutOfRange):
        encode_metrics(study, sums)


def test_a_spoiled_metric_word_is_refused() -> None:
    study = _study()
    p = params_for(study, RoundKind.EVALUATE, 5)
    total = np.zeros(p.words, np.uint64)
    total[0], total[-2] = 3, 2**63
    with pytest.raises(SpoiledSum):
        decode(total, p, hospitals=3, study=study)


def test_the_vector_of_a_round_follows_the_study() -> None:
    counted = sum(layout(_study()).values())
    train, evaluate = (params_for(_study(), kind, 5) for kind in (RoundKind.TRAIN, RoundKind.EVALUATE))
    bare = params_for(_study(every_round=False), RoundKind.TRAIN, 5)
    assert (train.parameters, train.metrics) == (7, counted)
    assert (evaluate.parameters, evaluate.metrics) == (0, counted)
    assert (bare.parameters, bare.metrics) == (7, 0)
    assert train.words == 3 + 1 + counted + 1


@pytest.mark.parametrize(("lane_bits", "size"), [(16, 2.0), (21, 8 / 3), (32, 4.0)])
def test_bytes_per_parameter(lane_bits: int, size: float) -> None:
    p = _params(1_200_000, lane_bits)
    assert 8 * p.words / p.parameters == pytest.approx(size, rel=1e-5)


def test_values_are_not_shown_in_repr() -> None:
    assert "0.25" not in repr(Update(np.full(3, 0.25, np.float32)))


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize("hospitals", [1, 3, 5])
def test_a_lane_is_believed_up_to_what_that_many_hospitals_reach_and_no_further(
    lane_bits: int, hospitals: int
) -> None:
    p = _params(3, lane_bits)
    total = np.zeros(p.words, np.uint64)
    total[p.packed_words] = hospitals * p.max_weight
    total[0] = 2 * p.steps * hospitals
    mean = decode(total, p, hospitals=hospitals, study=_study()).mean
    assert mean[0] == np.float32(p.clip)  # all at the clip, each with the full weight
    assert mean[1] == np.float32(-p.clip)
    assert mean.dtype == np.float32
    total[0] += np.uint64(1)
    with pytest.raises(SpoiledSum):
        decode(total, p, hospitals=hospitals, study=_study())


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_a_bit_in_a_lane_that_no_coordinate_uses_is_refused(lane_bits: int) -> None:
    p = _params(1, lane_bits)
    for lane in range(1, LANES[lane_bits]):
        total = _encode([0.1], p)
        total[0] |= np.uint64(1) << np.uint64(lane * lane_bits)
        with pytest.raises(SpoiledSum):
            decode(total, p, hospitals=1, study=_study())


@pytest.mark.parametrize("cohort", [3, 128, 129, 2000, 4096])
def test_weight_and_metrics_are_limbs_whose_sums_never_carry(cohort: int) -> None:
    """The largest values of a full cohort come back exactly; a limb beyond them is refused."""
    p = replace(_params(0, weight=2**31), metrics=2, cohort=cohort)
    words = encode(
        Update(np.zeros(0, np.float32)),
        p,
        weight=2**31,
        metrics=np.array([p.tail_limit - 1, 1], np.uint64),
        random_bytes=secrets.token_bytes,
    )
    total = words * np.uint64(cohort)
    joined = _joined(total[:-1], p, cohort)
    assert [int(x) for x in joined] == [cohort * 2**31, cohort * (p.tail_limit - 1), cohort]
    for shift in (0, 32):
        over = total[:-1].copy()
        over[2] = (cohort * (2**p.limb_bits - 1) + 1) << shift
        with pytest.raises(SpoiledSum):
            _joined(over, p, cohort)
    with pytest.raises(SpoiledSum):
        _joined(total[:-1], p, cohort - 1)


def test_large_cohorts_carry_smaller_metrics() -> None:
    limits = {cohort: replace(_params(0), cohort=cohort).tail_limit for cohort in (3, 128, 129, 2000, 4096)}
    assert limits == {3: 2**50, 128: 2**50, 129: 2**48, 2000: 2**42, 4096: 2**40}
    assert limits[3] == 2 ** (2 * LIMB_BITS)
