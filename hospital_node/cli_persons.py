"""``medveil node persons``: nobody is in a study twice, though two hospitals may have the same patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.errors import BadOption
from medveil.folders import named
from medveil.shown import Screen, plain, warn

if TYPE_CHECKING:
    from hospital_node.persons.claiming import Counts
    from hospital_node.settings import Node

persons = typer.Typer(help="Patients whom another hospital may have as well: whose they are in studies.")
screen, progress = Screen(), Screen(stderr=True)


@persons.callback(invoke_without_command=True)
def show(context: typer.Context, folder: Folder = DEFAULT) -> None:
    """Show by what persons are known here, and how many of the patients are this hospital's."""
    context.obj = folder
    if context.invoked_subcommand is not None:
        return
    node = node_in(folder)
    from hospital_node.persons.claiming import counts, persons_of
    from medveil.identity import Identity
    from medveil.ids import fingerprint

    identity = Identity.load(node.settings.name, node.key)
    screen.say(f"For keepers, by telephone: {node.settings.name}'s key is")
    screen.say(f"  {identity.public_key.hex()}")
    if node.settings.persons is None:
        use_one = f"medveil node persons use persons.json --column NAME {named(folder)}"
        screen.say(f"This node uses no persons file: {use_one}")
        return
    file, told = persons_of(node)
    screen.say(f"Persons of '{plain(file.name)}', known by {plain(file.identifier)}.")
    screen.say(f"  Fingerprint of the file:  {fingerprint(file.hash)}")
    screen.say(f"  Keepers:                  {', '.join(plain(one.name) for one in file.keepers)}")
    known_by = ", ".join(map(plain, told.columns)) or "PatientID and its issuer (DICOM)"
    screen.say(f"  Known here by:            {known_by}")
    _show_counts(node, counts(node, identity))


@persons.command()
def use(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The consortium's persons.json.")],
    column: Annotated[
        list[str] | None, typer.Option(help="The column that identifies a person; repeatable.")
    ] = None,
    dicom: Annotated[
        bool,
        typer.Option("--dicom", help="PatientID with its issuer, in the DICOM files, identify a person."),
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(help="A CSV file with patient_id and these columns; manifest.csv without it."),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--folder", "-f", help="This node's folder.")] = None,
) -> None:
    """Know persons by the consortium's file. It is for life: compare its fingerprint first."""
    node = node_in(folder or context.obj)
    from hospital_node.persons import claiming
    from medveil.ids import fingerprint

    if dicom == bool(column) or (dicom and table is not None):
        raise BadOption(problem="--column (with --table, or without) and --dicom: one of them")
    _, found = claiming.use(node, file, column or (), table)
    screen.say(f"Persons of '{plain(found.name)}', known by {plain(found.identifier)}.")
    screen.say(f"  Compare by telephone:  {fingerprint(found.hash)}")
    screen.say(f"  Next:                  medveil node persons claim {named(node.folder)}")
    screen.say(
        "A running node takes it up when it is started again; private plans without persons end here then."
    )


@persons.command()
def claim(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Option("--folder", "-f", help="This node's folder.")] = None,
) -> None:
    """Ask the keepers whose the patients of the images folder are. Neither learns who they are."""
    node = node_in(folder or context.obj)
    import asyncio

    from hospital_node.persons.claiming import persons_of

    persons_of(node)
    with progress.waiting():
        found = asyncio.run(_claimed(node))
    _show_counts(node, found)


async def _claimed(node: Node) -> Counts:
    from hospital_node.enrolment import line_to_aggregator
    from hospital_node.persons.claiming import claim_persons
    from medveil.identity import Identity

    async with line_to_aggregator(node) as transport:
        return await claim_persons(node, Identity.load(node.settings.name, node.key), transport)


def _show_counts(node: Node, found: Counts) -> None:
    screen.say(f"{found.own} patient(s) here are this hospital's.")
    for count, words in (
        (found.elsewhere, "are in another hospital that asked first; studies that ask for it leave them out"),
        (found.unknown, "have no identifier, or several; such studies leave them out"),
        (found.several, "share an identifier with another pseudonym; give each person one pseudonym"),
        (found.unasked, f"were not asked about yet: medveil node persons claim {named(node.folder)}"),
    ):
        if count:
            screen.say(warn(str(count)), f" {words}.")
