"""The aggregator dies before and after every commit, write, fsync and rename: nothing is lost or doubled.

Each run is a whole small study with real masks: three hospitals that live on, each with a unit vector of its
own, and an aggregator process that kills itself at a named point and is started again.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import aggregator
import crashing
from aggregator.rounds.intake import Received
from aggregator.storage import crashpoints
from aggregator.storage.blobs import SCRATCH, Blobs
from aggregator.storage.store import Store
from medveil.identity import Identity, verify
from medveil.tensors import from_safetensors
from world import SPEC, START, Site, fresh_file, model_in, unit

AGGREGATOR = Path(aggregator.__file__).parent
ORDER = """
    commit.begin_log commit.lead commit.add_token commit.enrol commit.add_plan commit.add_amended
    commit.add_approval
    commit.add_refusal commit.say_directive
    commit.probe commit.restored nonce.keep key.write key.sync-folder commit.change_admin_key
    key.rename commit.note_ledger
    commit.add_way_in commit.sign_in commit.use_session commit.end_session commit.add_api_token commit.grant
    commit.withdraw
    commit.revoke_api_token commit.revoke commit.take_over commit.open_attempt commit.add_event
    blob.write blob.sync
    blob.rename blob.sync-folder commit.end_attempt blob.forget commit.together commit.finish_plan
""".split()
"""The points in the order in which a study passes them; each new process has the next one."""
LATER = {
    "commit.add_event": (2, 9, 20),
    "commit.together": (2, 4, 6),
    "blob.sync": (2, 5),
    "blob.write": (3,),
    "blob.rename": (4,),
    "key.sync-folder": (2,),
}
"""Points that are passed often: at which of the times as well."""


@pytest.fixture(scope="module", autouse=True)
def _servers() -> None:
    crashing.prepare()


def run(folder: Path, where: Path | str, *crashes: str) -> None:
    """Play the study and check what must hold whatever happened."""
    world, outbox = crashing.consortium(folder, where, list(crashes)), list[Received]()
    sites = [crashing.Gathering(world, i, lambda _, i=i: unit(i), outbox=outbox) for i in (1, 2, 3)]  # type: ignore[arg-type,misc]
    seen: list[dict[str, object]] = []
    for _ in range(2_000):
        for site in sites:
            site.act()
        if outbox:  # a call that was cut off is made again: some of it is a repeat then, even a late one
            assert set(world.coordinator.together.receive(outbox)) <= {"", "wrong-round"}
            outbox.clear()
        world.coordinator.tick()
        status = world.status
        assert status["versions"][: len(seen)] == seen  # published versions stay as they are
        seen = status["versions"]
        if status["finished"]:
            break
    world.aggregator.close()
    assert world.aggregator.deaths == len(crashes), "a point was not reached"
    everybody = [f"hospital-{i}" for i in (1, 2, 3)]
    ended = [(a["round"], a["attempt"], a["outcome"], a["survivors"]) for a in status["attempts"]]
    assert ended == [(1, 1, "done", everybody), (2, 1, "done", everybody)]  # no attempt was lost
    assert status["attempts"][0]["sums"]["patients"] == [3.0]  # each counts once
    blobs = Blobs(folder)
    moved = from_safetensors(model_in(blobs, seen[1]["model"]), SPEC) - START  # type: ignore[arg-type]
    assert np.allclose(moved, sum(unit(i) for i in (1, 2, 3)) / 3, atol=1e-4)
    store = Store(where, Identity.load("admin", folder / "admin.key"))
    store.log.verify()  # every change has its entry, every entry its change
    for plan, signature, finished in store.plans.all():
        verify(store.transactions.admin_key, signature, "create-plan", plan.hash)
        assert finished
    store.close()
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert [p.name for p in files if "uploads" in p.parts or p.suffix == SCRATCH] == []


def test_a_death_after_every_third_point_in_one_study_costs_nothing(folder: Path) -> None:
    assert sorted(ORDER) == sorted(crashpoints.STEPS)
    run(folder / "aggregator", fresh_file(folder), *(f"{name}:after" for name in ORDER[::3]))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_death_at_every_point_in_one_study_costs_nothing(
    folder: Path, where: Path | str, when: str
) -> None:
    run(folder / "aggregator", where, *(f"{name}:{when}" for name in ORDER))


def lost_after_agreeing(folder: Path, where: Path | str, point: str) -> None:
    """Two of three hospitals lose their keys in AGREE; the aggregator dies while it gathers their vows."""
    world = crashing.consortium(folder, where, [point])
    sites = [Site(world, i, lambda _, i=i: unit(i)) for i in (1, 2, 3)]  # type: ignore[arg-type,misc]
    lost = False
    for _ in range(2_000):
        for site in sites:
            site.act()
        world.coordinator.tick()
        status = world.status
        if not lost and status["open"] is not None and status["open"]["phase"] == "agree":
            lost = True
            for site in sites[1:]:
                site.crash()
        if status["finished"]:
            break
    world.aggregator.close()
    assert world.aggregator.deaths == 1, "the point was not reached"
    ended = [(a["round"], a["attempt"], a["outcome"]) for a in status["attempts"]]
    assert ended == [(1, 1, "failed"), (1, 2, "done"), (2, 1, "done")]
    assert status["attempts"][0]["certificate"]
    store = Store(where, Identity.load("admin", folder / "admin.key"))
    store.log.verify()
    store.close()


FAILING = [f"commit.add_event:{{}}:{n}" for n in range(21, 26)]
"""The vows, and what is noted before them: as many messages and closings are behind an attempt in AGREE."""


@pytest.mark.parametrize(("point", "when"), [(FAILING[1], "after"), ("commit.end_attempt:{}", "before")])
def test_a_death_while_a_failed_attempt_is_given_up_costs_nothing(
    folder: Path, point: str, when: str
) -> None:
    lost_after_agreeing(folder / "aggregator", fresh_file(folder), point.format(when))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", [*FAILING, "commit.end_attempt:{}"])
def test_a_death_at_each_event_of_a_failed_attempt_costs_nothing(
    folder: Path, where: Path | str, point: str, when: str
) -> None:
    lost_after_agreeing(folder / "aggregator", where, point.format(when))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "point", [f"{name}:{{}}:{n}" for name in sorted(crashpoints.STEPS) for n in (1, *LATER.get(name, ()))]
)
def test_a_death_before_and_after_each_point_costs_nothing_on_both_databases(
    folder: Path, where: Path | str, point: str, when: str
) -> None:
    run(folder / "aggregator", where, point.format(when))


DURABLE = ("os.fsync", "os.replace", "os.rename", "sync")


def test_every_call_that_makes_something_durable_is_inside_a_step() -> None:
    """A new commit, rename or fsync of a file cannot be added without its crash point."""
    bare = []
    for path in AGGREGATOR.rglob("*.py"):
        text = path.read_text()
        if not any(word in text for word in (*DURABLE, "replace_durably", "commit", "put_in_place")):
            continue
        tree = ast.parse(text)
        inside = {
            id(call)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and ast.unparse(block.items[0].context_expr).startswith("step(")
            for call in ast.walk(block)
        }
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and id(call) not in inside:
                said = ast.unparse(call.func)
                handed = any(ast.unparse(k).startswith("step=steps(") for k in call.keywords)
                durable = said in DURABLE or said.endswith(".commit")
                if durable or (said in ("replace_durably", "put_in_place") and not handed):
                    bare.append(f"{path.name}: {ast.unparse(call)}")
    assert sorted(bare) == [
        "audit_export.py: os.fsync(file.fileno())",  # a file that is handed on
        "backup.py: os.fsync(copy.fileno())",  # a copy in a new folder, which counts when its list is written
        "blobs.py: sync(folder.parent)",  # an empty folder
        "database.py: connection.commit()",  # a session's setting
        "invitations.py: replace_durably(path, before, private=True)",  # a file that is handed on
        "invitations.py: replace_durably(path, invitation.to_bytes(), private=True)",
        "queue.py: replace_durably(self._path, state.model_dump_json().encode(), private=True)",
        "receivers.py: replace_durably(path, f'{secret}\\n'.encode(), private=True)",
        "set_up.py: replace_durably(made.public, written(made.described()))",  # made once, by a command
        "set_up.py: replace_durably(target, written(persons))",
        "settings.py: os.fsync(file.fileno())",
        "settings.py: replace_durably(self.folder / FILE, text.encode(), private=True)",
        "settings.py: replace_durably(self.folder / FILE, written(self.settings), private=True)",
        "settings.py: replace_durably(self.persons_file, written(persons))",
        "watched.py: replace_durably(path, f'{secrets.token_urlsafe(32)}\\n'.encode(), private=True)",
    ]


@pytest.mark.parametrize("text", ["nothing:before", "blob.sync:now", "blob.sync"])
def test_an_unknown_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"step|unpack"):
        crashpoints.arm(text)
    with pytest.raises(ValueError, match="not listed"), crashpoints.step("nothing"):
        pass
