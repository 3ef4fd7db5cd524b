"""Small studies and hospital folders for the imaging tests."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medveil.noise_policies import NoPrivacy
from medveil.study import ModelChoice, SecureAggregation, Study, Training, Transforms
from medveil.tensors import ModelSpec, TensorSpec


@pytest.fixture
def make_study() -> Callable[..., Study]:
    """A study for reading: films 16x16, volumes 16x16x16 at 1 mm."""

    def make(profile: str = "xray", task: str = "classification", **transforms: Any) -> Study:
        shape: dict[str, Any] = {"size": (16, 16)}
        if profile == "mri":
            shape = {"size": (16, 16, 16), "spacing_mm": (1.0, 1.0, 1.0)}
        classes = ("normal", "abnormal") if task == "classification" else ("background", "front", "back")
        return Study(
            name="reading",
            task=task,
            classes=classes,
            model=ModelChoice(
                name="any", tensors=ModelSpec((TensorSpec(name="w", shape=(1,)),)), initial_model="0" * 64
            ),
            transforms=Transforms(profile=profile, **(shape | transforms)),
            training=Training(rounds=1, local_epochs=1, learning_rate=0.1),
            privacy=NoPrivacy(),
            secure_aggregation=SecureAggregation(update_clip=1.0, max_weight=10),
        )

    return make


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write ``manifest.csv`` with the given lines; the site folder is ``site`` in the test's folder."""

    def write(*lines: dict[str, Any], columns: tuple[str, ...] = ()) -> Path:
        site = tmp_path / "site"
        site.mkdir(exist_ok=True)
        with (site / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns or list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        return site

    return write
