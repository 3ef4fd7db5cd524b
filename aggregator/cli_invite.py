"""``medveil aggregator invite`` and ``invitations``: bring hospitals in, and see who has come."""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli_people import DEFAULT, AsJson, Folder
from aggregator.settings import load
from medveil.errors import utc
from medveil.folders import named
from medveil.ids import fingerprint
from medveil.shown import Screen, Words, good, plain, strong, warn

if TYPE_CHECKING:
    from aggregator.invitations import Newcomer

screen = Screen()


def invite(
    name: Annotated[str, typer.Argument(help="The hospital: lower case letters, digits and hyphens.")],
    folder: Folder = DEFAULT,
    days: Annotated[float, typer.Option(help="How long it may be used.")] = 7.0,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; NAME.invitation here without it.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Take back the invitation that is open, and write another.")
    ] = False,
) -> None:
    """Write the one file with which a hospital joins, and show the words to read to it by telephone."""
    from aggregator import invitations

    settings = load(folder)
    path, made = invitations.invite(settings, name, days=days, target=output, again=again)
    screen.say(strong(f"{path} brings {name} into {made.consortium}."))
    rows: list[tuple[Words, Words]] = [
        ("address", made.aggregator),
        ("works", f"once, until {utc(made.expires)}"),
        *_words(made.words),
    ]
    screen.fields(rows, indent=2)
    if settings.names[0] in ("localhost", "127.0.0.1") and not settings.address:
        screen.say(warn("That address leads nowhere from another machine. Set 'address' in aggregator.json."))
    screen.say("1. Send the file to the hospital's operator and to nobody else: it holds a secret.")
    screen.say("2. Telephone, on a number that you know, and read the twelve words. The operator types:")
    screen.say(f"     medveil node join {quote(path.name)} --data FOLDER")
    screen.say("3. In the same call have the hospital's key read to you, and compare it with:")
    screen.say(f"     medveil aggregator invitations {named(folder)}")


def invitations(
    folder: Folder = DEFAULT,
    words: Annotated[
        Path | None, typer.Option(help="An invitation's file: show its twelve words once more.")
    ] = None,
    take_back: Annotated[str, typer.Option(help="A name: nobody can use its invitation any more.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show who was invited, until when, and with which key they have joined."""
    from aggregator import invitations
    from medveil.invitation import Invitation

    if words is not None:
        made = Invitation.read(words)
        screen.fields([("for", made.name), ("works", f"until {utc(made.expires)}"), *_words(made.words)])
        return
    settings = load(folder)
    if take_back:
        invitations.take_back(settings, take_back)
        screen.say(f"The invitation of {plain(take_back, 60)} is taken back.")
        return
    found = invitations.newcomers(settings)
    if as_json:
        for one in found:
            screen.json(_for_programs(one))
        return
    if not found:
        screen.say(f"Nobody was invited yet. Next: medveil aggregator invite NAME {named(folder)}")
        return
    rows = ((one.name, one.role, *_stands(one)) for one in found)
    screen.table(("name", "role", "invitation", "key fingerprint"), rows)


def _for_programs(one: Newcomer) -> dict[str, object]:
    return {
        "name": one.name,
        "role": one.role,
        "state": one.state.replace(" ", "-"),
        "until": one.until if math.isfinite(one.until) else None,
        "key": "" if one.key is None else fingerprint(one.key),
    }


def _stands(one: Newcomer) -> tuple[Words, Words]:
    key = fingerprint(one.key) if one.key is not None else ""
    if one.state in ("open", "expired"):
        return f"{one.state}, {'until' if one.state == 'open' else 'since'} {utc(one.until)[:16]}", key
    return good(one.state) if one.state == "enrolled" else one.state, key


def _words(words: tuple[str, ...]) -> list[tuple[Words, Words]]:
    return [("words", strong(" ".join(words[:6]))), ("", strong(" ".join(words[6:])))]
