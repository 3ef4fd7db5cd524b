"""Each kind of study goes the whole road: image files, real processes over HTTPS, figures, a report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from medveil.reports import AttemptReport, PlanStatus
from medveil.rounds import RoundKind
from medveil.study import Deadlines, Study
from medveil.tasks import TASKS
from medveil_imaging.sources.phantom import Task, write_phantom_sites
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.report.page import write_report
from medveil_research.results import from_status
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study

HOSPITALS, PATIENTS, ROUNDS, LIMIT_S = 3, 12, 2, 900.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Kind:
    """A kind of study, and what its final evaluation must know."""

    profile: str
    task: Task
    figures: frozenset[str]
    options: dict[str, Any] = field(default_factory=dict)


LUNGS = {"model": "monai:UNet", "size": (64, 64), "classes": ("background", "right lung", "left lung")}
STRUCTURES = ("background", "anterior", "posterior")
KINDS = {
    "outlines of films": Kind("xray", "segmentation", frozenset({"dice"}), {**LUNGS, "privacy": "none"}),
    "outlines of films, with noise": Kind("xray", "segmentation", frozenset({"patients"}), LUNGS),
    "volumes by patches, lesions counted": Kind(
        "mri",
        "segmentation",
        frozenset({"dice/anterior", "sensitivity/anterior", "precision/posterior"}),
        {
            "model": "unet3d",
            "size": (32, 32, 32),
            "patches": 2,
            "lesions": True,
            "classes": STRUCTURES,
            "privacy": "none",
            "options": {"channels": "4-8-16"},
        },
    ),
    "findings, some of them unknown": Kind("xray", "findings", frozenset({"auroc"}), {"privacy": "none"}),
    "a number, with noise": Kind("xray", "regression", frozenset({"patients"})),
    "a number from volumes": Kind("mri", "regression", frozenset({"mae", "r2"}), {"privacy": "none"}),
}


def played(folder: Path, kind: Kind) -> tuple[Study, PlanStatus]:
    """The study at its end, after the processes have ended."""
    from medveil_imaging.sources.phantom_film import FINDINGS
    from medveil_research.demo import HEART
    from medveil_research.study_words import target_of

    given = dict(kind.options)
    if kind.task == "findings":
        given["classes"] = FINDINGS
    if kind.task == "regression":
        given["target"] = HEART if kind.profile == "xray" else target_of("age", "18:95", "years")
    write_phantom_sites(
        folder / "sites", profile=kind.profile, task=kind.task, hospitals=HOSPITALS, patients=PATIENTS
    )
    study, initial = new_study(
        StudyOptions(
            name="of-a-kind",
            task=kind.task,
            profile=kind.profile,
            hospitals=HOSPITALS,
            rounds=ROUNDS,
            patients_hint=PATIENTS,
            deadlines=Deadlines(**DEADLINES),
            anyway=True,
            **given,
        )
    )
    deadline = time.monotonic() + LIMIT_S
    with LocalConsortium(folder, find_sites(folder / "sites"), lambda who, event: None) as consortium:
        plan = consortium.open(study, initial)
        while time.monotonic() < deadline:
            consortium.check()
            status = consortium.client.status(plan.id)
            if status.finished:
                return study, status
            time.sleep(0.5)
    raise AssertionError("the study did not finish in time")


def final(status: PlanStatus) -> AttemptReport:
    """Its evaluation."""
    return next(a for a in status.attempts if a.kind is RoundKind.EVALUATE and a.done)


@pytest.mark.parametrize("name", KINDS)
def test_this_kind_goes_from_files_to_a_report(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    study, status = played(tmp_path, kind)
    done = [a for a in status.attempts if a.done]
    assert [(a.round, a.kind) for a in done] == [
        *((n, RoundKind.TRAIN) for n in range(1, ROUNDS + 1)),
        (ROUNDS + 1, RoundKind.EVALUATE),
    ]
    assert all(len(a.survivors) == HOSPITALS for a in done)
    assert kind.figures <= set(final(status).figures)
    page = write_report(from_status(study, status), tmp_path / "report.html").read_text(encoding="utf-8")
    assert TASKS[study.task].headline_name in page
    for log in (tmp_path / "logs").glob("*.log"):
        assert "Traceback" not in log.read_text(), log.name
