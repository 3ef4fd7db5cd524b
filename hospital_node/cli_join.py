"""``medveil node join`` and ``medveil node doctor``: come in by an invitation, and see what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder
from hospital_node.cli_pacs import Connection, Fetched, fetched
from hospital_node.cli_setup import NodeChoices
from medveil.errors import BadOption
from medveil.folders import named
from medveil.shown import NotConfirmed, Screen, Words, can_ask, plain, strong

if TYPE_CHECKING:
    from hospital_node.joining import Joined
    from hospital_node.settings import Node
    from medveil.examined import Finding
    from medveil.invitation import Invitation

screen = Screen()
NOT_JOINED = 1
NO_NODE = 4


@dataclass(frozen=True, kw_only=True)
class JoinOptions(Fetched, Connection, NodeChoices):
    """Options of ``medveil node join``: those of the node, where it comes from, and where its images are."""

    invitation: Annotated[Path, typer.Argument(help="The file that the consortium's admin has sent.")]
    data: Annotated[
        Path | None, typer.Option(help="Folder with the images, and manifest.csv. Only read.")
    ] = None
    pacs: Annotated[
        str,
        typer.Option(
            help="Instead of a folder the hospital's PACS: https://pacs.example.org/dicom-web, or "
            "dimse://TITLE@pacs.example.org:104."
        ),
    ] = ""
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the twelve words were compared before.")] = (
        False
    )

    def images(self) -> Path:
        """Where the images come from. Raises: BadOption."""
        if (self.data is None) == (not self.pacs):
            raise BadOption(problem="where the images are is said once: with --data FOLDER or --pacs ADDRESS")
        if self.data is not None:
            return self.data
        from hospital_node.pacs.store import folder_in

        return folder_in(self.folder)


def join(options: JoinOptions) -> None:
    """Join a consortium by its invitation: look at everything, make this node, enrol it."""
    from hospital_node import joining
    from medveil.examined import show
    from medveil.invitation import Invitation

    invitation = Invitation.read(options.invitation)
    settings = options.settings(invitation.name, invitation.aggregator, options.images())
    pacs = _Asked(options) if options.pacs else None
    begun = joining.check_folder(options.folder, invitation)
    _show(invitation)
    if begun is None:
        import time

        invitation.check_time(time.time())
    if not show(screen, joining.examine(invitation, settings, None if pacs is None else pacs.finding)):
        screen.say("Nothing was made, the invitation was not used. Mend this and type the command again.")
        raise typer.Exit(NOT_JOINED)
    compared = options.yes or (begun is not None and begun.invitation == invitation.hash.hex())
    question = "Has the consortium's admin read these twelve words to you by telephone?"
    if not compared and not (can_ask() and screen.ask(question)):
        raise NotConfirmed()
    done = joining.join(options.folder, settings, invitation)
    _show_joined(done, invitation)
    if pacs is not None:
        pacs.fetch(done.node)


class _Asked:
    """A PACS that was named instead of a folder: looked at before anything is made, fetched from afterwards.

    Raises: BadOption, PasswordShown, BadPacsList: it cannot be asked as the options say.
    """

    def __init__(self, options: JoinOptions) -> None:
        self._settings = options.pacs_settings(options.pacs)
        self._wanted = options.wanted(self._settings)
        self._line = self._settings.connected()

    def finding(self) -> Finding:
        """Whether it answers and lets this node in."""
        from medveil.examined import Finding

        self._line.check()
        return Finding("images", f"the PACS {plain(self._settings.address, 100)} answers")

    def fetch(self, node: Node) -> None:
        """Fetch what was asked for. The hospital has joined, whatever becomes of it."""
        from hospital_node.pacs import settings

        settings.save(node.folder, self._settings)
        outcome = fetched(node, self._settings, self._wanted, self._line)
        if outcome.ended is not None:
            raise outcome.ended


def _show(invitation: Invitation) -> None:
    screen.say(strong(f"{invitation.name} is invited into {invitation.consortium}."))
    rows: list[tuple[Words, Words]] = [
        ("address", invitation.aggregator),
        ("words", strong(" ".join(invitation.words[:6]))),
        ("", strong(" ".join(invitation.words[6:]))),
    ]
    screen.fields(rows, indent=2)


def _show_joined(done: Joined, invitation: Invitation) -> None:
    from medveil.ids import fingerprint

    node, folder = done.node, named(done.node.folder)
    joined = f"{node.settings.name} has joined {invitation.consortium}."
    screen.say(strong(f"{joined} Its node is in {plain(node.folder)}."))
    if done.certificate:
        screen.say("The aggregator asks for TLS certificates, and has made one; a running node renews it.")
    screen.say("In the same call, read this node's key to the admin, who compares it:")
    screen.say(f"  {fingerprint(done.key)}")
    if done.plans:
        screen.say(f"Plans on offer: {done.plans}. Next:")
    else:
        screen.say("No plan is on offer yet. As soon as the admin has told you of one:")
    screen.say(f"  medveil node check {folder}      look at the images as it would")
    screen.say(f"  medveil node approve {folder}    read it, and approve it by its words")
    screen.say(f"  medveil node run {folder}        work on it")


def doctor(folder: Folder = DEFAULT) -> None:
    """Look at all that this node needs, and say the fix. Exit code 0: passed, 1: a problem, 4: no node."""
    from hospital_node.doctor import examine, has_node
    from medveil.examined import show

    passed = show(screen, examine(folder))
    raise typer.Exit(NO_NODE if not has_node(folder) else 0 if passed else 1)
