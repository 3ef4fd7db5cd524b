"""A filter that lets patients through for too little, or after their end, fails the self-check."""

from __future__ import annotations

from typing import Any

import pytest

from hospital_node.training import NotSafe, optimizer, run, self_check
from medveil.study import Study
from medveil_imaging.models import ModelShape, build_model, initial_vector
from planting import plant
from privacy.dp import individual

NOISE: dict[str, Any] = {
    "kind": "local",
    "clip_norm": 0.3,
    "noise_multiplier": 5.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 90.0,
    "patient_mu": 0.5,
}


def head(*, centred: bool = False, **changes: Any) -> Study:
    options: dict[str, Any] = {"scales": 1, "grid": 4} | ({"centred": True} if centred else {})
    spec, _ = initial_vector("wavelet_head", ModelShape((16, 16), 1), options, seed=1)
    content: dict[str, Any] = {
        "name": "filtered",
        "task": "classification",
        "classes": ("normal", "abnormal"),
        "model": {"name": "wavelet_head", "options": options, "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": (16, 16)},
        "training": {"rounds": 4, "local_steps": 4, "learning_rate": 1.0},
        "privacy": NOISE,
        "secure_aggregation": {"update_clip": 1.0, "max_weight": 100},
        "cohort": {"min_hospitals": 4},
    }
    return Study.model_validate(content | changes)


def joint() -> Study:
    once = {"rounds": 9, "local_steps": 1, "learning_rate": 1.0}
    return head(privacy=NOISE | {"kind": "joint", "honest_hospitals": 4}, training=once)


def centred() -> Study:
    return head(centred=True)


OPT, FILTER = optimizer.PatientOptimizer, individual.PatientFilter
FAULTS: dict[str, tuple[Any, Any, str, str, str]] = {
    "a cut that is not made": (head, OPT, "_allowed", "(factors * cut)", "factors"),
    "booked for other noise": (head, FILTER, "book", "/ noise_multiplier", "/ (2 * noise_multiplier)"),
    "the norm in place of its square": (head, OPT, "_allowed", "lengths * cut / clip", "lengths**2 / clip"),
    "short gradients are free": (head, OPT, "_allowed", "lengths * cut / clip", "lengths * cut * (cut < 1)"),
    "booked on somebody else": (
        head,
        run,
        "_train_private",
        "[one.patient.patient for one in chosen]",
        "[one.patient.patient for one in chosen][::-1]",
    ),
    "nothing is taken from what is left": (
        head,
        FILTER,
        "book",
        "self._left[at] = np.maximum(self._left[at] - price, 0.0)",
        "pass",
    ),
    "who has nothing left adds a little": (head, FILTER, "shares", "_worth_it((room - SLACK)", "((room + 1)"),
    "one more step for everybody": (
        joint,
        FILTER,
        "shares",
        "room >= 1",
        "self._left[self._at(patients)] > 0",
    ),
    "a mean past the filter": (centred, run, "_release_mean", "filter=given.filter", "filter=None"),
}
TELLING = {"a cut that is not made", "booked on somebody else", "short gradients are free"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in TELLING)) for n in FAULTS]
)
def test_a_planted_fault_of_a_filter_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, owner, function, old, new = FAULTS[name]
    study = chosen()
    module = build_model(study)
    plant(monkeypatch, owner, function, old, new)
    with pytest.raises(NotSafe) as caught:
        self_check(study, module)
    assert caught.value.check == "filter"


@pytest.mark.parametrize("chosen", [head, pytest.param(joint, marks=pytest.mark.slow)])
def test_a_study_with_a_filter_passes_the_self_check(chosen: Any) -> None:
    self_check(chosen(), build_model(chosen()))
