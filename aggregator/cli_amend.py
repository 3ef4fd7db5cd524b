"""``medveil aggregator study amend``: another roster for a study that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli_people import DEFAULT, Folder
from aggregator.settings import load
from medveil.ids import fingerprint
from medveil.shown import NotConfirmed, Screen, can_ask, plain, strong, warn

if TYPE_CHECKING:
    from aggregator.amending import Amended, Price

screen = Screen()


def amend(
    plan: Annotated[str, typer.Argument(help="The plan: its study's name, its words or its hash.")],
    add: Annotated[list[str], typer.Option(help="An enrolled hospital that joins; repeatable.")] = [],  # noqa: B006
    remove: Annotated[list[str], typer.Option(help="A hospital that leaves; repeatable.")] = [],  # noqa: B006
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Change the roster of a plan that runs. Its hospitals approve; until then the old roster works."""
    from aggregator import amending

    settings = load(folder)
    found = amending.amend(settings, plan, add=add, remove=remove)
    _show(found)
    if not yes and not (can_ask() and screen.ask("Sign this change of the roster?")):
        raise NotConfirmed()
    amending.sign(settings, found)
    _tell(found)


def _show(found: Amended) -> None:
    plan, before = found.plan, found.before
    screen.say(
        strong(plan.study.name), f"  roster {plan.epoch}, from round {plan.first_round} on at the earliest"
    )
    rows = [("joins", m) for m in found.joined] + [("leaves", m) for m in found.left]
    for label, member in rows:
        screen.say(warn(f"  {label:8}"), f"{plain(member.name)}  key {fingerprint(member.key)}")
    stay = len(plan.roster) - len(found.joined)
    screen.say(f"  stay     {stay}; {len(plan.roster)} hospitals in all, {len(before.roster)} before")
    if found.whole is None or found.so_far is None or found.rest is None:
        screen.say("  privacy  none, with either roster")
        return
    delta = getattr(plan.study.privacy, "delta", 0.0)
    screen.say(f"  privacy  the same noise with either roster; at delta {delta:g} a patient pays")
    screen.say(f"           so far, in all rounds before:   {_words(found.so_far)}")
    screen.say(f"           who stays, for the whole study: {_words(found.whole)}")
    if found.joined:
        screen.say(f"           who joins, for what is left:    {_words(found.rest)}")


def _words(price: Price) -> str:
    return f"epsilon {price.jointly:.4g}; {price.alone:.4g} if only the own noise counts"


def _tell(found: Amended) -> None:
    from medveil.spoken import words_of

    plan, words = found.plan, words_of(found.plan.hash)
    screen.say("Signed. Read these words to each hospital of the new roster by telephone:")
    first, second = strong(" ".join(words[:6])), strong(" ".join(words[6:]))
    screen.fields([("words", first), ("", second), ("hash", plan.id)], indent=2)
    screen.say("It takes over between two attempts, once as many have approved it and are in reach as an")
    screen.say("attempt needs. Who stays sees the difference only; until then the old roster works on.")
