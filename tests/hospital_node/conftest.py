"""Fixtures of the node's room."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chain import Chain
from follower import Hospital
from hospital_node.journal import Journal
from hospital_node.settings import Node, NodeSettings
from medveil_imaging.sources.workers import workers
from world import World, make_world

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session", autouse=True)
def _readers_stay() -> None:
    """A node ends the processes that open its images when it has read them; to start them takes a second."""
    workers().rest = lambda: None  # type: ignore[method-assign]


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


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """The folder of a hospital that has asked for nothing yet."""
    made = Node(
        tmp_path / "node",
        NodeSettings(name="st-marys", aggregator="https://here", data=Path("/nowhere"), dataset="films"),
    )
    made.save()
    return made


@pytest.fixture
def journal(node: Node) -> Iterator[Journal]:
    """Its journal, open."""
    opened = Journal(node.journal)
    yield opened
    opened.close()


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Callable[..., Hospital]]:
    """Makes hospitals that each follow a chain of versions."""
    made: list[Hospital] = []

    def make(chain: Chain, index: int = 1) -> Hospital:
        made.append(Hospital(chain, tmp_path / f"node-{len(made)}", index))
        return made[-1]

    yield make
    for one in made:
        one.journal.close()
