"""``medveil aggregator study pause``, ``resume``, ``stop`` and ``withdraw``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli_people import DEFAULT, Folder
from aggregator.settings import load
from medveil.shown import NotConfirmed, Screen, can_ask, plain, strong, warn

if TYPE_CHECKING:
    from pathlib import Path

    from medveil.reports import Order

screen = Screen()
Study = Annotated[
    str,
    typer.Argument(help="The study's name, its words in quotation marks, or 8 digits or more of its hash."),
]
Reason = Annotated[str, typer.Option(help="Why, in one line; every hospital of the study reads it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
MEANING = {
    "pause": "No attempt opens until it is resumed. One that has masked vectors comes to its own end; an "
    "earlier one ends now.",
    "resume": "The next attempt opens as soon as enough hospitals are in reach.",
    "stop": "For good: no attempt ever opens again, and the model so far stays. One that has masked vectors "
    "comes to its own end first.",
    "withdraw": "For good: it is offered to no hospital any more. Nothing was trained.",
}
DONE = {"pause": "is paused", "resume": "goes on", "stop": "is stopped", "withdraw": "is withdrawn"}


def pause(study: Study, reason: Reason, folder: Folder = DEFAULT) -> None:
    """Open no more rounds of a study until it is resumed; what was sent masked is finished first."""
    _say(folder, study, "pause", reason)


def resume(study: Study, reason: Reason = "it goes on", folder: Folder = DEFAULT) -> None:
    """Let a paused study go on from where it was."""
    _say(folder, study, "resume", reason)


def stop(study: Study, reason: Reason, folder: Folder = DEFAULT, yes: Yes = False) -> None:
    """End a study for good; its model so far stays. Hospitals are told, with the reason."""
    _say(folder, study, "stop", reason, ask=not yes)


def withdraw(study: Study, reason: Reason, folder: Folder = DEFAULT, yes: Yes = False) -> None:
    """Take back a study that has not begun: hospitals are offered it no more."""
    _say(folder, study, "withdraw", reason, ask=not yes)


def _say(folder: Path, study: str, order: Order, reason: str, *, ask: bool = False) -> None:
    """Raises: NotConfirmed, what :func:`aggregator.directing.say` raises."""
    from aggregator import directing

    settings = load(folder)
    if ask:
        directing.check(settings, study, order, reason)
        screen.say(warn(MEANING[order]))
        if not (can_ask() and screen.ask(f"{order.capitalize()} '{plain(study, 100)}'?")):
            raise NotConfirmed()
    plan, told = directing.say(settings, study, order, reason)
    screen.say(strong(plan.study.name), f"{DONE[order]}: {plain(told.reason)}")
    if not ask:
        screen.say(f"  {MEANING[order]}")
    screen.say(
        "  The word is signed and in the audit log. A running aggregator obeys within a second and tells"
    )
    screen.say("  every hospital of the study; one that runs later does so then.")
