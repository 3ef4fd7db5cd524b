"""The compiled passes over a vector, made from their source for a test."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest

from privacy import encoding
from privacy.secagg import checkword, masks
from privacy.secagg.kernel import Kernel

ROOT = Path(__file__).resolve().parents[2]
MISSING = "the compiled kernel needs a C compiler: apt-get install gcc libc6-dev"


def build_script() -> ModuleType:
    """``deploy/release/build_hook.py``, which is no package."""
    spec = importlib.util.spec_from_file_location("build_hook", ROOT / "deploy" / "release" / "build_hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled(folder: Path) -> Path:
    """The file, or the test is skipped by name."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        assert not os.environ.get("MEDVEIL_SKIP_NOTHING"), MISSING
        pytest.skip(MISSING)
    file = folder / "_kernel.so"
    build_script().compile_kernel(file)
    return file


@contextmanager
def using(kernel: Kernel | None) -> Iterator[None]:
    """Inside, vectors go through this kernel; through NumPy alone if it is None."""
    with (
        patch.object(encoding, "kernel", lambda: kernel),
        patch.object(checkword, "kernel", lambda: kernel),
        patch.object(masks, "kernel", lambda: kernel),
    ):
        yield
