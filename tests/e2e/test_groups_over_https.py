"""Figures of groups and of single hospitals, through real nodes and an aggregator, against a direct count."""

from __future__ import annotations

import csv
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medveil.groups import Groups
from medveil.metrics import summarise
from medveil.reports import AttemptReport
from medveil.rounds import RoundKind
from medveil.study import Deadlines, Study
from medveil.tensors import from_safetensors
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.evaluate import evaluate_site
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study

PATIENTS, LIMIT_S = 48, 600.0
SEXES = ("F", "m", "M", "f", "")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Played:
    """What is left of the study once every process has ended."""

    study: Study
    sites: Path
    trained: list[AttemptReport]
    final: AttemptReport
    model: bytes
    people: Counter[tuple[str, str]]
    """Test patients by hospital and sex."""


def with_sexes(sites: Path) -> Counter[tuple[str, str]]:
    """Write a column ``Sex`` into every manifest but the last hospital's; who is in the test split."""
    random, found = np.random.default_rng(11), Counter[tuple[str, str]]()
    for site in sorted(sites.iterdir()):
        with (site / "manifest.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        sexes = {line["patient_id"]: SEXES[int(random.integers(len(SEXES)))] for line in lines}
        known = site.name != "hospital-4"
        with (site / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*lines[0], *(["Sex"] if known else [])])
            writer.writeheader()
            writer.writerows(line | ({"Sex": sexes[line["patient_id"]]} if known else {}) for line in lines)
        for patient in {line["patient_id"] for line in lines if line["split"] == "test"}:
            found[site.name, sexes[patient].upper() if known else ""] += 1
    return found


@pytest.fixture(scope="module", params=["none", "local"])
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("consortium")
    write_phantom_sites(folder / "sites", profile="xray", hospitals=4, patients=PATIENTS)
    people = with_sexes(folder / "sites")
    study, initial = new_study(
        StudyOptions(
            name="by-groups",
            task="classification",
            profile="xray",
            hospitals=4,
            rounds=2,
            privacy=request.param,
            epsilon=60.0,
            patients_hint=PATIENTS,
            groups={"sex": Groups(column="sex", values=("F", "M"))},
            smallest_group=5,
            per_site=True,
            deadlines=Deadlines(**DEADLINES),
            seed=3,
            anyway=True,
        )
    )
    deadline = time.monotonic() + LIMIT_S
    with LocalConsortium(folder, find_sites(folder / "sites"), lambda who, event: None) as consortium:
        plan = consortium.open(study, initial)
        while time.monotonic() < deadline:
            consortium.check()
            status = consortium.client.status(plan.id)
            if status.finished:
                model = consortium.client.model(plan.id, status.versions[-1].model)
                *trained, final = [a for a in status.attempts if a.done]
                assert final.kind is RoundKind.EVALUATE
                return Played(study, folder / "sites", trained, final, model, people)
            time.sleep(0.3)
    raise AssertionError("the study did not finish in time")


def test_the_published_figures_are_those_of_the_people_in_the_manifests(played: Played) -> None:
    figures, exact = played.final.figures, played.study.privacy.kind == "none"
    vector = from_safetensors(played.model, played.study.model.tensors)
    by_sex = Counter[str]()
    for (_, sex), count in played.people.items():
        by_sex[sex] += count
    wide = 0.0 if exact else 30.0
    assert figures["patients"] == pytest.approx(by_sex.total(), abs=wide)
    for sex in "FM":
        assert figures[f"patients@sex={sex}"] == pytest.approx(by_sex[sex], abs=wide)
    if exact:
        assert figures["unknown@sex"] == by_sex[""]
    for site in sorted(played.sites.iterdir()):
        own = evaluate_site(site, played.study, vector)
        alone = summarise(played.study, {n: v for n, v in own.sums.items() if "@" not in n})
        for name in ("patients", "auroc") if exact else ("patients",):
            assert figures[f"{name}@hospital={site.name}"] == pytest.approx(alone[name], abs=wide or 1e-9)


def test_no_round_before_the_last_one_shows_a_group_or_a_hospital(played: Played) -> None:
    assert len(played.trained) == 2
    assert any(one.sums for one in played.trained) == played.study.evaluation.every_round
    assert not any("@" in name for one in played.trained for name in [*one.sums, *one.figures])
    assert any("@sex" in name for name in played.final.sums)
    assert not any(name.count("@") > 1 for name in played.final.sums)
