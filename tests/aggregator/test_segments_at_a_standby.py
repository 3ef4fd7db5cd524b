"""A process that stands by takes segments of masked vectors; the leader takes the upload, or nobody does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import httpx2 as httpx
import pytest

from aggregator.rounds import endings, taking
from aggregator.storage.blobs import Blobs, DamagedBlob
from aggregator.storage.crashpoints import VARIABLE
from beside import Pair
from postgres import Cluster
from world import Site, World, make_sites, model_in, play, unit

Build = Callable[..., World]


class Elsewhere(Site):
    """A hospital whose segments all come to the process that stands by."""

    pair: Pair

    def path(self, number: int) -> str:
        return f"{self.pair.leader.at}/rounds/{self.key[0]}/attempts/{self.key[1]}/segments/{number}"

    def put(self, number: int, data: bytes) -> httpx.Response:
        return self.pair.signed(self.identity, self.path(number), "PUT", data)

    def send_segment(self, number: int, data: bytes) -> None:
        answer = self.put(number, data)
        assert answer.status_code == 204, answer.text


class Halfway(Elsewhere):
    """Its upload stays unsigned for the moment: the segments are there, the word is not."""

    def send(self, kind: str, body: bytes) -> None:
        if kind == "upload":
            self.held = body
            return
        super().send(kind, body)


@pytest.fixture
def pair(build: Build) -> Iterator[Pair]:
    made = Pair(build())
    yield made
    made.close()


def elsewhere(pair: Pair, kind: type[Elsewhere] = Elsewhere) -> list[Site]:
    sites: list[Site] = [kind(pair.world, i, lambda _, i=i: unit(i)) for i in (1, 2, 3)]  # type: ignore[misc]
    for site in sites:
        site.pair = pair  # type: ignore[attr-defined]
    return sites


def in_upload(pair: Pair) -> Elsewhere:
    """The first of three hospitals, whose segments are there and whose upload is not signed."""
    sites = elsewhere(pair, Halfway)
    play(pair.world, sites, until=lambda: pair.world.phase == "upload")
    sites[0].act()
    site = sites[0]
    assert isinstance(site, Elsewhere)
    return site


def uploads(world: World) -> set[str]:
    return {p.name for p in (world.folder / "uploads").rglob("*") if p.is_file()}


def check_a_round(calm: World, pair: Pair) -> None:
    for world, sites in ((calm, make_sites(calm)), (pair.world, elsewhere(pair))):
        play(world, sites, until=lambda world=world: len(world.status["versions"]) == 2)  # type: ignore[misc]
    models = [model_in(w.blobs, w.status["versions"][1]["model"]) for w in (calm, pair.world)]
    assert models[0] == models[1]
    assert not uploads(pair.world)


def test_a_sum_of_segments_that_a_standby_took_is_the_sum(build: Build, pair: Pair) -> None:
    check_a_round(build(), pair)


@pytest.mark.slow
def test_it_is_on_postgresql_as_well(build: Build, cluster: Cluster) -> None:
    pair = Pair(build(database=cluster.url(cluster.database())))
    check_a_round(build(), pair)
    pair.close()


def test_the_leader_takes_no_upload_without_its_segments_and_no_segment_changes_after_it(pair: Pair) -> None:
    site, world = in_upload(pair), pair.world
    (name,) = uploads(world)
    assert name.startswith("1-0.")
    data = site.segments[0]
    assert site.put(0, data).status_code == 204  # the answer was lost
    assert site.put(0, bytes(len(data))).status_code == 204  # other bytes: beside the first
    assert len(uploads(world)) == 2
    (world.folder / "uploads" / site.whole_key.folder / name).rename(world.folder / "away")
    with pytest.raises(DamagedBlob):
        Site.send(site, "upload", site.held)  # type: ignore[attr-defined]
    site.put(0, data)
    Site.send(site, "upload", site.held)  # type: ignore[attr-defined]
    before = uploads(world)
    assert site.put(0, bytes(reversed(data))).status_code == 204  # it is signed: nothing is kept any more
    assert uploads(world) == before


def test_a_standby_refuses_what_the_leader_would(pair: Pair) -> None:
    site, world = in_upload(pair), pair.world
    data, at = site.segments[0], pair.leader.at
    before = uploads(world)
    there = [
        (f"{at}/rounds/7/attempts/1/segments/0", data, 409, "wrong-round"),
        (site.path(0), data + bytes(8), 422, "wrong-length"),
        (site.path(1), data, 422, "wrong-length"),
        (f"/v1/plans/{'0' * 64}/rounds/1/attempts/1/segments/0", data, 404, "not-found"),
    ]
    for path, body, status, code in there:
        found = [
            pair.signed(site.identity, path, "PUT", body),
            pair.leader.ask(site.identity, "PUT", path, body),
        ]
        assert [(a.status_code, a.json()["code"]) for a in found] == [(status, code)] * 2, path
    nosy = pair.leader.enrolled("nosy", "hospital")
    pair.leader.refused(pair.signed(nosy, site.path(0), "PUT", data), 404, "not-found")
    assert uploads(world) == before


def test_a_hospital_cannot_fill_the_disk_through_a_standby(pair: Pair) -> None:
    site = in_upload(pair)
    codes = [site.put(0, bytes([i]) * len(site.segments[0])).status_code for i in range(5)]
    assert codes == [204, 204, 502, 502, 502]
    assert len(uploads(pair.world)) == taking.MOST_VERSIONS
    assert site.put(0, site.segments[0]).status_code == 204


def test_nothing_stays_of_a_segment_whose_attempt_ended_while_it_was_written(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, world, write = in_upload(pair), pair.world, Blobs.put_aside
    run = world.coordinator.runs.of(world.plan.id, site.name)

    def slowly(blobs: Blobs, attempt: str, source: int, number: int, data: bytes) -> None:
        assert run.attempt is not None
        endings.fail(world.coordinator.runs, run, run.attempt, "test")
        assert not uploads(world)
        write(blobs, attempt, source, number, data)

    monkeypatch.setattr(Blobs, "put_aside", slowly)
    pair.leader.refused(site.put(0, bytes(len(site.segments[0]))), 409, "wrong-round")
    assert not uploads(world)


def test_who_sends_to_a_standby_is_in_reach_and_its_bytes_count(pair: Pair) -> None:
    site, world = in_upload(pair), pair.world
    run = world.coordinator.runs.of(world.plan.id, site.name)
    attempt = run.attempt
    assert attempt is not None
    world.clock.now += 1_000.0
    assert not world.coordinator.runs.is_in_reach(run, site.name)
    before = attempt.bytes_up[site.name]
    for _ in range(2):  # what was heard of already says nothing new
        aside = world.blobs.aside(site.whole_key.folder)
        taking.hear(world.coordinator.runs, run, attempt, aside)
    assert world.coordinator.runs.is_in_reach(run, site.name)
    assert not world.coordinator.runs.is_in_reach(run, "hospital-2")
    assert attempt.bytes_up[site.name] == before + len(site.segments[0])
    assert taking.open_uploads(world.coordinator.runs) == [(run, attempt)]


WRITING = """
import sys
from pathlib import Path
from aggregator.storage.blobs import Blobs
folder, attempt = sys.argv[1:]
Blobs(Path(folder)).put_aside(attempt, 1, 0, sys.stdin.buffer.read())
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["blob.write", "blob.rename", "blob.sync-folder"])
def test_a_standby_that_dies_while_it_writes_a_segment_costs_nothing(
    pair: Pair, step: str, when: str
) -> None:
    sites = elsewhere(pair, Halfway)
    play(pair.world, sites, until=lambda: pair.world.phase == "upload")
    site, world = sites[0], pair.world
    site.act()
    data, place = site.segments[0], world.folder / "uploads" / site.whole_key.folder
    for left in place.iterdir():
        left.unlink()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), VARIABLE: f"{step}:{when}"}
    command = [sys.executable, "-c", WRITING, str(world.folder), site.whole_key.folder]
    died = subprocess.run(command, input=data, env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    site.send_segment(0, data)  # there was no answer: it is sent again
    for one in sites:
        one.send = partial(Site.send, one)  # type: ignore[method-assign]
    site.send("upload", site.held)  # type: ignore[attr-defined]
    play(world, sites, until=lambda: len(world.status["versions"]) == 2)
    assert world.status["attempts"][0]["survivors"] == ["hospital-1", "hospital-2", "hospital-3"]
    assert not uploads(world)
