"""A joint study leaves room for a curious member, and says what each further one costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medveil.errors import BadFile
from medveil.noise_policies import JointNoise
from medveil.study import Study
from medveil_research.joint import default_honest, joint_lines, joint_prices, least_in_sum
from medveil_research.outlook import outlook
from medveil_research.privacy_plan import Schedule, plan_privacy
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.accounting import Event
from privacy.dp.policy import Split, check_policy, cost, study_events
from privacy_tables import PAGE, page_with_tables


def joint_study(hospitals: int, epsilon: float = 8.0, **options: Any) -> tuple[Study, JointNoise]:
    study, _ = new_study(
        StudyOptions(
            name="films",
            task="classification",
            profile="xray",
            privacy="joint",
            hospitals=hospitals,
            epsilon=epsilon,
            patients_hint=300,
            **options,
        )
    )
    assert isinstance(study.privacy, JointNoise)
    return study, study.privacy


@pytest.mark.parametrize("hospitals", [3, 4, 5, 9, 10, 50, 128])
@pytest.mark.parametrize("epsilon", [8.0, 1.0])
def test_one_curious_member_of_the_smallest_sum_costs_no_patient_more_than_the_study_says(
    hospitals: int, epsilon: float
) -> None:
    study, privacy = joint_study(hospitals, epsilon)
    least = study.cohort.min_hospitals
    assert study.secure_aggregation.colluders == 1
    assert least == max(3, int(0.8 * hospitals)) == privacy.honest_hospitals + 1
    events = study_events(study)
    for split in (Split.TRAIN, Split.TEST):
        none, one, *_ = joint_prices(events[split], privacy.delta, in_sum=least)
        assert 0.9 * epsilon < one <= epsilon
        assert none < one
    assert check_policy(study) == cost(study)


def test_the_attack_of_one_member_that_subtracts_its_noise_used_to_cost_more_and_no_longer_does() -> None:
    """Four of five, epsilon 8, all four counted on: one curious member made it 9.53."""
    before = joint_prices([Event(4.65 / 2, 1.0, 60)], 1e-5, in_sum=4)
    assert [round(price, 2) for price in before] == [8.0, 9.53, 12.25, 19.12]
    study, privacy = joint_study(5)
    now = joint_prices(study_events(study)[Split.TRAIN], privacy.delta, in_sum=4)
    assert now[1] <= 8.0
    assert now[2] < before[2]


def test_more_curious_members_can_be_asked_for_and_too_many_are_refused_in_words() -> None:
    study, privacy = joint_study(10, colluders=3)
    assert (study.cohort.min_hospitals, privacy.honest_hospitals) == (8, 5)
    assert joint_prices([Event(privacy.own_multiplier, 1.0, 60)], privacy.delta, in_sum=5)[0] <= 8.0
    study, privacy = joint_study(5, colluders=0)
    assert (study.cohort.min_hospitals, privacy.honest_hospitals) == (4, 4)
    for hospitals, colluders in ((3, 2), (4, 3)):
        with pytest.raises(BadFile, match="take privacy 'local'"):
            joint_study(hospitals, colluders=colluders)
    plain, _ = new_study(
        StudyOptions(name="films", task="classification", profile="xray", hospitals=5, colluders=2)
    )
    assert (plain.cohort.min_hospitals, plain.secure_aggregation.colluders) == (4, 2)


def test_with_three_hospitals_the_author_is_told_that_each_round_needs_all() -> None:
    study, _ = joint_study(3)
    assert "each round needs all 3" in "\n".join(outlook(study, patients=300, hospitals=3))
    study, _ = joint_study(5)
    text = "\n".join(outlook(study, patients=300, hospitals=5))
    assert "with fewer a round makes no model" in text
    assert "all others" in text


@pytest.mark.parametrize("hospitals", [3, 5, 10, 300])
def test_the_table_has_the_smallest_and_the_largest_sum_and_falls_with_more_hospitals(hospitals: int) -> None:
    least = least_in_sum(hospitals)
    own = Event(4.0, 1.0, 60)
    rows = joint_lines([own], 1e-5, least=least, hospitals=hospitals)[2:]
    cells = [[float(cell) for cell in row.split()] for row in rows]
    assert [cells[0][0], cells[-1][0]] == [least, hospitals]
    for row in cells:
        assert row[1:] == sorted(row[1:])
        assert row[-1] == cells[0][-1]
    assert [row[1] for row in cells] == sorted((row[1] for row in cells), reverse=True)


def test_plan_and_study_count_on_the_same_hospitals() -> None:
    for hospitals in (3, 4, 5, 12):
        plan = plan_privacy(
            Schedule(
                epsilon=8.0,
                noise_multiplier=None,
                rounds=60,
                steps=1,
                patients=300,
                hospitals=hospitals,
                parameters=1217,
                privacy="joint",
            )
        )
        assert plan.sharers == joint_study(hospitals)[1].honest_hospitals == default_honest(hospitals)
        assert any("all others" in line for line in plan.lines())


def test_the_table_of_the_page_is_that_of_the_code() -> None:
    text = Path(PAGE).read_text(encoding="utf-8")
    assert page_with_tables(text) == text, "run: python tests/support/privacy_tables.py"
