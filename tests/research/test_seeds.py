"""The seeds' examples are the seeds' settings, with images that anybody can draw again."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medveil_research.comparison.arms import studies
from medveil_research.comparison.request import request_of, sites_of
from medveil_research.comparison.result import read_comparison
from medveil_research.demo import _study
from medveil_research.mnist import write_mnist_sites
from medveil_research.results import read_result
from medveil_research.seeds import run
from medveil_research.seeds.digits import draw_digits, write_digits
from medveil_research.seeds.pictures import KINDS, LIGHTS, draw_picture, write_picture_sites
from medveil_research.sites import find_sites
from rooms import ROOT


@pytest.mark.slow
def test_digits_are_the_same_for_the_same_seed_and_can_be_told_apart() -> None:
    pictures, labels = draw_digits(300, 0)
    assert (pictures.shape, pictures.dtype) == ((300, 28, 28), np.uint8)
    assert set(labels.tolist()) == set(range(10))
    assert np.array_equal(pictures, draw_digits(300, 0)[0])
    assert not np.array_equal(pictures, draw_digits(300, 1)[0])
    means = np.stack([pictures[labels == digit].mean(0) for digit in range(10)]).reshape(10, -1)
    others, truth = draw_digits(200, 2)
    scores = others.reshape(200, -1) @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    assert 0.35 < (scores.argmax(1) == truth).mean() < 0.95  # neither noise nor ten stamps


def test_every_kind_of_picture_looks_its_own_way_and_its_neighbours_do_not_move_it() -> None:
    drawn = [draw_picture(kind, LIGHTS[0], np.random.default_rng(5)) for kind in range(len(KINDS))]
    assert {one.shape for one in drawn} == {(224, 224, 3)}
    assert len({one.tobytes() for one in drawn}) == len(KINDS)
    again = draw_picture(3, LIGHTS[0], np.random.default_rng(5))
    assert np.array_equal(drawn[3], again)


def test_seed_mnist_is_five_clients_ten_rounds_of_five_passes_by_averaging(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", train=100, test=20)
    write_mnist_sites(source, tmp_path / "sites", hospitals=run.CLIENTS, by_label=False)
    study, _ = _study(replace(run.MNIST, data=tmp_path / "sites"), find_sites(tmp_path / "sites"))
    training = study.training
    assert len(find_sites(tmp_path / "sites")) == 5
    assert (training.rounds, training.local_epochs, training.learning_rate) == (10, 5, 0.01)
    assert (study.strategy.name, study.model.name, study.privacy.kind) == ("fedavg", "lenet", "none")
    assert len(study.classes) == 10
    assert study.evaluation.every_round


@pytest.mark.slow
def test_seed_vision_is_a_mobilenet_for_ten_kinds_by_adam_in_two_ways(tmp_path: Path) -> None:
    write_picture_sites(tmp_path / "sites", pictures=12)
    options = replace(run.VISION, data=tmp_path / "sites", output=tmp_path)
    request = request_of(options, sites_of(options, tmp_path))
    made, missing = studies(request.base, request.arms, 0)
    assert missing == []
    assert set(made) == {"federated", "central"}
    study = made["federated"][0]
    assert (study.transforms.size, study.transforms.channel_count) == ((224, 224), 3)
    assert (study.model.name, study.training.optimizer, len(study.classes)) == ("mobilenet", "adam", 10)


def test_each_example_is_one_command_that_make_and_the_front_page_list() -> None:
    make, front = (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^seed-([a-z]+): .*## ", make, re.M))
    assert targets == set(run.SEEDS)
    assert {name for name in run.SEEDS if f"make seed-{name}" in front} == set(run.SEEDS)


def played(name: str, folder: Path) -> str:
    words = [sys.executable, "-m", "medveil", "research", "seed", name, "-o", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_seed_mnist_says_its_accuracy_after_each_round_and_writes_the_report(tmp_path: Path) -> None:
    said = played("mnist", tmp_path / "seed")
    found = {int(n): float(value) for n, value in re.findall(r"after round (\d+) +accuracy ([0-9.]+)", said)}
    assert set(found) == set(range(1, 10))
    test = re.search(r"finished model +accuracy ([0-9.]+)", said)
    assert test
    assert float(test[1]) > 0.93
    assert (tmp_path / "seed" / "report.html").is_file()
    assert len(read_result(tmp_path / "seed" / "result.json").rounds) == 11


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["xray", "mri"])
def test_films_and_volumes_are_compared_round_by_round(name: str, tmp_path: Path) -> None:
    said = played(name, tmp_path / "seed")
    result = read_comparison(tmp_path / "seed" / "comparison.json")
    rounds = len(result.runs[0].curve)
    for number in range(1, rounds + 1):
        assert f"federated, seed 0, round {number}: accuracy" in said
    assert {one.arm for one in result.runs} == {"alone", "federated", "central"}
    assert (tmp_path / "seed" / "comparison.html").is_file()
