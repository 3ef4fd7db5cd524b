"""No change without its audit entry, and no entry can be changed: tampering is found and named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aggregator.admin import set_up_aggregator
from aggregator.auditlog import NOTHING, BadEntry, BadHead, Head, Signers, checked, seal
from aggregator.cli import app
from aggregator.settings import Settings
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.database import Database
from aggregator.storage.log import AuditLog
from aggregator.storage.plans import Plans
from aggregator.storage.register import ApiToken, Register
from aggregator.storage.store import Store
from aggregator.storage.transactions import Transactions, WrongAdminKey
from amended import next_plan
from databases import run
from door import Door
from medveil.identity import BadSignature, Identity
from medveil.messages import PlanOffers, Refusal, Work
from medveil.plan import Plan
from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey, ModelVersion, RoundKind
from tries import sqlite_first
from world import World, finish, make_plan, make_sites, make_study, tables_of

ADMIN = Identity.generate("admin")
HOSPITALS = [Identity.generate(f"hospital-{i}") for i in (1, 2, 3, 4)]
PLAN: Plan = make_plan(HOSPITALS[:3], make_study())
AMENDED = next_plan(PLAN, HOSPITALS)
KEY = AttemptKey(PLAN.id, 1, 1)
FAILED = AttemptReport(round=1, attempt=1, kind=RoundKind.TRAIN, outcome="failed", reason="below-threshold")
SECRETS = ("the-token-itself", "the-share-itself")


def version(number: int) -> ModelVersion:
    parent = None if number == 0 else f"{number - 1:064x}"
    return ModelVersion(
        plan=PLAN.id,
        number=number,
        model=f"{number:064x}",
        parent=parent,
        round=number,
        survivors=(),
        epsilon=None,
        created="",
    )


Build = Callable[..., World]

CHANGES: dict[str, Callable[[Store], object]] = {
    "transactions.lead": lambda s: s.transactions.lead(),
    "register.add_token": lambda s: s.register.add_token(
        SECRETS[0], name="st-marys", role="hospital", expires=9.0
    ),
    "register.enrol": lambda s: s.register.enrol(SECRETS[0], name="st-marys", public_key=b"k" * 32, now=1.0),
    "plans.add": lambda s: s.plans.add(PLAN, b"s" * 64, version(0), 1.0),
    "plans.add_amended": lambda s: s.plans.add_amended(AMENDED, b"s" * 64, 1.0),
    "plans.add_approval": lambda s: s.plans.add_approval(PLAN.id, "hospital-1", b"s" * 64),
    "plans.add_refusal": lambda s: s.plans.add_refusal(
        PLAN.id, "hospital-2", Refusal(kind="refused", reason="no films", signature=b"s" * 64), 1.0
    ),
    "plans.open_attempt": lambda s: s.plans.open_attempt(KEY, kind=RoundKind.TRAIN, model="00" * 32, now=1.0),
    "plans.add_event": lambda s: s.plans.add_event(KEY, 0, "unmask", SECRETS[1].encode(), actor="hospital-1"),
    "plans.end_attempt": lambda s: s.plans.end_attempt(PLAN.id, FAILED, version=version(1)),
    "plans.restored": lambda s: s.plans.restored(s.transactions.head),
    "log.change_admin_key": lambda s: s.log.change_admin_key(Identity.generate("admin")),
    "plans.take_over": lambda s: s.plans.take_over(
        PLAN.id, version(0).model_copy(update={"plan": AMENDED.id}), {}
    ),
    "plans.finish": lambda s: s.plans.finish(AMENDED.id),
}
"""One call of every method that changes something, in an order that works."""
READS = {
    "transactions": "admin_key break_off check_admin_key check_file check_lead close head in_doubt "
    "edition edition_asked edition_read probe read remembered_head settled signer witnessed",
    "plans": "all approval_counts approvals attempts edition events has_model is_open newest_version "
    "progress refusals rows version versions",
    "register": "api_token api_tokens edition enrol_tokens enrolled_keys opens party party_as_of "
    "plan_ids readable researchers",
    "log": "edition edition_asked entries key_changes recorded_key rest succession verify",
}
PARTS = {"transactions": Transactions, "plans": Plans, "register": Register, "log": AuditLog}


@pytest.fixture
def store(where: Path | str) -> Iterator[Store]:
    opened = Store(where, ADMIN, wall_clock=lambda: 1_700_000_000.0)
    yield opened
    opened.close()


def without_log(where: Path | str) -> list[str]:
    log = ("INSERT INTO audit", 'INSERT INTO "audit', "audit ")
    return [row for row in tables_of(where) if not row.startswith(log)]


def test_every_public_method_of_the_store_is_known_to_read_or_to_change() -> None:
    changes = {*CHANGES, *REGISTER_CHANGES, "transactions.change", "transactions.together"}
    for part, kind in PARTS.items():
        public = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}
        mine = {name.partition(".")[2] for name in changes if name.startswith(f"{part}.")}
        assert public == mine | set(READS[part].split()), part


TOKEN = ApiToken("id", "anna", "researcher", "hash", 1.0, 2.0)
REGISTER_CHANGES: dict[str, Callable[[Register], object]] = {
    "register.add_api_token": lambda r: r.add_api_token(TOKEN),
    "register.grant": lambda r: r.grant(PLAN.id, "anna"),
    "register.withdraw": lambda r: r.withdraw(PLAN.id, "anna"),
    "register.revoke_api_token": lambda r: r.revoke_api_token("id", name="anna", now=1.0),
    "register.revoke": lambda r: r.revoke("st-marys", now=1.0),
    "register.add_only_token": lambda r: r.add_only_token(
        "one", name="st-johns", role="hospital", expires=9.0, now=1.0, again=False
    ),
    "register.take_back_tokens": lambda r: r.take_back_tokens("st-johns", now=1.0),
}


@sqlite_first
def test_every_change_of_the_register_adds_entries(store: Store, where: Path | str) -> None:
    register = store.register
    for name in ("register.add_token", "register.enrol", "plans.add"):
        CHANGES[name](store)
    for name, change in REGISTER_CHANGES.items():
        rows, before = without_log(where), store.transactions.head
        change(register)
        assert store.transactions.head.number > before.number, name
        assert without_log(where) != rows, name
        assert store.log.verify() == store.transactions.head
    before_all = tables_of(where)
    for name in READS["register"].split():
        wanted = list(inspect.signature(getattr(register, name)).parameters)
        getattr(register, name)(*("anna" for _ in wanted))
    assert tables_of(where) == before_all  # every other method only reads


@sqlite_first
def test_every_change_adds_entries_and_the_tables_are_what_they_say(store: Store, where: Path | str) -> None:
    for name, change in CHANGES.items():
        rows, before = without_log(where), store.transactions.head
        change(store)
        assert store.transactions.head.number > before.number, name
        assert without_log(where) != rows, name
        assert store.log.verify() == store.transactions.head
    log = list(store.log.entries())
    assert [(e.actor, e.action) for e in log][-23:] == [
        ("aggregator", "lead.taken"),
        ("admin", "token.added"),
        ("st-marys", "token.used"),
        ("st-marys", "party.enrolled"),
        ("admin", "plan.created"),
        ("admin", "version.published"),
        ("admin", "plan.amendment"),
        ("hospital-1", "plan.approved"),
        ("hospital-2", "plan.refused"),
        ("aggregator", "attempt.opened"),
        ("hospital-1", "attempt.message"),
        ("aggregator", "attempt.ended"),
        ("aggregator", "version.published"),
        ("admin", "database.restored"),
        ("admin", "lead.taken"),
        ("admin", "admin-key.handed-over"),
        ("admin", "admin-key.noted"),
        ("admin", "lead.taken"),
        ("admin", "plan.signed-again"),
        ("admin", "plan.signed-again"),
        ("aggregator", "plan.amended"),
        ("aggregator", "version.published"),
        ("aggregator", "plan.finished"),
    ]
    assert not [s for s in SECRETS if s in repr(log)]


def test_a_call_that_changes_nothing_adds_no_entry(store: Store, where: Path | str) -> None:
    for name in ("register.add_token", "register.enrol", "plans.add", "plans.add_approval"):
        CHANGES[name](store)
    before = tables_of(where)
    for name in ("register.enrol", "plans.add_approval"):
        CHANGES[name](store)
    store.transactions.probe()
    assert tables_of(where) == before


@sqlite_first
def test_no_change_is_made_when_its_entry_cannot_be_written(store: Store, where: Path | str) -> None:
    """Every method in turn, with a database that takes everything but audit entries; then it works."""
    if isinstance(where, Path):
        refuse = ["CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"]
        allow = ["DROP TRIGGER full"]
    else:
        refuse = [
            "CREATE FUNCTION full_() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE EXCEPTION 'full'; END $$",
            "CREATE TRIGGER full_ BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION full_()",
        ]
        allow = ["DROP TRIGGER full_ ON audit", "DROP FUNCTION full_"]
    for name, change in CHANGES.items():
        run(where, *refuse)
        before = tables_of(where)
        with pytest.raises(StorageFailed):
            change(store)
        assert tables_of(where) == before, name
        run(where, *allow)
        change(store)
    store.log.verify()


@pytest.fixture
def written(store: Store) -> Store:
    for change in CHANGES.values():
        change(store)
    return store


TAMPERINGS: dict[str, tuple[list[str], int, str]] = {
    "an edited entry": (["UPDATE audit SET actor = 'somebody' WHERE number = 7"], 7, "content"),
    "an edited detail": (["UPDATE audit SET details = '{}' WHERE number = 9"], 9, "content"),
    "an edited time": (["UPDATE audit SET time_ms = 0 WHERE number = 9"], 9, "content"),
    "a deleted entry": (["DELETE FROM audit WHERE number = 7"], 7, "missing"),
    "a deleted first entry": (["DELETE FROM audit WHERE number = 1"], 1, "missing"),
    "two swapped entries": (
        [
            "UPDATE audit SET number = 0 WHERE number = 7",
            "UPDATE audit SET number = 7 WHERE number = 8",
            "UPDATE audit SET number = 8 WHERE number = 0",
        ],
        7,
        "does not follow",
    ),
    "an inserted copy": (
        [
            "INSERT INTO audit SELECT 100000, time_ms, actor, action, subject, details, previous, hash,"
            " signature FROM audit WHERE number = 7"
        ],
        -1,
        "missing; number 100000",
    ),
    "a renumbered tail with a hole": (
        ["UPDATE audit SET number = number + 1000 WHERE number > 9"],
        10,
        "missing",
    ),
    "a changed party": (
        ["UPDATE parties SET role = 'researcher' WHERE name = 'st-marys'"],
        0,
        "is not what",
    ),
    "a removed approval": (["DELETE FROM approvals WHERE name = 'hospital-1'"], 0, "is gone"),
    "a new party": (
        ["INSERT INTO parties SELECT 'eve', role, name, 1 FROM tokens LIMIT 1"],
        -1,
        "parties/eve",
    ),
    "a changed outcome": (["UPDATE attempts SET outcome = 'done' WHERE round = 1"], 0, "is not what"),
    "a removed version": (["DELETE FROM versions WHERE number = 1"], 0, "is gone"),
}


@sqlite_first
@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found_and_the_first_bad_entry_named(
    written: Store, where: Path | str, kind: str
) -> None:
    statements, number, words = TAMPERINGS[kind]
    end = written.log.verify().number
    if "eve" in words and not isinstance(where, Path):
        statements = [s.replace("name, 1", "name::bytea, 1") for s in statements]
    run(where, *statements)
    with pytest.raises(BadEntry, match=words) as caught:
        written.log.verify()
    if number:
        assert caught.value.number == (end + 1 if number < 0 else number)
    else:  # the entry that speaks of the row
        entry = next(e for e in written.log.entries() if e.number == caught.value.number)
        assert entry.subject in caught.value.what


def test_a_cut_off_tail_is_found_by_the_tables_and_by_a_witness(written: Store, where: Path | str) -> None:
    witness = written.transactions.head
    run(where, f"DELETE FROM audit WHERE number > {witness.number - 1}")
    with pytest.raises(BadEntry):
        written.log.verify()
    with pytest.raises(BadEntry, match="the log ends at") as caught:
        written.log.verify([witness])
    assert caught.value.number == witness.number


def test_an_old_backup_is_whole_in_itself_and_found_by_a_witness(build: Build) -> None:
    """The database rolled back to an earlier day verifies; only what others have seen shows the rollback."""
    world = build()
    assert isinstance(world.database, Path)
    old = world.database.read_bytes()
    finish(world, make_sites(world))
    witness = world.store.transactions.head
    world.store.close()
    world.database.write_bytes(old)
    world.restart()
    assert world.store.log.verify().number < witness.number
    with pytest.raises(BadEntry, match="the log ends at"):
        world.store.log.verify([witness])


def test_a_fork_is_found_by_a_witness_however_long_it_has_grown(build: Build) -> None:
    world = build()
    assert isinstance(world.database, Path)
    old = world.database.read_bytes()
    world.store.register.add_token("a", name="a", role="hospital", expires=1.0)
    witness = world.store.transactions.head
    world.store.close()
    world.database.write_bytes(old)
    world.restart()
    for name in "bcd":
        world.store.register.add_token(name, name=name, role="hospital", expires=1.0)
    world.store.log.verify()
    with pytest.raises(BadEntry, match="written anew") as caught:
        world.store.log.verify([witness])
    assert caught.value.number == witness.number
    with pytest.raises(BadEntry, match="forked"):
        world.store.log.verify([witness, Head(witness.number, world.store.transactions.head.hash)])


def test_a_log_signed_anew_with_another_key_is_found() -> None:
    head, entries = NOTHING, []
    for number in range(4):
        signer = ADMIN if number != 2 else Identity.generate("admin")
        told: dict[str, Any] = {"time_ms": number, "actor": "a", "action": "b", "subject": "c", "details": {}}
        entries.append(seal(signer, head, **told))
        head = entries[-1].head
    with pytest.raises(BadEntry, match="not signed by the admin key") as caught:
        list(checked(entries, Signers(ADMIN.public_key)))
    assert caught.value.number == 3


@pytest.mark.parametrize(
    "details", [{"patient": "x"}, {"row": b"bytes"}, {"row": 1.5}, {"reason": "x" * 81}, {"surname": "y"}]
)
def test_only_listed_short_details_can_be_written(details: Any) -> None:
    with pytest.raises(ValueError, match="takes no detail"):
        seal(ADMIN, NOTHING, time_ms=0, actor="a", action="b", subject="c", details=details)


def test_a_head_can_be_handed_on_as_text_and_checked(store: Store) -> None:
    head = store.transactions.head
    assert Head.parse(str(head)) == Head(head.number, head.hash)
    head.check(ADMIN.public_key)
    with pytest.raises(BadSignature):
        Head(head.number + 1, head.hash, head.signature).check(ADMIN.public_key)
    for wrong in ("", "7", "7:zz", "0:" + "00" * 32, "7:00", "x:" + "00" * 32, f"{head}:"):
        with pytest.raises(BadHead):
            Head.parse(wrong)


def test_writers_of_several_processes_share_one_chain(where: Path | str) -> None:
    stores = [Store(where, ADMIN) for _ in range(3)]
    for number in range(9):
        name = f"h{number}"
        stores[number % 3].register.add_token(name, name=name, role="hospital", expires=1.0)
    assert stores[0].log.verify() == stores[2].transactions.head
    for one in stores:
        one.close()


def test_a_log_that_is_missing_is_begun_anew_and_says_so(where: Path | str) -> None:
    """Emptying the log altogether leaves a log that takes the rows over: a witness or the entry shows it."""
    store = Store(where, ADMIN)
    CHANGES["register.add_token"](store)
    witness = store.transactions.head
    store.close()
    run(where, "DELETE FROM audit")
    again = Store(where, ADMIN)
    again.log.verify()
    assert "row.taken-over" in {e.action for e in again.log.entries()}
    with pytest.raises(BadEntry):
        again.log.verify([witness])
    again.close()


def test_the_commands_show_and_verify_the_log(folder: Path) -> None:
    settings = Settings(folder / "aggregator")
    set_up_aggregator(settings)
    at = ["--folder", str(settings.folder)]
    runner = CliRunner()
    assert runner.invoke(app, ["enroll-token", "st-marys", *at]).exit_code == 0
    shown = runner.invoke(app, ["audit", "show", *at])
    assert "token.added" in shown.output
    verified = runner.invoke(app, ["audit", "verify", *at])
    assert verified.exit_code == 0
    head = next(word for word in verified.output.split() if word.count(":") == 1 and len(word) > 64)
    assert runner.invoke(app, ["audit", "verify", "--head", head, *at]).exit_code == 0
    wrong = head[:-1] + ("0" if head[-1] != "0" else "1")
    refused = runner.invoke(app, ["audit", "verify", "--head", wrong, *at])
    assert isinstance(refused.exception, BadEntry)
    run(settings.folder / "aggregator.db", "UPDATE audit SET actor = 'x' WHERE number = 2")
    refused = runner.invoke(app, ["audit", "verify", *at])
    assert isinstance(refused.exception, BadEntry)
    assert refused.exception.number == 2


def test_a_database_is_opened_by_another_key_only_to_be_found_out(where: Path | str) -> None:
    Store(where, ADMIN).close()
    stranger = Store(where, Identity.generate("admin"))
    with pytest.raises(BadEntry, match="another key signs than the admin key in this folder") as caught:
        stranger.log.verify()
    assert caught.value.number == 1
    with pytest.raises(WrongAdminKey):
        CHANGES["register.add_token"](stranger)
    stranger.close()
    Database(where).close()


def test_hospitals_are_handed_the_head_with_their_plans_and_their_work(build: Build) -> None:
    world = build()
    door = Door(world)
    heads = []
    for path, kind in (("/v1/plans", PlanOffers), (f"{door.at}/work", Work)):
        told = kind.from_bytes(door.ask(door.hospital(), "GET", path).content).head
        assert told is not None
        assert told.key == world.admin.public_key
        told.check(world.admin.public_key)
        heads.append(Head(told.number, told.hash, told.signature))
        world.store.register.add_token(path, name="somebody", role="hospital", expires=1.0)
    assert heads[0].number < heads[1].number
    world.store.log.verify(heads)
    with pytest.raises(BadEntry):
        world.store.log.verify([Head(heads[0].number, heads[1].hash)])
    door.service.close()
