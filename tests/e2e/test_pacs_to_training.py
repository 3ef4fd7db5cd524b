"""From a running Orthanc to training nodes by what docs/operator.md says: two commands and one approval."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import orthanc
from aggregator import admin
from aggregator.cli import app as aggregator_app
from aggregator.settings import Limits, Settings
from dicom_files import header_of, picture, save
from hospital_node.cli import app as node_app
from hospital_node.settings import Node
from medveil.spoken import spoken
from medveil.study import Deadlines
from medveil_research.local_consortium import DEADLINES
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study
from served import served

HOSPITALS = ("st-marys", "st-johns", "st-lukes")
FILMS, ROUNDS, LIMIT_S = 12, 1, 400.0
needs_orthanc = pytest.mark.skipif(not orthanc.installed(), reason=f"Orthanc is not here: {orthanc.INSTALL}")


def films(folder: Path) -> Iterator[bytes]:
    """Films of twelve patients for each hospital; those with a finding have a brighter corner."""
    for hospital in range(len(HOSPITALS)):
        for number in range(FILMS):
            pixels = picture(64, 56, top=3000 + 10 * number)
            if number % 2:
                pixels[:20, :20] = pixels[:20, :20] // 4 + 3000
            uid = f"1.2.9.{hospital}.{number}"
            told = {
                "StudyInstanceUID": uid,
                "SeriesInstanceUID": f"{uid}.1",
                "SOPInstanceUID": f"{uid}.1.1",
                "PatientID": f"PAT{hospital}{number:03}",
                "AccessionNumber": accession(hospital, number),
                "StudyDate": "20240131",
            }
            yield save(folder / "one.dcm", header_of(np.ascontiguousarray(pixels), **told)).read_bytes()


def accession(hospital: int, number: int) -> str:
    return f"ACC{hospital}{number:03}"


def types(app: object, *words: object) -> str:
    answer = CliRunner().invoke(app, [str(word) for word in words])  # type: ignore[arg-type]
    assert answer.exit_code == 0, answer.output + repr(answer.exception)
    return answer.output


@needs_orthanc
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_commands_and_one_approval_lead_from_a_pacs_to_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(tmp_path / "aggregator", names=("localhost", "127.0.0.1"))
    admin.set_up_aggregator(settings)
    running: list[subprocess.Popen[bytes]] = []
    with (
        orthanc.running(tmp_path / "orthanc", films(tmp_path)) as pacs,
        served(settings.folder, Limits(), names=settings.names) as server,
    ):
        before = pacs.state()
        secret = orthanc.password_file(tmp_path)
        for index, name in enumerate(HOSPITALS):
            types(aggregator_app, "invite", name, "--folder", settings.folder)
            with (tmp_path / f"{name}.csv").open("w", newline="") as file:
                rows = [(accession(index, n), n % 2, "test" if n % 4 == 3 else "train") for n in range(FILMS)]
                csv.writer(file).writerows([("accession_number", "label", "split"), *rows])
            told = types(  # the first command
                node_app,
                *("join", f"{name}.invitation", "--yes", "--folder", name),
                *("--pacs", pacs.url, "--pacs-user", orthanc.USER, "--pacs-password-file", secret),
                *("--labels", f"{name}.csv", "--modality", "CR"),
            )
            assert f"{FILMS} series fetched ({FILMS} images)" in told
            assert Node.load(Path(name)).settings.data == (tmp_path / name / "pacs" / "images")
        assert pacs.state() == before
        plan = opened(server.settings, tmp_path)
        for name in HOSPITALS:
            types(node_app, "approve", "--folder", name)
            types(node_app, "approve", *plan.split(), "--yes", "--folder", name)  # the approval
        try:
            for name in HOSPITALS:  # the second command
                command = [sys.executable, "-m", "medveil", "node", "run", "--folder", name]
                with (tmp_path / f"{name}.log").open("wb") as log:
                    running.append(subprocess.Popen(command, stdout=log, stderr=log))
            wait_for_the_end(server.settings, running)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(60)


def opened(settings: Settings, folder: Path) -> str:
    """A study of one round over these hospitals; its plan's twelve words."""
    study, initial = new_study(
        StudyOptions(
            name="from-a-pacs",
            task="classification",
            profile="xray",
            hospitals=len(HOSPITALS),
            rounds=ROUNDS,
            size=(32, 32),
            patients_hint=9,
            anyway=True,
            deadlines=Deadlines(**DEADLINES),
        )
    )
    write_study(folder / "study", study, initial)
    files, names = folder / "study", list(HOSPITALS)
    made = admin.create_plan(settings, files / "study.toml", files / "initial.safetensors", names, [])
    return spoken(made.hash)


def wait_for_the_end(settings: Settings, running: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        assert all(process.poll() is None for process in running)
        told = types(aggregator_app, "study", "status", "--folder", settings.folder)
        if "finished" in told:
            return
        time.sleep(1.0)
    raise AssertionError("the study did not finish in time")
