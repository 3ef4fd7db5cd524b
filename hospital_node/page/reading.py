"""The node's folder → what the panels show. Files are read again when they have changed, and not before.

A page that lies open must cost next to nothing: a look is a handful of ``stat`` calls. It reads beside a
running node and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from hospital_node import checked, evidence, live
from hospital_node.consent import consent
from hospital_node.orders import EVERY_PLAN
from hospital_node.pacs import settings as pacs
from hospital_node.pacs.problems import NoPacs
from hospital_node.page import leaving
from hospital_node.page.asking import Asking
from hospital_node.page.events import Events
from hospital_node.page.examining import examine
from hospital_node.page.health import findings
from hospital_node.page.machine import Machine, gpu
from hospital_node.page.values import (
    BigState,
    Call,
    Data,
    Examined,
    Going,
    HealthShown,
    Kind,
    LedgerShown,
    Panels,
    PlanNow,
    Requests,
    Spent,
    Training,
    Trouble,
)
from hospital_node.settings import Node
from hospital_node.spending import spending
from medveil import look
from medveil.errors import Error, SystemRefused

T = TypeVar("T")
HEALTH_S = 60.0
"""Between two looks at disk, certificate and the like."""
MACHINE_S = 5.0
"""Between two looks at how busy the machine is, while something is trained."""


class Cached(Generic[T]):
    """A value that is made again when one of its files has changed, or after some time."""

    def __init__(
        self,
        make: Callable[[], T],
        files: Callable[[], Iterable[Path]] = tuple,
        every_s: float = float("inf"),
    ) -> None:
        self._make, self._files, self._every_s = make, files, every_s
        self._stamp: tuple[object, ...] | None = None
        self._at = 0.0
        self._value: T | Trouble

    def __call__(self, now: float) -> T | Trouble:
        """The value, or why there is none."""
        stamp = tuple(_stamp(file) for file in self._files())
        if stamp != self._stamp or not 0 <= now - self._at < self._every_s:
            try:
                self._value = self._make()
            except (Error, OSError) as error:
                self._value = Trouble.of(error if isinstance(error, Error) else SystemRefused(error))
            self._stamp, self._at = stamp, now
        return self._value

    def forget(self) -> None:
        """Make it again at the next look."""
        self._stamp = None


def _stamp(file: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = file.stat()
        return found.st_mtime_ns, found.st_size
    return None


class Reader:
    """Reads one node's folder. One look at a time; a thread's work, since a change may take long to read."""

    def __init__(
        self, node: Node, asking: Asking, events: Events, clock: Callable[[], float] = time.time
    ) -> None:
        self._node, self._asking, self._events, self._clock = node, asking, events, clock
        self._machine, self._lock = Machine(), Lock()
        self._examined: tuple[tuple[Examined, ...], float] = ((), 0.0)
        journal = (node.journal,)
        self._live = Cached(lambda: live.read(node), lambda: (live.path_of(node),), every_s=5.0)
        self._alarms = Cached(self._read_alarms, lambda: (*journal, node.models))
        self._paused = Cached(self._read_paused, lambda: journal)
        self._ledger = Cached(self._read_ledger, lambda: (*journal, node.ledger))
        self._data = Cached(
            self._read_data,
            lambda: (checked.path_of(node), node.cache, node.folder / pacs.FILE),
            every_s=HEALTH_S,
        )
        self._leaves = Cached(lambda: leaving.newest(node), lambda: (leaving.path_of(node),))
        self._health = Cached(self._read_health, lambda: (events.path, *journal), every_s=HEALTH_S)
        self._load = Cached(self._read_load, every_s=MACHINE_S)

    def panels(self) -> Panels:
        """All seven, as they are now."""
        with self._lock:
            now = self._clock()
            told = self._live(now)
            running = told if isinstance(told, live.Live) and told.running else None
            plans = tuple(_plan_now(one) for one in running.plans) if running is not None else ()
            going = next((one for one in plans if one.going is not None), None)
            return Panels(
                name=self._node.settings.name,
                state=self._state(told if isinstance(told, live.Live) else None, plans, now),
                leaves=self._leaves(now),
                data=self._data(now),
                requests=self._asking.shown,
                training=self._training(going, now),
                ledger=self._ledger(now),
                health=_with_log(self._health(now), told),
            )

    def examine(self) -> None:
        """Have everything looked at, as ``medveil node doctor`` does; takes seconds."""
        found = tuple(Examined(one.name, one.found, one.remedy) for one in examine(self._node.folder))
        self._examined = found, self._clock()
        self._health.forget()

    def _state(self, told: live.Live | None, plans: tuple[PlanNow, ...], now: float) -> BigState:
        running = told is not None and told.running
        calls, paused = tuple(self._calls(told, now)), self._paused(now) is True
        kind: Kind = "waiting"
        if not running:
            kind = "off"
        elif paused:
            kind = "paused"
        elif any(one.going is not None or one.stand == "running" for one in plans):
            kind = "running"
        elif any(one.kind in ("alarm", "audit", "silent") for one in calls):
            kind = "needs"
        if told is None:
            return BigState(kind, plans, calls, paused=paused)
        return BigState(kind, plans, calls, told.connected and running, told.since, paused, told.updated)

    def _calls(self, told: live.Live | None, now: float) -> Iterable[Call]:
        requests: Requests = self._asking.shown
        if told is None or not told.running:
            yield Call("off")
        elif told.silent:
            yield Call("silent", place="health")
        found = self._alarms(now)
        if isinstance(found, Trouble):
            yield Call("problem", place="health")
        else:
            yield from (Call(kind, count, "health") for kind, count in found.items() if count)
        if requests.waiting:
            yield Call("request", len(requests.waiting), "requests")
        if requests.outdated:
            yield Call("outdated", len(requests.outdated), "requests")

    def _read_paused(self) -> bool:
        """The operator's word, which stands whether a node runs or not."""
        return any(one.kind == "pause" and one.plan == EVERY_PLAN for one in consent(self._node).holds)

    def _read_alarms(self) -> dict[str, int]:
        models = sum(one.alarm is not None for one in evidence.own_models(self._node))
        return {"alarm": models, "audit": int(evidence.seen_log(self._node).alarm is not None)}

    def _read_ledger(self) -> LedgerShown:
        found = spending(self._node)
        rows = tuple(
            Spent(one.study, one.plan, one.split, one.epsilon, one.epsilon_of_all) for one in found.promises
        )
        return LedgerShown(
            rows, found.most.spent, found.most.promised, found.cap, found.delta, max(0.0, found.room)
        )

    def _read_data(self) -> Data:
        from medveil_imaging.cache import cache_size

        source, place = "folder", str(self._node.settings.data)
        with suppress(NoPacs):
            source, place = "pacs", pacs.load(self._node.folder).address
        return Data(source, place, checked.looks(self._node), cache_size(self._node.cache))

    def _read_health(self) -> HealthShown:
        newest = tuple((e.at, e.event, e.route, e.code) for e in reversed(self._events.newest))
        alarms = self._alarms(self._clock())
        found = findings(self._node, self._live(self._clock()), alarms, self._events.refused)
        return HealthShown(tuple(found), look.version(), *self._examined, newest[:10])

    def _training(self, going: PlanNow | None, now: float) -> Training | Trouble:
        if going is None:
            return Training()
        load = self._load(now)
        if isinstance(load, Trouble):
            return load
        share, (used, whole), card = load
        return Training(going, share, used, whole, card, self._node.settings.policy.hours or "")

    def _read_load(self) -> tuple[float | None, tuple[int, int], tuple[str, float, int, int] | None]:
        return self._machine.cpu_share(), self._machine.memory(), gpu()


def _with_log(health: HealthShown | Trouble, told: live.Live | Trouble | None) -> HealthShown | Trouble:
    if isinstance(health, Trouble) or not isinstance(told, live.Live):
        return health
    return replace(health, log=tuple((one.at, one.words) for one in reversed(told.log)))


def _plan_now(one: live.PlanLive) -> PlanNow:
    going = one.going
    return PlanNow(
        study=one.study,
        plan=one.plan,
        stand=one.stand,
        round=one.round,
        rounds=one.rounds,
        approvals=one.approvals,
        approvals_needed=one.approvals_needed,
        waits_for=one.waits_for,
        code=one.code,
        device=one.device,
        going=None if going is None else Going(going.part, going.done, going.total, going.left_s),
        leaving=one.leaving,
    )
