"""Heads that hospitals have kept show a log that was cut, rolled back, signed anew or told in two ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aggregator.admin import set_up_aggregator
from aggregator.adminkey import open_store
from aggregator.auditlog import BadEntry
from aggregator.backup import back_up
from aggregator.cli import app
from aggregator.settings import Settings
from aggregator.storage.store import Store
from databases import run
from hospital_node.audit_witness import AuditWitness
from hospital_node.journal import Journal
from medveil.errors import BadFile, RemoteProtocolError
from medveil.identity import Identity
from medveil.messages import AuditHead
from postgres import Cluster
from restoring import put_back


@dataclass
class Scene:
    """An aggregator's folder, and hospitals that poll it."""

    folder: Path
    settings: Settings
    journals: dict[str, Journal] = field(default_factory=dict)
    changes: int = 0

    def change(self, times: int = 1) -> None:
        """As many further entries."""
        store = open_store(self.settings)
        for _ in range(times):
            self.changes += 1
            store.register.add_token(f"token {self.changes}", name="x", role="hospital", expires=1.0)
        store.close()

    def poll(self, *names: str) -> None:
        """Each of these hospitals sees the newest head."""
        store = open_store(self.settings)
        head = store.transactions.witnessed()
        told = AuditHead(
            number=head.number, hash=head.hash, key=store.transactions.admin_key, signature=head.signature
        )
        store.close()
        for name in names:
            self.heads(name).take(told)

    def heads(self, name: str) -> AuditWitness:
        if name not in self.journals:
            self.journals[name] = Journal(self.folder / f"{name}.db")
        return AuditWitness(self.journals[name])

    def export(self, name: str) -> Path:
        path = self.folder / f"{name}.json"
        path.write_text(self.heads(name).export(name))
        return path

    def verify(self, *names: str) -> Result:
        files = [word for name in names for word in ("--heads", str(self.export(name)))]
        return CliRunner().invoke(app, ["audit", "verify", *files, "--folder", str(self.settings.folder)])

    def copy(self) -> Path:
        """The database as it is now, for a rollback that nobody is told of."""
        target = self.folder / f"copy-{self.changes}.db"
        shutil.copy(self.settings.folder / "aggregator.db", target)
        return target

    def put_back(self, copy: Path) -> None:
        shutil.copy(copy, self.settings.folder / "aggregator.db")


@pytest.fixture
def scene(folder: Path) -> Iterator[Scene]:
    settings = Settings(folder / "aggregator")
    set_up_aggregator(settings)
    made = Scene(folder, settings)
    made.change(3)
    made.poll("st-marys", "charite")
    yield made
    for journal in made.journals.values():
        journal.close()


def contradicted(result: Result, *words: str) -> BadEntry:
    assert isinstance(result.exception, BadEntry), result.output
    assert all(word in result.exception.what for word in words), result.exception.what
    return result.exception


def test_an_honest_log_agrees_with_all_its_witnesses(scene: Scene) -> None:
    scene.change(2)
    scene.poll("st-marys")
    result = scene.verify("st-marys", "charite")
    assert result.exit_code == 0
    assert "st-marys: 2 heads agree" in result.output
    assert "lost" not in result.output


def test_a_log_that_was_cut_is_named_with_its_witness(scene: Scene) -> None:
    scene.change()
    scene.poll("charite")
    newest = scene.heads("charite")._heads.all()[-1].number
    run(scene.settings.folder / "aggregator.db", f"DELETE FROM audit WHERE number = {newest}")
    broken = contradicted(scene.verify("st-marys", "charite"), "charite", "the log ends at")
    assert broken.number == newest


def test_a_node_that_was_away_meanwhile_sees_a_longer_log_and_raises_no_alarm(scene: Scene) -> None:
    """Why the heads must be collected and compared: see docs/decisions/0018-witnesses.md."""
    copy = scene.copy()
    scene.change(2)
    scene.poll("st-marys")
    scene.put_back(copy)
    scene.change(5)
    scene.poll("st-marys")
    assert scene.heads("st-marys")._heads.alarm() is None


def test_a_rollback_is_named_by_whoever_saw_what_is_gone(scene: Scene) -> None:
    copy = scene.copy()
    scene.change(2)
    scene.poll("st-marys")
    scene.put_back(copy)
    with pytest.raises(RemoteProtocolError, match="ends at entry"):
        scene.poll("st-marys")
    contradicted(scene.verify("st-marys"), "st-marys", "the log ends at")
    scene.change(5)
    contradicted(scene.verify("charite", "st-marys"), "st-marys", "rolled back or written anew")


def test_a_log_signed_anew_with_another_key_is_not_the_one_that_was_seen(scene: Scene) -> None:
    other = Settings(scene.folder / "other")
    set_up_aggregator(other)
    forged = Scene(scene.folder, other, scene.journals)
    contradicted(forged.verify("st-marys"), "st-marys", "another key")
    forged.change(9)
    with pytest.raises(RemoteProtocolError, match="not signed with the admin key"):
        forged.poll("charite")
    assert scene.verify("charite", "st-marys").exit_code == 0  # the refused head says nothing about this log


def test_two_hospitals_that_were_told_two_logs_show_it(scene: Scene) -> None:
    copy = scene.copy()
    scene.change()
    scene.poll("st-marys")
    scene.put_back(copy)
    scene.changes += 100
    scene.change()
    scene.poll("charite")
    contradicted(scene.verify("st-marys", "charite"), "st-marys", "charite", "forked")
    contradicted(scene.verify("st-marys"), "st-marys")


def restored(scene: Scene) -> tuple[Scene, str]:
    """A backup, more entries that both hospitals see, and the restore; the head that the admin reads."""
    number = scene.changes
    back_up(scene.settings, scene.folder / f"backup-{number}")
    scene.change(9)
    scene.poll("st-marys", "charite")
    after = Settings(scene.folder / f"restored-{number}")
    head = put_back(scene.folder / f"backup-{number}", after)
    return Scene(scene.folder, after, scene.journals, 100 + number), str(head)


def test_after_an_honest_restore_the_operators_accept_it_and_the_log_agrees_again(scene: Scene) -> None:
    after, head = restored(scene)
    with pytest.raises(RemoteProtocolError, match="ends at entry"):
        after.poll("st-marys")
    contradicted(after.verify("st-marys"), "st-marys")
    for name in ("st-marys", "charite"):
        after.heads(name).accept(head)
    after.change(4)
    after.poll("st-marys", "charite")
    result = after.verify("st-marys", "charite")
    assert result.exit_code == 0, result.exception
    assert "2 of them were lost in a restore" in result.output
    again, second = restored(after)
    for name in ("st-marys", "charite"):
        with suppress(RemoteProtocolError):
            again.poll(name)
        again.heads(name).accept(second)
    assert again.verify("st-marys", "charite").exit_code == 0


def test_an_operators_word_gives_nothing_up_that_the_log_does_not_call_a_restore(scene: Scene) -> None:
    copy = scene.copy()
    scene.change(2)
    scene.poll("st-marys")
    scene.put_back(copy)
    store = open_store(scene.settings)
    scene.heads("st-marys").accept(str(store.transactions.head))
    store.close()
    contradicted(scene.verify("st-marys"), "st-marys", "the log ends at")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"node": "No Name"},
        {"heads": [{"kind": "first"}]},
        {"more": 1},
        {"heads": [{**dict.fromkeys(("hash", "signature", "key"), "zz"), "kind": "first", "number": 1}]},
    ],
)
def test_a_file_that_is_no_export_is_refused(scene: Scene, change: dict[str, Any]) -> None:
    path = scene.export("st-marys")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = CliRunner().invoke(
        app, ["audit", "verify", "--heads", str(path), "--folder", str(scene.settings.folder)]
    )
    assert isinstance(result.exception, BadFile)


def test_a_head_changed_in_the_file_is_found_by_its_signature(scene: Scene) -> None:
    path = scene.export("st-marys")
    content = json.loads(path.read_text())
    content["heads"][0]["number"] += 1
    path.write_text(json.dumps(content))
    result = CliRunner().invoke(
        app, ["audit", "verify", "--heads", str(path), "--folder", str(scene.settings.folder)]
    )
    contradicted(result, "another key")


def test_a_process_that_has_lost_the_lead_hands_out_no_older_head(cluster: Cluster) -> None:
    """A hospital may ask the old one after the new one; a head that goes backwards would be an alarm."""
    admin, where = Identity.generate("admin"), cluster.url(cluster.database())
    old, new = Store(where, admin), Store(where, admin)
    new.register.add_token("token", name="x", role="hospital", expires=1.0)
    assert old.transactions.head.number < new.transactions.head.number
    assert old.transactions.witnessed() == new.transactions.witnessed() == new.transactions.head
    old.close()
    new.close()
