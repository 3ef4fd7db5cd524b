"""The root command. Each room brings its own subcommands through an entry point, loaded when one is called.

Nothing that takes time is imported before :func:`main` runs. From then on, until a command begins, Ctrl-C
ends the process on the spot: an exception in the middle of an import may be shown to a person, or get lost.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

TYPE_CHECKING = False  # as in typing, which takes 10 ms to import: Ctrl-C meanwhile would show a traceback
if TYPE_CHECKING:
    from collections.abc import Callable

    import typer
    from typer._click import Command, Context
    from typer.core import TyperGroup

    from medveil.errors import Error

INTERRUPTED = 128 + signal.SIGINT
LINES = {
    "demo": "Run a whole federated study on this machine: aggregator, hospitals, masked rounds, report.",
    "doctor": (
        "Look at this machine: Python, memory, disk, torch, SQLite, clock, ports. Exit status 1 on a problem."
    ),
    "aggregator": "For the consortium's admin: run the aggregator, enrol hospitals, open studies.",
    "node": "For a hospital's operator: connect this hospital, check its images, approve, run.",
    "research": "For a researcher: follow a study, fetch its model, judge it, report it.",
    "study": "Write the file that says what is learned, how, and under which privacy.",
    "privacy": "What a schedule costs each patient, and what it leaves to learn.",
    "simulate": "Play a study with up to 2,000 made-up hospitals here: real node and masks, no network.",
}
"""Every command of ours and its line in the list, which is shown without loading the command's room."""
ROOM_OF = {name: name if name in ("aggregator", "node") else "research" for name in LINES}

OURS = {"medveil", "medveil_imaging", "medveil_research", "hospital_node", "aggregator", "privacy"}


def main() -> None:
    """Run ``medveil``; a known problem is printed as three sentences and ends with exit status 1.

    So does what the operating system refuses. Ctrl-C ends it without a word, also while it starts.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    gc.disable()  # what is imported stays: looking through it for garbage is a tenth of the start
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        gc.enable()
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, before)


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)  # nothing is open or half written yet


def _run() -> None:
    from medveil.errors import Error, NotInstalled, SystemRefused
    from medveil.log import set_up

    set_up("error")  # a command that runs for long turns its log on by itself
    try:
        root_app(sys.argv[1:])()
    except Error as error:
        show_error(error)
        sys.exit(1)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if not library or library in OURS:
            raise
        show_error(NotInstalled(library))
        sys.exit(1)
    except OSError as error:
        show_error(SystemRefused(error))
        sys.exit(1)


def root_app(words: list[str]) -> typer.Typer:
    """All commands; of ours, only those of the room that these words call are loaded."""
    from importlib.metadata import entry_points

    import typer

    def begin(
        version: bool = typer.Option(
            False, "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ) -> None:
        _begin()

    called = next((word for word in words if not word.startswith("-")), "")
    app = typer.Typer(
        name="medveil",
        cls=_group(),
        callback=begin,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Hospitals train one imaging model together; no image and no single update leaves a hospital.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    rooms = {entry.name: entry for entry in entry_points(group="medveil.commands")}
    waiting = set(ROOM_OF.values()) - {ROOM_OF.get(called)}
    for name, line in LINES.items():
        if ROOM_OF[name] in waiting & set(rooms):
            app.command(name, help=line)(_not_loaded)
    for name in sorted(set(rooms) - waiting):
        room: typer.Typer | Callable[[typer.Typer], None] = rooms[name].load()
        if isinstance(room, typer.Typer):
            app.add_typer(room, name=name)
        else:
            room(app)
    return app


def _group() -> type[TyperGroup]:
    from typer.core import TyperGroup

    class Root(TyperGroup):
        """Who leaves out the word in between (``medveil evaluate``) is told the whole command."""

        def resolve_command(
            self, ctx: Context, args: list[str]
        ) -> tuple[str | None, Command | None, list[str]]:
            whole = [] if args[0] in self.commands else _ending_in(args[0])
            if whole:
                meant = " or ".join(f"'medveil {words}'" for words in whole)
                ctx.fail(f"No such command '{args[0]}'. Did you mean {meant}?")
            return super().resolve_command(ctx, args)

    return Root


def _ending_in(word: str) -> list[str]:
    """Commands of any room's groups that are called so, without ``medveil``."""
    import typer

    found = []
    for room in sorted(set(ROOM_OF.values())):
        name = next(name for name, its in ROOM_OF.items() if its == room)
        for info in root_app([name]).registered_groups:
            group = typer.main.get_group(info.typer_instance) if info.typer_instance else None
            if group and word in group.commands:
                found.append(f"{info.name} {word}")
    return found


def _not_loaded() -> None:
    """Stands in the list for a command of a room that was not called."""


def _show_version(wanted: bool) -> None:
    if wanted:
        import platform

        import typer

        from medveil.shown import Screen
        from medveil.software import own_version, revision, version_of

        built = f"medveil {own_version()} (revision {revision() or 'unknown'})"
        torch = version_of("torch")
        Screen().say(
            f"{built}, Python {platform.python_version()}, {f'torch {torch}' if torch else 'without torch'}"
        )
        raise typer.Exit


def _begin() -> None:
    from medveil.private_files import keep_private

    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.enable()
    keep_private()


def show_error(error: Error) -> None:
    """What happened, what it means, what to do, and the code to look up in the documentation."""
    from medveil.shown import Screen, faint, fault, strong

    rows = [
        (fault("problem"), error.what),
        (strong("means"), error.meaning),
        (strong("remedy"), error.remedy),
    ]
    Screen(stderr=True).fields([*rows, (faint("code"), faint(error.code))])
