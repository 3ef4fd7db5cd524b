"""A federation in one process sends of a compressed study what its hospitals would send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medveil.strategies import advance
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison import engine
from medveil_research.comparison.engine import run_federated

SIZE, OPTIONS = (16, 16), {"scales": 1, "grid": 2}


def site(name: str, seed: int) -> SiteData:
    draw = torch.Generator().manual_seed(seed)
    people = tuple(
        PatientImages(f"{name}{i}", torch.randn(1, 1, *SIZE, generator=draw) + i % 2, torch.tensor([i % 2]))
        for i in range(6)
    )
    return SiteData(name, train=people, val=(), test=people, problems=())


def test_each_round_moves_its_own_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ModelShape(SIZE, outputs_for("classification", ["a", "b"]))
    spec, start = initial_vector("wavelet_head", shape, OPTIONS, seed=1)
    settings = {
        "name": "half",
        "task": "classification",
        "classes": ("a", "b"),
        "model": {
            "name": "wavelet_head",
            "options": OPTIONS,
            "tensors": spec,
            "initial_model": "0" * 64,
        },
        "transforms": {"profile": "xray", "size": SIZE},
        "privacy": {"kind": "none"},
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    training = {"local_steps": 2, "learning_rate": 1.0, "batch_images": 4096}
    study = Study.model_validate(
        settings | {"training": training | {"rounds": 4}, "compression": {"kind": "sparse", "share": 0.5}}
    )
    moved: dict[int, Float32] = {}

    def watched(study: Study, model: Float32, update: Float32, *rest: Any, number: int, **more: Any) -> Any:
        moved[number] = update
        return advance(study, model, update, *rest, number=number, **more)

    monkeypatch.setattr(engine, "advance", watched)
    run_federated(study, start, [site("a", 1), site("b", 2), site("c", 3)])
    for number in (1, 2, 3, 4):
        public = study.public_map(number)
        assert public is not None
        sent = public.backward(np.ones(public.length, np.float32), 0, len(start))
        assert not (moved[number] * (1 - sent)).any()
        assert np.count_nonzero(moved[number]) >= 0.9 * public.length
