"""A file that is replaced is the old one or the new one, whatever fails on the way."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medveil.files import NameNotSynced, NameTaken, new_private, replace_durably, whole_folder

STEPS = ["write", "sync", "rename", "sync-folder"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def test_the_content_is_its_parts_and_nothing_else_stays(path: Path) -> None:
    replace_durably(path, b"n", memoryview(b"ew"))
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("private", [True, False])
def test_a_private_file_is_its_owners_whatever_the_umask(path: Path, umask: int, private: bool) -> None:
    before = os.umask(umask)
    try:
        replace_durably(path, b"new", private=private)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == (0o600 if private else 0o666 & ~umask)


@pytest.mark.parametrize("failing", STEPS)
def test_whatever_step_fails_the_file_is_whole(path: Path, failing: str) -> None:
    """Only where the folder could not be synced it is the new one, and the error says so."""
    taken: list[str] = []

    @contextmanager
    def step(name: str) -> Iterator[None]:
        taken.append(name)
        if name == failing:
            raise OSError(28, "No space left on device")
        yield

    with pytest.raises(OSError, match="No space left") as caught:
        replace_durably(path, b"new", step=step)
    assert taken == STEPS[: STEPS.index(failing) + 1]
    assert path.read_bytes() == (b"new" if failing == "sync-folder" else b"old")
    assert isinstance(caught.value, NameNotSynced) == (failing == "sync-folder")
    replace_durably(path, b"newer")  # what lies there half written is in nobody's way
    assert path.read_bytes() == b"newer"
    assert list(path.parent.iterdir()) == [path]


def test_file_and_folder_are_synced_in_this_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    replace_durably(path, b"new")
    assert synced == [False, True]


def test_a_new_private_file_is_its_owners_and_never_another_one(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        handle = new_private(tmp_path / "new", to_read=True)
    finally:
        os.umask(before)
    os.write(handle, b"secret")
    assert os.pread(handle, 6, 0) == b"secret"
    assert not os.get_inheritable(handle)
    os.close(handle)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("new", "link"):
        with pytest.raises(FileExistsError):
            new_private(tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()


def fill(target: Path, last: Callable[[], None]) -> None:
    with whole_folder(target) as part:
        (part / "file").write_bytes(b"whole")
        last()


@pytest.mark.parametrize("private", [True, False])
def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path, private: bool) -> None:
    target = tmp_path / "new" / "out"
    with whole_folder(target, private=private) as part:
        (part / "file").write_bytes(b"whole")
        assert not target.exists()
    assert (target / "file").read_bytes() == b"whole"
    assert not private or stat.S_IMODE(target.stat().st_mode) == 0o700
    assert list(target.parent.iterdir()) == [target]


def test_of_a_folder_that_does_not_become_whole_nothing_stays(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", interrupted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["a folder", "an empty folder", "a file", "a link to nothing"])
@pytest.mark.parametrize("faster", [False, True])
def test_what_has_a_folders_name_is_left_as_it_is_also_when_it_was_faster(
    tmp_path: Path, there: str, faster: bool
) -> None:
    target = tmp_path / "out"

    def take() -> None:
        if there.endswith("folder"):
            target.mkdir()
        if there == "a folder":
            (target / "thesis.txt").write_text("mine")
        elif there == "a file":
            target.write_text("mine")
        elif there == "a link to nothing":
            target.symlink_to("nowhere")

    if not faster:
        take()
    with pytest.raises(NameTaken):
        fill(target, take if faster else lambda: None)
    assert os.path.lexists(target)
    assert not (target / "file").exists()
    assert list(tmp_path.iterdir()) == [target]
