"""The long run with kills itself runs: one short piece of it holds every invariant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import postgres

SCRIPT = Path(__file__).resolve().parents[1] / "soak" / "soak.py"


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_short_soak_passes(tmp_path: Path, database: str) -> None:
    if database == "postgresql" and postgres.programs() is None:
        pytest.skip(f"PostgreSQL is not installed: {postgres.INSTALL}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    options = ["--minutes", "0.5", "--seed", "1", "--kill-every", "8", "--keep", str(tmp_path / "soak")]
    options += ["--database", database]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED: every invariant held" in done.stdout
