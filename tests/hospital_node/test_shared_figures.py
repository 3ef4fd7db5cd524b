"""Figures of a local study whose noise hospitals share: training is as before, both prices are true."""

from __future__ import annotations

from math import exp
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from pydantic import ValidationError

from hospital_node.governance import PlanRefused, check_price
from hospital_node.ledger import Ledger
from hospital_node.settings import NodeSettings, Policy
from hospital_node.training import NotSafe, self_check
from hospital_node.views import plan_rows
from medveil.identity import Identity
from medveil.metrics import noise_in_sum
from medveil.noise_policies import GaussianNoise
from medveil.rounds import RoundKind
from medveil.shown import Words
from medveil.study import Study
from medveil_imaging.models import ModelShape, build_model, initial_vector
from planting import plant
from privacy.dp.ledger import BudgetExceeded
from privacy.dp.policy import Split, UnderstatedEpsilon, check_policy, cost, sharers_of
from privacy.secagg.keys import setting_for
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]
LOCAL: dict[str, Any] = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 8.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 2.0,
}
SHARED = LOCAL | {"honest_hospitals": 2}
MASKED = {"update_clip": 1.0, "max_weight": 100, "colluders": 1}
TOGETHER, ALONE = 1.9930914044137285, 2.943225239797886
"""Epsilon at delta 1e-5 of mu 1/2, and of mu sqrt(2)/2: by 200 halvings of the formula below."""


def study(privacy: dict[str, Any] = SHARED, **changes: Any) -> Study:
    given = {"privacy": privacy, "secure_aggregation": MASKED, "cohort": {"min_hospitals": 3}}
    return make_study(**(given | changes))


def loss_beyond(epsilon: float, mu: float) -> float:
    """delta of one Gaussian: Balle and Wang, ICML 2018, theorem 8."""
    normal = NormalDist().cdf
    return normal(mu / 2 - epsilon / mu) - exp(epsilon) * normal(-mu / 2 - epsilon / mu)


def test_both_prices_are_those_of_the_noise_that_is_left_on_the_sum() -> None:
    """Two honest hospitals of three: theirs together is sigma 2, one of them alone has sigma sqrt(2)."""
    assert loss_beyond(TOGETHER, 0.5) == pytest.approx(1e-5, rel=1e-9)
    assert loss_beyond(ALONE, 0.5**0.5) == pytest.approx(1e-5, rel=1e-9)
    found = cost(study())
    assert found.epsilon_joint == pytest.approx(TOGETHER, rel=1e-6)
    assert found.epsilon_local == pytest.approx(ALONE, rel=1e-6)
    assert cost(study(), sharers=1).epsilon_joint == found.epsilon_local
    with pytest.raises(UnderstatedEpsilon):
        check_policy(study(SHARED | {"epsilon": 1.99}))


def test_training_counts_on_nobody_else_whatever_the_figures_do() -> None:
    plain, shared = study(LOCAL), study()
    assert isinstance(plain.privacy, GaussianNoise)
    assert isinstance(shared.privacy, GaussianNoise)
    assert shared.privacy.own_multiplier == plain.privacy.own_multiplier == 8.0
    assert [sharers_of(shared, split) for split in Split] == [1, 2, 2]
    given = {"evaluation": {"every_round": False}}
    whole = (study(**given), study(LOCAL, **given))
    before, after = (cost(one, rounds=one.training.rounds) for one in whole)
    assert before.epsilon_local == after.epsilon_local == after.epsilon_joint


def test_a_study_without_it_is_written_as_ever_so_its_hash_holds() -> None:
    plain = study(LOCAL)
    assert "honest_hospitals" not in plain.privacy.model_dump(mode="json")
    assert study(LOCAL | {"honest_hospitals": None}).hash == plain.hash != study().hash


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cohort": {"min_hospitals": 3}, "privacy": SHARED | {"honest_hospitals": 3}}, "plus the colluders"),
        ({"evaluation": {"per_site": True}}, "not for joint noise"),
        ({"privacy": SHARED | {"honest_hospitals": 1}}, "greater than or equal to 2"),
    ],
)
def test_figures_that_would_have_less_noise_than_promised_make_no_study(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        study(**changes)


def test_no_sum_is_opened_over_fewer_hospitals_than_are_counted_on_and_the_curious_one() -> None:
    plan = make_plan(PEOPLE, study())
    setting = setting_for(plan, number=1, attempt=1, kind=RoundKind.EVALUATE, model=b"")
    assert setting.smallest >= 2 + setting.colluders
    assert min(setting.least(keys) for keys in range(5)) >= 2 + setting.colluders


def test_the_stated_error_of_a_figure_follows_from_what_was_added() -> None:
    assert noise_in_sum(study(), hospitals=1) == pytest.approx(2**0.5)
    assert noise_in_sum(study(), hospitals=3) == pytest.approx(2 * 1.5**0.5)


def test_a_hospital_holds_the_price_against_everybody_to_its_cap_unless_it_counts_on_the_others() -> None:
    plan = make_plan(PEOPLE, study())
    with pytest.raises(PlanRefused, match=r"it costs epsilon 2\.94.*the cap here is 2") as caught:
        check_price(plan, Policy(epsilon_cap=2.0))
    assert "trust that 2 hospitals add theirs" in caught.value.remedy
    assert check_price(plan, Policy(epsilon_cap=2.0, count_joint_noise=True)) == cost(plan.study)
    assert check_price(plan, Policy(epsilon_cap=3.0)) == cost(plan.study)


def test_the_ledger_counts_the_others_noise_for_the_patients_of_figures_alone(tmp_path: Path) -> None:
    chosen = study()
    for trusts, price in ((False, ALONE), (True, TOGETHER)):
        with Ledger.open(tmp_path / f"{trusts}.jsonl") as book:
            with pytest.raises(BudgetExceeded):
                book.register(chosen, plan_id="p", dataset="d", cap=price - 0.01, count_joint_noise=trusts)
            book.register(chosen, plan_id="p", dataset="d", cap=price + 0.01, count_joint_noise=trusts)
            shares = {row.entry.split: row.entry.sharers for row in book.rows()}
            assert shares[Split.TRAIN] == 1
            assert shares[Split.TEST] == (2 if trusts else 1)
            assert book.committed() == pytest.approx(price, rel=1e-6)
            assert book.committed(joint=False) == pytest.approx(ALONE, rel=1e-6)


def test_the_operator_reads_on_whose_noise_the_figures_rest_and_what_holds_without_it(tmp_path: Path) -> None:
    settings = NodeSettings(
        name="hospital-1", aggregator="https://fl.example.org:8443", data=tmp_path, dataset="films"
    )
    rows = plan_rows(make_plan(PEOPLE, study()), settings)
    text = " ".join(words if isinstance(words, str) else _plain(words) for _, words in rows)
    assert "the figures of val and test patients count on the noise of 2 hospitals" in text
    assert "2.94 if no other hospital adds its own" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "said", "check"),
    [
        ("own_evaluation_multiplier", "math.sqrt(self.evaluation_sharers + 1)", "evaluation"),
        ("own_evaluation_multiplier", "self.evaluation_sharers", "evaluation"),
        ("own_multiplier", "math.sqrt(self.evaluation_sharers)", "noise"),
    ],
)
def test_a_share_that_is_too_small_and_a_shared_training_are_refused_by_name(
    function: str, said: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"scales": 1, "grid": 4}
    spec, _ = initial_vector("wavelet_head", ModelShape((16, 16), 1), options, seed=1)
    model = {"name": "wavelet_head", "options": options, "tensors": spec, "initial_model": "0" * 64}
    chosen = study(SHARED | {"epsilon": 90.0}, model=model, transforms={"profile": "xray", "size": (16, 16)})
    module = build_model(chosen)
    self_check(chosen, module)
    whole = (
        "math.sqrt(self.sharers)" if function == "own_multiplier" else "math.sqrt(self.evaluation_sharers)"
    )
    plant(monkeypatch, GaussianNoise, function, whole, said)
    with pytest.raises(NotSafe) as caught:
        self_check(chosen, module)
    assert caught.value.check == check


def _plain(words: Words) -> str:
    return words if isinstance(words, str) else words.plain
