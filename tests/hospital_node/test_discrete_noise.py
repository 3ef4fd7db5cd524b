"""Discrete noise from the patients to the sum: whole numbers all the way, and no patient counts for more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hospital_node.training import (
    NoiseCut,
    NotSafe,
    TrainingRound,
    evaluation,
    optimizer,
    release,
    run,
    self_check,
    whole,
)
from hospital_node.training.unbooked import unbooked_charge
from hospital_node.training.whole import LONGEST, whole_sums
from medveil.metrics import released
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tensors import Update
from medveil_imaging.models import ModelShape, build_model, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from planting import plant
from privacy.dp import discrete
from privacy.dp.grid import LANE_STEPS, RingTooSmall, check_grid, training_grid
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from privacy.encoding import Words, decode, encode_metrics, params_for
from privacy.metric_limits import STEP
from unmasked import encode

CPU = torch.device("cpu")
HOSPITALS, DECLARED = 4, (10, 20, 30, 40)
JOINT: dict[str, Any] = {
    "kind": "joint",
    "honest_hospitals": 4,
    "clip_norm": 0.3,
    "noise_multiplier": 5.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 90.0,
    "noise": "discrete",
}
LOCAL = {name: value for name, value in JOINT.items() if name != "honest_hospitals"} | {"kind": "local"}


def make(**changes: Any) -> Study:
    options = {"scales": 1, "grid": 4, "centred": True}
    spec, _ = initial_vector(
        "wavelet_head",
        ModelShape((16, 16), outputs_for("classification", ("normal", "abnormal"))),
        options,
        seed=1,
    )
    content: dict[str, Any] = {
        "name": "whole",
        "task": "classification",
        "classes": ("normal", "abnormal"),
        "model": {"name": "wavelet_head", "options": options, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": (16, 16), "spacing_mm": ()},
        "training": {"rounds": 9, "local_steps": 1, "learning_rate": 3.0, "schedule": "linear"},
        "privacy": JOINT,
        "evaluation": {"every_round": False},
        "secure_aggregation": {"update_clip": 1e-3, "max_weight": 60, "lane_bits": 32},
        "cohort": {"min_hospitals": 4},
    }
    return Study.model_validate(content | changes)


def patients(count: int, seed: int) -> list[PatientImages]:
    generator = torch.Generator().manual_seed(seed)
    return [
        PatientImages(f"p{i}", torch.randn(1, 1, 16, 16, generator=generator), torch.tensor([i % 2]))
        for i in range(count)
    ]


class Told(NoiseSource):
    """Remembers the whole numbers that it gave; gives zeros where it is silent."""

    def __init__(self, key: bytes, *, silent: bool = False) -> None:
        super().__init__(key)
        self.given: list[NDArray[np.int64]] = []
        self.silent = silent

    def discrete(self, size: int, deviation: int) -> NDArray[np.int64]:
        drawn = super().discrete(size, deviation) * (not self.silent)
        self.given.append(drawn)
        return drawn.copy()


def update(study: Study, number: int, hospital: int, noise: NoiseSource) -> Update:
    start = np.linspace(-1, 1, study.model.tensors.size, dtype=np.float32)
    given = TrainingRound(
        study,
        start,
        patients(3, hospital),
        number=number,
        declared_patients=DECLARED[hospital],
        noise=noise,
        charge=unbooked_charge(study, round_number=number, split=Split.TRAIN),
        device=CPU,
    )
    return run.train_unchecked(given)


def lanes(study: Study, number: int, hospital: int, one: Update) -> Words:
    p = params_for(study, RoundKind.TRAIN, HOSPITALS, number)
    none = np.zeros(0, np.uint64)
    return encode(one, p, weight=DECLARED[hospital], metrics=none, random_bytes=lambda n: bytes(n))


@pytest.mark.parametrize("number", [1, 2, 9])
def test_a_masked_sum_of_joint_noise_is_the_sum_of_patients_and_of_whole_numbers_exactly(number: int) -> None:
    """In the round of the mean, in the first and in the last, whose rate is a ninth of the first one's."""
    study = make()
    p, total, wanted = params_for(study, RoundKind.TRAIN, HOSPITALS, number), np.uint64(0), np.float64(0)
    for hospital in range(HOSPITALS):
        noise, silent = Told(bytes([hospital]) * 32), Told(bytes(32), silent=True)
        noised = lanes(study, number, hospital, update(study, number, hospital, noise))
        plain = lanes(study, number, hospital, update(study, number, hospital, silent))
        lane = [(words[: p.packed_words].view("<u4").astype(np.int64)) for words in (noised, plain)]
        moved, drawn = lane[0] - lane[1], np.concatenate(noise.given)
        assert sorted(moved[moved != 0]) == sorted(-drawn[drawn != 0])
        total, wanted = total + noised, wanted + (lane[0] - LANE_STEPS)
    mean = decode(total, p, hospitals=HOSPITALS, study=study)
    assert mean.total_weight == sum(DECLARED)
    in_order = np.concatenate([wanted[0::2], wanted[1::2]])[: p.parameters]
    step = p.clip / LANE_STEPS * 60 / sum(DECLARED)
    np.testing.assert_allclose(mean.mean, in_order * step, rtol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 9])
def test_without_its_noise_an_update_is_that_of_gaussian_noise_to_a_thousandth_of_the_noise(
    number: int,
) -> None:
    class Silent(NoiseSource):
        def gaussian(self, size: int, scale: float) -> NDArray[np.float64]:
            return np.zeros(size)

    gaussian = make(
        privacy={name: value for name, value in JOINT.items() if name != "noise"},
        secure_aggregation={"update_clip": 1e3, "max_weight": 60, "lane_bits": 32},
    )
    whole_numbers = update(make(), number, 0, Told(bytes(32), silent=True)).values
    floats = update(gaussian, number, 0, Silent(bytes(32))).values
    clip, rate = (1.0, 1.0) if number == 1 else (0.3, 3.0 * (10 - number) / 9)
    noise = 2.5 * clip * rate / DECLARED[0]
    assert np.abs(whole_numbers).max() > 0
    np.testing.assert_allclose(whole_numbers, floats, atol=1e-3 * noise)


def test_a_share_is_rounded_so_that_it_is_never_longer_than_what_is_paid_for() -> None:
    """By hand, with a step of 1: (3.6, 4.6) would be (4, 5), 6.4 long; towards zero it is (3, 4), 5 long."""
    one, factor = torch.tensor([[3.6, 4.6]]), torch.ones(1)

    def share(clip: float) -> list[float]:
        return list(whole_sums([one], factor, step=1.0, clip_norm=clip)[0].tolist())

    assert share(6.5) == [4.0, 5.0]
    assert share(6.0) == [3.0, 4.0]
    assert share(5.0) == [0.0, 0.0]  # LONGEST of 5 is less than 5
    shortened = whole_sums([one], factor, step=1.0, clip_norm=6.5, shorten=True)[0]
    assert shortened.tolist() == [3.0, 4.0]  # booked as sqrt(3.6^2 + 4.6^2) before: no longer than that


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_patient_more_moves_a_sum_by_that_patients_whole_steps_and_by_no_bit_else(
    dtype: torch.dtype,
) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = (
        torch.randn(40, 300, generator=draw, dtype=dtype)
        * 10 ** torch.linspace(-30, 30, 40, dtype=dtype)[:, None]
    )
    factors = (0.3 / rows.norm(dim=1)).clamp(
        max=1.0
    )  # without the engine's margin: the limit must hold by itself
    step = 2.0**-20
    both = [rows[:, :200], rows[:, 200:]]
    whole = torch.cat(whole_sums(both, factors, step=step, clip_norm=0.3))
    for place in range(len(rows)):
        rest = [i for i in range(len(rows)) if i != place]
        less = torch.cat(whole_sums([b[rest] for b in both], factors[rest], step=step, clip_norm=0.3))
        own = torch.cat(whole_sums([b[[place]] for b in both], factors[[place]], step=step, clip_norm=0.3))
        assert torch.equal(whole - less, own)
        assert own.norm() <= LONGEST * 0.3 * (1 + 1e-12)
        assert torch.equal(own, (own / step).round() * step)


@pytest.mark.parametrize("privacy", [JOINT, LOCAL])
def test_figures_are_whole_steps_from_patients_to_the_sum(privacy: dict[str, Any]) -> None:
    study = make(privacy=privacy)
    p, total, wanted = params_for(study, RoundKind.EVALUATE, HOSPITALS), np.uint64(0), np.float64(0)
    for hospital in range(HOSPITALS):
        vector = np.zeros(study.model.tensors.size, np.float32)
        noise = Told(bytes([hospital]) * 32)
        sums = [
            release(
                study,
                vector,
                patients(5, hospital),
                noise=source,
                charge=unbooked_charge(study, round_number=10, split=Split.TEST),
                device=CPU,
            )
            for source in (noise, Told(bytes(32), silent=True))
        ]
        noised, plain = (np.concatenate(list(one.values())) / STEP for one in sums)
        assert np.array_equal(noised - plain, np.concatenate(noise.given))
        assert np.array_equal(plain, np.rint(plain))
        metrics = encode_metrics(study, sums[0])
        none = Update(np.zeros(0, np.float32))
        total = total + encode(none, p, weight=10, metrics=metrics, random_bytes=lambda n: bytes(n))
        wanted = wanted + noised * STEP
    found = decode(total, p, hospitals=HOSPITALS, study=study).metrics
    assert np.array_equal(np.concatenate([found[name] for name in released(study)]), wanted)


def test_noise_that_finds_no_room_in_its_lane_is_not_sent() -> None:
    class Far(NoiseSource):
        def discrete(self, size: int, deviation: int) -> NDArray[np.int64]:
            return np.full(size, LANE_STEPS)

    with pytest.raises(NoiseCut):
        update(make(), 2, 0, Far(bytes(32)))


@pytest.mark.parametrize(("number", "lane", "clip"), [(1, LANE_STEPS // 2, 1.0), (2, LANE_STEPS, 0.3)])
def test_nine_and_a_half_deviations_find_room_whatever_patients_say(
    number: int, lane: int, clip: float
) -> None:
    grid = training_grid(make(), number)
    assert grid is not None
    assert grid.room / grid.step + 9.5 * grid.deviation < lane
    assert grid.room >= 60 * clip  # the patients of the largest hospital are not cut, if they all agree
    assert grid.room == round(grid.room / grid.step) * grid.step


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"secure_aggregation": {"update_clip": 1.0, "max_weight": 60, "lane_bits": 21}}, "21 bits"),
        (
            {"secure_aggregation": {"update_clip": 1.0, "max_weight": 40_000, "lane_bits": 32}},
            "steps of a lane",
        ),
        ({"cohort": {"min_hospitals": 4, "max_hospitals": 1000}}, "1000 hospitals"),
        ({"privacy": LOCAL | {"evaluation_multiplier": 1e4}}, "deviation"),
    ],
)
def test_a_ring_too_small_for_the_noise_is_named_before_anything_runs(
    changes: dict[str, Any], words: str
) -> None:
    if "cohort" in changes:
        changes = changes | {
            "secure_aggregation": make().secure_aggregation.model_copy(update={"mask_graph": "hidden"})
        }
    with pytest.raises(RingTooSmall, match=words):
        check_grid(make(**changes))
    check_grid(make())


def test_studies_without_the_field_are_the_studies_they_were() -> None:
    gaussian = {name: value for name, value in JOINT.items() if name != "noise"}
    before, now = make(privacy=gaussian), make(privacy=gaussian | {"noise": "gaussian"})
    assert before.hash == now.hash != make().hash
    assert "noise" not in before.model_dump()["privacy"]


@pytest.mark.parametrize("privacy", [JOINT, LOCAL])
def test_the_self_check_goes_through_discrete_noise(privacy: dict[str, Any]) -> None:
    study = make(privacy=privacy)
    self_check(study, build_model(study))


OPT = optimizer.PatientOptimizer
GIVEN = "self._noise.discrete(len(piece), self._whole.deviation)"
FAULTS: dict[str, tuple[Any, str, str, str, str]] = {
    "halved": (OPT, "add_noise", GIVEN, f"({GIVEN} // 2)", "noise"),
    "asked too small": (OPT, "add_noise", "_whole.deviation", "_whole.deviation - 9", "noise"),
    "rounded floats": (
        OPT,
        "add_noise",
        GIVEN,
        "np.rint(self._noise.gaussian(len(piece), self._whole.deviation))",
        "noise",
    ),
    "a wrong k": (discrete, "_proposed", "s * k + j", "s * k + j // 2", "noise"),
    "no refusals": (discrete, "decays", "place % 2 == 1", "True", "noise"),
    "lanes off by little": (whole, "whole_update", "moved * per_step", "moved * per_step * 0.9999", "noise"),
    "shares of any length": (
        whole,
        "whole_sums",
        "limit = LONGEST * clip_norm / step",
        "limit, steps = float('inf'), [2 * one for one in steps]",
        "one-patient",
    ),
    "half on figures": (
        evaluation,
        "_noise",
        "figure_deviation(scale)",
        "figure_deviation(scale) // 2",
        "evaluation",
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("halved", "half on figures"))) for n in FAULTS],
)
def test_a_fault_in_discrete_noise_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, function, old, new, check = FAULTS[name]
    study = make()
    network = build_model(study)
    plant(monkeypatch, owner, function, old, new)
    with pytest.raises(NotSafe) as caught:
        self_check(study, network)
    assert caught.value.check == check
