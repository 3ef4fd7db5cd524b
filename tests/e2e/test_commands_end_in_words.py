"""What the operating system refuses a command ends in three sentences, and Ctrl-C in silence."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import medveil.cli

FULL_DISK = """
import resource, sys
from medveil.cli import main
sys.dont_write_bytecode = True  # Python would leave halves of compiled files that nobody can load later
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
sys.argv[0] = "medveil"
main()
"""
"""As on a full disk: no file may grow beyond 100 bytes."""


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def medveil_with(*words: str | Path, program: str = "from medveil.cli import main; main()") -> Any:
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_folder_that_cannot_be_made_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = ["medveil", "aggregator", "init", "--folder", str(tmp_path / "file" / "aggregator")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        medveil.cli.main()
    assert end.value.code == 1
    shown = capsys.readouterr().err
    assert "Not a directory" in shown
    assert "system-refused" in shown
    assert str(tmp_path) not in shown  # names of files may be names of patients


def test_ctrl_c_while_the_commands_are_loaded_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(group: str) -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.metadata, "entry_points", interrupted)
    with pytest.raises(SystemExit) as end:
        medveil.cli.main()
    assert end.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_port_in_use_and_a_full_disk_end_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "aggregator"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        made = medveil_with("aggregator", "init", "--folder", folder, "--port", port)
        assert made.returncode == 0, made.stderr
        refused = medveil_with("aggregator", "serve", "--folder", folder)
    assert refused.returncode == 1
    assert "cannot-listen" in refused.stderr
    assert "Address already in use" in refused.stderr
    full = medveil_with("aggregator", "enroll-token", "st-marys", "--folder", folder, program=FULL_DISK)
    assert full.returncode == 1
    assert "storage-failed" in full.stderr
    copied = medveil_with("aggregator", "backup", tmp_path / "backup", "--folder", folder, program=FULL_DISK)
    assert copied.returncode == 1
    assert "storage-failed" in copied.stderr
    for done in (refused, full, copied):
        assert "Traceback" not in done.stdout + done.stderr
        assert "INSERT" not in done.stdout + done.stderr
