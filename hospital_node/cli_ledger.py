"""``medveil node ledger``: what this hospital's patients have spent, as its operator looks at it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medveil.shown import NotConfirmed, Screen, can_ask, good, plain
from medveil.spoken import spoken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hospital_node.settings import Node
    from hospital_node.spending import Promise, Spending
    from privacy.dp.ledger import Row

ledger = typer.Typer(help="What this hospital's patients have spent of their privacy budget.")
screen = Screen()
Folder = Annotated[Path, typer.Option("--folder", "-f", help="This node's folder.")]
DEFAULT = Path("node-data")


def node_in(folder: Path) -> Node:
    """The node of this folder. Raises: NoNode, BadFile."""
    from hospital_node.settings import Node

    return Node.load(folder)


@ledger.callback(invoke_without_command=True)
def show_ledger(
    context: typer.Context,
    folder: Folder = DEFAULT,
    rows: Annotated[bool, typer.Option("--rows", help="Also every row, as it was written.")] = False,
) -> None:
    """Show study by study what was promised and spent, and what the cap leaves."""
    context.obj = folder
    if context.invoked_subcommand is not None:
        return
    node = node_in(folder)
    from hospital_node.spending import spending

    found = spending(node)
    if rows:
        _show_rows(found.rows)
    _show_promises(found.promises)
    _show_totals(found)


def _show_promises(promises: Sequence[Promise]) -> None:
    from hospital_node.views import noise_words

    if not promises:
        screen.say("No study has spent anything here, and none was promised anything.")
        return
    plans = list(dict.fromkeys(one.plan for one in promises))
    rows = [
        (
            one.study,
            str(plans.index(one.plan) + 1),
            one.split,
            _charged(one),
            noise_words(one.noise),
            f"{one.epsilon:.3f}",
            f"{one.epsilon_of_all:.3f}",
        )
        for one in promises
    ]
    screen.table(("study", "plan", "patients", "charged", "noise", "epsilon", "if all run"), rows)
    for number, plan in enumerate(plans, 1):
        screen.fields([(f"plan {number}", spoken(bytes.fromhex(plan)))])


def _charged(one: Promise) -> str:
    if one.restored:
        return "all, restored"
    return "none" if one.schedule is None else f"{one.charged} of {one.schedule}"


def _show_totals(found: Spending) -> None:
    most, alone = found.most, found.alone
    screen.say(
        f"The patient who pays most: epsilon {most.spent:.3f} spent, {most.promised:.3f} promised to "
        f"approved plans, cap {found.cap:g} (delta {found.delta:g}; a patient pays for the own split only)"
    )
    for word, own, counted in (
        ("spent", alone.spent, most.spent),
        ("promised", alone.promised, most.promised),
    ):
        if own > counted:
            screen.say(f"  {own:.3f} {word} if no other hospital adds its noise")
    more = f"one more study of epsilon {found.room:.3f}" if found.room > 0 else "no further study"
    screen.say(f"  the cap leaves room for {more}")
    if found.unsettled:
        told = "are being used, or were left open by a crash and are taken up again"
        screen.say(f"  {found.unsettled} charge(s) {told}")


def _show_rows(rows: Sequence[Row]) -> None:
    from hospital_node.views import noise_words
    from privacy.dp.ledger import MARKS, PROMISED, State

    for row in rows:
        e = row.entry
        where = f"round {e.round} attempt {e.attempt}"
        if e.state in PROMISED:
            whole = "whole schedule" if e.state is State.REGISTERED else "what is left of it"
            where = f"{whole} for {plain(e.dataset, 19)}"
        if e.state in MARKS:
            screen.say(f"{row.number:4} {e.state.value:10} {e.dataset or e.round} hash {row.hash[:16]}")
            continue
        screen.say(
            f"{row.number:4} {e.state.value:10} {e.plan[:12]} {e.split.value:5} {where}: "
            f"noise {noise_words([event.noise_multiplier for event in e.events])} "
            f"rate {e.event.sample_rate:g} steps {sum(event.steps for event in e.events)} "
            f"hash {row.hash[:16]}"
        )


@ledger.command()
def verify(
    context: typer.Context, folder: Annotated[Path | None, typer.Option("--folder", "-f")] = None
) -> None:
    """Check the hash chain of the ledger; names the first bad row, and prints the last row's hash to note."""
    node = node_in(folder or context.obj)
    from hospital_node.operator import viewed

    with viewed(node) as records:
        book = records.ledger
        count = len(book.rows())
        screen.say(good("PASSED"), f"  {count} rows, the chain is whole.")
        if book.torn:
            screen.say("         An unfinished row at the end (a crash, or a row in hand) is left out.")
        if count:
            screen.say(f"         Row {count} has the hash {book.rows()[-1].hash[:16]}.")
            screen.say(
                "         The journal knows it, and so does the aggregator's audit log since the last round."
            )


@ledger.command("go-on")
def go_on(
    context: typer.Context,
    ask: Annotated[bool, typer.Option(help="Ask the aggregator what it has seen.")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for a word.")] = False,
    folder: Annotated[Path | None, typer.Option("--folder", "-f")] = None,
) -> None:
    """Go on from an older copy of the node's files, the newer being lost: all that was promised is spent."""
    node = node_in(folder or context.obj)
    from hospital_node import operator

    lost, seen = operator.what_is_lost(node, ask=ask)
    seen_there = f"has seen {lost.seen or 'none'}" if ask else "was not asked"
    screen.say(f"The ledger has {lost.rows} rows; the aggregator {seen_there}.")
    for plan in lost.promised:
        screen.fields([("ends here", plain(plan.study.name)), ("", spoken(plan.hash))], width=10, indent=2)
    question = (
        "Is every newer copy lost? Then each of these plans counts as spent in full, for everybody where it "
        "is not known who took part, and this hospital works on none of them any more."
    )
    if not yes and not (can_ask() and screen.ask(question)):
        raise NotConfirmed()
    operator.go_on(node, lost, seen)
    screen.say("Noted in the ledger. New plans are held against what is left of the cap.")
