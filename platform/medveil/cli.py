"""The root command. Each room brings its own subcommands through an entry point."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import typer

from medveil.errors import Error, SystemRefused
from medveil.log import set_up
from medveil.private_files import keep_private
from medveil.shown import Screen, faint, fault, strong


def main() -> None:
    """Run ``medveil``; a known problem is printed as three sentences and ends with exit status 1.

    So does what the operating system refuses. Ctrl-C ends it without a word, also while it starts.
    """
    try:
        _run()
    except Error as error:
        show_error(error)
        sys.exit(1)
    except OSError as error:
        show_error(SystemRefused(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _run() -> None:
    set_up("error")  # a command that runs for long turns its log on by itself
    app = typer.Typer(
        name="medveil",
        callback=keep_private,
        help="Hospitals train one imaging model together; no image and no single update leaves a hospital.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for entry in sorted(entry_points(group="medveil.commands"), key=lambda e: e.name):
        room: typer.Typer | Callable[[typer.Typer], None] = entry.load()
        if isinstance(room, typer.Typer):
            app.add_typer(room, name=entry.name)
        else:
            room(app)
    app()


def show_error(error: Error) -> None:
    """What happened, what it means, what to do, and the code to look up in the documentation."""
    rows = [
        (fault("problem"), error.what),
        (strong("means"), error.meaning),
        (strong("remedy"), error.remedy),
    ]
    Screen(stderr=True).fields([*rows, (faint("code"), faint(error.code))])
