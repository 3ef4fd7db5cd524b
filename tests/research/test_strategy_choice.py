"""A new study's strategy: what suits it is followed, what it cannot serve is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medveil.errors import BadFile, BadOption
from medveil.strategies import STRATEGIES, BadStrategy, strategy_of
from medveil.study import Study, read_study
from medveil_research.cli import register
from medveil_research.strategy_choice import options_of
from medveil_research.studies import StudyOptions, new_study


def made(**changes: Any) -> Study:
    options: dict[str, Any] = {
        "name": "films",
        "task": "classification",
        "profile": "xray",
        "model": "small_cnn",
        "size": (16, 16),
        "hospitals": 4,
        "privacy": "none",
        "seed": 1,
    }
    return new_study(StudyOptions(**options | changes))[0]


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_can_be_asked_for_and_gets_a_study_that_suits_it(name: str) -> None:
    study = made(strategy=name)
    assert study.strategy.name == name
    strategy_of(study)  # refuses what does not suit it


def test_fedsgd_gets_one_step_and_noise_that_fits_the_fewer_steps() -> None:
    usual, fedsgd = (made(privacy="local", strategy=name) for name in (None, "fedsgd"))
    assert (usual.training.local_steps, fedsgd.training.local_steps) == (5, 1)
    assert fedsgd.privacy.noise_multiplier < usual.privacy.noise_multiplier  # type: ignore[union-attr]


def test_reptile_counts_hospitals_alike_and_is_refused_where_the_author_says_otherwise() -> None:
    assert made(strategy="reptile").secure_aggregation.weights == "equal"
    assert made().secure_aggregation.weights == "declared"
    with pytest.raises(BadStrategy, match="equal"):
        made(strategy="reptile", weights="declared")
    with pytest.raises(BadFile, match="'declared'"):
        made(strategy="reptile", model="wavelet_head", size=(64, 64), privacy="joint")


def test_options_go_to_the_strategy_and_those_of_the_recipes_own_stay_beside_them() -> None:
    assert made(strategy="fedyogi", strategy_options={"rate": 0.5}).strategy.options == {"rate": 0.5}
    own = made(model="wavelet_head", size=(64, 64), privacy="local").strategy
    assert (own.name, own.options) == ("fedavgm", {"momentum": 0.5})
    changed = made(
        model="wavelet_head", size=(64, 64), privacy="local", strategy_options={"momentum": 0.25}
    ).strategy
    assert changed.options == {"momentum": 0.25}
    assert (
        made(model="wavelet_head", size=(64, 64), privacy="local", strategy="fedavg").strategy.options == {}
    )


def test_an_option_that_the_strategy_does_not_take_is_refused_before_a_study_is_written() -> None:
    with pytest.raises(BadStrategy, match="fedyogi knows"):
        made(strategy="fedyogi", strategy_options={"tau": 1.0})
    with pytest.raises(BadStrategy, match="takes no options"):
        made(strategy_options={"momentum": 0.5})  # the recipe's is fedavg


@pytest.mark.parametrize("pair", ["rate", "rate=", "rate=fast", "=0.1"])
def test_an_option_without_a_name_or_a_number_is_shown_back(pair: str) -> None:
    with pytest.raises(BadOption, match="is not like rate"):
        options_of([pair])


def test_the_command_writes_the_strategy_and_says_what_it_made_of_the_training(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    words = "study new --name films --task classification --profile xray --hospitals 4 --privacy none "
    words += "--model small_cnn --size 16x16 --strategy reptile --strategy-option decay=0.5 -o"
    shown = CliRunner().invoke(app, [*words.split(), str(tmp_path / "study")], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "hospitals count alike" in shown.output
    study = read_study(tmp_path / "study" / "study.toml")
    assert (study.strategy.name, study.strategy.options) == ("reptile", {"decay": 0.5})
    assert study.secure_aggregation.weights == "equal"
