"""What a wheel holds: the compiled passes where there is a compiler, all of the rest anywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from compiled import compiled

ROOT = Path(__file__).resolve().parents[2]
PLACE = "privacy/secagg/_kernel.so"
MASKING = """
import sys
sys.path[:0] = sys.argv[1:]
from privacy.secagg.kernel import FILE, LEVELS, kernel
assert str(FILE).startswith(sys.argv[1]), FILE
print("NumPy" if kernel() is None else LEVELS[kernel().level])
"""
pytestmark = pytest.mark.slow


def _build(to: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(to)]
    told = os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=False)


def _wheel(to: Path, **environment: str) -> Path:
    done = _build(to, **environment)
    assert done.returncode == 0, done.stderr
    (wheel,) = to.glob("*.whl")
    return wheel


def _passes(wheel: Path, to: Path) -> str:
    """What does the work in this wheel's own code."""
    zipfile.ZipFile(wheel).extractall(to)
    command = [sys.executable, "-P", "-c", MASKING, str(to)]
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="compiled for Linux only")
def test_with_a_compiler_the_wheel_is_for_this_kind_of_machine_and_the_same_each_time(tmp_path: Path) -> None:
    compiled(tmp_path)  # or skipped
    one, two = (_wheel(tmp_path / name) for name in "ab")
    assert one.name == two.name
    assert "-py3-none-linux_" in one.name
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(two.read_bytes()).digest()
    assert PLACE in zipfile.ZipFile(one).namelist()
    assert _passes(one, tmp_path / "installed") != "NumPy"


@pytest.mark.parametrize("without", [{"CC": "no-such-compiler"}, {"MEDVEIL_KERNEL": "off"}])
def test_without_one_the_wheel_is_pure_and_masks_by_numpy(tmp_path: Path, without: dict[str, str]) -> None:
    wheel = _wheel(tmp_path / "wheel", **without)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert PLACE not in zipfile.ZipFile(wheel).namelist()
    assert _passes(wheel, tmp_path / "installed") == "NumPy"


def test_whoever_insists_is_told_that_there_is_no_compiler(tmp_path: Path) -> None:
    done = _build(tmp_path / "wheel", CC="no-such-compiler", MEDVEIL_KERNEL="on")
    assert done.returncode != 0
    assert "no C compiler 'no-such-compiler'" in done.stderr + done.stdout
    assert not list(tmp_path.glob("wheel/*.whl"))
