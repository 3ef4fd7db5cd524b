"""In an image of ours state is on a volume, or nothing begins; what is not installed is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.cli import app as aggregator_app
from aggregator.settings import DATABASE_FILE_VARIABLE, DATABASE_VARIABLE, Settings
from hospital_node.cli import app as node_app
from medveil import cli
from medveil.errors import BadFile
from medveil.volumes import VARIABLE, NoVolume, check_volume

LINE = "214 153 254:0 /srv/boxes {point} rw,relatime - ext4 /dev/vda rw\n"


def mounts(folder: Path, *points: Path | str) -> Path:
    """What Linux would tell of these mount points."""
    file = folder / "mountinfo"
    file.write_text("".join(LINE.format(point=str(point).replace(" ", "\\040")) for point in ("/", *points)))
    return file


@pytest.mark.parametrize("app", [aggregator_app, node_app], ids=["aggregator", "node"])
def test_without_its_volume_no_command_begins_and_nothing_is_written(
    app: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = ["init"] if app is aggregator_app else ["status"]
    done = CliRunner().invoke(app, words)  # type: ignore[arg-type]
    assert isinstance(done.exception, NoVolume), done.output
    assert not list(tmp_path.iterdir())


def test_a_volume_is_taken_wherever_it_is_mounted_from(tmp_path: Path) -> None:
    state = tmp_path / "a state"
    state.mkdir()
    check_volume(state, mounts(tmp_path, state))
    with pytest.raises(NoVolume, match="is not a volume"):
        check_volume(state, mounts(tmp_path, tmp_path))


def test_a_volume_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medveil.volumes.os.access", lambda path, mode: False)
    with pytest.raises(NoVolume, match="may not write"):
        check_volume(tmp_path, mounts(tmp_path, tmp_path))


def test_a_command_whose_library_is_left_out_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(name: str) -> None:
        def root_app(words: list[str]) -> None:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

        monkeypatch.setattr(cli, "root_app", root_app)
        monkeypatch.setattr(sys, "argv", ["medveil", "demo"])
        cli.main()

    with pytest.raises(SystemExit) as ended:
        without("torch.nn")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "'torch' is not installed" in said
    assert "not-installed" in said
    with pytest.raises(ModuleNotFoundError):  # a fault of ours, not of the installation
        without("aggregator.nothing")


def test_the_database_s_address_may_come_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, file = Settings(tmp_path, database="postgresql://settings/db"), tmp_path / "url"
    monkeypatch.delenv(DATABASE_VARIABLE, raising=False)
    monkeypatch.setenv(DATABASE_FILE_VARIABLE, str(file))
    with pytest.raises(BadFile, match=DATABASE_FILE_VARIABLE) as refused:
        _ = settings.where
    assert "No such file or directory" in refused.value.what
    assert "Errno" not in refused.value.what
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadFile, match="is no text"):
        _ = settings.where
    file.write_text("\n")
    with pytest.raises(BadFile, match="empty"):
        _ = settings.where
    file.write_text("postgresql://handed/db\n")
    assert settings.where == "postgresql://handed/db"
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql://direct/db")
    assert settings.where == "postgresql://direct/db"
