"""The systemd units: nothing to find fault with, locked as far as each can be, and all in the same way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy_tools import DEPLOY
from services import PROGRAM, UNITS, exec_start, settings_of

INSTALL = "systemd-analyze is not installed: apt-get install systemd"
ANALYZE = shutil.which("systemd-analyze")
assert ANALYZE or not os.environ.get("MEDVEIL_SKIP_NOTHING"), INSTALL
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason=INSTALL)
LOOSER = {
    "medveil-node.service": {("MemoryDenyWriteExecute", "yes")},  # torch compiles while it runs
}
"""What a unit cannot have of what all others have."""
OF_EACH = {"ExecStart", "User", "Group", "StateDirectory", "WorkingDirectory"}


@needs_systemd
def test_systemd_finds_no_fault_and_rates_each_two_of_ten_at_most(tmp_path: Path) -> None:
    for unit in UNITS:  # as they are where MedVeil is installed
        (tmp_path / unit).write_text((DEPLOY / unit).read_text().replace(PROGRAM, "/bin/true"))

    def analyse(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ANALYZE), *words, *(str(tmp_path / unit) for unit in UNITS)],
            capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
        )  # fmt: skip

    verified = analyse("verify")
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    rated = re.findall(r"level for (\S+): ([\d.]+)", analyse("security", "--offline=true").stdout)
    assert [unit for unit, _ in rated] == UNITS
    assert [(unit, level) for unit, level in rated if float(level) > 2.0] == []


def test_all_units_are_locked_alike() -> None:
    locks = {unit: _locks(unit) for unit in UNITS}
    every = set().union(*locks.values())
    assert len(every) > 20
    assert {unit: every - own for unit, own in locks.items() if every - own} == LOOSER


def _locks(unit: str) -> set[tuple[str, str]]:
    told = settings_of(unit)
    start = next(i for i, (name, _) in enumerate(told) if name == "NoNewPrivileges")
    end = next(i for i, (name, _) in enumerate(told) if name == "WantedBy")
    return set(told[start:end])


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_runs_in_its_own_folder_as_its_own_user_and_waits_until_there_is_something_to_run(
    unit: str,
) -> None:
    told = dict(settings_of(unit))
    assert set(told) >= OF_EACH
    own = told["StateDirectory"]
    assert told["User"] == told["Group"] == own
    folder = f"/var/lib/{own}"
    assert told["WorkingDirectory"] == folder
    assert exec_start(unit)[-2:] == ["--folder", folder]
    assert told["ConditionPathExists"].startswith(f"{folder}/")


def test_each_unit_is_in_the_table_of_the_page() -> None:
    page = (DEPLOY / "README.md").read_text()
    assert [unit for unit in UNITS if f"| `{unit}` |" not in page] == []
