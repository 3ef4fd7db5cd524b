"""An admin goes on from a published version with one command: the same study, another start, a new plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from aggregator.admin import KEY
from aggregator.cli import app
from aggregator.next_study import NoVersion, create_next
from aggregator.settings import Settings, load
from hospital_node.governance import check_plan
from hospital_node.settings import NodeSettings, Policy
from medveil.errors import BadOption
from medveil.plan import Plan
from medveil.starts import FRESH_OF_TRAINED
from medveil.tensors import from_safetensors
from world import SPEC, World, finish, make_sites, make_world, model_in

Build = Callable[..., World]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A consortium whose only study is over."""
    training = {"rounds": 1, "local_steps": 1, "learning_rate": 1.0}
    world = make_world(tmp_path_factory.mktemp("consortium"), training=training)
    world.admin.save(world.folder / KEY)
    Settings(world.folder).save()
    finish(world, make_sites(world))
    yield world
    world.store.close()


def create(world: World, *words: str) -> tuple[str, Plan]:
    """What the command says, and the newest plan."""
    result = CliRunner().invoke(app, ["study", "create", *words, "--folder", str(world.folder)])
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split()), world.store.plans.all()[-1][0]


def test_a_plan_by_its_name_goes_on_from_its_newest_version_and_hospitals_can_read_it(done: World) -> None:
    told, plan = create(done, "--from", done.plan.study.name)
    newest = done.store.plans.newest_version(done.plan.id)
    assert newest is not None
    before, after = done.plan.study.model_dump(), plan.study.model_dump()
    parent = after["model"].pop("parent")
    assert (parent["plan"], parent["number"], parent["model"]) == (done.plan.id, newest.number, newest.model)
    assert before["model"].pop("initial_model") != after["model"].pop("initial_model")
    assert after.pop("name") == f"{before.pop('name')}-2"
    assert after == before  # the author's choices, and their price
    assert plan.names == done.plan.names
    assert f"version {newest.number} of study '{done.plan.study.name}'" in told
    published, start = (
        from_safetensors(model_in(done.blobs, name), SPEC)
        for name in (newest.model, plan.study.model.initial_model)
    )
    assert 0 < np.abs(published - start).max() <= FRESH_OF_TRAINED
    node = NodeSettings(
        name="hospital-1",
        aggregator="https://here",
        data=Path("/nowhere"),
        dataset="films",
        policy=Policy(allow_no_privacy=True),
    )
    assert check_plan(plan, node, done.identities[0]) is None  # it has no price, as the one before


def test_each_next_one_has_a_name_of_its_own_and_a_start_that_no_other_plan_has(done: World) -> None:
    first = done.store.plans.versions(done.plan.id, first=1)[0][0]
    roster = [f"hospital-{i}" for i in (3, 1, 2)]
    named = [word for name in roster for word in ("--hospital", name)]
    _, one = create(done, "--from", first.model[:12], "--name", "films-again", *named)
    _, other = create(done, "--from", first.model[:12])
    assert (one.study.name, one.names) == ("films-again", roster)
    assert other.study.name not in {plan.study.name for plan, _, _ in done.store.plans.all()[:-1]}
    assert other.study.model.initial_model != one.study.model.initial_model
    assert one.study.model.parent == other.study.model.parent


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--from", "nothing-like-it"], "no plan and no version goes by it"),
        (["--from", "0" * 12], "no plan and no version goes by it"),
        (["--from", "tiny-empty"], "no version yet"),
        (["--from", "tiny", "--name", "tiny"], "'tiny' is taken"),
        (["--from", "tiny", "--name", "No Name"], "is no name"),
        (["--from", "tiny", "--initial", "a"], "not both"),
        (["a", "--initial", "a", "--from", "tiny"], "not both"),
        (["a", "--initial", "a", "--name", "b"], "not both"),
        (["a"], "it takes a study file"),
        ([], "it takes a study file"),
    ],
)
def test_what_it_cannot_go_on_from_is_refused_and_no_plan_is_made(
    done: World, words: list[str], problem: str
) -> None:
    if "tiny-empty" in words and not any(p.study.name == "tiny-empty" for p, _, _ in done.store.plans.all()):
        create_next(load(done.folder), "tiny", "tiny-empty")
    before = len(done.store.plans.all())
    with pytest.raises((NoVersion, BadOption), match=problem):
        create(done, *words)
    assert len(done.store.plans.all()) == before
