"""The dashboard over made-up values, served on loopback for as long as a test wants it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn

from aggregator.errors import NotFound
from aggregator.settings import Settings
from aggregator.storage.register import EnrolToken, Party, Role
from aggregator.watching.values import (
    Awaited,
    Cost,
    FigureSeen,
    HospitalSeen,
    Lane,
    PhaseSpan,
    Reached,
    RosterLine,
    RoundSeen,
    RoundsPage,
    StudyLine,
    StudySeen,
    Timeline,
    Traffic,
    WaitsFor,
)
from aggregator.watching.words import sentence
from aggregator.web.app import create_app
from aggregator.web.dashboard.door import Viewer, viewer, watcher
from made_measures import MadeMeasures
from medveil.rounds import Phase, RoundKind
from medveil.spoken import words_of

NOW = 1_796_000_000.0
HOSTILE = "</script><b onload=alert(1)>'\"&amp;{{ 7*7 }}" + "x" * 60
PLAN = bytes(range(32)).hex()
OTHER = bytes(range(1, 33)).hex()
TOWNS = ("lyon", "nagasaki", "guangzhou-b", "porto", "toronto-east", "utrecht")
HASH = bytes(reversed(range(32))).hex()


def names(count: int) -> tuple[str, ...]:
    """So many hospitals; every third name is as long as one may be."""
    more = [
        f"hospital-{k}" if k % 3 else f"hospital-of-the-sisters-of-mercy-at-the-old-{k:03d}"[:48]
        for k in range(44)
    ]
    return (*TOWNS, *more)[:count]


def study(
    plan: str = PLAN,
    name: str = "pneumothorax-on-films",
    *,
    hospitals: int = 6,
    now: float = NOW,
    **changes: Any,
) -> StudySeen:
    """A study in its seventh round of thirteen."""
    those = names(hospitals)
    waits = changes.pop("waits_for", None) or waiting(hospitals)
    values: dict[str, Any] = {
        "plan": plan,
        "name": name,
        "state": "running",
        "round": 7,
        "rounds": 13,
        "attempts": 6,
        "created": now - 86_400 * 3,
        "words": words_of(bytes.fromhex(plan)),
        "description": "Tells a collapsed lung on films of the chest, for hospitals that read few at night.",
        "task": "classification",
        "roster": tuple(
            RosterLine(
                index=k + 1,
                hospital=one,
                key="41f6 9a17 c3d4 5e0b 07be d2f8 9c41 1a2b",
                stand="refused" if one == "utrecht" else "approved",
                reason="its own privacy cap is reached" if one == "utrecht" else "",
                in_reach=one not in ("toronto-east", "utrecht"),
                last_heard=None
                if one == "utrecht"
                else now - (1600 if one == "toronto-east" else 12 * (k + 1)),
            )
            for k, one in enumerate(those)
        ),
        "approvals": max(0, hospitals - 1),
        "approvals_needed": min(3, hospitals),
        "rounds_done": 6,
        "rounds_left": 7,
        "version": 6,
        "model": HASH,
        "cost": Cost(
            privacy="joint",
            delta=1e-5,
            joint=3.41,
            joint_at_end=5.62,
            local=9.8,
            local_at_end=17.3,
            seconds_per_round=2520.0,
            seconds=15_120.0,
            seconds_left=17_640.0,
            traffic=tuple(
                Traffic(hospital=one, bytes_up=44.8e6, bytes_down=28.1e6, rounds=6) for one in those
            ),
            bytes=2.6e9,
            bytes_left=3.1e9,
        ),
        "figure": FigureSeen(
            name="AUROC", round=6, value=0.96, low=0.905, high=0.998, words="0.905 – 0.998 (95 %)"
        ),
        "waits_for": waits,
        "sentence": sentence(waits),
        "as_of": now,
    }
    return StudySeen(**(values | changes))


def line_of(one: StudySeen) -> StudyLine:
    """The same in a list."""
    return StudyLine(**{name: getattr(one, name) for name in StudyLine.model_fields})


def waiting(hospitals: int = 6, **changes: Any) -> WaitsFor:
    """What :func:`timeline` waits for: those who train and are in reach."""
    line = timeline(hospitals)
    awaited = tuple(
        Awaited(hospital=lane.hospital, heard_s=NOW - (lane.last_heard or NOW), in_reach=True)
        for lane in line.lanes
        if lane.stand == "asked" and lane.in_reach
    )
    values: dict[str, Any] = {
        "why": "hospitals",
        "round": 7,
        "rounds": 13,
        "attempt": 1,
        "kind": RoundKind.TRAIN,
        "phase": Phase.COMMIT,
        "awaited": awaited,
        "left_s": 3300.0,
        "answered": sum(lane.stand == "answered" for lane in line.lanes),
        "invited": sum(lane.stand != "absent" for lane in line.lanes),
        "need": 3,
    }
    return WaitsFor(**(values | changes))


def timeline(hospitals: int = 6, now: float = NOW, **changes: Any) -> Timeline:
    """The seventh round 38 minutes after its beginning: everything that a hospital can be."""
    opened = now - 2280.0
    lanes = tuple(_lane(k, one, opened, now) for k, one in enumerate(names(hospitals)))
    there = sum(lane.stand != "absent" for lane in lanes)
    ready = sum(lane.stand == "answered" for lane in lanes)
    spans = tuple(
        PhaseSpan(
            phase=phase,
            began=opened + began,
            ended=None if ended is None else opened + ended,
            ends_by=now + 3300 if ended is None else opened + began + 60,
            answered=answered,
            invited=invited,
            need=3,
        )
        for phase, began, ended, answered, invited in (
            (Phase.ADVERTISE, 0, 20, there, hospitals),
            (Phase.SHARE, 20, 40, there, there),
            (Phase.COMMIT, 40, None, ready, there),
        )
    )
    values: dict[str, Any] = {
        "plan": PLAN,
        "study": "pneumothorax-on-films",
        "round": 7,
        "rounds": 13,
        "attempt": 1,
        "kind": RoundKind.TRAIN,
        "opened": opened,
        "ended": None,
        "outcome": "open",
        "quorum": 3,
        "phases": spans if hospitals else spans[:1],
        "lanes": lanes,
        "as_of": now,
        "live_as_of": now,
    }
    return Timeline(**(values | changes))


def _lane(k: int, name: str, opened: float, now: float) -> Lane:
    steps = [("invited", 0.0), ("keys", 8.0 + k), ("training", 30.0 + k)]
    kind = k % 6
    if kind in (0, 1):
        steps.append(("ready", 900.0 + 900 * kind))
        return _made_lane(name, "answered", steps, opened, now - 5)
    if kind == 5:
        return Lane(
            hospital=name,
            stand="absent",
            reached=(Reached(step="invited", at=opened),),
            dropped_in=Phase.ADVERTISE,
        )
    if kind == 4:
        return _made_lane(name, "asked", steps, opened, now - 1600, in_reach=False)
    return _made_lane(name, "asked", steps, opened, now - 12 * (k + 1), in_reach=True)


def _made_lane(name: str, stand: Any, steps: list[Any], opened: float, heard: float, **changes: Any) -> Lane:
    reached = tuple(Reached(step=step, at=opened + after) for step, after in steps)
    return Lane(
        hospital=name, stand=stand, reached=reached, last_heard=heard, **({"in_reach": True} | changes)
    )


def over(hospitals: int = 6, now: float = NOW) -> Timeline:
    """A round that has its sum."""
    opened, moments = now - 4000.0, (0, 20, 40, 1900, 1930, 1960, 1985)
    order = (Phase.ADVERTISE, Phase.SHARE, Phase.COMMIT, Phase.UPLOAD, Phase.AGREE, Phase.UNMASK)
    spans = tuple(
        PhaseSpan(
            phase=phase,
            began=opened + moments[k],
            ended=opened + moments[k + 1],
            ends_by=opened + moments[k] + 600,
            answered=hospitals,
            invited=hospitals,
            need=min(3, hospitals),
        )
        for k, phase in enumerate(order)
    )
    steps = [
        ("invited", 0),
        ("keys", 8),
        ("training", 30),
        ("ready", 1200),
        ("upload", 1915),
        ("agreed", 1950),
        ("shares", 1980),
    ]
    lanes = []
    for k, one in enumerate(names(hospitals)):
        mine = [(step, at + (k * 70 if step == "ready" else 0)) for step, at in steps]
        lanes.append(_made_lane(one, "in-the-sum", mine, opened, now - 20))
    return timeline(
        hospitals,
        now,
        round=6,
        opened=opened,
        ended=opened + 1990,
        outcome="done",
        phases=spans,
        lanes=tuple(lanes),
    )


def hospital(name: str, k: int, now: float = NOW) -> HospitalSeen:
    """An enrolled hospital."""
    return HospitalSeen(
        hospital=name,
        key="41f6 9a17 c3d4 5e0b 07be d2f8 9c41 1a2b",
        enrolled=now - 86_400 * 40,
        revoked=False,
        last_heard=None if k == 5 else now - (1600 if k == 4 else 12 * (k + 1)),
        in_reach=k not in (4, 5),
        version="0.4.0",
        clock_s=-7.3 if k == 3 else 0.1 * k,
        certificate_until=now + 86_400 * 300,
        studies=(PLAN,),
        approved=(PLAN,),
        taken=6 - (k == 4),
        missed=int(k == 4),
        as_of=now,
    )


def seen_round(number: int, now: float = NOW, hospitals: int = 6) -> RoundSeen:
    """A round that has ended."""
    those = names(hospitals)
    return RoundSeen(
        round=number,
        attempt=1,
        kind=RoundKind.TRAIN,
        outcome="failed" if number % 7 == 3 else "done",
        reason="below-threshold" if number % 7 == 3 else "",
        opened=now - 3600 * (12 - number % 12),
        seconds=2520.0,
        in_the_sum=() if number % 7 == 3 else those[:5],
        missing=those[5:],
        epsilon=0.38 * number,
        model=HASH,
        bytes_up=224_000_000,
        bytes_down=140_000_000,
    )


@dataclass
class MadeWatching:
    """Stands where an aggregator would be looked at; every field may be changed meanwhile."""

    hospitals_: tuple[HospitalSeen, ...]
    studies_: tuple[StudySeen, ...]
    timeline_: Timeline
    ended: int = 6
    """Attempts that have ended."""
    hostile: str = ""
    """What others have written wherever they may write."""
    asked: list[str] = field(default_factory=list)

    def studies(self) -> tuple[StudyLine, ...]:
        """As a test has set it; so the others."""
        self.asked.append("studies")
        return tuple(line_of(one) for one in self.studies_)

    def study(self, plan: str) -> StudySeen:
        self.asked.append("study")
        found = [one for one in self.studies_ if one.plan == plan]
        if not found:
            raise NotFound()
        return found[0]

    def waits_for(self, plan: str) -> WaitsFor:
        return self.study(plan).waits_for

    def timeline(self, plan: str, number: int = 0, attempt: int = 0) -> Timeline:
        self.asked.append("timeline")
        self.study(plan)
        if number > 7 or attempt > 1:
            raise NotFound()
        return self.timeline_ if number in (0, self.timeline_.round) else over(len(self.timeline_.lanes))

    def rounds(self, plan: str, *, limit: int = 50, before: tuple[int, int] | None = None) -> RoundsPage:
        self.study(plan)
        newest = self.ended if before is None else before[0] - 1
        last = max(newest - limit, 0)
        found = tuple(seen_round(number) for number in range(newest, last, -1))
        return RoundsPage(rounds=found, before=(last + 1, 1) if last else None)

    def hospitals(self) -> tuple[HospitalSeen, ...]:
        return self.hospitals_


def watching(hospitals: int = 6, studies: int = 1, now: float = NOW) -> MadeWatching:
    """An aggregator with so much in it."""
    made = [study(hospitals=hospitals, now=now)] if studies else []
    made += [
        study(
            bytes([k + 2] * 32).hex(),
            f"study-{k + 2}",
            hospitals=hospitals,
            now=now,
            state="finished",
            waits_for=WaitsFor(why="finished", rounds=13),
        )
        for k in range(studies - 1)
    ]
    those = tuple(hospital(one, k, now) for k, one in enumerate(names(hospitals)))
    return MadeWatching(those, tuple(made), timeline(hospitals, now))


class MadeStore:
    """The few things that pages ask the store itself for."""

    def __init__(self, watching: MadeWatching) -> None:
        self.edition = (1,)
        self.log = SimpleNamespace(edition=lambda: self.edition, edition_asked=lambda: self.edition)
        self.register = SimpleNamespace(
            enrolled_keys=lambda: [
                Party(one.hospital, "hospital", one.hospital.encode()) for one in watching.hospitals_
            ],
            enrol_tokens=lambda: [EnrolToken("0" * 64, "osaka", "hospital", NOW + 86_400, False)],
            readable=lambda name: {PLAN},
        )

    def wrote(self) -> None:
        """Somebody has written to the database."""
        self.edition = (self.edition[0] + 1,)


@dataclass
class ServedBoard:
    """The pages as they answer."""

    app: Any
    watching: MadeWatching
    url: str
    who: Viewer
    server: uvicorn.Server

    def wrote(self) -> None:
        """Somebody has written to the database."""
        self.app.state.service.store.wrote()


ADMIN = Viewer(name="admin", role=Role.ADMIN, shown="Ada Lovelace", way="link", session="1", ends=9e9)


def made_app(folder: Path, made: MadeWatching, who: Viewer = ADMIN) -> Any:
    """The real application, with made values in place of an aggregator and somebody who has signed in."""
    app = create_app(Settings(folder, consortium="Chest consortium"))

    async def readable(party: Party) -> set[str]:
        return {PLAN}

    async def session(request: Any, *, acts: bool = True) -> Any:
        return SimpleNamespace(role=who.role, name=who.name, shown="", way="", id="1", ends=9e9)

    app.state.service = SimpleNamespace(
        visitors=SimpleNamespace(session=session),
        watching=made,
        store=MadeStore(made),
        callers=SimpleNamespace(readable=readable),
        stopping=False,
        stop_waiting=lambda: setattr(app.state.service, "stopping", True),
    )
    measures = MadeMeasures(made)
    app.state.board._measures = app.state.service.store, measures
    app.dependency_overrides |= {viewer: lambda: who, watcher: lambda: who}
    return app


@contextmanager
def served(folder: Path, made: MadeWatching, who: Viewer = ADMIN, port: int = 0) -> Iterator[ServedBoard]:
    """The pages on a free port, in a thread of their own; without the life of an aggregator behind them."""
    app = made_app(folder, made, who)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(app, lifespan="off", log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    app.state.board.painter.warm()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield ServedBoard(app, made, f"http://127.0.0.1:{listener.getsockname()[1]}", who, server)
    app.state.service.stopping = True
    server.should_exit = True
    thread.join(15)
    app.state.board.close()
    listener.close()
