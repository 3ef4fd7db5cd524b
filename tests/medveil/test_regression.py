"""A number is read within its declared range or refused with the reason; its figures are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from medveil.metrics import bounded, layout, noise_scales, summarise
from medveil.readings import with_unit
from medveil.study import Study, Target
from medveil.tasks import TASKS, BadLabel, zeros
from subjects import AGE, subject_of
from world import make_study

LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 5.0,
}
STUDY = make_study(**subject_of("regression"))


def read(cell: str, study: Study = STUDY) -> float:
    """What a cell says, in the target's own unit."""
    target = study.target
    assert target is not None
    place = TASKS["regression"].read_label(study, {target.column: cell})
    assert isinstance(place, float)
    return target.low + (place + 1) / 2 * (target.high - target.low)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("56", 56),
        (" 56.30 ", 56.3),
        ("56,3", 56.3),
        ("+20", 20),
        ("100", 100),
        ("5.63E+01", 56.3),
        ("060", 60),
    ],
)
def test_a_number_is_read_as_spreadsheets_write_it(cell: str, value: float) -> None:
    assert read(cell) == pytest.approx(value)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", "does not say"),
        ("nan", "does not say"),
        ("N/A", "does not say"),
        ("19.99", "outside"),
        ("-56", "outside"),
        ("1e400", "not a number|outside"),
        ("56 years", "not a number"),
        ("056Y", "not a number"),
        ("inf", "not a number"),
        ("0x38", "not a number"),
        ("٥٦", "not a number"),
        ("5_6", "not a number"),
    ],
)
def test_what_is_no_number_of_the_range_is_refused_with_its_reason(cell: str, reason: str) -> None:
    with pytest.raises(BadLabel, match=reason) as caught:
        read(cell)
    assert caught.value.remedy
    assert cell.strip() == "" or cell not in str(caught.value)


def test_a_comma_that_can_be_read_in_two_ways_is_refused_where_both_lie_in_the_range() -> None:
    wide = make_study(**(subject_of("regression") | {"target": {"column": "volume", "low": 0, "high": 5000}}))
    assert read("1,5", wide) == pytest.approx(1.5)
    assert read("2,500.5", wide) == pytest.approx(2500.5)
    with pytest.raises(BadLabel, match="two ways"):
        read("2,500", wide)


def test_figures_are_those_of_the_cases_in_the_targets_unit() -> None:
    true, said = np.array([30.0, 50.0, 90.0]), np.array([34.0, 49.0, 80.0])
    low, width = 20.0, 80.0
    y, p = (true - low) / width, (said - low) / width
    sums = zeros(layout(STUDY)) | {
        "absolute": np.array([np.abs(p - y).sum()]),
        "squared": np.array([((p - y) ** 2).sum()]),
        "predicted": np.array([p.sum()]),
        "target": np.array([y.sum()]),
        "target_squared": np.array([(y**2).sum()]),
        "images": np.array([3.0]),
        "patients": np.array([3.0]),
    }
    figures = summarise(STUDY, sums)
    assert figures["mae"] == pytest.approx(np.abs(said - true).mean())
    assert figures["bias"] == pytest.approx((said - true).mean())
    assert figures["rmse"] == pytest.approx(math.sqrt(((said - true) ** 2).mean()))
    assert figures["r2"] == pytest.approx(1 - ((said - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())


def test_noised_figures_without_their_noise_are_the_exact_ones() -> None:
    private = make_study(**subject_of("regression"), privacy=LOCAL)
    exact, total = zeros(layout(STUDY)), {name: np.zeros(1) for name in noise_scales(private)}
    random = np.random.default_rng(0)
    for y in random.random(40):
        p = float(np.clip(y + random.normal(0, 0.1), 0, 1))
        one = {
            "absolute": abs(p - y),
            "squared": (p - y) ** 2,
            "predicted": p,
            "target": y,
            "target_squared": y * y,
        }
        one |= {"images": 1.0, "patients": 1.0, "loss": 0.0}
        sums = {name: np.array([value]) for name, value in one.items()}
        for name, value in sums.items():
            exact[name] = exact[name] + value
        for name, value in bounded(private, sums).items():
            total[name] += value
    wanted, found = summarise(STUDY, exact), summarise(private, total, noise=2.0)
    for name in ("mae", "rmse", "bias", "r2", "patients"):
        assert found[name] == pytest.approx(wanted[name])
    assert 0 < found["noise"] < 80


def test_a_study_of_numbers_wants_a_target_and_no_other_study_has_one() -> None:
    with pytest.raises(ValidationError, match="wants one"):
        make_study(task="regression", classes=())
    with pytest.raises(ValidationError, match="a regression has none"):
        make_study(**(subject_of("regression") | {"classes": ("a", "b")}))
    with pytest.raises(ValidationError, match="it is for a regression"):
        make_study(target=AGE)
    for wrong in (
        {"low": 90.0, "high": 20.0},
        {"column": "image"},
        {"column": "a\u202eb"},
        {"high": math.inf},
    ):
        with pytest.raises(ValidationError):
            Target.model_validate(AGE | wrong)


def test_the_range_and_column_are_part_of_what_hospitals_approve() -> None:
    others = [{"high": 101.0}, {"low": 19.0}, {"column": "bone_age"}, {"unit": "months"}]
    studies = [make_study(**(subject_of("regression") | {"target": AGE | other})) for other in others]
    assert len({one.hash for one in (STUDY, *studies)}) == 5
    assert "target" not in make_study().model_dump(mode="json")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.8734, "", "0.873"), (7.1234, "years", "7.12 years"), (71.234, "mm", "71.2 mm"), (7123.4, "", "7123")],
)
def test_figures_are_written_with_digits_that_mean_something(value: float, unit: str, text: str) -> None:
    assert with_unit(value, unit) == text
