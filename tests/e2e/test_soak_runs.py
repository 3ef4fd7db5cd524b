"""The long run with kills itself runs: one short piece of it holds every invariant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "soak" / "soak.py"


@pytest.mark.slow
def test_a_short_soak_passes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    options = ["--minutes", "0.5", "--seed", "1", "--kill-every", "8", "--keep", str(tmp_path / "soak")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED: every invariant held" in done.stdout
