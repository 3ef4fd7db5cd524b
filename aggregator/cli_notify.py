"""``medveil aggregator notify``: who is told when something waits for a person."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from aggregator.cli_people import DEFAULT, Folder
from aggregator.settings import load
from medveil.shown import Screen, plain, warn

notify = typer.Typer(
    no_args_is_help=True,
    help="Webhooks and e-mail for what waits for a person (see monitoring in aggregator.json).",
)
screen = Screen()


@notify.command("list")
def list_receivers(folder: Folder = DEFAULT) -> None:
    """Print who is told of what, and how many notices are still to be told."""
    from aggregator.telling.queue import Queue
    from aggregator.telling.receivers import name_of, shown

    settings = load(folder)
    owed = [one.receiver for one in Queue(folder, now=time.time).owed]
    for one in settings.monitoring.notify:
        waiting = owed.count(name_of(one))
        screen.say(f"{one.kind:<8} {shown(one)}: {', '.join(one.events)}; {waiting} still to be told")
    if not settings.monitoring.notify:
        screen.say("Nobody is told: aggregator.json has no receiver under monitoring.notify.")


@notify.command()
def secret(
    folder: Folder = DEFAULT,
    file: Annotated[Path, typer.Option(help="Name of the file in the folder.")] = Path("notify.secret"),
) -> None:
    """Make the secret under a webhook's signatures and print it once, for the receiver."""
    from aggregator.telling.receivers import make_secret

    screen.say(make_secret(folder / file))


@notify.command("test")
def send_test(folder: Folder = DEFAULT) -> None:
    """Send a test to every receiver now, and say who has taken it."""
    from aggregator.telling.notices import a_test
    from aggregator.telling.receivers import deliver, shown
    from medveil.errors import BadOption, Error

    settings = load(folder)
    if not settings.monitoring.notify:
        raise BadOption(problem="aggregator.json has no receiver under monitoring.notify")
    failed = False
    for one in settings.monitoring.notify:
        try:
            asyncio.run(deliver(one, a_test(settings.title, time.time()), folder))
        except Error as error:
            failed = True
            screen.say(warn(f"{one.kind} {shown(one)}:"), plain(error.what), plain(error.remedy))
        else:
            screen.say(f"{one.kind} {shown(one)}: it has taken the test.")
    if failed:
        raise typer.Exit(1)
