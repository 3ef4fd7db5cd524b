"""``medveil node refuse``, ``withdraw``, ``leave``, ``pause``, ``resume``, ``stop``: the operator's word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.folders import named
from medveil.shown import NotConfirmed, Screen, can_ask, plain, strong

if TYPE_CHECKING:
    from hospital_node.orders import Word
    from hospital_node.settings import Node
    from medveil.plan import Plan

screen, progress = Screen(), Screen(stderr=True)
Named = Annotated[list[str], typer.Argument(help="The plan's twelve words, or its hash.")]
MaybeNamed = Annotated[
    list[str] | None, typer.Argument(help="A plan's twelve words or hash; every plan without.")
]
Reason = Annotated[
    str, typer.Option("--reason", "-r", help="Why; the admin and whoever may read the study see it.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def refuse(plan: Named, reason: Reason = "", yes: Yes = False, folder: Folder = DEFAULT) -> None:
    """Tell the admin that this hospital will not take part in a plan on offer, and why."""
    node = node_in(folder)
    from hospital_node import consent, operator

    chosen = operator.shown_plan(node, plan)
    words = _reason(reason)
    _ask(
        chosen, "Nothing is trained or sent for it, as before. The admin and its readers see the reason.", yes
    )
    _tell(node, consent.refuse_plan(node, chosen, words))


def withdraw(plan: Named, reason: Reason = "", yes: Yes = False, folder: Folder = DEFAULT) -> None:
    """Take an approval back: this node sends nothing more for the plan, whatever the aggregator says."""
    node = node_in(folder)
    from hospital_node import consent

    chosen = consent.approved_plan(node, plan)
    words = _reason(reason)
    _ask(chosen, LOST + _goes_on(chosen), yes)
    _tell(node, consent.withdraw_plan(node, chosen, words))


def leave(plan: Named, reason: Reason = "", yes: Yes = False, folder: Folder = DEFAULT) -> None:
    """Take an approval back when the round in hand is over."""
    node = node_in(folder)
    from hospital_node import consent

    chosen = consent.approved_plan(node, plan)
    words = _reason(reason)
    _ask(chosen, "The round in hand goes on to its end. Then: " + LOST + _goes_on(chosen), yes)
    word = consent.leave_after_round(node, chosen, words)
    if word is None:
        screen.say(f"Noted. The running node takes the approval back after this round: {_status(folder)}")
        return
    screen.say("No round is in hand.")
    _tell(node, word)


def pause(plan: MaybeNamed = None, folder: Folder = DEFAULT) -> None:
    """Join no new attempt, of one plan or of any, until 'resume'; the attempt in hand goes on to its end."""
    node = node_in(folder)
    from hospital_node import consent

    consent.pause(node, consent.approved_plan(node, plan) if plan else None)
    screen.say(f"Paused. No round counts on this hospital until: medveil node resume {named(folder)}")


def resume(plan: MaybeNamed = None, folder: Folder = DEFAULT) -> None:
    """Join attempts again."""
    node = node_in(folder)
    from hospital_node import consent

    held = consent.resume(node, consent.approved_plan(node, plan) if plan else None)
    screen.say("This hospital takes part again." if held else "Nothing was paused.")


def stop(folder: Folder = DEFAULT) -> None:
    """End the running node, as Ctrl-C does; a service that restarts it by itself is not stopped."""
    node = node_in(folder)
    from hospital_node import consent

    consent.stop(node)
    screen.say(f"The running node ends within a few seconds: {_status(folder)}")


def _status(folder: Folder) -> str:
    return f"medveil node status {named(folder)}"


LOST = (
    "This node sends nothing more for it. What it has computed of the round in hand is lost; what it has "
    "sent stays in the sums that are out; what was charged to your patients stays charged. "
)


def _goes_on(plan: Plan) -> str:
    return (
        f"The other {len(plan.roster) - 1} hospitals go on, or the study ends if too few are left. "
        "Only a new approval, typed here, takes part again."
    )


def _reason(given: str) -> str:
    """Raises: BadReason."""
    from hospital_node import consent

    if not given.strip() and can_ask():
        given = screen.answer("Why? One line, for the admin and whoever may read the study:")
    return consent.checked_reason(given)


def _ask(plan: Plan, lost: str, yes: bool) -> None:
    """Raises: NotConfirmed."""
    from hospital_node import views

    screen.say(strong(plan.study.name))
    screen.fields(views.fingerprint_rows(plan), width=views.WIDTH, indent=2)
    screen.say(lost)
    if not yes and not (can_ask() and screen.ask("Is that meant?")):
        raise NotConfirmed()


def _tell(node: Node, word: Word) -> None:
    from hospital_node import consent

    done = "Refused" if word.kind == "refused" else "Withdrawn"
    screen.say(f"{done}: {plain(word.reason)}")
    with progress.waiting():
        told = consent.tell_aggregator(node)
    if not told:
        screen.say(
            "The aggregator does not answer; the node tells it when it runs. Here the word stands already."
        )
