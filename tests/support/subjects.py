"""What a study of each task wants beside its name: classes or a target, and images that suit."""

from __future__ import annotations

from typing import Any

from medveil.tasks import TASKS

VOLUME = {"profile": "mri", "size": (8, 8, 8), "spacing_mm": (1, 1, 1)}
AGE = {"column": "age", "unit": "years", "low": 20.0, "high": 100.0}


def subject_of(task: str) -> dict[str, Any]:
    """Fields of a study of this task; three classes or findings where it has some."""
    given: dict[str, Any] = {"task": task, "classes": ("a", "b", "c")}
    if TASKS[task].outlines:
        given["transforms"] = VOLUME
    if TASKS[task].recipes_of == "regression":
        given |= {"classes": (), "target": AGE}
    return given
