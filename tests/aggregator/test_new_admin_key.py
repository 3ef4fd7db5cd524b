"""The command replaces the admin key and nothing is lost, also if the key was; a crash is harmless."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import crashing
from admin_keys import THIEF, told
from aggregator.admin import set_up_aggregator
from aggregator.adminkey import KEY, NEXT, NoAdminKey, new_admin_key, open_store, settle_key
from aggregator.auditlog import BadEntry
from aggregator.backup import back_up
from aggregator.cli import app
from aggregator.rounds.coordinator import Coordinator
from aggregator.settings import Settings
from aggregator.storage import crashpoints
from aggregator.storage.database import StillRunning
from aggregator.storage.store import Store
from aggregator.storage.transactions import WrongAdminKey
from databases import run
from hospital_node.audit_witness import AuditKeyChanged, AuditWitness
from hospital_node.journal import Journal
from medveil.identity import Identity, verify
from medveil.ids import fingerprint
from medveil.messages import AuditHead
from postgres import Cluster
from restoring import put_back as restored_from
from world import World

Build = Callable[..., World]


@dataclass
class Scene:
    """An aggregator's folder with one approved plan, and hospitals that poll it."""

    world: World
    settings: Settings
    journals: dict[str, Journal] = field(default_factory=dict)

    def store(self) -> Store:
        return open_store(self.settings)

    def head(self) -> AuditHead:
        """What hospitals are shown, by an aggregator that has just started."""
        store = self.store()
        coordinator = Coordinator(store, self.world.blobs)
        told = coordinator.instructions.work(self.world.plan.id, "hospital-1").head
        store.close()
        assert told is not None
        return told

    def heads(self, name: str) -> AuditWitness:
        if name not in self.journals:
            self.journals[name] = Journal(self.settings.folder / f"{name}.db")
        return AuditWitness(self.journals[name])

    def command(self, *words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--folder", str(self.settings.folder)])

    def verify(self, *names: str) -> Result:
        files: list[str] = []
        for name in names:
            path = self.settings.folder / f"{name}.json"
            path.write_text(self.heads(name).export(name))
            files += ["--heads", str(path)]
        return self.command("audit", "verify", *files)

    def change(self, times: int = 1) -> None:
        """As many further entries."""
        store = self.store()
        for _ in range(times):
            store.register.add_token(str(store.transactions.head), name="x", role="hospital", expires=1.0)
        store.close()


@pytest.fixture
def scene(build: Build) -> Iterator[Scene]:
    made = scene_of(build())
    yield made
    for journal in made.journals.values():
        journal.close()


def scene_of(world: World) -> Scene:
    world.store.close()
    world.admin.save(world.folder / KEY)
    settings = Settings(world.folder)
    settings.save()
    return Scene(world, settings)


def test_the_command_replaces_the_key_and_says_what_to_do(scene: Scene) -> None:
    before = (scene.settings.folder / KEY).read_bytes()
    scene.heads("st-marys").take(scene.head())
    scene.change()
    scene.heads("charite").take(scene.head())
    done = scene.command("new-admin-key")
    assert done.exit_code == 0, done.exception
    present = Identity.load("admin", scene.settings.folder / KEY).public_key
    old, new = fingerprint(scene.world.admin.public_key), fingerprint(present)
    assert all(words in done.output for words in (old, new, "plans signed again: 1", "no operator has to"))
    assert not (scene.settings.folder / NEXT).exists()
    assert before not in [p.read_bytes() for p in scene.settings.folder.rglob("*") if p.is_file()]
    assert (scene.settings.folder / KEY).stat().st_mode & 0o077 == 0
    for name in ("st-marys", "charite"):
        scene.heads(name).take(scene.head())
    verified = scene.verify("st-marys", "charite")
    assert verified.exit_code == 0, verified.exception
    assert f"{old} handed over to {new}" in verified.output
    assert scene.command("enroll-token", "x").exit_code == 0


def test_plans_are_signed_again_and_keep_their_approvals(scene: Scene) -> None:
    store = scene.store()
    ((plan, signature, _),) = store.plans.all()
    approvals = store.plans.approvals(plan.id)
    verify(scene.world.admin.public_key, signature, "create-plan", plan.hash)
    store.close()
    new_admin_key(scene.settings)
    store = scene.store()
    ((again, signature, _),) = store.plans.all()
    verify(store.transactions.admin_key, signature, "create-plan", plan.hash)
    assert (again, store.plans.approvals(plan.id)) == (plan, approvals)
    store.close()


def test_a_running_aggregator_keeps_its_key(scene: Scene) -> None:
    store = scene.store()
    assert store.transactions.lead()
    for without_old in (False, True):
        with pytest.raises(StillRunning):
            new_admin_key(scene.settings, without_old=without_old)
    store.close()
    new_admin_key(scene.settings)


def test_a_second_machine_with_the_old_key_writes_nothing_until_it_has_the_new_one(scene: Scene) -> None:
    """As with PostgreSQL, where each machine has a folder of its own."""
    there = scene.settings.folder / "there"
    there.mkdir()
    shutil.copy(scene.settings.folder / KEY, there)
    other: Any = replace(scene.settings, folder=there)
    new_admin_key(scene.settings)
    shutil.copy(scene.settings.folder / "aggregator.db", there)  # stands for the database that both use
    store = open_store(other)
    with pytest.raises(WrongAdminKey):
        store.transactions.lead()
    with pytest.raises(BadEntry, match="another key signs than the admin key in this folder"):
        store.log.verify()
    store.close()
    with pytest.raises(WrongAdminKey):
        new_admin_key(other)
    shutil.copy(scene.settings.folder / KEY, there)
    store = open_store(other)
    assert store.transactions.lead()
    store.log.verify()
    store.close()


def once_free(action: Callable[[], object]) -> None:
    """PostgreSQL takes a lock back a moment after its holder has hung up."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(StillRunning):
            if action():
                return
    raise AssertionError("the lead did not become free")


def test_two_machines_on_one_postgresql_need_the_same_key(folder: Path, cluster: Cluster) -> None:
    url = cluster.url(cluster.database())
    here, there = (Settings(folder / name, database=url) for name in ("here", "there"))
    set_up_aggregator(here)
    there.folder.mkdir()
    shutil.copy(here.folder / KEY, there.folder)
    standing_by = open_store(there)
    assert standing_by.transactions.lead()
    with pytest.raises(StillRunning):
        new_admin_key(here)
    standing_by.close()
    once_free(lambda: new_admin_key(here))
    late = open_store(there)
    with pytest.raises(WrongAdminKey):
        late.transactions.lead()
    late.close()
    leading = open_store(here)
    once_free(leading.transactions.lead)  # whoever has the wrong key did not keep the lead from it
    leading.log.verify()
    leading.close()


# ---- lost or stolen


def line_to_type(output: str) -> tuple[str, str]:
    """The head and the fingerprint in the line that the admin reads out."""
    found = re.search(r"medveil node heads --accept (\S+) --new-key (\S+)", output)
    assert found is not None, output
    return found[1], found[2]


def test_a_stolen_key_is_replaced_and_each_operator_types_the_line_that_the_command_prints(
    scene: Scene,
) -> None:
    stolen = scene.world.admin
    for name in ("st-marys", "charite", "upmc"):
        scene.heads(name).take(scene.head())
    done = scene.command("new-admin-key", "--without-old-key")
    assert done.exit_code == 0, done.exception
    assert "has NOT handed over" in done.output
    head, new = line_to_type(done.output)
    with pytest.raises(AuditKeyChanged):
        scene.heads("st-marys").take(scene.head())
    scene.heads("charite").accept(head, new_key=new)  # by telephone, before it has seen anything
    said = scene.verify("st-marys", "charite", "upmc")
    assert "WITHOUT its word" in said.output
    assert "accepted by the operators of: charite" in said.output
    assert "not accepted yet at: st-marys, upmc" in said.output
    scene.heads("st-marys").accept(head, new_key=new)
    scene.change()
    for name in ("st-marys", "charite"):
        scene.heads(name).take(scene.head())
        assert fingerprint(scene.heads(name).key or b"") == new
    said = scene.verify("st-marys", "charite", "upmc")
    assert said.exit_code == 0, said.exception
    assert "accepted by the operators of: st-marys, charite" in said.output
    assert "not accepted yet at: upmc" in said.output
    # The thief shows upmc, who has heard nothing yet, a log of their own: the file tells.
    copy = told(stolen, None)
    for _ in range(40):
        copy = told(stolen, copy)
    scene.heads("upmc").take(
        AuditHead(number=copy.number, hash=copy.hash, key=stolen.public_key, signature=copy.signature)
    )
    found = scene.verify("upmc").exception
    assert isinstance(found, BadEntry)
    assert "a head that upmc holds is signed by a key that entry" in found.what


def test_a_lost_key_is_replaced_from_what_the_log_tells(scene: Scene) -> None:
    scene.heads("st-marys").take(scene.head())
    (scene.settings.folder / KEY).unlink()
    with pytest.raises(NoAdminKey, match=r"admin\.key is not there"):
        scene.store()
    for words in (["enroll-token", "x"], ["new-admin-key"]):
        assert isinstance(scene.command(*words).exception, NoAdminKey)
    changed = new_admin_key(scene.settings, without_old=True)
    assert changed.old == scene.world.admin.public_key
    assert scene.verify("st-marys").exit_code == 0
    (scene.settings.folder / KEY).write_bytes(b"torn")
    with pytest.raises(NoAdminKey, match="cannot be read"):
        scene.store()
    again = new_admin_key(scene.settings, without_old=True)  # now the last change tells
    assert again.old == changed.new
    assert scene.verify("st-marys").exit_code == 0


def test_a_crash_while_a_lost_key_is_replaced_is_harmless_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene.settings.folder / KEY).unlink()
    THIEF.save(scene.settings.folder / NEXT)  # left by a try that ended before the commit
    with monkeypatch.context() as cut:
        cut.setattr("aggregator.adminkey._put_in_place", lambda folder: None)
        changed = new_admin_key(scene.settings, without_old=True)
    store = scene.store()
    assert store.transactions.admin_key == changed.new
    assert store.transactions.lead()
    settle_key(scene.settings.folder, store)
    store.close()
    assert Identity.load("admin", scene.settings.folder / KEY).public_key == changed.new


def test_an_older_log_that_names_no_key_is_not_guessed_at(scene: Scene) -> None:
    details = """UPDATE audit SET details = '{"schema": "0003"}' WHERE number = 1"""
    run(scene.settings.folder / "aggregator.db", details)
    (scene.settings.folder / KEY).unlink()
    with pytest.raises(NoAdminKey, match="does not name the lost key"):
        new_admin_key(scene.settings, without_old=True)
    assert not (scene.settings.folder / KEY).exists()


# ---- crashes


POINTS = [
    f"{name}:{when}{time}"
    for name, times in {
        "key.write": ("",),
        "key.sync-folder": ("", ":2"),
        "commit.change_admin_key": ("",),
        "key.rename": ("",),
    }.items()
    for when in ("before", "after")
    for time in times
]
AFTER_COMMIT = (
    "commit.change_admin_key:after",
    "key.rename",
    "key.sync-folder:before:2",
    "key.sync-folder:after:2",
)


def die_at(point: str, settings: Settings) -> None:
    """In a child: the command, with its death."""
    crashpoints.arm(point)
    new_admin_key(settings)


@pytest.fixture(scope="module")
def _servers() -> None:
    crashing.prepare()


def test_every_crash_point_of_the_key_is_tried_here() -> None:
    named = {point.split(":")[0] for point in POINTS}
    known = {name for name in crashpoints.STEPS if name.startswith("key.") or "admin_key" in name}
    assert named == known


TELLING = ("key.write:before", "commit.change_admin_key:before", "commit.change_admin_key:after")


@pytest.mark.usefixtures("_servers")
@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=[pytest.mark.slow] * (p not in TELLING)) for p in POINTS]
)
def test_a_crash_leaves_the_old_state_whole_or_the_new_one(scene: Scene, point: str) -> None:
    before = scene.world.admin.public_key
    process = crashing.SERVERS.Process(target=die_at, args=(point, scene.settings))
    process.start()
    process.join()
    assert process.exitcode == -9, "the point was not reached"
    store = scene.store()
    assert (store.transactions.admin_key != before) == point.startswith(AFTER_COMMIT)
    store.log.verify()
    ((plan, signature, _),) = store.plans.all()
    verify(store.transactions.admin_key, signature, "create-plan", plan.hash)
    assert len(store.log.succession()) == (store.transactions.admin_key != before)
    assert store.transactions.lead()
    settle_key(scene.settings.folder, store)
    assert not (scene.settings.folder / NEXT).exists()
    assert Identity.load("admin", scene.settings.folder / KEY).public_key == store.transactions.admin_key
    store.close()
    new_admin_key(scene.settings)  # the command may be repeated
    scene.heads("st-marys").take(scene.head())


def test_a_repeated_command_clears_away_what_a_crash_has_left(scene: Scene) -> None:
    for left in (THIEF, None):
        (scene.settings.folder / NEXT).unlink(missing_ok=True)
        (scene.settings.folder / NEXT).write_bytes(b"torn") if left is None else left.save(
            scene.settings.folder / NEXT
        )
        assert scene.store().transactions.admin_key == scene.world.admin.public_key
    changed = new_admin_key(scene.settings)
    assert changed.new not in (THIEF.public_key, scene.world.admin.public_key)
    assert scene.store().transactions.admin_key == changed.new


# ---- backups


def test_a_backup_between_commit_and_rename_is_whole_and_so_is_what_is_restored_from_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as cut:
        cut.setattr("aggregator.adminkey._put_in_place", lambda folder: None)
        changed = new_admin_key(scene.settings)
    assert (scene.settings.folder / NEXT).exists()
    back_up(scene.settings, scene.settings.folder.parent / "backup")
    put_back = Settings(scene.settings.folder.parent / "put-back")
    restored_from(scene.settings.folder.parent / "backup", put_back)
    assert Identity.load("admin", put_back.folder / KEY).public_key == changed.new
    assert not (put_back.folder / NEXT).exists()


def test_a_backup_from_before_a_hand_over_is_restored_and_the_key_changed_again(scene: Scene) -> None:
    """The hospitals hold the key that went with the lost log; the retired one must not come back."""
    scene.heads("st-marys").take(scene.head())
    target = scene.settings.folder.parent / "backup"
    back_up(scene.settings, target)
    lost = new_admin_key(scene.settings)
    scene.change(9)
    scene.heads("st-marys").take(scene.head())
    put_back = Scene(scene.world, Settings(scene.settings.folder.parent / "put-back"), scene.journals)
    restored_from(target, put_back.settings)
    with pytest.raises(AuditKeyChanged):
        put_back.heads("st-marys").take(put_back.head())
    changed = new_admin_key(put_back.settings)
    put_back.heads("st-marys").accept(changed.head, new_key=fingerprint(changed.new))
    put_back.change()
    put_back.heads("st-marys").take(put_back.head())
    assert put_back.heads("st-marys").key not in (lost.new, lost.old)
    said = put_back.verify("st-marys")
    assert said.exit_code == 0, said.exception
    assert "were lost in a restore" in said.output


def test_a_key_that_is_changed_while_a_backup_is_made_does_not_go_with_the_old_database(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aggregator import backup

    copy = backup.copy_database

    def late(source: Path, target: Path) -> None:
        new_admin_key(scene.settings)
        copy(source, target)

    monkeypatch.setattr(backup, "copy_database", late)
    with pytest.raises(BadEntry, match="another key signs than the admin key in this folder"):
        back_up(scene.settings, scene.settings.folder.parent / "backup")


def test_a_new_aggregator_names_its_first_key_in_its_log(folder: Path) -> None:
    settings = Settings(folder / "aggregator")
    set_up_aggregator(settings)
    store = open_store(settings)
    assert store.log.recorded_key() == store.transactions.admin_key
    store.close()
