"""Many hospitals in one machine: exact sums, faults as scheduled, going on, named refusals."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medveil.errors import BadFile, Error
from medveil.rounds import Phase
from medveil.study import Study
from medveil.tensors import from_safetensors
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.cli import register
from medveil_research.report.simulation import render_simulation
from medveil_research.simulation.errors import (
    BadSchedule,
    BadSimulation,
    BadSplit,
    MoreHospitalsThanPatients,
    OtherSimulation,
    TooFewHospitals,
)
from medveil_research.simulation.result import SimulationResult
from medveil_research.simulation.run import Request, simulate
from medveil_research.simulation.schedule import Missing, Schedule, scheduled
from medveil_research.simulation.splits import Split, deal, split_of
from medveil_research.simulation.state import FolderInUse, open_folder
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study

HOSPITALS = 9


@pytest.fixture(scope="module")
def study() -> tuple[Study, bytes]:
    options = StudyOptions(
        name="simulated",
        task="classification",
        profile="xray",
        hospitals=HOSPITALS,
        privacy="none",
        rounds=3,
        model="small_cnn",
        size=(16, 16),
        options={"width": 4},
        patients_hint=20,
    )
    return new_study(options)


@pytest.fixture
def asked(study: tuple[Study, bytes]) -> Request:
    made, initial = study
    return Request(
        study=made,
        start=from_safetensors(initial, made.model.tensors),
        hospitals=HOSPITALS,
        split=Split("equal"),
        data=None,
        updates="random",
        processes=0,
    )


def test_every_sum_is_exact_whoever_vanishes_at_whichever_moment(asked: Request, tmp_path: Path) -> None:
    phases = ("advertise", "share", "commit", "upload", "agree", "unmask")
    missing = [Missing(round=1 + k // 2, phase=phase, hospitals=(k + 1,)) for k, phase in enumerate(phases)]
    result = simulate(replace(asked, schedule=Schedule(missing=tuple(missing))), tmp_path / "one")
    assert [one.outcome for one in result.attempts] == ["done"] * 3
    assert [(one.wrong_words, one.check_word) for one in result.attempts] == [(0, True)] * 3
    # keys, shares; ready, upload; the last two have sent their vector before they go
    assert [(one.advertised, one.committed, one.survivors) for one in result.attempts] == [
        (8, 7, 7),
        (9, 8, 7),
        (9, 9, 9),
    ]
    assert result.attempts[2].unmasked == 7
    for one in result.attempts:
        assert one.theory is not None
        assert one.error is not None
        assert one.error_rms is not None
        assert one.error <= one.theory.rounding
        assert one.costs.vector == one.theory.vector_bytes
        assert one.costs.messages == pytest.approx(one.theory.message_bytes, rel=0.1)


def test_a_round_below_the_quorum_fails_as_in_truth_is_given_up_and_is_counted(
    asked: Request, tmp_path: Path
) -> None:
    gone = Missing(round=2, phase="upload", hospitals=(1, 2, 3, 4, 5))
    result = simulate(replace(asked, schedule=Schedule(missing=(gone,))), tmp_path / "one")
    told = [
        (one.round, one.attempt, one.outcome, one.reason, one.phase, one.closed) for one in result.attempts
    ]
    assert told == [
        (1, 1, "done", "", "", None),
        (2, 1, "failed", "below-threshold", "upload", True),
        (2, 2, "failed", "below-threshold", "upload", True),
        (3, 1, "done", "", "", None),
    ]
    page = render_simulation(result)
    assert "2 of 3 gave a sum; 2 attempts failed" in page
    assert "no sum: below-threshold in phase upload" in page


def test_what_was_ended_goes_on_with_the_round_that_ran(asked: Request, tmp_path: Path) -> None:
    def stop(result: SimulationResult) -> None:
        if len(result.attempts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(asked, tmp_path / "cut", heard=stop)
    before = {path.name: path.read_bytes() for path in (tmp_path / "cut" / "attempts").iterdir()}
    assert len(before) == 2
    heard = list[int]()
    result = simulate(asked, tmp_path / "cut", heard=lambda so_far: heard.append(so_far.attempts[-1].round))
    assert heard == [3]
    assert len(result.done) == 3
    assert all((tmp_path / "cut" / "attempts" / name).read_bytes() == data for name, data in before.items())
    whole = simulate(asked, tmp_path / "whole")
    ends = [np.load(tmp_path / name / "model-00003.npz")["model"] for name in ("cut", "whole")]
    bound = sum(one.theory.rounding for one in whole.done if one.theory)
    assert np.abs(ends[0] - ends[1]).max() <= 2 * bound  # encodings are rounded by fresh coins
    again = simulate(asked, tmp_path / "cut", heard=lambda _: pytest.fail("nothing was left to play"))
    assert again == result.model_copy(update={"attempts": again.attempts})
    assert len(again.attempts) == 3
    assert not list((tmp_path / "cut" / "scratch").iterdir())


def test_what_is_refused_before_a_round_is_over_leaves_no_folder(asked: Request, tmp_path: Path) -> None:
    def refused(path: Path) -> None:
        with open_folder(path, asked.asked) as folder:
            (folder.scratch / "half").write_bytes(b"written")
            raise MoreHospitalsThanPatients(hospitals=2, patients=1)

    with pytest.raises(MoreHospitalsThanPatients):
        refused(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_on_with_its_own_simulation_only(asked: Request, tmp_path: Path) -> None:
    simulate(replace(asked, rounds=1), tmp_path / "one")
    before = {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    for change, name in (
        ({"seed": 7}, "seed"),
        ({"hospitals": 8}, "hospitals"),
        ({"split": Split("shards", shards=2)}, "split"),
        ({"masks": False}, "masks"),
        ({"schedule": Schedule(dropouts=0.1)}, "schedule"),
        ({"study": asked.study.model_copy(update={"attempts": 3})}, "study"),
    ):
        with pytest.raises(OtherSimulation, match=rf"differs: {name}\."):
            simulate(replace(asked, rounds=1, **change), tmp_path / "one")
    assert before == {path: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    with open_folder(tmp_path / "one", asked.asked), pytest.raises(FolderInUse):
        simulate(asked, tmp_path / "one")
    (tmp_path / "photos").mkdir(mode=0o700)
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(OtherSimulation):
        simulate(asked, tmp_path / "photos")


def test_plain_sums_the_same_vectors_and_says_that_nothing_was_masked(asked: Request, tmp_path: Path) -> None:
    schedule = Schedule(
        missing=(Missing(round=1, hospitals=(4,)), Missing(round=1, phase="unmask", hospitals=(5,)))
    )
    wanted = replace(asked, rounds=1, schedule=schedule)
    masked = simulate(wanted, tmp_path / "masked")
    plain = simulate(replace(wanted, masks=False), tmp_path / "plain")
    assert [one.survivors for one in (*plain.attempts, *masked.attempts)] == [8, 8]
    assert (plain.attempts[0].wrong_words, plain.attempts[0].theory) == (None, None)
    ends = [np.load(tmp_path / name / "model-00001.npz")["model"] for name in ("plain", "masked")]
    theory = masked.attempts[0].theory
    assert theory is not None
    assert np.abs(ends[0] - ends[1]).max() <= 2 * theory.rounding
    assert "Without masks." in render_simulation(plain)
    assert "Without masks." not in render_simulation(masked)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"hospitals": 2}, TooFewHospitals),
        ({"hospitals": 2001}, BadSimulation),
        ({"updates": "train"}, BadSimulation),
        ({"schedule": Schedule(missing=(Missing(round=4, hospitals=(1,)),))}, BadSchedule),
        ({"schedule": Schedule(missing=(Missing(round=1, hospitals=(10,)),))}, BadSchedule),
        ({"schedule": Schedule(dropouts=0.6, stragglers=0.6)}, BadSchedule),
    ],
)
def test_what_cannot_be_simulated_is_refused_before_anything_is_written(
    asked: Request, tmp_path: Path, change: dict[str, Any], error: type[Error]
) -> None:
    with pytest.raises(error):
        simulate(replace(asked, **change), tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_a_schedule_draws_the_stated_shares_the_same_ones_for_the_same_seed() -> None:
    schedule = Schedule(dropouts=0.05, stragglers=0.1, missing=(Missing(round=3, phase="share", share=0.5),))
    numbers = {"hospitals": 200, "attempt": 1, "seed": 4}
    first = schedule.absent(number=1, **numbers)
    assert Counter(first.values()) == {Phase.UPLOAD: 10, Phase.COMMIT: 20}
    assert first == schedule.absent(number=1, **numbers) != schedule.absent(number=2, **numbers)
    assert Counter(schedule.absent(number=3, **numbers).values()) == {Phase.SHARE: 100}


def test_a_schedule_file_is_read_and_a_bad_one_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "schedule.toml"
    path.write_text('dropouts = 0.05\n[[missing]]\nround = 2\nphase = "agree"\nhospitals = [1, 7]\n')
    found = scheduled(path, dropouts=0, stragglers=0)
    assert found == Schedule(dropouts=0.05, missing=(Missing(round=2, phase="agree", hospitals=(1, 7)),))
    with pytest.raises(BadSchedule):
        scheduled(path, dropouts=0.1, stragglers=0)
    for text in (
        "dropouts = 1.5",
        "[[missing]]\nround = 1",
        '[[missing]]\nround = 1\nphase = "lunch"\nshare = 1',
    ):
        path.write_text(text)
        with pytest.raises(BadSchedule):
            scheduled(path, dropouts=0, stragglers=0)
    path.write_text("dropouts = ")
    with pytest.raises(BadFile):
        scheduled(path, dropouts=0, stragglers=0)


LABELS = [str(k % 3) for k in range(300)]


@pytest.mark.parametrize("text", ["equal", "dirichlet:0.1", "dirichlet:1000", "shards:2", "column:site"])
def test_every_patient_goes_to_one_hospital_and_every_hospital_has_one(text: str) -> None:
    split = split_of(text)
    assert str(split) == text
    for hospitals in (3, 40, 300):
        parts = deal(split, LABELS, hospitals, seed=1)
        assert sorted(np.concatenate(parts)) == list(range(300))
        assert len(parts) == hospitals
        assert min(map(len, parts)) >= 1
        assert all(
            np.array_equal(a, b) for a, b in zip(parts, deal(split, LABELS, hospitals, seed=1), strict=True)
        )
    with pytest.raises(MoreHospitalsThanPatients):
        deal(split, LABELS, 301, seed=1)


def test_splits_are_as_even_as_they_say() -> None:
    def kinds(text: str) -> list[int]:
        parts = deal(split_of(text), LABELS, 20, seed=3)
        return [len({LABELS[place] for place in part}) for part in parts]

    assert {len(part) for part in deal(split_of("equal"), LABELS, 20, seed=3)} == {15}
    assert max(kinds("shards:1")) <= 2
    assert kinds("column:site") == [1] * 20
    assert np.mean(kinds("dirichlet:0.01")) < 1.6 < 2.9 < np.mean(kinds("dirichlet:1000"))
    with pytest.raises(BadSplit, match="3 values"):
        deal(split_of("column:site"), LABELS, 2, seed=1)


@pytest.mark.parametrize(
    "text", ["", "fair", "equal:1", "dirichlet", "dirichlet:0", "dirichlet:x", "shards:0", "column:"]
)
def test_an_unknown_split_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadSplit):
        split_of(text)


@pytest.fixture(scope="module")
def run(
    study: tuple[Study, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[int, str]]:
    folder = tmp_path_factory.mktemp("study") / "study"
    write_study(folder, *study)
    app = typer.Typer()
    register(app)

    def called(*words: object) -> tuple[int, str]:
        told = CliRunner().invoke(app, ["simulate", str(folder / "study.toml"), *map(str, words)])
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        return told.exit_code, told.output

    return called


def test_the_command_says_a_line_for_each_round_and_writes_page_and_json(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    wanted = [
        "--hospitals",
        12,
        "--updates",
        "random",
        "--processes",
        0,
        "--rounds",
        2,
        "-o",
        tmp_path / "one",
    ]
    status, output = run(*wanted, "--dropouts", 0.25)
    assert status == 0
    lines = [line for line in output.splitlines() if "round " in line]
    begins = [f"done round {k} of 2; exact sum over 9 of 12 (3 between commit and upload); " for k in (1, 2)]
    assert [line.startswith(begin) for line, begin in zip(lines, begins, strict=True)] == [True, True]
    assert re.search(r"sums +exact, error 0;", output)
    assert "drawn at random: the protocol alone" in output
    told = json.loads((tmp_path / "one" / "simulation.json").read_text())
    assert [one["wrong_words"] for one in told["attempts"]] == [0, 0]
    page = (tmp_path / "one" / "simulation.html").read_text()
    for part in (
        "Nobody trained.",
        "How this is not a consortium",
        "epsilon is that of the",
        "no TLS and no HTTP",
    ):
        assert part in page
    assert "<script" not in page
    with pytest.raises(OtherSimulation, match=r"differs: schedule\."):
        run(*wanted, "--dropouts", 0.5)
    with pytest.raises(BadSplit):
        run(*wanted, "--split", "fair")


@pytest.mark.slow
def test_hospitals_drawn_from_one_data_set_train_and_are_judged(asked: Request, tmp_path: Path) -> None:
    (site,) = write_phantom_sites(tmp_path / "data", profile="xray", hospitals=1, patients=40)
    text = (site / "manifest.csv").read_text().splitlines()
    rows = [text[0] + ",scanner"] + [
        f"{line},{random.Random(line.split(',')[1]).choice('ab')}" for line in text[1:]
    ]
    (site / "manifest.csv").write_text("\n".join(rows) + "\n")
    wanted = replace(
        asked, data=site, updates="train", hospitals=4, rounds=1, split=Split("column", column="scanner")
    )
    result = simulate(wanted, tmp_path / "one")
    (facts,) = result.attempts
    assert (facts.outcome, facts.wrong_words, facts.check_word) == ("done", 0, True)
    assert len(result.dealt.train) == 4
    assert min(result.dealt.train) >= 1
    assert result.dealt.test > 0
    assert all(len(one) == 1 for one in result.dealt.labels)
    assert 0 <= facts.figures["auroc"] <= 1
    page = render_simulation(result)
    assert "AUROC on the test patients" in page
    assert "auroc" not in page
    with pytest.raises(MoreHospitalsThanPatients):
        simulate(replace(wanted, hospitals=100, split=Split("equal")), tmp_path / "two")
    with pytest.raises(BadSplit, match="no such column"):
        simulate(replace(wanted, split=Split("column", column="colour")), tmp_path / "three")
    assert [path.name for path in tmp_path.iterdir() if path.name in ("two", "three")] == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_ended_costs_one_round_and_leaves_nobody_behind(
    study: tuple[Study, bytes], tmp_path: Path, how: signal.Signals
) -> None:
    made, initial = study
    rounds = 12  # more than pass while this process waits for its turn on a busy machine
    longer = made.model_copy(update={"training": made.training.model_copy(update={"rounds": rounds})})
    write_study(tmp_path / "study", longer, initial)
    words = ["simulate", str(tmp_path / "study" / "study.toml"), "--hospitals", "60", "--updates", "random"]
    command = [sys.executable, "-m", "medveil", *words, "--processes", "2", "-o", str(tmp_path / "one")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as one:
        assert one.stdout is not None
        assert any(line.startswith("done round 1 ") for line in one.stdout)  # the next one runs
        os.kill(one.pid, how)
        rest = one.stdout.read()  # ends when the last process that holds it has ended
        assert one.wait() != 0
        assert "Traceback" not in rest
    kept = len(list((tmp_path / "one" / "attempts").iterdir()))
    assert 1 <= kept < rounds
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in again.stdout.splitlines() if line.startswith("done round")]
    assert len(lines) == rounds - kept
    assert f"{rounds} of {rounds} gave a sum" in again.stdout
