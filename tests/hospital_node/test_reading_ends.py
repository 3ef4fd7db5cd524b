"""A folder may hold thousands of films: reading them ends before the next one when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from folders import write_folder
from hospital_node import cohort
from hospital_node.cohort import Names, read_patients
from hospital_node.computation import Computation
from hospital_node.operator import opened
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.unsent import Unsent
from medveil.identity import Identity, Secret
from medveil.plan import Plan
from medveil.rounds import AttemptKey, RoundKind
from medveil.stopping import Stopped, check_stopped, stoppable
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.sources import readers
from medveil_imaging.sources.site import SiteData, read_site
from world import START, make_plan, make_study

HERE = Identity.generate("hospital-1")
PEOPLE = [HERE, *(Identity.generate(f"hospital-{i}") for i in range(2, 5))]


def images(folder: Path, study: Study) -> None:
    read_site(folder, study, readers=readers.in_this_process)


def hashes(folder: Path, study: Study) -> None:
    read_patients(folder, study, Names(HERE))


@pytest.mark.parametrize(
    ("read", "owner", "one_file"), [(images, readers, "read_wanted"), (hashes, cohort, "content_digest")]
)
def test_no_file_is_opened_after_the_word_to_end(
    read: Callable[..., None], owner: Any, one_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stop, opened_files, real = write_folder(tmp_path / "films"), Event(), [], getattr(owner, one_file)

    def watched(path: Path) -> Any:
        opened_files.append(path)
        if len(opened_files) == 3:
            stop.set()
        return real(path)

    monkeypatch.setattr(owner, one_file, watched)
    with stoppable(stop), pytest.raises(Stopped):
        read(folder, make_study())
    assert len(opened_files) == 3
    read(folder, make_study())  # outside of it nothing is stopped
    assert len(opened_files) == 3 + 20


class Reader:
    """Reads a site that has no end until it is told."""

    def __init__(self, site: SiteData) -> None:
        self.site, self.begun, self.enough, self.times = site, Event(), Event(), 0

    def __call__(self, _: Plan) -> SiteData:
        self.times += 1
        self.begun.set()
        while not self.enough.wait(0.01):
            check_stopped()
        return self.site


@contextmanager
def reading(folder: Path, plan: Plan) -> Iterator[tuple[Computation, Reader]]:
    films = write_folder(folder / "films")
    settings = NodeSettings(
        name=HERE.name,
        aggregator="https://here",
        data=films,
        dataset="films",
        policy=Policy(allow_no_privacy=True),
    )
    node, reader = Node(folder, settings), Reader(read_site(films, plan.study))
    with opened(node) as journal, closing(Records.open(node, HERE, journal)) as records:
        unsent = Unsent(folder / "unsent.sealed", Secret(bytes(32)))
        with closing(Computation(plan, reader, records, unsent=unsent)) as computation:
            yield computation, reader


def small_model() -> tuple[dict[str, Any], Float32]:
    shape = ModelShape((16, 16), outputs_for("classification", ["a", "b"]))
    spec, vector = initial_vector("small_cnn", shape, {"width": 4}, seed=1)
    return {"name": "small_cnn", "options": {"width": 4}, "tensors": spec, "initial_model": "0" * 64}, vector


def test_what_trains_is_loaded_when_the_readers_are_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_before = list[int]()
    with reading(tmp_path, make_plan(PEOPLE, make_study())) as (computation, reader):
        monkeypatch.setattr(
            "hospital_node.computation.load_training", lambda _: read_before.append(reader.times)
        )
        reader.enough.set()
        computation.read_ahead().result()
    assert read_before == [1]


def test_a_plan_that_is_over_ends_the_reading_of_its_images(tmp_path: Path) -> None:
    plan = make_plan(PEOPLE, make_study())

    async def play(computation: Computation, reader: Reader) -> None:
        ahead = computation.read_ahead()
        assert await asyncio.to_thread(reader.begun.wait, 200)
        waiting = computation.prepare(AttemptKey(plan.id, 1, 1), RoundKind.TRAIN, bytes(32), START)
        await asyncio.to_thread(computation.close)
        assert ahead.done()
        with pytest.raises((Stopped, asyncio.CancelledError)):
            await waiting

    with reading(tmp_path, plan) as (computation, reader):
        asyncio.run(play(computation, reader))
        assert reader.times == 1


def test_a_round_that_comes_while_images_are_read_does_not_begin_with_the_first_file_again(
    tmp_path: Path,
) -> None:
    model, vector = small_model()
    plan = make_plan(PEOPLE, make_study(model=model))

    async def play(computation: Computation, reader: Reader) -> None:
        first = computation.prepare(AttemptKey(plan.id, 1, 1), RoundKind.TRAIN, bytes(32), vector)
        assert await asyncio.to_thread(reader.begun.wait, 200)
        second = computation.prepare(AttemptKey(plan.id, 3, 1), RoundKind.EVALUATE, bytes(32), vector)
        reader.enough.set()
        assert (await second).sums is not None
        with pytest.raises(Stopped):
            await first

    with reading(tmp_path, plan) as (computation, reader):
        asyncio.run(play(computation, reader))
        assert reader.times == 1
