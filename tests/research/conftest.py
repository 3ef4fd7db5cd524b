"""Two results that hold together: histograms, figures and hashes made from one seeded draw, not typed in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from door import Door
from medveil.histograms import auroc, calibration_error
from researchers import Line, enrolled, reaching, study_world
from world import finish

BINS = 64
HOSPITALS = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
PHASES = ("advertise", "share", "commit", "upload", "agree", "unmask")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _rounds(
    headline: str, values: list[float], parameters: int, epsilon: float | None
) -> list[dict[str, Any]]:
    rounds = []
    for number, value in enumerate(values, start=1):
        missing = {2: "hospital-3"}.get(number)
        inside = [name for name in HOSPITALS if name != missing]
        failed = number == 4
        rounds.append(
            {
                "round": number,
                "kind": "train",
                "attempts": 2 if failed else 1,
                "outcome": "failed" if failed else "done",
                "reason": "below-threshold" if failed else None,
                "seconds": 3.1 + number / 10,
                "phases": {phase: 0.1 + 0.05 * place for place, phase in enumerate(PHASES)},
                "advertised": list(HOSPITALS),
                "committed": list(HOSPITALS),
                "survivors": [] if failed else inside,
                "bytes_up": dict.fromkeys(inside, parameters * 8 // 3 + 3000),
                "bytes_down": dict.fromkeys(inside, parameters * 4 + 5000),
                "figures": {headline: value, "loss": 1 - value, "patients": 120.0},
                "metric": value,
                "epsilon": None if epsilon is None else epsilon * number / len(values),
                "model": None if failed else _hash(f"{headline}{number}"),
            }
        )
    return rounds


def _result(
    task: str, headline: str, values: list[float], alone: list[float], **parts: Any
) -> dict[str, Any]:
    figures, metric = parts.pop("figures"), parts.pop("figures_metric")
    sites = {
        name: {headline: metric + shift, "patients": 40.0 + 10 * place}
        for place, (name, shift) in enumerate(zip(HOSPITALS, (0.004, -0.012, 0.006), strict=False))
    }
    sites["hospital-4"] = {"patients": 6.0}
    return {
        "medveil": "0.1.0",
        "task": task,
        "hospitals": list(HOSPITALS),
        "plan": _hash("plan"),
        "rounds": [
            *_rounds(headline, values, parts["parameters"], parts.pop("spent")),
            {
                "round": len(values) + 1,
                "kind": "evaluate",
                "attempts": 1,
                "outcome": "done",
                "seconds": 1.2,
                "survivors": list(HOSPITALS),
                "figures": figures,
                "metric": metric,
            },
        ],
        "federated": {
            "model": _hash(f"{headline}{len(values)}"),
            "figures": figures,
            "sums": parts.pop("sums"),
            "metric": metric,
            "exact": {
                "pooled": figures,
                "interval": [metric - 0.015, metric + 0.012],
                "sites": sites,
                "intervals": {
                    n: [f[headline] - 0.03, min(f[headline] + 0.02, 1.0)]
                    for n, f in sites.items()
                    if headline in f
                },
            },
        },
        "local_only": [
            {"hospital": name, "pooled": {headline: value}, "own": {headline: value + 0.004}, "metric": value}
            for name, value in zip(HOSPITALS, alone, strict=True)
        ],
        "local_only_mean": float(np.mean(alone)),
        "seconds": {"data": 2.4, "training": 31.0, "training alone": 12.2, "evaluation": 3.3},
        "killed": ["hospital-3"],
        "report": None,
        **parts,
    }


@pytest.fixture
def classification_result() -> dict[str, Any]:
    """Films of two classes, differential privacy, made-up images, one hospital killed in round 2."""
    draw = np.random.default_rng(1)
    positives = np.histogram(draw.beta(5, 1.6, 160), BINS, (0, 1))[0].astype(float)
    negatives = np.histogram(draw.beta(1.4, 5, 150), BINS, (0, 1))[0].astype(float)
    area = auroc(positives, negatives)
    assert area is not None
    correct = float(positives[BINS // 2 :].sum() + negatives[: BINS // 2].sum())
    return _result(
        "classification",
        "auroc",
        [0.5, 0.86, 0.91, 0.925, 0.925, 0.94],
        [0.921, 0.934, 0.902, 0.89],
        study="chest-films",
        profile="xray",
        model="wavelet_head",
        parameters=1217,
        classes=["normal", "pneumonia"],
        privacy={
            "kind": "local",
            "epsilon": 8.0,
            "delta": 1e-5,
            "noise_multiplier": 3.3,
            "clip_norm": 0.3,
            "sample_rate": 1.0,
            "steps": 30,
            "noise_to_signal": 0.14,
        },
        spent=8.0,
        epsilon={name: {"local": 8.0 if name != "hospital-3" else 7.1, "joint": None} for name in HOSPITALS},
        figures={
            "auroc": area,
            "accuracy": correct / 310,
            "ece": calibration_error(positives, negatives),
            "loss": 0.31,
            "images": 310.0,
            "patients": 156.0,
        },
        figures_metric=area,
        sums={
            "positives/pneumonia": positives.tolist(),
            "negatives/pneumonia": negatives.tolist(),
            "correct": [correct],
            "loss": [96.1],
            "images": [310.0],
            "patients": [156.0],
        },
        data="phantom",
    )


@pytest.fixture
def segmentation_result() -> dict[str, Any]:
    """Hippocampus in MRI, real images, no differential privacy."""
    front, back = 0.861, 0.823
    return _result(
        "segmentation",
        "dice",
        [0.02, 0.55, 0.71, 0.79, 0.79, 0.825],
        [0.80, 0.821, 0.822, 0.786],
        study="hippocampus",
        profile="mri",
        model="unet3d",
        parameters=123_456,
        classes=["background", "anterior", "posterior"],
        privacy={"kind": "none"},
        spent=None,
        epsilon={name: {"local": None, "joint": None} for name in HOSPITALS},
        figures={
            "dice": (front + back) / 2,
            "dice/anterior": front,
            "dice/posterior": back,
            "loss": 0.21,
            "patients": 57.0,
        },
        figures_metric=(front + back) / 2,
        sums={
            "dice/anterior": [front * 57],
            "dice/posterior": [back * 57],
            "cases/anterior": [57.0],
            "cases/posterior": [57.0],
            "loss": [12.0],
            "patients": [57.0],
        },
        data="real",
    )


@pytest.fixture(scope="session")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """An aggregator with a finished study of films."""
    with study_world(tmp_path_factory.mktemp("aggregator")) as (world, sites):
        finish(world, sites)
        yield Door(world)


@pytest.fixture
def line(door: Door) -> Iterator[Line]:
    """A researcher's connections lead to it, without a network."""
    with reaching(door) as made:
        yield made


@pytest.fixture(scope="session")
def folder(door: Door, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of anna, to whom the study is open."""
    where = tmp_path_factory.mktemp("desk")
    with reaching(door):
        made = enrolled(door.world, where, "anna")
    door.service.register.grant(door.world.plan.id, "anna")
    return made.folder
