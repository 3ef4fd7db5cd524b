"""``medveil aggregator …``: what the consortium's admin types."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from aggregator import settings as configuration
from aggregator.access.tls import make_certificates
from aggregator.adminkey import KEY, load_admin, new_admin_key, open_store
from aggregator.auditlog import Head, KeyChange
from aggregator.backup import back_up, check, opens, restore
from aggregator.cli_people import DEFAULT, Folder, opened_register, people
from aggregator.settings import Settings
from aggregator.storage.database import REVISIONS, Database, alone, copy_database, schema_of
from aggregator.storage.open import open_blobs
from aggregator.storage.register import UnknownPerson
from aggregator.storage.transactions import AlreadyThere
from aggregator.witnesses import Witness, binding_heads
from medveil.errors import BadFile, Error
from medveil.handed import problem_of, read_whole
from medveil.identity import Identity
from medveil.ids import fingerprint
from medveil.log import get_logger, set_up
from medveil.plan import Member, Plan
from medveil.private_files import keep_private
from medveil.reports import AttemptReport, PlanStatus
from medveil.shown import NotConfirmed, Screen, can_ask, plain, strong
from medveil.spoken import words_of
from medveil.study import read_study
from medveil.tensors import largest_file

app = typer.Typer(
    help="For the consortium's admin: run the aggregator, enrol hospitals, open studies.",
    callback=keep_private,
)
study = typer.Typer(help="Create studies and watch them.")
app.add_typer(study, name="study")
app.add_typer(people, name="people")
audit = typer.Typer(help="The audit log: who changed what, chained and signed.")
app.add_typer(audit, name="audit")
screen = Screen()
TOKEN_HOURS = 72.0


class NoDatabase(Error):
    """The database that the settings name is not there."""

    code = "no-database"

    def __init__(self) -> None:
        super().__init__(
            what="There is no database, or an empty one, where the settings say.",
            meaning="An aggregator that began anew would know no hospital, so it was not started.",
            remedy="Check 'database' in aggregator.json, or restore a backup into a new folder.",
        )


class DumpFirst(Error):
    """A PostgreSQL database is migrated only when there is a dump of it."""

    code = "dump-first"

    def __init__(self) -> None:
        super().__init__(
            what="This database is to be migrated, and there is no way back but a dump of it.",
            meaning="Nothing was changed.",
            remedy="Dump it with pg_dump, then run: medveil aggregator migrate --dumped.",
        )


class NoHospitals(Error):
    """A plan needs enrolled hospitals."""

    code = "no-hospitals"

    def __init__(self, *, names: str) -> None:
        super().__init__(
            what=f"These hospitals are not enrolled: {names}.",
            meaning="A plan names exact keys, so every hospital must be enrolled before it is written.",
            remedy="Hand out tokens with 'medveil aggregator enroll-token NAME' and wait for the nodes.",
        )


def _show_fingerprint(plan: Plan) -> None:
    words = words_of(plan.hash)
    screen.fields(
        [("words", strong(" ".join(words[:6]))), ("", strong(" ".join(words[6:]))), ("hash", plan.id)],
        indent=2,
    )


@app.command()
def init(
    folder: Folder = DEFAULT,
    name: Annotated[list[str], typer.Option(help="DNS name or address of this machine; repeatable.")] = [  # noqa: B006
        "localhost",
        "127.0.0.1",
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8443,
) -> None:
    """Make the aggregator's folder: database, admin key, TLS certificate."""
    set_up_aggregator(Settings(folder, host, port, tuple(name)))
    screen.say(f"The aggregator is ready in {folder}.")
    screen.say(f"  For the hospitals:  {folder / 'tls' / 'ca.pem'}  (they pin it; compare by telephone)")
    authority = x509.load_pem_x509_certificate((folder / "tls" / "ca.pem").read_bytes())
    screen.say(f"  Its fingerprint:    {fingerprint(authority.public_bytes(Encoding.DER))}")
    screen.say(f"  Next:               medveil aggregator serve --folder {quote(str(folder))}")


def set_up_aggregator(settings: Settings) -> None:
    """What ``init`` does. Raises: KeyFileExists if the folder already holds an aggregator."""
    Identity.generate("admin").save(settings.folder / KEY)
    settings.save()
    make_certificates(settings.folder / "tls", settings.names)
    open_store(settings).close()


@app.command()
def serve(folder: Folder = DEFAULT) -> None:
    """Run the aggregator until it is told to stop."""
    from aggregator.web.app import create_app
    from aggregator.web.connections import run

    set_up()
    settings = configuration.load(folder)
    if schema_of(settings.where) is None:
        raise NoDatabase()
    store = open_store(settings)
    store.transactions.check_admin_key()  # what is wrong is said now
    store.close()
    open_blobs(folder, settings.blobs)
    get_logger().info("aggregator.starting", port=settings.port)
    run(create_app(settings), settings, folder / "tls")


@app.command("enroll-token")
def enroll_token(
    name: Annotated[str, typer.Argument(help="The hospital's (or researcher's) name.")],
    folder: Folder = DEFAULT,
    researcher: Annotated[bool, typer.Option(help="For a researcher: may read, takes no part.")] = False,
) -> None:
    """Print a one-time enrolment token, valid for three days."""
    token = new_token(configuration.load(folder), name, "researcher" if researcher else "hospital")
    screen.say(token)


def new_token(settings: Settings, name: str, role: str) -> str:
    """Make a one-time token and keep its hash."""
    token = secrets.token_hex(24)
    store = open_store(settings)
    store.register.add_token(token, name=name, role=role, expires=time.time() + TOKEN_HOURS * 3600)
    store.close()
    return token


@app.command()
def migrate(
    folder: Folder = DEFAULT,
    dumped: Annotated[
        bool, typer.Option(help="PostgreSQL only: I have a dump of the database as it is now.")
    ] = False,
) -> None:
    """Bring the database of an earlier version up to this one. A copy is made first."""
    settings = configuration.load(folder)
    copy = migrate_database(settings, dumped=dumped)
    screen.say("The database has this version's schema.")
    if copy is not None:
        screen.say(f"  As it was before:  {copy}")


def migrate_database(settings: Settings, *, dumped: bool) -> Path | None:
    """What ``migrate`` does.

    Returns: the copy of the SQLite database as it was; None if nothing was to do, and with PostgreSQL.
    Raises: UnknownSchema, StillRunning, DumpFirst, StorageFailed.
    """
    found, where, copy = schema_of(settings.where), settings.where, None
    if found == REVISIONS[-1]:
        return None
    with alone(where):
        if isinstance(where, Path):
            copy = where.with_name(f"{where.name}.before-{REVISIONS[-1]}")
            copy_database(where, copy)
        elif found is not None and not dumped:
            raise DumpFirst()
    Database.migrated(where).close()
    open_store(settings).close()  # begins the audit log
    return copy


@app.command("backup")
def backup_command(
    target: Annotated[Path, typer.Argument(help="An empty or new folder for the backup.")],
    folder: Folder = DEFAULT,
) -> None:
    """Copy everything that is needed to go on elsewhere. The aggregator may run meanwhile."""
    head = back_up(configuration.load(folder), target)
    key = fingerprint(load_admin(target).public_key)
    screen.say(f"The backup is in {target}. It holds the admin key: keep it as safe as the folder itself.")
    if head is None:
        screen.say("  PostgreSQL is not in it: keep it together with the dump made just before.")
    else:
        screen.say(f"  Head of its audit log:  {head}")
    screen.say(f"  Signed with the key of fingerprint  {key}")
    screen.say("  Write the fingerprint down somewhere else: whoever restores the backup is asked for it.")


@app.command("restore")
def restore_command(
    backup: Annotated[Path, typer.Argument(help="A folder made by 'medveil aggregator backup'.")],
    folder: Folder = DEFAULT,
    admin_key: Annotated[
        str, typer.Option(help="Fingerprint of the admin key, as shown when the backup was made.")
    ] = "",
    accept_unsigned: Annotated[
        bool, typer.Option("--accept-unsigned", help="Take a backup of version 0.1, which has no signature.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask about the settings in the backup.")] = False,
) -> None:
    """Put a backup into a new folder. Check the backup, its audit log and every row on the way."""
    if not admin_key and not accept_unsigned:
        admin_key = screen.answer("Fingerprint of the admin key:") if can_ask() else ""
    key = None if accept_unsigned else admin_key
    checked = check(backup, admin_key=key)
    settings = replace(configuration.load(backup), folder=folder)
    if not yes:
        screen.say("The settings in this backup:")
        screen.fields(opens(settings), width=20, indent=3)
        if not (can_ask() and screen.ask("Restore with these settings?")):
            raise NotConfirmed()
    head = restore(checked, settings)
    screen.say(f"Restored into {folder}. Rounds since the backup are lost; open attempts have ended.")
    screen.say(f"  Head of its audit log:  {head}")


@app.command("new-certificate")
def new_certificate(
    folder: Folder = DEFAULT,
    name: Annotated[list[str], typer.Option(help="Other names than those of the settings; repeatable.")] = [],  # noqa: B006
) -> None:
    """Make the next TLS certificate and its authority in tls/next. The present one stays in use."""
    target = folder / "tls" / "next"
    if target.exists():  # hospitals may have got it already
        raise AlreadyThere(thing="a next certificate in tls/next")
    make_certificates(target, tuple(name) or configuration.load(folder).names)
    screen.say(f"For the hospitals, to be added to the ca.pem they have:  {target / 'ca.pem'}")
    screen.say("When all have done so: move the files of tls/next to tls and restart the aggregator.")


@app.command("new-admin-key")
def new_admin_key_command(
    folder: Folder = DEFAULT,
    without_old_key: Annotated[
        bool,
        typer.Option("--without-old-key", help="The present key is lost or stolen: do not let it hand over."),
    ] = False,
) -> None:
    """Replace the key that signs plans and audit log. Stop the aggregator first; nothing else changes."""
    settings = configuration.load(folder)
    if schema_of(settings.where) is None:
        raise NoDatabase()
    changed = new_admin_key(settings, without_old=without_old_key)
    screen.say(f"From entry {changed.number} of the audit log on, a new admin key signs.")
    screen.say(
        f"  old key  fingerprint {fingerprint(changed.old)}   (retired: what it signs from now on is refused)"
    )
    screen.say(f"  new key  fingerprint {fingerprint(changed.new)}")
    screen.say(f"  plans signed again: {changed.plans}. Approvals stay, and open rounds go on.")
    if without_old_key:
        screen.say("The old key has NOT handed over. Every node stops and raises an alarm, until its")
        screen.say("operator has typed this line. Telephone each of them now, and read it out:")
        accept = f"medveil node heads --accept {changed.head} --new-key {fingerprint(changed.new)}"
        screen.say(f"  {accept}")
    else:
        screen.say("The old key has handed over to it. Each node follows by itself with its next poll;")
        screen.say("no operator has to do anything, and 'medveil node heads' shows both fingerprints.")
    screen.say(f"Next: copy {folder / KEY} to every other machine of this aggregator, make a backup,")
    screen.say(f"then start it again: medveil aggregator serve --folder {quote(str(folder))}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The hospital (or person) to shut out.")],
    folder: Folder = DEFAULT,
) -> None:
    """Refuse everything that this name signs from now on, for ever; a running aggregator knows at once."""
    with opened_register(folder) as register:
        register.revoke(name, now=time.time())
    screen.say(f"{name} is revoked: its requests are refused from now on.")


@audit.command("verify")
def audit_verify(
    folder: Folder = DEFAULT,
    head: Annotated[
        list[str], typer.Option(help="A head that somebody else has seen (NUMBER:HASH); repeatable.")
    ] = [],  # noqa: B006
    heads: Annotated[
        list[Path], typer.Option(help="A file of 'medveil node heads --export'; repeatable.")
    ] = [],  # noqa: B006
) -> None:
    """Check every audit entry, every row against the log, and the log against those who have seen it."""
    known = [Head.parse(h) for h in head]
    witnesses = [Witness.read(path) for path in heads]
    store = open_store(configuration.load(folder))
    try:
        changes = store.log.key_changes()
        store.transactions.check_file()
        binding, given_up = binding_heads(
            witnesses, store.log.entries(), store.transactions.admin_key, changes
        )
        newest = store.log.verify([*known, *binding])
    finally:
        store.close()
    screen.say("The audit log is whole, and the database holds what it says. Its head:")
    screen.say(f"  {newest}")
    screen.say(f"  signed with the key of fingerprint {fingerprint(store.transactions.admin_key)}")
    for change in changes:
        _tell_change(change, witnesses)
    for witness in witnesses:
        screen.say(f"  {witness.node}: {len(witness.heads)} heads agree")
    if given_up:
        screen.say(
            f"  {given_up} of them were lost in a restore that the log names and the operators accepted."
        )


def _tell_change(change: KeyChange, witnesses: Sequence[Witness]) -> None:
    """One line for a hand-over; more for a key that was put in the place of another."""
    old, new = fingerprint(change.old), fingerprint(change.new)
    day = f"{dt.datetime.fromtimestamp(change.entry.time_ms / 1000, dt.UTC):%Y-%m-%d}"
    if change.word:
        screen.say(f"  entry {change.number}, {day}: the key {old} handed over to {new}")
        return
    screen.say(" ", strong(f"entry {change.number}, {day}: {new} took the place of {old} WITHOUT its word"))
    accepted = [w.node for w in witnesses if w.has_accepted(change.new)]
    others = [w.node for w in witnesses if w.pins(change.old)]
    screen.say(f"    accepted by the operators of: {', '.join(accepted) or 'nobody whose file is here'}")
    if others:
        screen.say(f"    not accepted yet at: {', '.join(others)}")


@audit.command("show")
def audit_show(
    folder: Folder = DEFAULT,
    last: Annotated[int, typer.Option(help="How many entries, the newest ones.", min=1)] = 50,
) -> None:
    """Print the newest audit entries as JSON lines (to be kept elsewhere, or to be searched)."""
    store = open_store(configuration.load(folder))
    try:
        for entry in store.log.entries(max(0, store.transactions.head.number - last)):
            told = {
                "number": entry.number,
                "time": dt.datetime.fromtimestamp(entry.time_ms / 1000, dt.UTC).isoformat(),
                "actor": entry.actor,
                "action": entry.action,
                "subject": entry.subject,
                **entry.details,
                "hash": entry.hash.hex(),
            }
            screen.json(told)
    finally:
        store.close()


@study.command("create")
def study_create(
    file: Annotated[Path, typer.Argument(help="The study file (study.toml).")],
    initial: Annotated[Path, typer.Option(help="The initial model written with it.")],
    folder: Folder = DEFAULT,
    hospital: Annotated[
        list[str], typer.Option(help="A hospital of the roster; repeatable. All enrolled ones if left out.")
    ] = [],  # noqa: B006
    researcher: Annotated[
        list[str], typer.Option(help="A researcher who may read it; repeatable. None if left out.")
    ] = [],  # noqa: B006
    all_researchers: Annotated[
        bool, typer.Option("--all-researchers", help="Let every researcher there is now read it.")
    ] = False,
) -> None:
    """Turn a study file into a plan: study and roster, signed by the admin, waiting for approvals."""
    readers = None if all_researchers else researcher
    plan = create_plan(configuration.load(folder), file, initial, hospital, readers)
    screen.say(strong(plan.study.name), "  Read these words to each hospital by telephone:")
    _show_fingerprint(plan)
    rows = [(str(m.index), m.name, fingerprint(m.key)) for m in plan.roster]
    screen.table(("index", "hospital", "key fingerprint"), rows)
    screen.say(f"It starts when {plan.approvals_needed} hospitals have approved it.")
    if readers == []:
        screen.say(f"No researcher may read it yet: medveil aggregator people grant NAME {plan.id[:8]}")


def create_plan(
    settings: Settings,
    file: Path,
    initial: Path,
    hospitals: list[str],
    readers: Sequence[str] | None = (),
) -> Plan:
    """What ``study create`` does.

    Args:
        hospitals: the roster; every enrolled one if empty.
        readers: the researchers who may read it; None for every one there is.
    Raises: BadFile, BadStrategy, NoHospitals, WrongInitialModel, AlreadyThere, UnknownPerson.
    """
    from aggregator.work.versions import first_version
    from medveil.strategies import strategy_of
    from privacy.dp.policy import check_policy

    parsed = read_study(file)
    check_policy(parsed)
    strategy_of(parsed)
    store = open_store(settings)
    try:
        register = store.register
        enrolled = {p.name: p for p in register.enrolled_keys() if p.role == "hospital" and not p.revoked}
        known = register.researchers()
        for name in set(readers or ()) - set(known):
            raise UnknownPerson(name=name)
        names = hospitals or sorted(enrolled)
        missing = sorted(set(names) - set(enrolled))
        if missing or not names:
            raise NoHospitals(names=", ".join(missing) or "none at all")
        roster = tuple(
            Member(index=i, name=n, public_key=enrolled[n].public_key.hex()) for i, n in enumerate(names, 1)
        )
        try:
            plan = Plan(study=parsed, roster=roster)
            data = read_whole(initial, largest_file(parsed.model.tensors))
        except ValidationError as error:
            raise BadFile(name=plain(file.name), problem=problem_of(error)) from error
        now = time.time()
        first = first_version(plan, data, open_blobs(settings.folder, settings.blobs), now=now)
        store.plans.add(plan, store.transactions.signer.sign("create-plan", plan.hash), first, now)
        for name in known if readers is None else readers:
            register.grant(plan.id, name)
        return plan
    finally:
        store.close()


@study.command("status")
def study_status(folder: Folder = DEFAULT) -> None:
    """Print every plan with its rounds, survivors and failures."""
    from aggregator.rounds.status import PlanReader

    store = open_store(configuration.load(folder))
    reader = PlanReader(store)
    for line in reader.lines():
        _show_status(reader.plan(line.plan), reader.status(line.plan))
    store.close()


def _show_status(plan: Plan, status: PlanStatus) -> None:
    begun = len(status.approved) >= plan.approvals_needed
    state = "finished" if status.finished else "running" if begun else "waiting"
    screen.say(strong(status.name), f" {state}")
    _show_fingerprint(plan)
    screen.say(f"  approved by {', '.join(status.approved) or 'nobody yet'}")
    rows = [_attempt_row(report, plan) for report in status.attempts]
    if status.open is not None:
        at = str(status.open.round), str(status.open.attempt), status.open.kind.value
        rows.append((*at, "open", "", "0.0", "", ""))
    if rows:
        screen.table(
            ("round", "attempt", "kind", "outcome", "in the sum", "seconds", "metric", "model"), rows
        )


def _attempt_row(report: AttemptReport, plan: Plan) -> tuple[str, ...]:
    everybody = len(report.survivors) == len(plan.roster)
    return (
        str(report.round),
        str(report.attempt),
        report.kind.value,
        plain(report.reason or report.outcome, 60),
        "all" if everybody else ", ".join(report.survivors),
        f"{report.seconds:.1f}",
        "" if report.metric is None else f"{report.metric:.3f}",
        (report.model or "")[:8],
    )
