"""A region's masked vectors travel as one sum: the result is the same, and nothing rests on the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aggregator.rounds.relayed import WrongRelay
from aggregator.storage.register import Party
from aggregator.work.unmasking import WrongLength
from medveil.identity import Secret
from medveil.relaying import RelayedUploads
from medveil.rounds import AttemptKey, RoundKind
from privacy.encoding import params_for
from privacy.secagg.checkword import AlteredSum, verify_sum
from privacy.secagg.server import Conflict
from regions import Region, RegionSite, unknown_relay, with_region
from world import Site, World, finish, make_sites, play

Build = Callable[..., World]
Make = Callable[[World, tuple[int, ...]], Region]


@pytest.fixture
def region(folder: Path) -> Iterator[Make]:
    made: list[Region] = []

    def make(world: World, members: tuple[int, ...]) -> Region:
        made.append(Region(world, folder / f"relay-{len(made)}", members))
        return made[-1]

    yield make
    for one in made:
        one.close()


def sums(world: World) -> list[bytes]:
    """What two versions were made of, without the check word: that hangs on each attempt's keys."""
    return [world.sum(v)[:-8] for v in (1, 2)]


def test_the_sum_is_the_one_that_hospitals_make_who_send_themselves(build: Build, region: Make) -> None:
    flat, regional = build(hospitals=5), build(hospitals=5)
    relay = region(regional, (2, 3, 4))
    finish(flat, make_sites(flat))
    status = finish(regional, with_region(regional, make_sites(regional), relay))
    assert sums(flat) == sums(regional)
    assert [a["outcome"] for a in status["attempts"]] == ["done"] * 3
    assert all(len(a["survivors"]) == 5 for a in status["attempts"])
    assert len(relay.line.sent) == 3  # one message and one vector a round
    assert not list((relay.folder / "held").rglob("*.*"))  # nothing is left behind


def test_a_vector_goes_up_once_for_the_whole_region(build: Build, region: Make) -> None:
    world = build(hospitals=5)
    relay = region(world, (2, 3, 4))
    until_taken(world, with_region(world, make_sites(world), relay), relay)
    stored = {p.name for p in world.folder.rglob("uploads/*/*")}
    assert "relay.north-0" in stored
    assert stored <= {"relay.north-0", "1-0", "5-0"}


def test_a_relay_that_alters_the_sum_is_found_out_by_every_hospital(build: Build, region: Make) -> None:
    world = build(hospitals=4)
    relay = region(world, (2, 3, 4))
    relay.line.tamper = True
    sites = with_region(world, make_sites(world), relay)
    play(world, sites, until=lambda: world.phase == "unmask")
    keys = [Secret(s.state.committed.check_key.reveal()) for s in sites]
    play(world, sites, until=lambda: len(world.status["versions"]) == 2)
    total, p = np.frombuffer(world.sum(1), "<u8"), params_for(world.plan.study, RoundKind.TRAIN, 4)
    for key in keys:
        with pytest.raises(AlteredSum):
            verify_sum(total, key, p, survivors=(1, 2, 3, 4))


def until_taken(world: World, sites: list[Site], relay: Region) -> None:
    play(world, sites, until=lambda: bool(relay.line.sent))


@pytest.mark.slow
def test_an_aggregator_that_starts_anew_has_the_regions_sum(build: Build, region: Make) -> None:
    world, flat = build(hospitals=5), build(hospitals=5)
    relay = region(world, (2, 3, 4))
    sites = with_region(world, make_sites(world), relay)
    until_taken(world, sites, relay)
    world.restart()
    assert world.status["open"]["attempt"] == 1
    finish(world, sites)
    finish(flat, make_sites(flat))
    assert sums(flat) == sums(world)
    assert all(a["attempt"] == 1 for a in world.status["attempts"])  # no attempt was lost


def test_a_relay_that_cannot_hand_in_costs_no_attempt(build: Build, region: Make) -> None:
    world = build(hospitals=4)
    relay = region(world, (2, 3, 4))
    sites = with_region(world, make_sites(world), relay)
    play(world, sites, until=lambda: world.phase == "upload")
    relay.line.cut = True
    status = finish(world, sites)
    assert [(a["attempt"], a["outcome"], len(a["survivors"])) for a in status["attempts"]] == [
        (1, "done", 4)
    ] * 3
    assert all("relay-closed" in s.refused for s in sites if isinstance(s, RegionSite))


def test_a_relay_that_starts_anew_costs_no_attempt(build: Build, region: Make) -> None:
    world = build(hospitals=4)
    relay = region(world, (2, 3, 4))
    sites = with_region(world, make_sites(world), relay)
    play(
        world,
        sites[1:2] + sites[:1] + sites[2:],
        until=lambda: any(getattr(s, "waiting", b"") for s in sites),
    )
    relay.started()  # it has forgotten what it held
    status = finish(world, sites)
    assert [(a["attempt"], len(a["survivors"])) for a in status["attempts"]] == [(1, 4)] * 3


def test_a_hospital_that_does_not_know_that_it_is_in_the_sum_may_say_so_again(
    build: Build, region: Make
) -> None:
    world = build(hospitals=4)
    relay = region(world, (2, 3, 4))
    sites = with_region(world, make_sites(world), relay)
    until_taken(world, sites, relay)
    lost = next(s for s in sites if isinstance(s, RegionSite))
    for number, data in enumerate(lost.segments):  # the answer was lost: it sends its vector itself
        lost.send_segment(number, data)
    Site.send(lost, "upload", lost._directly(WrongRelay()))
    status = finish(world, sites)
    assert [(a["attempt"], len(a["survivors"])) for a in status["attempts"]] == [(1, 4)] * 3


def test_a_hospital_that_comes_late_sends_itself(build: Build, region: Make) -> None:
    world = build(hospitals=5)
    relay = region(world, (2, 3, 4))
    sites = with_region(world, make_sites(world), relay)
    play(world, sites, until=lambda: world.phase == "upload")
    late = next(s for s in sites if s.name == "hospital-4")
    rest = [s for s in sites if s is not late]
    world.coordinator.runs._heard["hospital-4"] = -1e9  # it was not heard from for long
    world.coordinator.runs.of(world.plan.id, "hospital-1").approved_at = -1e9
    for _ in range(20):
        for one in rest:
            one.act()
        if relay.line.sent:
            break
    assert len(RelayedUploads.from_bytes(relay.line.sent[0]).uploads) == 2
    status = finish(world, sites)
    assert (status["attempts"][0]["attempt"], len(status["attempts"][0]["survivors"])) == (1, 5)
    assert isinstance(late, RegionSite)
    assert late.refused[0] == "relay-closed"


def uploads_of_region(world: World, relay: Region, sites: list[Site]) -> tuple[AttemptKey, RelayedUploads]:
    """What the relay would hand in, kept back."""
    kept: list[bytes] = []

    async def keep(key: AttemptKey, body: bytes) -> None:
        kept.append(body)
        await asyncio.Event().wait()

    relay.line.uploads = keep  # type: ignore[method-assign]
    play(world, sites, until=lambda: bool(kept))
    run = world.coordinator.runs.of(world.plan.id, "hospital-1")
    assert run.attempt is not None
    return run.attempt.key, RelayedUploads.from_bytes(kept[0])


def test_what_a_hospital_did_not_give_to_this_relay_is_refused_whole(build: Build, region: Make) -> None:
    world = build(hospitals=4)
    relay, intake = region(world, (2, 3, 4)), world.coordinator.intake
    sites = with_region(world, make_sites(world), relay)
    key, told = uploads_of_region(world, relay, sites)
    before, other = world.dump()[0], unknown_relay()
    party = Party(other.name, "relay", other.public_key)
    with pytest.raises(WrongRelay):  # another relay shows words that name this one
        intake.receive_relayed(key, party, told.to_bytes())
    stolen = told.model_copy(
        update={"relay": told.relay.model_copy(update={"name": other.name, "key": other.public_key})}
    )
    with pytest.raises(WrongRelay):
        intake.receive_relayed(key, party, stolen.to_bytes())
    with pytest.raises(WrongLength):
        intake.receive_relayed(key, relay.line.party, told.model_copy(update={"segments": ()}).to_bytes())
    twice = told.model_copy(update={"uploads": (told.uploads[0], told.uploads[0])})
    with pytest.raises(Conflict):
        intake.receive_relayed(key, relay.line.party, twice.to_bytes())
    assert world.dump()[0] == before
    intake.receive_relayed(key, relay.line.party, told.to_bytes())
    intake.receive_relayed(key, relay.line.party, told.to_bytes())  # its answer was lost
    with pytest.raises(Conflict):  # another sum of the same hospitals
        intake.receive_relayed(
            key, relay.line.party, told.model_copy(update={"segments": (bytes(32),)}).to_bytes()
        )
