"""What a process of ours has freed is there for its next vector, whichever thread wants it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = 1024
"""Of one copy."""
COPIES = f"""
import resource, threading
from medveil.freed import BETWEEN_ROUNDS, keep_freed
assert keep_freed(BETWEEN_ROUNDS)
vector = bytes({PAGES} * 4096)
def fetched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        one = threading.Thread(target=bytearray, args=(vector,))
        one.start()
        one.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fetched()
print(fetched())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_second_copy_of_a_vector_fetches_no_memory_from_the_system_on_any_thread() -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", COPIES], capture_output=True, text=True, check=True, env=environment
    )
    assert int(done.stdout) < PAGES / 2  # without the setting each of the four fetches all its pages
