"""A command in the wrong folder, or by the wrong user, says which folder and which user it wants."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aggregator.admin import set_up_aggregator
from aggregator.cli import app as aggregator_app
from aggregator.keeper.settings import KeeperFolder
from aggregator.relay.settings import RelayFolder
from aggregator.settings import Settings, load
from hospital_node.settings import Node
from medveil import folders
from medveil.errors import BadFile, Error
from medveil.folders import FolderOfAnother, named, settings_in

NOBODY = 65534
LOADS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an aggregator": (load, "aggregator.json"),
    "a node": (Node.load, "node.json"),
    "a keeper": (KeeperFolder.load, "keeper.json"),
    "a relay": (RelayFolder.load, "relay.json"),
}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="it becomes another user: run it as root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that any user of this machine may look into."""
    folder = Path("/var/tmp") / f"medveil-folders-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


class Absent(Error):
    """There is nothing."""

    def __init__(self, *, folder: Path) -> None:
        super().__init__(what=f"Nothing in {folder}.", meaning="", remedy="")


@pytest.mark.parametrize("kind", LOADS)
@pytest.mark.parametrize("there", ["no folder", "an empty folder", "a file"])
def test_a_folder_that_is_none_is_named_with_what_to_do(tmp_path: Path, kind: str, there: str) -> None:
    folder = tmp_path / "place"
    if there == "a file":
        folder.write_bytes(b"")
    elif there == "an empty folder":
        folder.mkdir()
    with pytest.raises(Error) as refused:
        LOADS[kind][0](folder)
    assert refused.value.code == f"no-{kind.split()[1]}"
    assert str(folder) in refused.value.what
    assert "--folder" in refused.value.remedy


@root_only
@pytest.mark.parametrize("kind", LOADS)
def test_who_may_not_read_it_is_told_whose_it_is(place: Path, kind: str) -> None:
    read, name = LOADS[kind]
    (place / name).write_text("{}")
    (place / name).chmod(0o600)
    with another_user(), pytest.raises(FolderOfAnother, match="belongs to root") as refused:
        read(place)
    assert "sudo -u root" in refused.value.remedy
    assert f"chown -R nobody: {place}" in refused.value.remedy
    place.chmod(0o700)  # as a service's folder is
    with another_user(), pytest.raises(FolderOfAnother, match="belongs to root"):
        read(place)


@root_only
@pytest.mark.parametrize("kind", LOADS)
def test_root_leaves_nothing_in_the_folder_of_a_service(place: Path, kind: str) -> None:
    read, name = LOADS[kind]
    (place / name).write_text("{}")
    for path in (place, place / name):
        os.chown(path, NOBODY, -1)
    with pytest.raises(FolderOfAnother, match="belongs to nobody") as refused:
        read(place)
    assert "could not be used by that user's service" in refused.value.meaning
    assert [path.name for path in place.iterdir()] == [name]


@root_only
def test_root_may_where_all_files_belong_to_one_user_and_where_nothing_is_written(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "x").write_bytes(b"{}")
    os.chown(place / "x", NOBODY, -1)
    assert settings_in(place, "x", Absent, only_read=True) == b"{}"
    with pytest.raises(FolderOfAnother):
        settings_in(place, "x", Absent)
    monkeypatch.setattr(folders, "_owner_of_new", lambda _: NOBODY)  # a folder of another machine, say
    assert settings_in(place, "x", Absent) == b"{}"


def test_who_has_no_name_goes_by_number_and_an_unknown_owner_by_none() -> None:
    refused = folders._of_another(Path("x y"), 4_000_000, "")
    assert "belongs to 4000000, " in refused.what
    assert "sudo -u '#4000000' " in refused.remedy
    assert refused.remedy.endswith("'x y'")
    assert "belongs to somebody, " in folders._of_another(Path("x"), None, "").what


def test_what_is_no_file_of_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(BadFile):
        settings_in(tmp_path, "x", Absent)
    (tmp_path / "y").write_bytes(b" " * (folders.MOST_BYTES + 1))
    with pytest.raises(BadFile, match="longer than"):
        settings_in(tmp_path, "y", Absent)
    with pytest.raises(BadFile, match="cannot be read"):
        settings_in(tmp_path, "\0", Absent)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "names are letters": (lambda told: told | {"names": "fl.example.org"}, "names"),
    "no names": (lambda told: told | {"names": []}, "names"),
    "half a port": (lambda told: told | {"port": 8443.5}, "port"),
    "a port beyond all": (lambda told: told | {"port": 84430}, "port"),
    "a word for yes or no": (lambda told: told | {"client_certificates": "perhaps"}, "client_certificates"),
    "a number for a text": (lambda told: told | {"database": 5}, "database"),
    "misspelt": (lambda told: told | {"hots": "localhost"}, "hots"),
    "its own folder": (lambda told: told | {"folder": "/elsewhere"}, "no list of settings"),
    "a list": (lambda told: [told], "no list of settings"),
    "limits are a list": (lambda told: told | {"limits": []}, "limits"),
    "a limit of another name": (lambda told: told | {"limits": {"paralel": 3}}, r"limits\.paralel"),
    "no requests at all": (lambda told: told | {"limits": {"requests_per_s": 0}}, r"limits\.requests_per_s"),
    "less than no time": (lambda told: told | {"limits": {"idle_s": -1}}, r"limits\.idle_s"),
    "fewer than no processes": (lambda told: told | {"workers": -1}, "workers"),
    "a way in of another form": (lambda told: told | {"sign_in": {"providers": [{}]}}, r"sign_in\.providers"),
}


@pytest.mark.parametrize(("change", "named"), WRONG.values(), ids=WRONG)
def test_a_setting_that_says_something_else_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    Settings(tmp_path).save()
    file = tmp_path / "aggregator.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(BadFile, match=named) as refused:
        load(tmp_path)
    assert not any(word in refused.value.what for word in ("__init__", "Errno", "argument", "literal"))


@pytest.mark.parametrize("text", ["", "{", '{"port": 1, "port": 2}', '{"port": NaN}', "5", "null"])
def test_a_file_that_is_no_json_of_settings_is_refused_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "aggregator.json").write_text(text)
    with pytest.raises(BadFile):
        load(tmp_path)


def test_settings_are_read_as_they_were_written_and_nobody_else_reads_them(tmp_path: Path) -> None:
    made = Settings(
        tmp_path, port=1, names=("a", "b"), client_certificates=True, workers=3, database="postgresql://x"
    )
    made.save()
    assert load(tmp_path) == made
    assert (tmp_path / "aggregator.json").stat().st_mode & 0o077 == 0


def test_the_next_command_that_is_shown_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "of Anna"
    assert shlex.split(named(folder)) == ["--folder", str(folder)]
    set_up_aggregator(Settings(folder))
    for words in ("hospitals", "invitations", "people list", "study status", "study compare"):
        shown = CliRunner().invoke(aggregator_app, [*words.split(), "--folder", str(folder)])
        assert shown.exit_code == 0, shown.output
        assert f"--folder '{folder}'" in " ".join(shown.stdout.split()), words
