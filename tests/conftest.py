"""What holds for every test: nothing depends on the machine's speed, or on the tests before it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: more threads are in the way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import argon2
import pytest
import structlog
from hypothesis import HealthCheck, settings

from aggregator.access import tokens
from medveil.lean import expect_monai
from spent import Spent
from tries import ALL

MEMORY = Path("/dev/shm")


def _roomy() -> bool:
    """Whether tests may keep their files in memory: most are synced, and a disk takes its time."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize >= 2**31 and not found.f_flag & getattr(os, "ST_NOEXEC", 0)


if _roomy():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
expect_monai()  # as our commands do
gc.disable()  # until all tests are imported
EVERYWHERE: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
    "print_blob": True,
}
settings.register_profile("fast", max_examples=25, **EVERYWHERE)
settings.register_profile(ALL, max_examples=100, **EVERYWHERE)
settings.load_profile("fast")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Spent())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole studies first: else one process plays the longest while the other has nothing left to do."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


def pytest_collection_finish() -> None:
    """Millions of objects of libraries and tests stay to the end: nobody looks through them for garbage."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)  # at Python's own pace one second in twenty goes into looking for it
    gc.enable()


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A command sets the log up for its whole process; the next test finds it as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session", autouse=True)
def _quick_hashes() -> None:
    """Tokens are hashed as quickly as argon2 can; what the product spends on it has a test of its own."""
    tokens.HASHER = argon2.PasswordHasher(1, 8, 1)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for a module of tests; where there is none they are skipped by name."""
    from browser import browser

    with browser() as started:
        yield started
