"""Seeded sequences of operations against a real coordinator, on a clock that only a sequence moves.

A sequence is a number of hospitals and a list of operations, drawn from a seed; nothing else decides what
is done in it. It is played at the coordinator, or through the whole application. Every hospital contributes
its own unit vector, so the published mean tells who was counted how often.
"""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hospital_node.line import AggregatorProblem
from medveil.errors import RemoteProtocolError
from medveil.identity import FRESHNESS_S, Identity
from medveil.messages import Work
from medveil.tensors import from_safetensors
from oracle import OpenedSum, violations
from privacy.secagg.messages import Shares, Unmask
from simulated_lines import WRONG_CLOCK, Straight, ThroughTheApp
from world import SPEC, START, Clock, Site, World, make_world, unit

MEMORY = Path("/dev/shm")
WEIGHTS = {
    "act": 46,  # one poll and one answer
    "lose": 5,  # the same, but the aggregator's acknowledgement is lost: the same bytes come again
    "tick": 20,
    "sleep": 2,
    "wake": 4,
    "crash": 1,  # the node's keys are gone: it sits the attempt out and says so
    "hang": 1,  # it polls on, but says nothing more in this attempt
    "repeat": 5,  # an old message again
    "garble": 3,  # an old message with one bit changed
    "foreign": 2,  # an old message of somebody else
    "stale": 2,  # an old message for the attempt that is open now
    "restart": 2,  # the aggregator, with all its memory gone
    "wait": 3,
}
WEIGHTS_OF_THE_APP = WEIGHTS | {
    "replay": 4,  # a request that was used before, bit for bit
    "cut": 3,  # an old message again, of which a part arrives
    "forge": 4,  # an old message again, by somebody else or changed on its way
    "skew": 3,  # the hospital's clock is set, right or wrong
}
SKEWS = (0.0, 0.0, 0.6 * FRESHNESS_S, -0.6 * FRESHNESS_S, 1.5 * FRESHNESS_S, -1.5 * FRESHNESS_S)
PAUSES = (1.0, 5.0, 25.0, 130.0, 700.0)


@dataclass(frozen=True)
class Op:
    """One operation. ``which`` chooses among what there is at that moment."""

    name: str
    hospital: int
    which: int


@dataclass(frozen=True)
class Sequence:
    """What a seed stands for."""

    hospitals: int
    operations: tuple[Op, ...]

    @classmethod
    def drawn(cls, seed: int, *, app: bool = False) -> Sequence:
        """The sequence of a seed, the same on every machine; others are drawn for the application."""
        draw, weights = random.Random(seed), WEIGHTS_OF_THE_APP if app else WEIGHTS
        hospitals = draw.choice([3, 3, 4, 5])
        names = draw.choices(list(weights), list(weights.values()), k=draw.randrange(10, 120))
        ops = (Op(name, draw.randrange(1, hospitals + 1), draw.randrange(2**20)) for name in names)
        return cls(hospitals, tuple(ops))


@dataclass
class SimulatedSite(Site):
    """A hospital that may sleep, crash, and repeat what was not acknowledged."""

    line: Straight = field(kw_only=True)
    awake: bool = True
    unacknowledged: bool = False
    hung: tuple[int, int] = (0, 0)

    @property
    def opened(self) -> tuple[int, int]:
        """The open attempt; zeros without one."""
        attempt = self.world.coordinator.runs._runs[self.world.plan.id].attempt
        return (0, 0) if attempt is None else (attempt.key.round, attempt.key.attempt)

    def act(self) -> bool:
        """One poll and one answer; a repeat first, if the last one was not acknowledged."""
        try:
            return self.awake and self._act()
        except AggregatorProblem as problem:
            if problem.code not in WRONG_CLOCK:
                raise
            return False  # its clock is wrong: it tries again

    def _act(self) -> bool:
        if self.hung != (0, 0) and self.hung == self.opened:
            self.poll()
            return False
        if self.unacknowledged:
            number, attempt, kind, body = self.sent[-1]
            if self.opened == (number, attempt):
                self.line.message(self.identity, number, attempt, kind, body)
            self.unacknowledged = False
            return True
        moved = super().act()
        if self.missed:
            self.line.work(self.identity, sitting_out=f"{self.key[0]}.{self.key[1]}")
        return moved

    def poll(self) -> Work:
        return self.line.work(self.identity)

    def send(self, kind: str, body: bytes) -> None:
        self.sent.append((*self.key, kind, body))
        self.line.message(self.identity, *self.key, kind, body)

    def send_segment(self, number: int, data: bytes) -> None:
        self.line.segment(self.identity, *self.key, number, data)


@functools.cache
def _template(hospitals: int) -> tuple[World, dict[Path, bytes]]:
    """A world that has just begun; sequences play in copies of it."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        training = {"rounds": 1, "local_steps": 1, "learning_rate": 1.0}
        world = make_world(folder / "template", hospitals=hospitals, training=training)
        world.store.close()
        files = {p.relative_to(world.folder): p.read_bytes() for p in world.folder.rglob("*") if p.is_file()}
        return world, files
    finally:
        shutil.rmtree(folder)


@contextmanager
def _copy(hospitals: int) -> Iterator[World]:
    base, files = _template(hospitals)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        world = World(
            folder, base.plan, base.identities, base.admin, Clock(), folder / "aggregator.db", base.workers
        )
        try:
            yield world
        finally:
            world.store.close()


@dataclass
class Simulation:
    """A sequence at work."""

    world: World
    line: Straight
    sites: list[SimulatedSite] = field(init=False)
    published: int = 0

    def __post_init__(self) -> None:
        self.sites = [
            SimulatedSite(self.world, i, lambda _, i=i: unit(i), line=self.line)  # type: ignore[misc]
            for i in range(1, len(self.world.identities) + 1)
        ]

    def do(self, op: Op) -> None:
        """One operation, and what must hold after it."""
        site = self.sites[op.hospital - 1]
        match op.name:
            case "act" | "lose":
                if site.awake and site.act() and op.name == "lose":
                    site.unacknowledged = True
            case "tick":
                self.line.tick()
            case "sleep":
                site.awake = False
            case "wake":
                site.awake = True
            case "crash":
                site.state, site.missed, site.unacknowledged = None, True, False
            case "hang":
                site.hung = site.opened
            case "restart":
                self.restart()
            case "wait":
                self.world.clock.now += PAUSES[op.which % len(PAUSES)]
            case "skew" | "replay" | "cut" | "forge":
                assert isinstance(self.line, ThroughTheApp)
                self.abuse(self.line, op, site)
            case _:
                self.again(op, site)
        self.check()

    def opened(self) -> Any:
        """The open attempt as everybody sees it."""
        return self.world.status["open"]

    def restart(self) -> None:
        """Whatever was acknowledged is there afterwards, and the audit log has lost nothing."""
        before, head = self.opened(), self.world.store.transactions.head
        self.line.restart()
        assert self.opened() == before
        last, *new = self.world.store.log.entries(head.number - 1)
        assert last.head == head
        assert [entry.action for entry in new] == self.line.entries_of_a_restart

    def abuse(self, line: ThroughTheApp, op: Op, site: SimulatedSite) -> None:
        """A request that the application must refuse; nothing moves. A wrong clock moves nothing either."""
        before = self.left()
        if op.name == "skew":
            line.skews[site.name] = SKEWS[op.which % len(SKEWS)]
        elif op.name == "replay":
            line.replay(op.which)
        elif site.sent:
            message, sender, arriving, size = site.sent[op.which % len(site.sent)], site.identity, None, None
            if op.name == "cut":
                size = op.which % len(message[-1])
            elif op.which % 3:
                sender = Identity.generate(("nobody", site.name)[op.which % 2])
            else:
                arriving = _garbled(message[-1], op.which)
            code = line.refusal(sender, *message, arriving=arriving, size=size)
            expected = {"broken-off"} if op.name == "cut" else {"unknown-sender", "bad-signature"}
            assert code in expected | WRONG_CLOCK
        assert self.left() == before

    def again(self, op: Op, site: SimulatedSite) -> None:
        """An old message: an exact repeat may be answered, all else is refused; nothing moves."""
        if not site.sent:
            return
        sender: Site = site
        number, attempt, kind, body = site.sent[op.which % len(site.sent)]
        if op.name == "garble":
            body = _garbled(body, op.which)
        elif op.name == "foreign":
            sender = self.sites[op.hospital % len(self.sites)]
        elif op.name == "stale":
            if site.opened in ((0, 0), (number, attempt)):
                return
            number, attempt = site.opened
        if op.name == "repeat":
            self.line.settle(sender.identity)
        before = self.left()
        with suppress(RemoteProtocolError):
            self.line.message(sender.identity, number, attempt, kind, body)
            assert op.name == "repeat"
        assert self.left() == before

    def left(self) -> Any:
        """What a change would change: every write has its audit entry, files come and go."""
        return self.world.store.transactions.head, sorted(str(p) for p in self.world.folder.rglob("*"))

    def check(self) -> None:
        """What was published since the last look is the mean of at least three unit vectors, each once."""
        assert violations(self.openable(), honest=self.world.plan.names, least=3) == set()
        run = self.world.coordinator.runs._runs[self.world.plan.id]
        if self.published < run.ended:
            new = self.line.status()["attempts"][self.published : run.ended]
            self.published = run.ended
            for attempt in new:
                if attempt["outcome"] == "done":
                    self.check_result(attempt)

    def openable(self) -> list[OpenedSum]:
        """Every sum of which a threshold of shares was given out, whether it was published or not."""
        shares: dict[tuple[int, int], dict[int, Unmask]] = {}
        advertised: dict[tuple[int, int], int] = {}
        for site in self.sites:
            for number, attempt, kind, body in site.sent:
                if kind == "shares":
                    advertised[number, attempt] = len(Shares.from_bytes(body).sealed) + 1
                if kind == "unmask":
                    shares.setdefault((number, attempt), {})[site.index] = Unmask.from_bytes(body)
        found = []
        for key, given in shares.items():
            one = next(iter(given.values()))
            if len(given) > advertised[key] // 2:  # the secrets are shared among all of U1
                names = frozenset(self.sites[i - 1].name for i in one.self_shares)
                model = next(site.joined[key] for site in self.sites if site.index in given)
                found.append(OpenedSum(key, model, names))
        return found

    def check_result(self, attempt: dict[str, Any]) -> None:
        status = self.line.status()
        done = [a for a in status["attempts"] if a["outcome"] == "done"]
        assert len({a["round"] for a in done}) == len(done)  # a round has one result
        counted = {int(name.removeprefix("hospital-")) for name in attempt["survivors"]}
        assert len(counted) >= 3
        expected = [float(i in counted) for i in range(1, len(self.sites) + 1)]
        assert attempt["sums"]["positives/abnormal"][: len(expected)] == expected
        assert attempt["sums"]["patients"] == [float(len(counted))]
        if attempt["kind"] != "train":
            return
        versions = status["versions"]
        assert [v["number"] for v in versions] == list(range(len(versions)))
        assert versions[-1]["parent"] == versions[-2]["model"]
        old, new = (from_safetensors(self.line.model(v["model"]), SPEC) for v in versions[-2:])
        assert np.array_equal(old, START)
        mean = sum(unit(i) for i in counted) / len(counted)
        assert np.allclose(new - old, mean, atol=1e-4)

    def calm(self, *, to_the_end: bool) -> None:
        """The faults stop: the attempt in hand ends by its deadlines, and the one after it has a result.

        Args:
            to_the_end: play on until the study is finished.
        """
        world = self.world
        deadlines = world.plan.study.deadlines
        longest = sum(getattr(deadlines, name) for name in type(deadlines).model_fields)
        for site in self.sites:
            site.awake, site.hung = True, (0, 0)
        if isinstance(self.line, ThroughTheApp):
            self.line.skews.clear()
        run = world.coordinator.runs._runs[world.plan.id]
        began, at_first = world.clock.now, run.ended + (run.attempt is not None)
        for _ in range(5_000):
            run = world.coordinator.runs._runs[world.plan.id]
            over = run.ended > at_first or (run.ended == at_first and done(run))
            if run.finished or (over and not to_the_end):
                break
            assert over or world.clock.now - began <= longest + 600.0
            moved = [site.act() for site in self.sites]
            if not any(moved) and not self.line.tick():
                world.clock.now += 110.0  # everybody is heard from before the next tick
        self.check()
        assert run.finished or (done(run) and not to_the_end), world.status


def _garbled(body: bytes, which: int) -> bytes:
    """With one bit changed."""
    place = which % len(body)
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


def done(run: Any) -> bool:
    """Whether the newest attempt has a result."""
    return bool(run.last) and run.last[-1].done


def simulate(seed: int, *, thorough: bool = True, app: bool = False) -> None:
    """Play a seed's sequence to its end.

    Args:
        thorough: play the study to its end, and hold every row against the audit log then.
        app: through the application, with signed requests; a sequence of its own.
    Raises: AssertionError with the seed and the operations.
    """
    sequence = Sequence.drawn(seed, app=app)
    with (
        _copy(sequence.hospitals) as world,
        closing(ThroughTheApp(world) if app else Straight(world)) as line,
    ):
        simulation, played = Simulation(world, line), 0
        try:
            for op in sequence.operations:
                played += 1
                simulation.do(op)
            simulation.calm(to_the_end=thorough)
            if thorough:
                world.store.log.verify()
        except Exception as error:
            done_so_far = [f"{o.name} {o.hospital} {o.which}" for o in sequence.operations[:played]]
            way = "through the application" if app else "at the coordinator"
            told = f"seed {seed} {way}, {sequence.hospitals} hospitals, after: {', '.join(done_so_far)}"
            raise AssertionError(told) from error
