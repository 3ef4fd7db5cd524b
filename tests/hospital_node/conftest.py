"""Fixtures of the node's room."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from world import World, make_world

MEMORY = Path("/dev/shm")


@pytest.fixture
def build() -> Iterator[Callable[..., World]]:
    """Makes worlds in folders of their own, in memory where the machine has such a place."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        worlds: list[World] = []

        def make(**options: Any) -> World:
            worlds.append(make_world(Path(name) / f"world-{len(worlds)}", **options))
            return worlds[-1]

        yield make
        for world in worlds:
            world.store.close()
