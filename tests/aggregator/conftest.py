"""Fixtures of the aggregator's room."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from world import World, make_world

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
