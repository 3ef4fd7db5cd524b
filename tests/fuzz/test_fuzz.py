"""Both doors hold whatever comes: every kept input, thousands of changed ones, and minutes of Atheris."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzed import DOORS

HERE = Path(__file__).resolve().parent
MINUTES = float(os.environ.get("MEDVEIL_FUZZ_MINUTES", "10"))
FRESH = ["sh", "-c", '"$@"; exit $?', "sh"]
"""A process begins with the peak memory of who started it, and a test process may have used gigabytes."""
INSTALL = "pip install 'atheris>=3.0'"
CHANGED = 3_000
doors = pytest.mark.parametrize("door", DOORS)


def kept(door: str) -> list[bytes]:
    return [p.read_bytes() for p in sorted((HERE / "corpus" / door).iterdir())]


def changed(data: bytes, other: bytes, random_: random.Random) -> bytes:
    """A few of what a fuzzer does: bits, bytes, pieces cut, doubled, moved from another input."""
    pieces = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at, length = random_.randrange(len(pieces) + 1), random_.randint(1, 16)
        kind = random_.randrange(5)
        if kind == 0 and at < len(pieces):
            pieces[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            pieces[at : at + 1] = random_.randbytes(1)
        elif kind == 2:
            del pieces[at : at + length]
        elif kind == 3:
            pieces[at:at] = pieces[at : at + length]
        else:
            start = random_.randrange(len(other) + 1)
            pieces[at:at] = other[start : start + length]
    return data[:1] + bytes(pieces[1:])


@doors
def test_every_kept_input_is_taken_or_refused_by_name(door: str) -> None:
    inputs = kept(door)
    assert len(inputs) > 60
    for data in inputs:
        DOORS[door](data)


@doors
def test_thousands_of_changed_inputs_are_taken_or_refused_by_name(door: str) -> None:
    inputs, random_ = kept(door), random.Random(door)
    kinds = sorted({data[:1] for data in inputs})
    for number in range(CHANGED):  # each kind as often as the others, however many of it are kept
        of_kind = [data for data in inputs if data[:1] == kinds[number % len(kinds)]]
        DOORS[door](changed(random_.choice(of_kind), random_.choice(inputs), random_))


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 600)
@doors
def test_minutes_of_fuzzing_find_nothing(door: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        assert not os.environ.get("MEDVEIL_SKIP_NOTHING"), INSTALL
        pytest.skip(f"Atheris is not installed: {INSTALL}")
    done = subprocess.run(
        [*FRESH, sys.executable, HERE / "run.py", door, "--minutes", str(MINUTES), "--found", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    marks = ("crash-", "timeout-", "oom-", "slow-")
    broken = [p.name for p in tmp_path.iterdir() if p.name.startswith(marks)]
    assert done.returncode == 0, f"{broken}: {done.stderr[-4000:]}"
