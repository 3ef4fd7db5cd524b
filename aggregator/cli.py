"""``medveil aggregator …``: what the consortium's admin types."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aggregator import cli_measures
from aggregator.cli_amend import amend
from aggregator.cli_audit import export as audit_export
from aggregator.cli_audit import verify_exported
from aggregator.cli_cluster import cluster, scheduler, worker
from aggregator.cli_directing import pause, resume, stop, withdraw
from aggregator.cli_invite import invitations, invite
from aggregator.cli_keeper import keeper
from aggregator.cli_notify import notify
from aggregator.cli_people import DEFAULT, Folder, make_local_admin, people
from aggregator.cli_relay import relay
from aggregator.cli_watching import OneOfAll, hospitals, show, watch
from aggregator.settings import Settings, load
from medveil.errors import BadOption, utc
from medveil.folders import named
from medveil.ids import fingerprint
from medveil.shown import NotConfirmed, Screen, can_ask, plain, strong, warn
from medveil.volumes import begin_on_volume

if TYPE_CHECKING:
    from aggregator.auditlog import KeyChange
    from aggregator.witnesses import Witness
    from medveil.plan import Plan
    from medveil.reports import AttemptReport, PlanStatus

app = typer.Typer(
    no_args_is_help=True,
    help="For the consortium's admin: run the aggregator, enrol hospitals, open studies.",
    callback=begin_on_volume,
)
study = typer.Typer(no_args_is_help=True, help="Create studies and watch them.")
study.command("amend")(amend)
app.add_typer(study, name="study")
app.add_typer(people, name="people")
app.add_typer(relay, name="relay")
app.add_typer(keeper, name="keeper")
app.add_typer(notify, name="notify")
app.command()(invite)
app.command()(invitations)
app.command()(hospitals)
app.command()(cluster)
app.command()(scheduler)
app.command()(worker)
for verb in (watch, show, pause, resume, stop, withdraw):
    study.command()(verb)
audit = typer.Typer(no_args_is_help=True, help="The audit log: who changed what, chained and signed.")
app.add_typer(audit, name="audit")
study.command()(cli_measures.convergence)
study.command()(cli_measures.compare)
study.command()(cli_measures.privacy)
audit.command()(cli_measures.search)
app.command()(cli_measures.system)
audit.command("export")(audit_export)
screen = Screen()


def _show_fingerprint(plan: Plan) -> None:
    from medveil.spoken import words_of

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
    consortium: Annotated[
        str, typer.Option(help="What hospitals know the consortium by; asked for at a terminal.")
    ] = "",
    address: Annotated[
        str, typer.Option(help="Where hospitals reach it, if that is not https://NAME:PORT (a front).")
    ] = "",
    database: Annotated[
        str, typer.Option(help="postgresql://… if it is not to lie in the folder. Without a password in it.")
    ] = "",
    break_glass: Annotated[
        str,
        typer.Option(
            help="Name of an admin who signs in when no sign-in service answers; asked for at a terminal."
        ),
    ] = "",
) -> None:
    """Make the aggregator's folder: database, admin key, TLS certificate."""
    from aggregator import admin

    if break_glass:
        admin.check_newcomer(break_glass)
    if not consortium and can_ask():
        consortium = screen.answer(f"What is the consortium called? (Enter: {plain(name[0], 80)})")
    settings = Settings(
        folder,
        host,
        port,
        tuple(name),
        database=database,
        consortium=consortium.strip(),
        address=address.rstrip("/"),
    )
    authority = admin.set_up_aggregator(settings)
    screen.say(f"The aggregator of {plain(settings.title)} is ready in {folder}.")
    screen.say(f"  Hospitals reach it at {settings.url} and trust {folder / 'tls' / 'ca.pem'},")
    screen.say(f"  whose fingerprint is  {fingerprint(authority)}")
    if not break_glass and can_ask():
        break_glass = screen.answer("Name of an admin for days without a sign-in service (Enter: none):")
    if break_glass:
        make_local_admin(settings, break_glass)
    screen.say(f"Next: medveil aggregator serve {named(folder)}")
    screen.say(f"      medveil aggregator invite NAME {named(folder)}    (for each hospital)")


@app.command()
def serve(folder: Folder = DEFAULT) -> None:
    """Run the aggregator until it is told to stop."""
    from aggregator import admin
    from aggregator.web.app import create_app
    from aggregator.web.connections import run
    from medveil.log import get_logger, set_up

    set_up()
    settings = load(folder)
    admin.check_start(settings)
    get_logger().info("aggregator.starting", port=settings.port)
    run(create_app(settings), settings, folder / "tls")


@app.command()
def page(folder: Folder = DEFAULT) -> None:
    """Print a link that signs the admin in to the pages: once, within a minute, in any browser."""
    from aggregator import signing_in

    link = signing_in.new_link(load(folder))
    screen.say(link.address)
    until = f"Open it within {link.seconds:.0f} seconds. It works once, and whoever opens it is the admin."
    Screen(stderr=True).say(until)


@app.command("enroll-token")
def enroll_token(
    name: Annotated[str, typer.Argument(help="The hospital's (or researcher's) name.")],
    folder: Folder = DEFAULT,
    researcher: Annotated[bool, typer.Option(help="For a researcher: may read, takes no part.")] = False,
    relay: Annotated[bool, typer.Option(help="For a region's relay: adds masked vectors.")] = False,
    keeper: Annotated[bool, typer.Option(help="For a keeper of pseudonyms.")] = False,
) -> None:
    """Print a one-time enrolment token, valid for three days."""
    from aggregator import admin

    roles = [
        role for role, wanted in (("researcher", researcher), ("relay", relay), ("keeper", keeper)) if wanted
    ]
    if len(roles) > 1:
        raise BadOption(problem=f"--{' and --'.join(roles)}: a name is one of them")
    role = roles[0] if roles else "hospital"
    screen.say(admin.new_token(load(folder), name, role))
    until = utc(time.time() + admin.TOKEN_HOURS * 3600)
    Screen(stderr=True).say(f"For {name} ({role}), once, until {until}.")  # a script takes the token alone


@app.command()
def migrate(
    folder: Folder = DEFAULT,
    dumped: Annotated[
        bool, typer.Option(help="PostgreSQL only: I have a dump of the database as it is now.")
    ] = False,
) -> None:
    """Bring the database of an earlier version up to this one. A copy is made first."""
    from aggregator import admin

    copy = admin.migrate_database(load(folder), dumped=dumped)
    screen.say("The database has this version's schema.")
    if copy is not None:
        screen.say(f"  As it was before:  {copy}")


@app.command("backup")
def backup_command(
    target: Annotated[Path, typer.Argument(help="An empty or new folder for the backup.")],
    folder: Folder = DEFAULT,
) -> None:
    """Copy everything that is needed to go on elsewhere. The aggregator may run meanwhile."""
    from aggregator.adminkey import load_admin
    from aggregator.backup import back_up

    head = back_up(load(folder), target)
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
    from aggregator.backup import check, opens, restore

    if not admin_key and not accept_unsigned:
        admin_key = screen.answer("Fingerprint of the admin key:") if can_ask() else ""
    key = None if accept_unsigned else admin_key
    checked = check(backup, admin_key=key)
    settings = replace(load(backup, only_read=True), folder=folder)
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
    from aggregator import admin

    authority = admin.next_certificate(folder, name)
    screen.say(f"For the hospitals, to be added to the ca.pem they have:  {authority}")
    screen.say("When all have done so: move the files of tls/next to tls and restart the aggregator.")


@app.command("new-admin-key")
def new_admin_key(
    folder: Folder = DEFAULT,
    without_old_key: Annotated[
        bool,
        typer.Option("--without-old-key", help="The present key is lost or stolen: do not let it hand over."),
    ] = False,
) -> None:
    """Replace the key that signs plans and audit log. Stop the aggregator first; nothing else changes."""
    from aggregator import admin
    from aggregator.adminkey import KEY

    changed = admin.replace_admin_key(load(folder), without_old=without_old_key)
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
    screen.say(f"then start it again: medveil aggregator serve {named(folder)}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The hospital (or person) to shut out.")],
    folder: Folder = DEFAULT,
) -> None:
    """Refuse everything that this name signs from now on, for ever; a running aggregator knows at once."""
    from aggregator import admin

    admin.revoke(load(folder), name)
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
    file: Annotated[
        Path | None, typer.Option(help="A file of 'audit export': it is checked alone, without the database.")
    ] = None,
    admin_key: Annotated[
        str, typer.Option(help="With --file: fingerprint of the admin key that must vouch for it.")
    ] = "",
) -> None:
    """Check every audit entry, every row against the log, and the log against those who have seen it."""
    if file is not None:
        verify_exported(file, admin_key, head)
        return
    from aggregator import admin
    from aggregator.auditlog import Head
    from aggregator.witnesses import Witness

    known = [Head.parse(h) for h in head]
    witnesses = [Witness.read(path) for path in heads]
    checked = admin.verify_log(load(folder), known, witnesses)
    screen.say("The audit log is whole, and the database holds what it says. Its head:")
    screen.say(f"  {checked.head}")
    screen.say(f"  signed with the key of fingerprint {fingerprint(checked.admin_key)}")
    for change in checked.changes:
        _tell_change(change, witnesses)
    for witness in witnesses:
        screen.say(f"  {witness.node}: {len(witness.heads)} heads agree")
    if checked.given_up:
        lost = "of them were lost in a restore that the log names and the operators accepted."
        screen.say(f"  {checked.given_up} {lost}")


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
    from aggregator import admin

    for entry in admin.newest_entries(load(folder), last):
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


@study.command("create")
def study_create(
    file: Annotated[Path | None, typer.Argument(help="The study file (study.toml).")] = None,
    initial: Annotated[Path | None, typer.Option(help="The initial model written with it.")] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Instead of a file: the same study once more, from this published version (digits of its "
            "hash), or from a plan's newest one.",
        ),
    ] = "",
    name: Annotated[
        str, typer.Option(help="With --from: what the study is called; numbered if left out.")
    ] = "",
    folder: Folder = DEFAULT,
    hospital: Annotated[
        list[str],
        typer.Option(
            help="A hospital of the roster; repeatable. If left out all enrolled ones, or those of --from."
        ),
    ] = [],  # noqa: B006
    researcher: Annotated[
        list[str], typer.Option(help="A researcher who may read it; repeatable. None if left out.")
    ] = [],  # noqa: B006
    all_researchers: Annotated[
        bool, typer.Option("--all-researchers", help="Let every researcher there is now read it.")
    ] = False,
) -> None:
    """Turn a study file into a plan: study and roster, signed by the admin, waiting for approvals."""
    from aggregator import admin, next_study
    from privacy.secagg.rosters import smallest_sum

    readers, settings = None if all_researchers else researcher, load(folder)
    if start and file is None and initial is None:
        plan = next_study.create_next(settings, start, name, hospital, readers)
    elif file is not None and initial is not None and not start and not name:
        plan = admin.create_plan(settings, file, initial, hospital, readers)
    else:
        raise BadOption(problem="it takes a study file with --initial, or --from (and --name), not both")
    if plan.study.model.parent is not None:
        screen.say(f"It starts from {plan.study.model.parent.words}.")
    screen.say(strong(plan.study.name), "  Read these words to each hospital by telephone:")
    _show_fingerprint(plan)
    roster = ((str(m.index), m.name, fingerprint(m.key)) for m in plan.roster)
    screen.table(("index", "hospital", "key fingerprint"), roster)
    starts = f"It starts when {plan.approvals_needed} hospitals have approved it"
    screen.say(f"{starts}; each round needs {smallest_sum(plan)}.")
    if readers == []:
        grant = f"people grant NAME {plan.id[:8]} {named(folder)}"
        screen.say(f"No researcher may read it yet: medveil aggregator {grant}")


@study.command("status")
def study_status(plan: OneOfAll = "", folder: Folder = DEFAULT) -> None:
    """Print every plan, or one, with its rounds, survivors and failures."""
    from aggregator import admin

    found = list(admin.statuses(load(folder), plan))
    for one, status in found:
        _show_status(one, status)
    if not found:
        screen.say(f"There is no study yet. Next: medveil aggregator study create {named(folder)}")


def _state_words(plan: Plan, status: PlanStatus) -> str:
    if status.followed_by is not None:
        return f"goes on with another roster, plan {status.followed_by[:8]}"
    if status.directive is not None and status.directive.halts:
        return {"pause": "paused", "stop": "stopped"}.get(status.directive.order, "withdrawn")
    if status.finished:
        from aggregator.watching.studies import is_evaluated

        return "finished" if is_evaluated(status.attempts[::-1]) else "ended early"
    waits = "" if status.waiting_for is None else status.waiting_for.reason
    if plan.before is not None and waits == "earlier-roster":
        return f"roster {plan.epoch}, not begun; until then plan {plan.before.id[:8]} works"
    return "running" if len(status.approved) >= plan.approvals_needed else "waiting"


def _show_status(plan: Plan, status: PlanStatus) -> None:
    screen.say(strong(status.name), f" {_state_words(plan, status)}")
    _show_fingerprint(plan)
    screen.say(f"  approved by {', '.join(status.approved) or 'nobody yet'}")
    for one in status.refusals:
        day = utc(one.at)[:10]
        screen.say(warn(f"  {plain(one.kind, 20)} by"), f"{plain(one.hospital)}, {day}: {plain(one.reason)}")
    from medveil.metrics import read_headline
    from medveil.readings import cell_words, explained
    from medveil.tasks import TASKS

    task = TASKS[plan.study.task]
    unit = task.unit(plan.study, task.headline)
    readings = [read_headline(plan.study, report) for report in status.attempts]
    rows = [
        _attempt_row(report, plan, cell_words(reading, unit))
        for report, reading in zip(status.attempts, readings, strict=True)
    ]
    if status.open is not None:
        at = str(status.open.round), str(status.open.attempt), status.open.kind.value
        rows.append((*at, "open", "", "0.0", "", ""))
    if rows:
        screen.table(
            ("round", "attempt", "kind", "outcome", "in the sum", "seconds", task.headline_name, "model"),
            rows,
        )
    for line in explained(readings, noised=plan.study.privacy.kind != "none"):
        screen.say(f"  {task.headline_name}: {line}")


def _attempt_row(report: AttemptReport, plan: Plan, figure: str) -> tuple[str, ...]:
    everybody = len(report.survivors) == len(plan.roster)
    return (
        str(report.round),
        str(report.attempt),
        report.kind.value,
        plain(report.reason or report.outcome, 60),
        "all" if everybody else ", ".join(report.survivors),
        f"{report.seconds:.1f}",
        figure,
        (report.model or "")[:8],
    )
