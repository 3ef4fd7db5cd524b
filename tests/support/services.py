"""What the systemd units say, and their commands run as they stand there, over another folder."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from deploy_tools import DEPLOY
from rooms import ROOT

PROGRAM = "/opt/medveil/.venv/bin/medveil"
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))


def settings_of(unit: str) -> list[tuple[str, str]]:
    """Name and value of each line, in order."""
    lines = (line.strip() for line in (DEPLOY / unit).read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#[")
    return [(name, value) for name, _, value in pairs]


def exec_start(unit: str) -> list[str]:
    """The words of its command."""
    return shlex.split(dict(settings_of(unit))["ExecStart"])


def words_over(unit: str, folder: Path) -> list[str]:
    """What its program is told, with ``folder`` in the place of the one under /var/lib."""
    place = dict(settings_of(unit))["WorkingDirectory"]
    program, *words = (word.replace(place, str(folder)) for word in exec_start(unit))
    assert program == PROGRAM
    return words


def start_unit(unit: str, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Run its command as it stands there, over ``folder``."""
    words = words_over(unit, folder)
    name, _, value = dict(settings_of(unit))["Environment"].partition("=")
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "medveil", *words], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": path, name: value},
            start_new_session=True,
        )  # fmt: skip
