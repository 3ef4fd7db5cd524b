"""A model as ``medveil research fetch`` leaves it behind, and the researcher's commands in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import typer
from typer.testing import CliRunner

from medveil.errors import Error
from medveil.tensors import from_safetensors, model_hash, to_safetensors
from medveil_research.cli import register
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study

PLAN = "cd" * 32


def fetched(folder: Path, **changes: Any) -> Path:
    """A trained model of films in a folder of its own."""
    usual: dict[str, Any] = {
        "privacy": "local",
        "epsilon": 8.0,
        "patients_hint": 5000,
        "hospitals": 3,
        "seed": 1,
    }
    study, initial = new_study(
        StudyOptions(name="films", task="classification", profile="xray", **(usual | changes))
    )
    write_study(folder, study, initial)
    spec = study.model.tensors
    start = from_safetensors(initial, spec)
    weights = start + np.random.default_rng(1).normal(0, 0.1, start.shape).astype(np.float32)
    (folder / "model.safetensors").write_bytes(to_safetensors(weights, spec))
    card = {
        "plan": PLAN,
        "number": 7,
        "model": model_hash(weights, spec).hex(),
        "survivors": ["north"],
        "privacy": {"kind": study.privacy.kind, "epsilon_spent": 3.25},
        "figures": {"auroc": 0.91, "auroc_low": 0.88, "auroc_high": 0.93},
    }
    (folder / "version.json").write_text(json.dumps(card))
    return folder


def command(*given: str) -> tuple[int, str]:
    """Exit status and output of ``medveil research …``; of a refusal its words."""
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["research", *given])
    if isinstance(result.exception, Error):
        return 1, str(result.exception)
    return result.exit_code, result.output
