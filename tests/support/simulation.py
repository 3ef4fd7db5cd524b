"""Seeded sequences of operations against a real coordinator, on a clock that only a sequence moves.

A sequence is a number of hospitals and a list of operations, drawn from a seed; nothing else decides what
is done in it. Every hospital contributes its own unit vector, so the published mean tells who was counted how
often.
"""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medveil.errors import RemoteProtocolError
from medveil.tensors import from_safetensors
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
    def drawn(cls, seed: int) -> Sequence:
        """The sequence of a seed, the same on every machine."""
        draw = random.Random(seed)
        hospitals = draw.choice([3, 3, 4, 5])
        names = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=draw.randrange(10, 120))
        ops = (Op(name, draw.randrange(1, hospitals + 1), draw.randrange(2**20)) for name in names)
        return cls(hospitals, tuple(ops))


@dataclass
class SimulatedSite(Site):
    """A hospital that may sleep, crash, and repeat what was not acknowledged."""

    awake: bool = True
    unacknowledged: bool = False
    hung: tuple[int, int] = (0, 0)

    @property
    def opened(self) -> tuple[int, int]:
        """The open attempt; zeros without one."""
        attempt = self.world.coordinator._runs[self.world.plan.id].attempt
        return (0, 0) if attempt is None else (attempt.key.round, attempt.key.attempt)

    def act(self) -> bool:
        """One poll and one answer; a repeat first, if the last one was not acknowledged."""
        if not self.awake:
            return False
        if self.hung != (0, 0) and self.hung == self.opened:
            self.world.coordinator.touch(self.name)
            return False
        if self.unacknowledged:
            self.unacknowledged = False
            number, attempt, kind, body = self.sent[-1]
            if self.opened == (number, attempt):
                self.world.coordinator.receive(self.world.plan.id, self.name, number, attempt, kind, body)
            return True
        moved = super().act()
        if self.missed:
            left = f"{self.key[0]}.{self.key[1]}"
            self.world.coordinator.sits_out(self.world.plan.id, self.name, left)
        return moved


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
    sites: list[SimulatedSite] = field(init=False)
    published: int = 0

    def __post_init__(self) -> None:
        self.sites = [
            SimulatedSite(self.world, i, lambda _, i=i: unit(i))  # type: ignore[misc]
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
                self.world.coordinator.tick()
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
            case _:
                self.again(op, site)
        self.check()

    def restart(self) -> None:
        """Whatever was acknowledged is there afterwards, and the audit log has lost nothing."""
        before, head = self.world.status["open"], self.world.store.head
        self.world.restart()
        assert self.world.status["open"] == before
        assert self.world.store.head == head

    def again(self, op: Op, site: SimulatedSite) -> None:
        """An old message: an exact repeat may be answered, all else is refused; nothing moves."""
        if not site.sent:
            return
        sender: Site = site
        number, attempt, kind, body = site.sent[op.which % len(site.sent)]
        if op.name == "garble":
            place = op.which % len(body)
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        elif op.name == "foreign":
            sender = self.sites[op.hospital % len(self.sites)]
        elif op.name == "stale":
            if site.opened in ((0, 0), (number, attempt)):
                return
            number, attempt = site.opened
        before = self.left()
        with suppress(RemoteProtocolError):
            self.world.coordinator.receive(self.world.plan.id, sender.name, number, attempt, kind, body)
            assert op.name == "repeat"
        assert self.left() == before

    def left(self) -> Any:
        """What a change would change: every write has its audit entry, files come and go."""
        return self.world.store.head, sorted(str(p) for p in self.world.folder.rglob("*"))

    def check(self) -> None:
        """What was published since the last look is the mean of at least three unit vectors, each once."""
        run = self.world.coordinator._runs[self.world.plan.id]
        if self.published < run.ended:
            new = self.world.status["attempts"][self.published : run.ended]
            self.published = run.ended
            for attempt in new:
                if attempt["outcome"] == "done":
                    self.check_result(attempt)

    def check_result(self, attempt: dict[str, Any]) -> None:
        status = self.world.status
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
        old, new = (from_safetensors(self.world.blobs.model(v["model"]), SPEC) for v in versions[-2:])
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
            site.awake = True
        run = world.coordinator._runs[world.plan.id]
        began, at_first = world.clock.now, run.ended + (run.attempt is not None)
        for _ in range(5_000):
            run = world.coordinator._runs[world.plan.id]
            over = run.ended > at_first or (run.ended == at_first and done(run))
            if run.finished or (over and not to_the_end):
                break
            assert over or world.clock.now - began <= longest + 600.0
            moved = [site.act() for site in self.sites]
            if not any(moved) and not world.coordinator.tick():
                world.clock.now += 110.0  # everybody is heard from before the next tick
        self.check()
        assert run.finished or (done(run) and not to_the_end), world.status


def done(run: Any) -> bool:
    """Whether the newest attempt has a result."""
    return bool(run.last) and run.last[-1]["outcome"] == "done"


def simulate(seed: int, *, thorough: bool = True) -> None:
    """Play a seed's sequence to its end.

    Args:
        thorough: play the study to its end, and hold every row against the audit log then.
    Raises: AssertionError with the seed and the operations.
    """
    sequence = Sequence.drawn(seed)
    with _copy(sequence.hospitals) as world:
        simulation, played = Simulation(world), 0
        try:
            for op in sequence.operations:
                played += 1
                simulation.do(op)
            simulation.calm(to_the_end=thorough)
            if thorough:
                world.store.verify_log()
        except Exception as error:
            done_so_far = [f"{o.name} {o.hospital} {o.which}" for o in sequence.operations[:played]]
            told = f"seed {seed}, {sequence.hospitals} hospitals, after: {', '.join(done_so_far)}"
            raise AssertionError(told) from error
