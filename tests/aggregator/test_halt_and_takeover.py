"""The admin's word stands whoever leads: a stand-by that takes over goes on with nothing that was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import pytest

from aggregator.rounds.coordinator import HALTED, Coordinator
from aggregator.rounds.status import PlanReader
from aggregator.storage.directives import WordRefused
from aggregator.storage.store import Store
from amended import amended, newcomer
from databases import takes_the_lead
from medveil.reports import Order
from world import World, finish, make_sites, play, settle

Build = Callable[..., World]
LATE = ("upload", "agree", "unmask")
WHY = "the ethics board meets"
ALL = [(phase, order) for phase in ("advertise", "share", "commit", *LATE) for order in ("pause", "stop")]
TOLD = [("commit", "stop"), ("upload", "pause")]


class StandBy:
    """A process beside the one that leads: it has read everything, and remembers it."""

    def __init__(self, world: World) -> None:
        self.world, self.store = world, Store(world.database, world.admin)
        assert not self.store.transactions.lead()
        self.reader = PlanReader(self.store)
        self.before = self.reader.present(world.plan.id)[0]

    def takes_over(self) -> None:
        """The process that led is gone with all its memory."""
        world = self.world
        world.store.close()
        assert takes_the_lead(self.store)
        world.store, world.reader = self.store, self.reader
        world.coordinator = Coordinator(
            self.store, world.blobs, clock=world.clock, wall_clock=lambda: 1_700_000_000.0
        )


def say(world: World, order: Order) -> None:
    """As the admin's command does it: through a store of its own, whoever leads, or nobody."""
    with closing(Store(world.database, world.admin)) as store:
        store.directives.say(world.plan.id, order, WHY, now=time.time())


@pytest.mark.parametrize(
    ("phase", "order"),
    [*TOLD, *(pytest.param(*one, marks=pytest.mark.slow) for one in ALL if one not in TOLD)],
)
def test_a_word_that_the_old_leader_never_acted_on_is_obeyed_by_the_new_one(
    build: Build, phase: str, order: Order
) -> None:
    world = build()
    sites = make_sites(world)
    assert world.store.transactions.lead()
    play(world, sites, until=lambda: world.phase == phase)
    stand_by = StandBy(world)
    assert stand_by.before.directive is None
    say(world, order)  # the old leader dies before it looks
    stand_by.takes_over()
    settle(world, sites)
    (only,) = world.status["attempts"]
    if phase in LATE:  # masked vectors may be out: the attempt comes to its own end, with its sum
        assert (only["outcome"], only["sums"]["patients"]) == ("done", [3.0])
    else:
        assert (only["outcome"], only["reason"]) == ("failed", HALTED[order])
    assert len(world.status["versions"]) == (2 if phase in LATE else 1)
    assert (world.status["open"], world.status["finished"]) == (None, order == "stop")
    if order == "stop":
        with pytest.raises(WordRefused):
            say(world, "resume")
    else:
        StandBy(world).takes_over()  # and back again, in the middle of the pause
        settle(world, sites)
        assert len(world.status["attempts"]) == 1
        say(world, "resume")
        done = [a for a in finish(world, sites)["attempts"] if a["outcome"] == "done"]
        assert [a["round"] for a in done] == [1, 2, 3]
        assert all(a["sums"]["patients"] == [3.0] for a in done)
    world.store.log.verify()


def test_a_word_said_while_nobody_leads_is_obeyed_by_whoever_leads_next(build: Build) -> None:
    world = build()
    sites = make_sites(world)
    assert world.store.transactions.lead()
    play(world, sites, until=lambda: len(world.status["attempts"]) == 1)
    play(world, sites, until=lambda: world.phase == "share")
    stand_by = StandBy(world)
    world.store.close()
    say(world, "stop")
    world.store = Store(world.database, world.admin)
    stand_by.takes_over()
    settle(world, sites)
    assert [a["outcome"] for a in world.status["attempts"]] == ["done", "failed"]
    assert world.status["finished"]


def test_a_roster_that_waits_takes_over_from_no_halted_study_whoever_leads(build: Build) -> None:
    world = build(hospitals=3, training={"rounds": 4, "local_steps": 1, "learning_rate": 1.0})
    sites = make_sites(world)
    assert world.store.transactions.lead()
    play(world, sites, until=lambda: len(world.status["versions"]) == 2 and world.phase == "advertise")
    after = amended(world, [*world.identities, newcomer(world, "joins")])
    new = make_sites(after)
    stand_by = StandBy(world)
    say(world, "pause")
    stand_by.takes_over()
    after.store, after.reader, after.coordinator = world.store, world.reader, world.coordinator
    settle(after, [*sites, *new])
    assert after.status["attempts"] == []
    assert not world.status["finished"]
    say(world, "resume")
    play(after, [*sites, *new], until=lambda: bool(after.status["finished"]))
    done = [a["round"] for one in (world, after) for a in one.status["attempts"] if a["outcome"] == "done"]
    assert done == [1, 2, 3, 4, 5]
    world.store.log.verify()
