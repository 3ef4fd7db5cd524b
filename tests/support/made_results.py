"""Results of whole studies without training: made-up scores, counted, noised and summed as in a study."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medveil.metrics import bounded, empty, noise_in_sum, noise_scales, released, summarise
from medveil.parts import placed
from medveil.reports import PlanStatus
from medveil.small_cells import without_small
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_research.results import Result, from_status
from medveil_research.studies import StudyOptions, new_study

PHASES = {"advertise": 0.2, "share": 0.3, "commit": 4.0, "upload": 0.9, "agree": 0.2, "unmask": 0.4}


def study_of(task: str, *, hospitals: int = 4, rounds: int = 6, **options: Any) -> Study:
    """A new study with its recipe."""
    usual = {"profile": "mri" if TASKS[task].outlines else "xray", "patients_hint": 300}
    if TASKS[task].outlines:
        usual |= {"privacy": "none"}
    given = {"name": f"made-{task}", "task": task, "hospitals": hospitals, "rounds": rounds, "anyway": True}
    return new_study(StudyOptions(**given, **usual | options))[0]


def sums_of(
    study: Study, patients: int, *, hospitals: int = 4, spread: float = 1.5, seed: int = 0
) -> dict[str, Any]:
    """What the final evaluation releases of so many patients, whose scores are right more often than not."""
    draw, task = np.random.default_rng(seed), TASKS[study.task]
    generator = torch.Generator().manual_seed(seed)
    private, total = study.privacy.kind != "none", empty(study)
    if private:
        total = {name: np.zeros(length) for name, length in released(study).items()}
    size = (4, 4, 4) if task.outlines else ()
    for number in range(patients):
        labels = task.made_up_labels(study, 1, size, generator)
        whole = task.sums(study, _logits(study, labels, draw, spread), labels)
        one = placed(study, whole, _groups(study, number))
        for name, values in (bounded(study, one) if private else one).items():
            total[name] += values
    multiplier, scales = noise_in_sum(study, hospitals=hospitals), noise_scales(study)
    if private:
        for name, values in total.items():
            values += draw.normal(0, multiplier * scales[name], len(values))
    return {name: values.tolist() for name, values in without_small(study, total).items()}


def _groups(study: Study, number: int) -> dict[str, str]:
    """Half of the patients are in the first group of a column, a quarter in the next one, and so on."""
    place = (number + 1 & -(number + 1)).bit_length() - 1
    return {name: one.names[place] for name, one in study.evaluation.groups.items() if place < len(one.names)}


def _logits(study: Study, labels: torch.Tensor, draw: np.random.Generator, spread: float) -> torch.Tensor:
    task = TASKS[study.task]
    if study.task == "regression":
        return (labels + torch.tensor(draw.normal(0, 0.2, labels.shape), dtype=torch.float32)).reshape(-1, 1)
    if study.task == "findings":
        right = torch.nan_to_num(labels) * 2 - 1
    else:
        width = len(study.classes)
        right = torch.nn.functional.one_hot(labels, width).movedim(-1, 1).float() * 2 - 1
        if task.outputs(study.classes) == 1:
            right = right[:, 1:]
    return spread * right + torch.tensor(draw.normal(0, spread, right.shape), dtype=torch.float32)


def status_of(
    study: Study,
    names: Sequence[str],
    *,
    sums: dict[str, Any] | None = None,
    failed: Sequence[int] = (),
    missing: Sequence[str] = (),
    rounds: int | None = None,
) -> PlanStatus:
    """A plan's progress: each training round, and the evaluation if there are ``sums`` of it."""
    last = study.training.rounds if rounds is None else rounds
    attempts = [_attempt(study, number, names, failed, missing) for number in range(1, last + 1)]
    if sums is not None:
        noise = noise_in_sum(study, hospitals=len(names))
        figures = summarise(study, {name: np.asarray(v) for name, v in sums.items()}, noise=noise)
        attempts.append(
            {
                **_attempt(study, last + 1, names, (), ()),
                "kind": "evaluate",
                "model": None,
                "figures": figures,
                "metric": figures.get(TASKS[study.task].headline),
                "sums": sums,
            }
        )
    first = _version(study, 0, study.model.initial_model, None)
    made = [a for a in attempts if a["model"]]
    versions = [first, *(_version(study, a["round"], a["model"], a["epsilon"]) for a in made)]
    return PlanStatus.model_validate(
        {
            "plan": "1" * 64,
            "name": study.name,
            "finished": sums is not None,
            "hospitals": names,
            "approved": names,
            "in_reach": None,
            "open": None,
            "waiting_for": None,
            "attempts": attempts,
            "versions": versions,
        }
    )


def _attempt(
    study: Study, number: int, names: Sequence[str], failed: Sequence[int], missing: Sequence[str]
) -> dict[str, Any]:
    lost = number in failed
    inside = [name for name in names if name not in missing or number % 3]
    epsilon = None
    if study.privacy.kind != "none":
        epsilon = study.privacy.epsilon * (number / study.training.rounds) ** 0.5
        epsilon = min(epsilon, study.privacy.epsilon)
    return {
        "round": number,
        "attempt": 1,
        "kind": "train",
        "outcome": "failed" if lost else "done",
        "reason": "below-threshold" if lost else None,
        "seconds": 6.0,
        "phases": {name: seconds * (1 + number % 4 / 4) for name, seconds in PHASES.items()},
        "advertised": names,
        "committed": names,
        "survivors": [] if lost else inside,
        "bytes_up": dict.fromkeys(inside, 9000),
        "bytes_down": dict.fromkeys(inside, 6000),
        "model": None if lost else hashlib.sha256(b"%d" % number).hexdigest(),
        "epsilon": epsilon,
    }


def _version(study: Study, number: int, model: str, epsilon: float | None) -> dict[str, Any]:
    return {
        "plan": "1" * 64,
        "number": number,
        "model": model,
        "parent": None,
        "round": number,
        "survivors": [],
        "epsilon": epsilon,
        "created": "2026-11-30T03:00:00+00:00",
    }


def made_result(
    task: str,
    *,
    names: Sequence[str] = ("north", "south", "west", "east"),
    patients: int = 160,
    **options: Any,
) -> Result:
    """The result of a finished study as its aggregator tells it."""
    study = study_of(task, hospitals=len(names), **options)
    return from_status(
        study, status_of(study, names, sums=sums_of(study, patients, hospitals=len(names))), patients=300
    )
