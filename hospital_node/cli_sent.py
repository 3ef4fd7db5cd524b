"""``medveil node sent``: what has left this building, as the hospital's people look at it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.shown import NotConfirmed, Screen, can_ask, good, plain

if TYPE_CHECKING:
    from hospital_node.settings import Node
    from hospital_node.transmissions.entries import End, Entry
    from hospital_node.transmissions.look import Line, Summary, Total, Verified

sent = typer.Typer(help="What has left this building: every request, on record before it was sent.")
screen = Screen()
FromGroup = Annotated[Path | None, typer.Option("--folder", "-f", help="This node's folder.")]


@sent.callback(invoke_without_command=True)
def show_sent(
    context: typer.Context,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many lines of the newest.")] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every entry as it was written, one a line.")
    ] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Show the newest transmissions, how much of what has left for which study, and what never leaves."""
    context.obj = folder
    if context.invoked_subcommand is not None:
        return
    node = node_in(folder)
    from hospital_node.transmissions import look

    _, entries = look.read(look.files_of(node.folder))
    if as_json:
        for entry in entries:
            screen.json(entry.as_dict())
        return
    found = look.summed_up(entries, last=last)
    names = _study_names(node)
    _show_lines(found.lines, names)
    _show_totals(found, names)
    screen.say("Never in any of it:")
    for words in look.NEVER:
        screen.say(f"  - {words}")
    name = found.end.hash.hex()[:16]
    screen.say(f"Entry {found.end.number} has the hash {name}. Check all: medveil node sent verify")


def _study_names(node: Node) -> dict[str, str]:
    """Plan → name of its study, of every plan that was approved here."""
    from contextlib import closing

    from hospital_node.journal import Journal

    with closing(Journal(node.journal)) as journal:
        return {plan.id: plan.study.name for plan, _ in journal.approved()}


def _show_lines(lines: list[Line], names: dict[str, str]) -> None:
    rows = [
        (
            _moment(line.entry),
            plain(line.entry.kind) + (f" × {line.count}" if line.count > 1 else ""),
            names.get(str(line.entry.told.get("plan")), "") if "plan" in line.entry.told else "",
            _round(line.entry),
            f"{line.bytes:,}" if "bytes" in line.entry.told else "",
            _yes(line.entry.told.get("masked")),
            _epsilon(line.entry),
            plain(line.entry.told.get("approved_by", "")),
            line.answer or plain(line.entry.told.get("code", "")),
        )
        for line in lines
    ]
    heads = ("time (UTC)", "what", "study", "round", "bytes", "masked", "epsilon", "approved by", "answer")
    screen.table(heads, rows, right=(4, 6))


def _show_totals(found: Summary, names: dict[str, str]) -> None:
    from hospital_node.transmissions.requests import MASKED, MEANINGS

    rows = []
    for (plan, kind), total in sorted(found.totals.items(), key=_by_study(names)):
        study = names.get(plan, "not approved here") if plan else "no study"
        cells = (f"{total.count:,}", f"{total.bytes:,}", _yes(kind == MASKED), MEANINGS.get(kind, ""))
        rows.append((study, kind, *cells))
    screen.table(("study", "what", "requests", "bytes", "masked", "what is in it"), rows, right=(2, 3))
    asked = ", ".join(f"{count:,} {plain(kind)}" for kind, count in sorted(found.quiet.items())) or "none"
    screen.say(f"Requests without content, counted: {asked}.")


def _by_study(names: dict[str, str]):  # type: ignore[no-untyped-def]
    def key(item: tuple[tuple[str, str], Total]) -> tuple[str, str, str]:
        plan, kind = item[0]
        return names.get(plan, ""), plan, kind

    return key


def _moment(entry: Entry) -> str:
    try:
        return f"{dt.datetime.fromtimestamp(entry.time_ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return "?"


def _round(entry: Entry) -> str:
    told = entry.told
    if "round" not in told:
        return ""
    return f"{told['round']}.{told['attempt']}" if "attempt" in told else str(told["round"])


def _yes(value: object) -> str:
    return "" if value is None else "yes" if value else "no"


def _epsilon(entry: Entry) -> str:
    value = entry.told.get("epsilon")
    return f"{value:.3f}" if isinstance(value, int | float) else ""


@sent.command()
def verify(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="An exported file, or one that was put aside.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Fingerprint of the node's key, as the hospital has told it.")
    ] = None,
    folder: FromGroup = None,
) -> None:
    """Check every entry: chain, hashes, signatures, and that the end is there. Names the first bad one."""
    from hospital_node.transmissions import look

    if file is None:
        node = node_in(folder or context.obj)
        _show_verified(
            look.verify(look.files_of(node.folder), key=key or _own_key(node), kept=_kept(node)), True
        )
        return
    if not file.is_file():
        raise look.NoRecord()
    found = look.verify([file], key=key)
    _show_verified(found, key is not None)
    if not found.closed:
        screen.say("         It has no closing line, so later entries may have been cut; an export has one.")


def _own_key(node: Node) -> bytes:
    from medveil.identity import Identity

    return Identity.load(node.settings.name, node.key).public_key


def _kept(node: Node) -> End | None:
    from contextlib import closing

    from hospital_node.frozen import SentAnchor
    from hospital_node.journal import Journal

    with closing(Journal(node.journal)) as journal:
        return SentAnchor(journal).newest()


def _show_verified(found: Verified, known: bool) -> None:
    from medveil.ids import fingerprint

    count = found.end.number - found.first + 1
    screen.say(good("PASSED"), f"  {count} entries, the chain is whole and signed.")
    if found.first > 1:
        screen.say(f"         It begins with entry {found.first}; older ones are in files that are not here.")
    if count:
        screen.say(f"         Entry {found.end.number} has the hash {found.end.hash.hex()[:16]}.")
    screen.say(f"         Signed by {plain(found.node)}, key {fingerprint(found.key)}.")
    if not known:
        screen.say("         Compare this fingerprint with the one that the hospital tells you by telephone.")


@sent.command("begin-anew")
def begin_anew(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for a word.")] = False,
    folder: FromGroup = None,
) -> None:
    """Put a record that does not verify aside as evidence, and go on in a new file after its end."""
    node = node_in(folder or context.obj)
    from contextlib import closing

    from hospital_node.frozen import SentAnchor
    from hospital_node.journal import Journal
    from hospital_node.transmissions.person import local_user
    from hospital_node.transmissions.record import SentRecord
    from medveil.identity import Identity

    question = "Do you know why the record does not verify, and shall it begin anew?"
    if not yes and not (can_ask() and screen.ask(question)):
        raise NotConfirmed()
    identity = Identity.load(node.settings.name, node.key)
    record = SentRecord(node.folder, identity, to=node.settings.aggregator, authority=node.authority)
    with closing(Journal(node.journal)) as journal:
        record.tie(SentAnchor(journal))
        aside = record.begin_anew(local_user())
        record.close()
    screen.say(f"What was there is in {plain(aside)}. Keep it.")


@sent.command()
def export(
    context: typer.Context,
    target: Annotated[
        Path, typer.Argument(help="File to write, for an auditor; it holds no patient's data.")
    ],
    folder: FromGroup = None,
) -> None:
    """Check the record and write all of it into one file."""
    node = node_in(folder or context.obj)
    from hospital_node.transmissions import look
    from medveil.identity import Identity

    signer = Identity.load(node.settings.name, node.key)
    found = look.export(look.files_of(node.folder), target, signer)
    screen.say(f"{found.end.number - found.first + 1} entries are in {plain(target)}.")
