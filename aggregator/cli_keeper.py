"""``medveil aggregator keeper``: hold one share of the key by which a consortium knows a person again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medveil.folders import named
from medveil.shown import Screen

keeper = typer.Typer(
    no_args_is_help=True,
    help="A keeper of pseudonyms: nobody is in a study twice, and nobody learns who it is.",
)
screen = Screen()
Folder = Annotated[Path, typer.Option("--folder", "-f", help="The keeper's folder.")]
DEFAULT = Path("keeper-data")


@keeper.command()
def init(
    name: Annotated[str, typer.Option(help="The keeper's name, e.g. ethics-office.")],
    aggregator: Annotated[str, typer.Option(help="Address, e.g. https://fl.example.org:8443")],
    authority: Annotated[Path, typer.Option(help="The aggregator's ca.pem, as its admin handed it out.")],
    folder: Folder = DEFAULT,
) -> None:
    """Make the keeper's folder: its share of the key, its other keys, its settings."""
    from aggregator.keeper.set_up import set_up_keeper

    made = set_up_keeper(folder, authority, {"name": name, "aggregator": aggregator})
    screen.say(
        f"The keeper {name} is ready in {folder}. Back the folder up now: a lost key is lost for good."
    )
    screen.say(f"  For the admin:  {made.public}")
    screen.say(f"  Next:           medveil aggregator keeper enroll TOKEN {named(folder)}")


@keeper.command()
def enroll(
    token: Annotated[str, typer.Argument(help="From the consortium's admin: enroll-token NAME --keeper.")],
    folder: Folder = DEFAULT,
) -> None:
    """Show the one-time token to the aggregator."""
    from aggregator.keeper.set_up import enrol_keeper

    name = enrol_keeper(folder, token)
    screen.say(f"The keeper {name} is enrolled.")
    screen.say(f"  Next:  medveil aggregator keeper adopt persons.json {named(folder)}")


@keeper.command()
def describe(
    name: Annotated[str, typer.Option(help="A name of the consortium's persons, e.g. north.")],
    identifier: Annotated[str, typer.Option(help="What identifies a person everywhere, e.g. 'NHS number'.")],
    keepers: Annotated[list[Path], typer.Argument(help="Each keeper's public.json; at least two.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("persons.json"),
) -> None:
    """For the consortium's admin: make the file that keepers adopt and hospitals use, for life."""
    from aggregator.keeper.set_up import write_persons
    from medveil.ids import fingerprint

    persons = write_persons(out, name, identifier, keepers)
    screen.say(f"{out} names {len(persons.keepers)} keepers. Give it to each of them and to every hospital.")
    screen.say(f"  Compare by telephone:  {fingerprint(persons.hash)}")
    screen.say(f'  In a study\'s file:     [cohort] persons = "{persons.hash.hex()}"')


@keeper.command()
def adopt(
    file: Annotated[Path, typer.Argument(help="The consortium's persons.json.")],
    folder: Folder = DEFAULT,
) -> None:
    """Keep the persons of this consortium. A keeper does so once."""
    from aggregator.keeper.settings import KeeperFolder
    from medveil.handed import read_json
    from medveil.ids import fingerprint
    from medveil.persons import Persons

    found, persons = KeeperFolder.load(folder), read_json(file, Persons)
    found.adopt(persons)
    screen.say(f"This keeper keeps the persons of '{persons.name}'.")
    screen.say(f"  Compare by telephone:  {fingerprint(persons.hash)}")


@keeper.command()
def admit(
    name: Annotated[str, typer.Argument(help="A hospital's name at the aggregator.")],
    key: Annotated[str, typer.Option(help="Its key: 64 digits, from 'medveil node persons', by telephone.")],
    patients: Annotated[int, typer.Option(min=1, help="Most persons that it may ever ask for.")],
    folder: Folder = DEFAULT,
) -> None:
    """Let a hospital ask for as many persons as it has patients; or change that number."""
    import re

    from aggregator.keeper.book import KeeperBook
    from aggregator.keeper.settings import KeeperFolder
    from medveil.errors import BadOption
    from medveil.ids import NAME

    found = KeeperFolder.load(folder)
    if not NAME.fullmatch(name) or not re.fullmatch("[0-9a-f]{64}", key):
        raise BadOption(problem="a name or --key is not one; a key has 64 hexadecimal digits")
    book = KeeperBook(found.book)
    try:
        book.admit(name, bytes.fromhex(key), patients)
    finally:
        book.close()
    screen.say(f"{name} may ask for {patients:,} persons. A running keeper counts so from now on.")


@keeper.command()
def run(folder: Folder = DEFAULT) -> None:
    """Run the keeper until it is told to stop. It accepts no connection."""
    from aggregator.keeper.run import run_keeper
    from aggregator.keeper.settings import KeeperFolder
    from medveil.log import set_up

    set_up()
    run_keeper(KeeperFolder.load(folder))


@keeper.command()
def log(folder: Folder = DEFAULT) -> None:
    """Show who asked for how many persons and when, after checking that no entry was altered."""
    from aggregator.keeper.book import KeeperBook
    from aggregator.keeper.settings import KeeperFolder
    from medveil.errors import utc

    book = KeeperBook(KeeperFolder.load(folder).book)
    try:
        entries, hospitals = book.log(), book.hospitals()
    finally:
        book.close()
    rows = [(str(e.number), utc(e.time), e.hospital, e.what, f"{e.count:,}") for e in entries]
    screen.table(("", "time", "hospital", "what", "persons"), rows)
    limits = [(name, f"{total:,}", f"{limit:,}") for name, _, limit, total in hospitals]
    screen.table(("hospital", "evaluated", "most"), limits)
    if entries:
        screen.say(f"The log is whole. Its end: {entries[-1].hash.hex()}")
