"""A real aggregator's database with made-up history in it, and its dashboard served on loopback."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvicorn

from aggregator.access.signatures import Gatekeeper
from aggregator.access.tls import make_certificates
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.storage.tables import ATTEMPTS
from aggregator.web.app import create_app
from aggregator.web.dashboard.door import Viewer, viewer, watcher
from aggregator.web.service import Service
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, RoundKind
from world import World, make_world

PHASES = {
    "advertise": 0.4,
    "share": 0.6,
    "commit": 1500.0,
    "upload": 60.0,
    "agree": 0.5,
    "unmask": 0.8,
    "aggregate": 2.0,
}
NOISE = {
    "kind": "joint",
    "clip_norm": 1.0,
    "noise_multiplier": 5.0,
    "epsilon": 8.0,
    "evaluation_multiplier": 0.6,
    "honest_hospitals": 2,
}


def report(world: World, number: int, chance: random.Random, **changes: Any) -> AttemptReport:
    """One attempt as a real one would be told, some without a sum."""
    names, done = world.plan.names, number % 9 != 4
    figure = 0.95 - 0.35 * math.exp(-number / 6) + 0.01 * chance.random()
    there = names[: len(names) - (number % 5 == 3)]
    values: dict[str, Any] = {
        "round": number,
        "attempt": 1,
        "kind": RoundKind.TRAIN,
        "outcome": "done" if done else "failed",
        "reason": None if done else "below-threshold",
        "seconds": 1564.0,
        "phases": {phase: seconds * (0.7 + 0.6 * chance.random()) for phase, seconds in PHASES.items()},
        "advertised": names,
        "survivors": there if done else (),
        "phase_bytes": {
            "commit": (0, 28_000_000 * len(names)),
            "upload": (44_000_000 * len(names), 0),
            "share": (9000, 9000),
        },
    }
    if done:
        values |= {
            "update_norm": 2.2 * math.exp(-number / 8) + 0.2 + 0.05 * chance.random(),
            "epsilon": 0.9 * math.sqrt(number),
            "metric": figure,
            "figures": {"auroc": figure, "auroc_low": figure - 0.05, "auroc_high": min(1.0, figure + 0.03)},
        }
    return AttemptReport.model_validate(values | changes)


def add_rounds(world: World, rounds: int, *, first: int = 1) -> None:
    """Attempts as an aggregator writes them, with versions and the entries of the audit log."""
    chance = random.Random(1)
    for number in range(first, first + rounds):
        key = AttemptKey(world.plan.id, number, 1)
        world.store.plans.open_attempt(
            key, kind=RoundKind.TRAIN, model="a" * 64, now=time.time() - 3600 * (rounds - number)
        )
        for place, name in enumerate(world.plan.names):
            world.store.plans.add_event(key, place, "advertise", b"", actor=name)
        told, version = report(world, number, chance), None
        if told.done:
            newest = world.store.plans.newest_version(world.plan.id)
            assert newest is not None
            changes = {"number": newest.number + 1, "model": f"{number:064x}", "epsilon": told.epsilon}
            version = newest.model_copy(update=changes)
        world.store.plans.end_attempt(world.plan.id, told, version=version)


def pour_rounds(world: World, rounds: int) -> None:
    """So many attempts at once, past the audit log: a check of it would find that."""
    chance = random.Random(2)
    with world.store.transactions._database._engine.begin() as tx:
        for start in range(1, rounds + 1, 1000):
            rows = []
            for number in range(start, min(start + 1000, rounds + 1)):
                stored = report(world, number, chance).stored()
                where = {
                    "plan": world.plan.id,
                    "round": number,
                    "attempt": 1,
                    "kind": "train",
                    "model": "a" * 64,
                }
                outcome = "failed" if stored["reason"] else "done"
                rows.append({**where, "opened": 1.7e9 + 600.0 * number, "outcome": outcome, "report": stored})
            tx.execute(sa.insert(ATTEMPTS), rows)


@dataclass
class Served:
    """An aggregator whose pages answer."""

    world: World
    app: Any
    url: str


def made_app(world: World, who: Viewer) -> Any:
    """The real application over a world's store, and somebody who has signed in."""
    settings = Settings(world.folder, consortium="Chest consortium")
    world.admin.save(world.folder / "admin.key")
    make_certificates(world.folder / "tls", ("localhost",))
    app = create_app(settings)
    app.state.service = Service(world.store, world.coordinator, Gatekeeper(), settings)
    app.dependency_overrides |= {viewer: lambda: who, watcher: lambda: who}
    return app


@contextmanager
def served(world: World, who: Viewer | None = None) -> Iterator[Served]:
    """Its pages on a free port."""
    who = who or Viewer(name="ada", role=Role.ADMIN, shown="Ada Lovelace", way="link", session="1", ends=9e9)
    app = made_app(world, who)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="off", log_level="error", timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    yield Served(world, app, f"http://127.0.0.1:{listener.getsockname()[1]}")
    app.state.service.stop_waiting()
    server.should_exit = True
    thread.join(15)
    close(app)
    listener.close()


def close(app: Any) -> None:
    """Give back what a made application has begun."""
    app.state.board.close()
    app.state.checking.close()
    app.state.workers.shutdown()
    app.state.service.readiness.close()


def make(folder: Path, *, hospitals: int = 6, rounds: int = 12, noise: bool = True) -> World:
    """A study in the middle of its rounds."""
    changes: dict[str, Any] = {
        "training": {"rounds": max(20, min(rounds, 10_000)), "local_steps": 1, "learning_rate": 1.0}
    }
    if noise:
        changes["privacy"] = NOISE
    changes["cohort"] = {"min_hospitals": 3, "max_hospitals": max(10, hospitals)}
    world = make_world(folder, hospitals=hospitals, **changes)
    add_rounds(world, rounds)
    return world
