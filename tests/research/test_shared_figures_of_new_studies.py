"""A new local study shares the noise of its figures as far as its hospitals allow by default, and says so."""

from __future__ import annotations

from typing import Any

import pytest

from medveil.errors import BadFile
from medveil.noise_policies import LocalNoise
from medveil.study import Study
from medveil_research.comparison.against_alone import alone
from medveil_research.outlook import outlook
from medveil_research.privacy_plan import Schedule, plan_privacy
from medveil_research.shared_figures import MOST_ALONE, figure_prices, most_sharers, usual_sharers
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.policy import check_policy


def new(hospitals: int = 3, epsilon: float = 1.0, **options: Any) -> tuple[Study, LocalNoise]:
    given = {"name": "films", "task": "classification", "profile": "xray", "patients_hint": 300}
    study, _ = new_study(StudyOptions(hospitals=hospitals, epsilon=epsilon, **(given | options)))
    assert isinstance(study.privacy, LocalNoise)
    return study, study.privacy


@pytest.mark.parametrize("hospitals", [3, 4, 5, 10, 128])
@pytest.mark.parametrize("colluders", [0, 1, 2])
def test_as_many_share_as_the_smallest_sum_holds_without_the_curious(hospitals: int, colluders: int) -> None:
    """A quorum of the roster is in every sum, so that no round needs more hospitals for it."""
    quorum = (hospitals + colluders) // 2 + 1
    most = most_sharers(hospitals, colluders)
    assert most + colluders == min(max(3, quorum), hospitals)


def test_three_hospitals_share_at_small_epsilon_and_do_without_their_curious_one() -> None:
    study, noise = new()
    assert noise.honest_hospitals == 2
    assert (study.cohort.min_hospitals, study.secure_aggregation.colluders) == (3, 1)
    assert noise.own_evaluation_multiplier == pytest.approx(noise.evaluation_multiplier / 2**0.5)
    price = check_policy(study)
    assert price is not None
    assert price.epsilon_joint <= 1.0 < price.epsilon_local < 1.5


def test_where_hospitals_would_refuse_the_price_against_everybody_each_has_its_own_noise() -> None:
    """Two sharers at epsilon 8 would make it 12; at 3 no more than seven keep within 10."""
    study, noise = new(epsilon=8.0)
    assert noise.honest_hospitals is None
    assert study.secure_aggregation.colluders == 0
    count = usual_sharers(3.0, 1e-5, hospitals=100, colluders=1)
    assert count is not None
    noise_of_all = new(epsilon=3.0)[1].evaluation_multiplier
    assert figure_prices(noise_of_all, 1e-5, sharers=count).alone <= MOST_ALONE
    assert figure_prices(noise_of_all, 1e-5, sharers=count + 1).alone > MOST_ALONE


def test_the_author_may_insist_on_either() -> None:
    assert new(epsilon=8.0, share_figures=True)[1].honest_hospitals == 2
    study, noise = new(share_figures=False)
    assert (noise.honest_hospitals, study.secure_aggregation.colluders) == (None, 0)
    assert new(per_site=True)[1].honest_hospitals is None
    assert new(colluders=0)[1].honest_hospitals == 3
    for wrong in ({"hospitals": 3, "colluders": 2}, {"per_site": True}):
        with pytest.raises(BadFile):
            new(**({"share_figures": True} | wrong))


def test_both_prices_are_said_before_anything_runs() -> None:
    study, noise = new()
    told = "2 hospitals of every sum of 3 or more add theirs"
    assert told in "\n".join(outlook(study, patients=300, hospitals=3))
    usual = {"rounds": 10, "steps": 20, "patients": 300, "hospitals": 3, "parameters": 1217}
    plan = plan_privacy(Schedule(epsilon=1.0, **usual))
    assert plan.figure_sharers == noise.honest_hospitals
    text = "\n".join(plan.lines())
    assert told in text
    assert "Test patients pay 1 so, 1.47 if" in text
    assert f"evaluation, {noise.own_evaluation_multiplier:.4g} by each hospital" in text
    own = plan_privacy(Schedule(epsilon=1.0, share_figures=False, **usual))
    assert "test patients pay at most the same" in "\n".join(own.lines())


def test_alone_a_hospital_shares_nothing() -> None:
    policy = alone(new()[0]).privacy
    assert isinstance(policy, LocalNoise)
    assert policy.own_evaluation_multiplier == policy.evaluation_multiplier
