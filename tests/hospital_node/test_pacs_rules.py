"""What a hospital says of its PACS is kept to: speed, hours, passwords, and who said no."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from hospital_node.pacs.lists import read_opted_out
from hospital_node.pacs.problems import BadPacsList, PasswordShown
from hospital_node.pacs.settings import PacsSettings
from hospital_node.pacs.throttle import Hours, Throttle
from medveil.errors import BadOption


def test_what_comes_takes_as_long_as_the_limit_says() -> None:
    slept: list[float] = []
    throttle = Throttle(1000.0, clock=lambda: sum(slept), sleep=slept.append)
    for _ in range(10):
        throttle.took(250)
    assert sum(slept) == pytest.approx(2.5)
    assert throttle.piece < 10_000
    free = Throttle(sleep=slept.append)
    free.took(10**9)
    assert sum(slept) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("hours", "now", "seconds"),
    [
        ("20:00-06:00", "23:00", 0),
        ("20:00-06:00", "05:59", 0),
        ("20:00-06:00", "06:00", 14 * 3600),
        ("08:00-12:30", "12:30", 19.5 * 3600),
        ("08:00-12:30", "07:00", 3600),
    ],
)
def test_hours_open_and_close_also_over_midnight(hours: str, now: str, seconds: float) -> None:
    at = dt.datetime.combine(dt.date(2024, 3, 5), dt.time.fromisoformat(now))
    assert Hours.of(hours).seconds_until_open(at) == seconds


@pytest.mark.parametrize("text", ["8-12", "25:00-06:00", "06:00-06:00", ""])
def test_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BadOption):
        Hours.of(text)


@pytest.mark.parametrize(
    "text",
    [
        "name\nQuillfeather\n",
        'patient_id\nPAT001\n"PAT002\n',
        "patient_id\n1.23457E+11\n",
        "patient_id\nM\ufffdller\n",
    ],
)
def test_an_opt_out_list_that_may_miss_somebody_stops_everything(text: str, tmp_path: Path) -> None:
    (tmp_path / "no.csv").write_text(text, encoding="utf-8")
    with pytest.raises(BadPacsList) as caught:
        read_opted_out(tmp_path / "no.csv")
    assert "PAT00" not in str(caught.value)
    with pytest.raises(BadPacsList):
        PacsSettings(address="https://here/dicom-web", opt_out=tmp_path / "missing.csv").check()


def test_who_said_no_is_known_in_any_spelling(tmp_path: Path) -> None:
    (tmp_path / "no.csv").write_text("Patient ID;Accession Number\n0007;\n;acc-9\n")
    opted_out = read_opted_out(tmp_path / "no.csv")
    assert opted_out.names(patient="7", accession="")
    assert opted_out.names(patient="8", accession="ACC-9 ")
    assert not opted_out.names(patient="8", accession="")


def test_a_password_is_read_from_a_closed_file_only_and_goes_nowhere_in_the_clear(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("long and secret\n")
    file.chmod(0o600)
    settings = PacsSettings(address="https://pacs/dicom-web", user="medveil", password_file=file)
    assert settings.password().reveal() == b"long and secret"
    assert "secret" not in settings.model_dump_json()
    file.chmod(0o640)
    with pytest.raises(PasswordShown):
        settings.check()
    file.chmod(0o600)
    for address in ("http://pacs/dicom-web", "https://me:word@pacs/dicom-web"):
        with pytest.raises(PasswordShown):
            PacsSettings(address=address, user="medveil", password_file=file).check()
    PacsSettings(address="http://pacs/dicom-web", user="me", password_file=file, plain_http=True).check()
    PacsSettings(address="http://localhost:8042/dicom-web", user="me", password_file=file).check()
