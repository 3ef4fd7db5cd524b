"""Seeded sequences in which the admin takes part: pauses, resumes, stops, and changes of the roster.

As in :mod:`simulation` nothing but a seed decides what is done. A study may go through several rosters, each
seen as a world of its own over one aggregator; hospitals of each send their unit vectors.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aggregator.amending import BadAmendment
from aggregator.storage.directives import WordRefused
from aggregator.storage.transactions import AlreadyThere
from amended import amended, newcomer, restart
from medveil.reports import Order
from medveil.tensors import from_safetensors
from oracle import OpenedSum, violations
from privacy.secagg.messages import Shares, Unmask
from world import SPEC, START, Site, World, make_sites, make_world, model_in, unit

WEIGHTS = {
    "act": 60,
    "tick": 24,
    "wait": 4,
    "crash": 1,  # a node's keys are gone
    "restart": 3,  # another process takes over, with nothing in its memory
    "pause": 3,
    "resume": 4,
    "stop": 0.2,
    "amend": 3,
}
PAUSES = (1.0, 5.0, 25.0, 130.0)
ROUNDS = 4


@dataclass
class Steered:
    """A study, its rosters so far, and what the admin has said."""

    draw: random.Random
    worlds: list[World]
    sites: list[list[Site]] = field(default_factory=list)
    halted: bool = False
    stopped: bool = False
    seen: int = 0
    """Attempts that were opened when the last word was said."""
    given: int = 0
    """Messages with shares that open sums, at the last look."""

    @property
    def works(self) -> World:
        """The newest roster that has begun."""
        begun = [one for one in self.worlds if one.store.plans.newest_version(one.plan.id) is not None]
        return begun[-1]

    def do(self, name: str) -> None:
        """One operation, and what must hold after it."""
        site = self.draw.choice([site for group in self.sites for site in group])
        match name:
            case "act":
                site.act()
            case "crash":
                site.crash()
            case "tick":
                self.tick()
            case "wait":
                self.worlds[0].clock.now += self.draw.choice(PAUSES)
            case "restart":
                restart(*self.worlds)
            case "amend":
                self.amend()
            case _:
                self.say(name)  # type: ignore[arg-type]
        self.check()

    def tick(self) -> None:
        """The leader looks; from then on a halt that stands is known to have been obeyed."""
        self.worlds[0].coordinator.tick()

    def say(self, order: Order) -> None:
        """Of the roster that works; what changes nothing is refused."""
        try:
            self.worlds[0].store.directives.say(self.works.plan.id, order, "drawn", now=1_700_000_000.0)
        except WordRefused:
            return
        assert not self.stopped  # nothing follows a stop
        self.halted, self.stopped = order != "resume", order == "stop"
        self.seen = self.opened()

    def amend(self) -> None:
        """One hospital more, or one less, of the roster that works; approved by all."""
        works = self.works
        rows = works.status
        if self.stopped or rows["finished"] or len(self.worlds) > 3:
            return
        people = list(works.identities)
        if len(people) > 3 and self.draw.random() < 0.5:
            people.pop(self.draw.randrange(len(people)))
        elif len(people) < 5:
            people.append(newcomer(works, f"joins-{len(self.worlds)}"))
        else:
            return
        first = max([works.plan.first_round, *(a["round"] for a in rows["attempts"])])
        if first > ROUNDS:
            return
        try:
            after = amended(works, people, first_round=first)
        except (BadAmendment, AlreadyThere):  # too large a step, or offered before
            return
        self.worlds.append(after)
        self.sites.append(make_sites(after))

    # ---- what holds

    def opened(self) -> int:
        """Attempts of all rosters, ended or not."""
        return sum(len(one.store.history.newest(one.plan.id, limit=10_000)) for one in self.worlds)

    def check(self) -> None:
        """After each operation."""
        runs = self.worlds[0].coordinator.runs
        assert sum(run.attempt is not None for run in runs.all()) <= 1  # one roster at a time
        if self.halted:
            assert self.opened() == self.seen  # nothing opens while a halt stands, whoever leads
        given = sum(kind == "unmask" for group in self.sites for site in group for *_, kind, _ in site.sent)
        if given != self.given:  # only shares open a sum
            self.given, names = given, {name for one in self.worlds for name in one.plan.names}
            assert violations(list(self.sums()), honest=names, least=3) == set()

    def sums(self) -> Iterator[OpenedSum]:
        """Every sum of which enough shares were given out, of every roster."""
        for world, sites in zip(self.worlds, self.sites, strict=True):
            shares: dict[tuple[int, int], dict[int, Unmask]] = {}
            advertised: dict[tuple[int, int], int] = {}
            for site in sites:
                for number, attempt, kind, body in site.sent:
                    if kind == "shares":
                        advertised[number, attempt] = len(Shares.from_bytes(body).sealed) + 1
                    if kind == "unmask":
                        shares.setdefault((number, attempt), {})[site.index] = Unmask.from_bytes(body)
            for key, given in shares.items():
                if len(given) > advertised[key] // 2:
                    one = next(iter(given.values()))
                    members = frozenset(sites[i - 1].name for i in one.self_shares)
                    model = next(site.joined[key] for site in sites if site.index in given)
                    yield OpenedSum((world.plan.id, *key), model, members)

    def calm(self) -> None:
        """The admin lifts a pause and nothing fails any more: the study comes to its end."""
        if self.halted and not self.stopped:
            self.say("resume")
        for _ in range(4_000):
            if self.works.status["finished"] and not self.worlds[0].coordinator.tick():
                assert all(one.status["open"] is None for one in self.worlds)
                return
            moved = [site.act() for group in self.sites for site in group]
            if not any(moved) and not self.worlds[0].coordinator.tick():
                self.worlds[0].clock.now += 20.0
        raise AssertionError(self.works.status)

    def check_lineage(self) -> None:
        """Versions of all rosters are one row, and each is the mean of those who were in its sum."""
        told = {v["number"]: (v, one) for one in self.worlds for v in reversed(one.status["versions"])}
        assert sorted(told) == list(range(len(told)))
        reports = [(a, one) for one in self.worlds for a in one.status["attempts"] if a["outcome"] == "done"]
        assert len({a["round"] for a, _ in reports}) == len(reports)  # a round has one sum
        made = {a["model"]: (a, one) for a, one in reports if a["kind"] == "train"}
        at = START
        for number in sorted(told)[1:]:
            version, _ = told[number]
            report, one = made[version["model"]]
            who = [one.plan.names.index(name) + 1 for name in report["survivors"]]
            assert len(who) >= 3
            now = from_safetensors(model_in(one.blobs, version["model"]), SPEC)
            assert np.allclose(now - at, sum(unit(i) for i in who) / len(who), atol=1e-4)
            at = now
        if not self.stopped:
            assert self.works.status["attempts"][-1]["kind"] == "evaluate"


def steer(seed: int, folder: Path) -> tuple[int, bool]:
    """Play a seed's sequence to its end.

    Returns: how many changes of the roster have taken over, and whether the study was stopped.
    Raises: AssertionError with the seed and the operations.
    """
    draw = random.Random(seed)
    training = {"rounds": ROUNDS, "local_steps": 1, "learning_rate": 1.0}
    world = make_world(folder, hospitals=draw.choice([3, 4]), training=training)
    steered, done = Steered(draw, [world], [make_sites(world)]), list[str]()
    try:
        for name in draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=draw.randrange(60, 260)):
            done.append(name)
            steered.do(name)
        steered.calm()
        steered.check()
        steered.check_lineage()
        world.store.log.verify()
        taken = sum(one.store.plans.newest_version(one.plan.id) is not None for one in steered.worlds[1:])
        return taken, steered.stopped
    except Exception as error:
        raise AssertionError(f"seed {seed}, after: {', '.join(done)}") from error
    finally:
        world.store.close()
