"""A federation in one process sends of a compressed study what its hospitals would send."""

from __future__ import annotations

import numpy as np
import torch

from medveil.study import Study
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison.engine import run_federated

SIZE, OPTIONS = (16, 16), {"scales": 1, "grid": 2}


def site(name: str, seed: int) -> SiteData:
    draw = torch.Generator().manual_seed(seed)
    people = tuple(
        PatientImages(f"{name}{i}", torch.randn(1, 1, *SIZE, generator=draw) + i % 2, torch.tensor([i % 2]))
        for i in range(6)
    )
    return SiteData(name, train=people, val=(), test=people, problems=())


def test_each_round_moves_its_own_coordinates_and_a_cycle_moves_all() -> None:
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
    moved = []
    for rounds in (2, 3):
        parts = {"training": training | {"rounds": rounds}, "compression": {"kind": "sparse", "share": 0.5}}
        study = Study.model_validate(settings | parts)
        sites = [site("a", 1), site("b", 2), site("c", 3)]
        moved.append(run_federated(study, start, sites).model - start)
    public = study.public_map(3)
    assert public is not None
    third = public.backward(np.ones(public.length, np.float32), 0, len(start))
    later = np.abs(moved[1] - moved[0]) > 1e-4  # batches are shuffled: sums differ in their last bits
    assert np.count_nonzero(moved[0]) >= 0.9 * len(start)
    assert np.count_nonzero(later) > 0
    assert not (later & (third == 0)).any()
