"""A hospital's own figures: in a slot that nobody else fills, and only where its operator has allowed it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hospital_node.governance import PlanRefused, check_terms
from hospital_node.operator import Standing, Stands
from hospital_node.settings import NodeSettings, Policy
from hospital_node.views import show_plan
from medveil.identity import Identity
from medveil.metrics import noise_in_sum, noise_scales, released, summarise
from medveil.parts import by_name, in_round, part_of, slots
from medveil.plan import Plan
from medveil.rounds import RoundKind
from medveil.shown import Screen
from medveil.small_cells import without_small
from medveil.study import Study
from medveil.tasks import Sums, zeros
from privacy.encoding import (
    METRIC_STEPS,
    Encoder,
    SpoiledSum,
    Update,
    Words,
    decode,
    encode_metrics,
    params_for,
)
from world import make_plan, make_study

LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 5.0,
    "evaluation_multiplier": 0.05,
    "epsilon": 90.0,
}
JOINT = LOCAL | {"kind": "joint", "honest_hospitals": 3}
GROUPS = {"sex": {"column": "sex", "values": ("F", "M")}}
COHORT, SURVIVORS = 4, (0, 1, 3)
NAMES = ("adams", "baker", "clarke", "davis")


def asked(**changes: Any) -> dict[str, Any]:
    return {"bins": 16, "per_site": True, "groups": GROUPS, "smallest_group": 5} | changes


def study_of(**changes: Any) -> Study:
    return make_study(**({"evaluation": asked()} | changes))


def row(study: Study, patients: int, seed: int) -> Sums:
    """What leaves a hospital: so many patients, half of them with the finding; every third is known as F."""
    random, sums = np.random.default_rng(seed), zeros(released(study))
    exact = study.privacy.kind == "none"
    for number in range(patients):
        side, cell = ("negatives", "positives")[number % 2], random.integers(4, 10) + 3 * (number % 2)
        for part in ("", "@sex=F") if number % 3 == 0 else ("",):
            sums[f"{side}/abnormal{part}"][cell] += 1
            for name in ("images", "patients") if exact else ():
                sums[name + part][:] += 1
    if not exact:
        for name, scale in noise_scales(study).items():
            sums[name] += random.normal(0, 0.05 * scale, len(sums[name]))
    return sums


def opened(study: Study, rows: list[Sums]) -> Sums:
    """The sum that the aggregator opens, of three of four hospitals."""
    p = params_for(study, RoundKind.EVALUATE, COHORT)
    total: Words = np.zeros(p.words, "<u8")
    for place, sums in zip(SURVIVORS, rows, strict=True):
        metrics = encode_metrics(study, sums, place=place, cohort=COHORT)
        none = Update(np.zeros(0, np.float32))
        total += Encoder(none, p, weight=10, metrics=metrics, random_bytes=lambda n: bytes(n)).tail()
    return decode(total, p, hospitals=len(rows), study=study).metrics


@pytest.mark.parametrize("privacy", [{"kind": "none"}, LOCAL])
def test_each_hospital_fills_its_own_slot_and_the_slots_add_up_to_the_total(privacy: dict[str, Any]) -> None:
    study = study_of(privacy=privacy)
    rows = [row(study, patients, seed) for seed, patients in enumerate((12, 20, 9))]
    found = opened(study, rows)
    assert slots(found) == tuple(f"@hospital={place}" for place in range(COHORT))
    for place in range(COHORT):
        own = part_of(found, f"@hospital={place}")
        sent = rows[SURVIVORS.index(place)] if place in SURVIVORS else zeros(released(study))
        for name, values in own.items():
            assert np.allclose(values, sent[name], rtol=0, atol=1 / METRIC_STEPS)
    for name in released(study):
        assert np.allclose(found[name], sum(one[name] for one in rows), rtol=0, atol=4 / METRIC_STEPS)
    assert not any("@sex" in name and "@hospital" in name for name in found)


def test_a_hospitals_figures_are_its_own_and_bear_its_own_noise_only() -> None:
    study = study_of(privacy=LOCAL)
    rows = [row(study, patients, seed) for seed, patients in enumerate((120, 200, 90))]
    sums = by_name(without_small(study, opened(study, rows)), NAMES)
    figures = summarise(study, sums, noise=noise_in_sum(study, hospitals=3))
    plain = study_of(privacy=LOCAL, evaluation={"bins": 16, "groups": GROUPS})
    for name, sent in zip(("adams", "baker", "davis"), rows, strict=True):
        alone = summarise(plain, part_of(sent, ""), noise=noise_in_sum(study, hospitals=1))
        assert "auroc_low" in alone
        for figure, value in alone.items():
            assert figures[f"{figure}@hospital={name}"] == pytest.approx(value, abs=1e-4)
    assert not any("clarke" in name for name in figures)  # it was lost on the way: nobody is in its slot


def test_a_small_hospital_is_not_shown_and_takes_along_another_one_that_it_would_be_found_by() -> None:
    study = study_of()
    sums = by_name(without_small(study, opened(study, [row(study, n, n) for n in (12, 20, 3)])), NAMES)
    assert slots(sums) == ("@hospital=baker",)
    assert summarise(study, sums)["patients"] == 35
    sums = by_name(without_small(study, opened(study, [row(study, n, n) for n in (12, 20, 5)])), NAMES)
    assert slots(sums) == ("@hospital=adams", "@hospital=baker", "@hospital=davis")


def test_a_slot_that_no_hospital_can_have_filled_spoils_the_sum() -> None:
    study = study_of()
    rows = [row(study, 12, seed) for seed in range(3)]
    rows[0]["images"][:] = 999  # more images than films in the histograms
    with pytest.raises(SpoiledSum):
        opened(study, rows)


def test_a_training_round_has_no_slots() -> None:
    study = study_of()
    plain = study_of(evaluation={"bins": 16})
    assert released(in_round(study, RoundKind.TRAIN)) == released(plain)
    assert params_for(study, RoundKind.TRAIN, COHORT) == params_for(plain, RoundKind.TRAIN, COHORT)
    words = sum(released(plain).values())
    assert params_for(study, RoundKind.EVALUATE, COHORT).metrics == (COHORT + 2) * words


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"privacy": JOINT, "cohort": {"min_hospitals": 3}}, "not for joint noise"),
        (
            {"evaluation": {"per_site": True, "groups": {"hospital": GROUPS["sex"]}}},
            "no groups can be called",
        ),
        ({"classes": ("a@hospital=b", "c")}, "no class may have '@'"),
        (
            {"cohort": {"max_hospitals": 128}, "evaluation": {"bins": 4096, "per_site": True}},
            "must not exceed",
        ),
    ],
)
def test_what_cannot_be_shown_by_hospital_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        study_of(**changes)


PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]


def settings(folder: Any, **policy: Any) -> NodeSettings:
    return NodeSettings(
        name="hospital-1",
        aggregator="https://fl.example.org:8443",
        data=folder,
        dataset="films",
        policy=Policy(allow_no_privacy=True, **policy),
    )


@pytest.fixture
def plan() -> Plan:
    return make_plan(PEOPLE, study_of())


def test_a_node_takes_part_only_where_its_operator_has_allowed_it(plan: Plan, tmp_path: Any) -> None:
    with pytest.raises(PlanRefused, match="shows this hospital's own figures") as refused:
        check_terms(plan, settings(tmp_path), PEOPLE[0])
    assert "allow_site_figures" in refused.value.remedy
    check_terms(plan, settings(tmp_path, allow_site_figures=True), PEOPLE[0])
    quiet = make_plan(PEOPLE, study_of(evaluation={"bins": 16, "groups": GROUPS}))
    check_terms(quiet, settings(tmp_path), PEOPLE[0])


def test_the_operator_reads_in_words_what_will_be_seen(
    plan: Plan, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(Screen(), Standing(plan, Stands.ALLOWED), settings(tmp_path))
    shown = " ".join(capsys.readouterr().out.split())
    assert "your hospital's own figures will be visible to all who may read this study" in shown
    assert "test patients by sex, from the column sex: F, M" in shown
    assert "none of fewer than 5 patients" in shown
