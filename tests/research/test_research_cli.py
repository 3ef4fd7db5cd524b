"""The researcher's commands: quick to answer, plain in words, honest in their exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medveil import examined
from medveil.errors import BadFile, BadOption
from medveil.study import read_study
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research import doctor
from medveil_research.cli import register
from privacy.secagg import keystream

COMMANDS = ("demo", "study", "research", "doctor")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def app() -> typer.Typer:
    """A root command with the researcher's commands only."""
    root = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    register(root)
    return root


def _run(app: typer.Typer, *arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_loading_the_commands_loads_no_heavy_library() -> None:
    code = (
        "import sys, typer, medveil_research.cli as cli; app = typer.Typer(); cli.register(app);"
        "heavy = {'torch', 'monai', 'matplotlib', 'scipy', 'opacus', 'jinja2'} & set(sys.modules);"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(app: typer.Typer, command: str) -> None:
    shown = _run(app, command, "--help")
    assert shown.exit_code == 0
    assert "Usage" in shown.output


def test_a_new_study_evaluates_a_hospital_from_the_command_line(app: typer.Typer, tmp_path: Path) -> None:
    site = write_phantom_sites(tmp_path, profile="xray", hospitals=1, patients=12)[0]
    made = _run(
        app, "study", "new", "--name", "films", "--task", "classification", "--profile", "xray",
        "--model", "small_cnn", "--hospitals", "4", "--patients", "80", "--size", "32x32",
        "--classes", "normal, abnormal", "-o", tmp_path / "study",
    )  # fmt: skip
    assert made.exit_code == 0
    assert "epsilon 8 at delta 0.00001" in made.output
    assert "of the signal" in made.output
    manifest = site / "manifest.csv"
    columns = manifest.read_text(encoding="utf-8").splitlines()[0].split(",")
    gone = {"image": "nowhere.dcm", "patient_id": "p-gone", "split": "val", "label": "0"}
    with open(manifest, "a", encoding="utf-8") as file:
        file.write(",".join(gone.get(column, "") for column in columns) + "\n")
    done = _run(
        app, "research", "evaluate", "--model", tmp_path / "study" / "initial.safetensors", "--data", site,
        "--split", "train", "--json", tmp_path / "figures.json",
    )  # fmt: skip
    assert done.exit_code == 0
    assert "files rejected while reading: 1" in done.output
    assert "nowhere.dcm" in done.output
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["figures"]["patients"] == 8
    assert f"{figures['figures']['auroc']:.3f}" in done.output


@pytest.mark.parametrize(
    ("option", "value"), [("--size", "large"), ("--option", "width"), ("--compression", "sparse:half")]
)
def test_a_malformed_option_is_refused_in_words(
    app: typer.Typer, tmp_path: Path, option: str, value: str
) -> None:
    with pytest.raises(BadOption) as caught:
        _run(
            app, "study", "new", "--name", "films", "--task", "classification", "--profile", "xray",
            "--hospitals", "4", "-o", tmp_path / "study", option, value,
        )  # fmt: skip
    assert value in caught.value.what
    assert not (tmp_path / "study").exists()


def test_more_than_128_hospitals_are_told_which_masks_they_need(app: typer.Typer, tmp_path: Path) -> None:
    asked = [
        "study", "new", "--name", "films", "--task", "classification", "--profile", "xray",
        "--privacy", "joint", "--hospitals", "300", "--size", "32x32", "-o", tmp_path / "study",
    ]  # fmt: skip
    with pytest.raises(BadFile) as caught:
        _run(app, *asked)
    assert "hidden" in caught.value.what
    assert _run(app, *asked, "--mask-graph", "hidden").exit_code == 0
    study = read_study(tmp_path / "study" / "study.toml")
    assert (study.secure_aggregation.mask_graph, study.cohort.max_hospitals) == ("hidden", 300)


def test_a_model_option_and_compression_reach_the_study(app: typer.Typer, tmp_path: Path) -> None:
    done = _run(
        app, "study", "new", "--name", "films", "--task", "classification", "--profile", "xray",
        "--model", "small_cnn", "--hospitals", "4", "--size", "32x32", "--option", "width=8",
        "--compression", "sparse:0.125", "-o", tmp_path / "study",
    )  # fmt: skip
    assert done.exit_code == 0
    assert "width = 8" in (tmp_path / "study" / "study.toml").read_text(encoding="utf-8")
    study = read_study(tmp_path / "study" / "study.toml")
    assert 0.12 < study.uploaded / study.model.tensors.size <= 0.125
    assert f"{study.uploaded:,} of these numbers in each round" in done.output


def test_a_report_is_made_from_a_result_file(
    app: typer.Typer, tmp_path: Path, classification_result: dict[str, Any]
) -> None:
    (tmp_path / "result.json").write_text(json.dumps(classification_result), encoding="utf-8")
    done = _run(app, "research", "report", tmp_path / "result.json", "-o", tmp_path / "report.html")
    assert done.exit_code == 0
    assert "chest-films" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_doctor_names_each_thing_it_looked_at(app: typer.Typer, tmp_path: Path) -> None:
    done = _run(app, "doctor", "--folder", tmp_path)
    findings = list(doctor.examine(tmp_path))
    assert [f.name for f in findings] == [
        "Python", "processor", "memory", "disk", "torch", "masking", "SQLite", "clock", "loopback port",
    ]  # fmt: skip
    assert all(f.name in done.output for f in findings)
    assert done.exit_code == (0 if all(f.passed for f in findings) else 1)
    assert not list(tmp_path.iterdir())


def test_the_doctor_ends_with_status_one_and_a_remedy_on_a_problem(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examined.shutil, "disk_usage", lambda _: Usage(10, 9, 1))
    done = _run(app, "doctor", "--folder", tmp_path)
    assert done.exit_code == 1
    assert "problem" in done.output
    assert "Free 5 GB" in done.output


@pytest.mark.parametrize("clock", [0.0, 1_700_000_000.0])
def test_a_clock_before_this_software_existed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    monkeypatch.setattr(examined.time, "time", lambda: clock)
    assert not next(f for f in doctor.examine(tmp_path) if f.name == "clock").passed


def test_a_machine_whose_aes_is_faulty_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "AES by OpenSSL's" in next(f for f in doctor.examine(tmp_path) if f.name == "masking").found
    monkeypatch.setattr(keystream, "_fast_path_agrees", lambda: False)
    finding = next(f for f in doctor.examine(tmp_path) if f.name == "masking")
    assert not finding.passed
    assert "gave different bytes" in finding.found


def test_a_check_that_fails_itself_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no sockets here")

    monkeypatch.setattr(doctor.socket, "create_connection", refuse)
    finding = next(f for f in doctor.examine(tmp_path) if f.name == "loopback port")
    assert not finding.passed
    assert "no sockets here" in finding.remedy
