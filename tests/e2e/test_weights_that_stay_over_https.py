"""Weights that stay in the hospital, through real nodes and an aggregator, one of them killed in between."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from hospital_node.settings import Node
from medveil.metrics import summarise
from medveil.rounds import RoundKind
from medveil.study import Deadlines
from medveil.tensors import from_safetensors
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.evaluate import add, evaluate_site
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.own_model import own_model
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study

LIMIT_S = 600.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_final_figures_are_those_of_each_hospitals_own_model(tmp_path: Path) -> None:
    write_phantom_sites(tmp_path / "sites", profile="xray", hospitals=4, patients=24)
    study, initial = new_study(
        StudyOptions(
            name="own-heads",
            task="classification",
            profile="xray",
            model="small_cnn",
            options={"width": 4},
            size=(32, 32),
            hospitals=4,
            rounds=4,
            privacy="none",
            personal=("head", "norm"),
            deadlines=Deadlines(**DEADLINES),
            seed=3,
        )
    )
    start, deadline, killed = (
        from_safetensors(initial, study.model.tensors),
        time.monotonic() + LIMIT_S,
        False,
    )
    with LocalConsortium(tmp_path, find_sites(tmp_path / "sites"), lambda who, event: None) as consortium:
        plan = consortium.open(study, initial)
        while time.monotonic() < deadline:
            consortium.check()
            status = consortium.client.status(plan.id)
            if status.finished:
                break
            if not killed and len(status.versions) > 1:
                consortium.kill("hospital-2")
                consortium.restart("hospital-2")
                killed = True
            time.sleep(0.3)
        assert status.finished
        model = consortium.client.model(plan.id, status.versions[-1].model)
    final = [attempt for attempt in status.attempts if attempt.done][-1]
    assert final.kind is RoundKind.EVALUATE
    published = from_safetensors(model, study.model.tensors)
    assert study.shared is not None
    stays = study.shared.stays(0, len(start))
    assert published[stays].tobytes() == start[stays].tobytes()
    assert (published[~stays] != start[~stays]).any()
    parts, heads = [], set()
    for name in final.survivors:
        found = own_model(Node.load(tmp_path / "nodes" / name), "own-heads")
        assert np.array_equal(found.weights[~stays], published[~stays])
        heads.add(found.weights[stays].tobytes())
        parts.append(evaluate_site(tmp_path / "sites" / name, found.study, found.weights).sums)
    assert len(heads) == len(parts) >= 3
    exact = summarise(study, add(study, parts))
    for figure in ("patients", "auroc"):
        assert final.figures[figure] == pytest.approx(exact[figure], abs=1e-9)
