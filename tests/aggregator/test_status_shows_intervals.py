"""``study status`` shows how sure a figure is: never a bare 1.000, and by name what the noise drowned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aggregator.cli import _show_status
from medveil.identity import Identity
from medveil.reports import PlanStatus
from medveil.study import Study
from policies import LOCAL
from world import make_plan, make_study

NAMES = ("a", "b", "c", "d")


def attempt(number: int, **changes: Any) -> dict[str, Any]:
    usual = {"round": number, "attempt": 1, "kind": "evaluate", "outcome": "done", "survivors": NAMES}
    return usual | changes


def shown(study: Study, attempts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> str:
    plan = make_plan([Identity.generate(name) for name in NAMES], study)
    told = {"plan": plan.id, "name": "tiny", "finished": True, "hospitals": NAMES, "approved": NAMES}
    told |= {"in_reach": None, "open": None, "waiting_for": None, "attempts": attempts}
    _show_status(plan, PlanStatus.model_validate(told))
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_figure_at_the_end_of_its_range_is_shown_by_the_other_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = np.zeros(20)
    cells[15] = 60.0
    sums = {"positives/abnormal": tuple(cells), "negatives/abnormal": tuple(cells[::-1])}
    # As an earlier version has written it: the figure without its interval.
    figures = {"auroc": 1.0, "accuracy": 1.0, "patients": 120.0, "noise": 0.02}
    text = shown(make_study(privacy=LOCAL), [attempt(3, figures=figures, metric=1.0, sums=sums)], capsys)
    assert "above 0.887" in text
    assert "1.000" not in text
    assert "95 % interval by the noise and the choice of test patients" in text
    bare = shown(make_study(privacy=LOCAL), [attempt(3, figures=figures, metric=1.0)], capsys)
    assert "above 0.960" in bare
    assert "95 % interval by the noise alone" in bare


def test_a_figure_that_the_noise_drowned_is_called_not_determined(capsys: pytest.CaptureFixture[str]) -> None:
    few = [attempt(3, figures={"auroc_undetermined": 1.0, "patients": 4.0})]
    text = shown(make_study(privacy=LOCAL), few, capsys)
    assert "AUROC: not determined: too few patients for this noise" in text


def test_an_exact_figure_has_the_interval_of_its_patients(capsys: pytest.CaptureFixture[str]) -> None:
    sums = {f"{side}/abnormal": tuple(np.full(16, 5.0)) for side in ("positives", "negatives")}
    sums |= {"correct": (80.0,), "loss": (90.0,), "images": (160.0,), "patients": (160.0,)}
    text = shown(make_study(), [attempt(3, figures={"auroc": 0.5}, metric=0.5, sums=sums)], capsys)
    assert "0.412 to 0.588 (0.500)" in text
    assert "95 % interval by the choice of test patients" in text
