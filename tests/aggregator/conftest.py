"""Fixtures of the aggregator's room."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import postgres
from world import World, fresh_file, make_world

MEMORY = Path("/dev/shm")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A fresh folder, in memory where the machine has such a place: every write is synced."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def build(folder: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds in folders of their own and gives their files back at the end."""
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(make_world(folder / f"world-{len(worlds)}", **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    """A PostgreSQL server for the whole run; skipped by name where PostgreSQL is not installed."""
    if postgres.programs() is None:
        assert not os.environ.get("MEDVEIL_SKIP_NOTHING"), postgres.INSTALL
        pytest.skip(f"PostgreSQL is not installed: {postgres.INSTALL}")
    server = postgres.Cluster()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, folder: Path) -> Path | str:
    """A database of either kind, as the store takes it, with its tables and no row."""
    if request.param == "sqlite":
        return fresh_file(folder)
    server: postgres.Cluster = request.getfixturevalue("cluster")
    return server.url(server.database())
