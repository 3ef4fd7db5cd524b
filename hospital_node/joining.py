"""Joining a consortium by its invitation: look at everything first, then make the node and enrol in one go.

The token is spent by a finished enrolment and by nothing else. Until then the folder has no ``node.json`` and
is no node; ``joining.json`` stands in its place from just before the aggregator is asked. If the line breaks
there, nobody knows whether the aggregator has enrolled the key: the same command asks again with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hospital_node.certificate import get_certificate
from hospital_node.connecting import Look
from hospital_node.doctor import address_finding, authority_finding, clock_finding, images_finding
from hospital_node.enrolment import line_to_aggregator
from hospital_node.line import AggregatorProblem
from hospital_node.settings import FILE, Node, NodeSettings
from medveil.errors import Error
from medveil.examined import Check, Finding, examined
from medveil.files import replace_durably
from medveil.handed import parsed, read_whole
from medveil.identity import Identity, KeyFileExists
from medveil.invitation import Invitation
from medveil.shown import plain
from medveil.values import Frozen, Sha256

BEGUN = "joining.json"
SETTLED = range(400, 500)
"""Answers after which the aggregator has certainly enrolled nobody."""


class AlreadyJoined(Error):
    """The folder holds a node."""

    code = "already-joined"

    def __init__(self, *, name: str, folder: Path) -> None:
        super().__init__(
            what=f"The folder '{plain(folder)}' already holds the node of '{plain(name, 60)}'.",
            meaning="It was left as it is, and the invitation was not used.",
            remedy="Go on with that node, or name another folder with --folder. One hospital runs one node.",
        )


class OtherInvitation(Error):
    """The folder has begun to join under another name, or elsewhere."""

    code = "other-invitation"

    def __init__(self, *, name: str, aggregator: str, folder: Path) -> None:
        super().__init__(
            what=f"In the folder '{plain(folder)}' a node has begun to join as '{plain(name, 60)}' at "
            f"{plain(aggregator, 100)}.",
            meaning="This invitation is for another name or another consortium. Nothing was changed.",
            remedy="Type the command with that invitation again, or name another folder with --folder.",
        )


class InvitationUsed(Error):
    """The aggregator does not take the invitation's token."""

    code = "invitation-used"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The aggregator does not take this invitation for '{name}': it was used, or taken back.",
            meaning="This hospital was not enrolled, and nothing was kept here.",
            remedy="If nobody here has used it, somebody else has: telephone the consortium's admin at once.",
        )


class NotFinished(Error):
    """The line broke while the hospital was being enrolled."""

    code = "joining-not-finished"

    def __init__(self, *, reason: Error) -> None:
        super().__init__(
            what=f"The enrolment was not finished. {reason.what}",
            meaning="Whether the aggregator has enrolled this node's key is not known; the key was kept.",
            remedy="Type the same command again: it goes on where it was, also if the invitation is used.",
        )


class Begun(Frozen):
    """What is kept while a node joins: its settings, and by which invitation."""

    settings: NodeSettings
    invitation: Sha256
    there: tuple[str, ...] | None
    """What lay in the folder before; None: it was made."""


@dataclass(frozen=True)
class Joined:
    """A node that is enrolled."""

    node: Node
    key: bytes
    plans: int | None
    """On offer; None: they could not be asked for."""
    certificate: bool
    """Whether the aggregator asked for a TLS client certificate, and has made one."""


def check_folder(folder: Path, invitation: Invitation) -> Begun | None:
    """What has begun in the node's folder, to be gone on with.

    Raises: AlreadyJoined, OtherInvitation; BadFile if what has begun cannot be read.
    """
    if (folder / FILE).exists():
        raise AlreadyJoined(name=Node.load(folder).settings.name, folder=folder)
    if not (folder / BEGUN).exists():
        return None
    begun = parsed(Begun, read_whole(folder / BEGUN, 2**20), name=BEGUN)
    settings = begun.settings
    if (settings.name, settings.aggregator) != (invitation.name, invitation.aggregator):
        raise OtherInvitation(name=settings.name, aggregator=settings.aggregator, folder=folder)
    return begun


def examine(invitation: Invitation, settings: NodeSettings, images: Check | None = None) -> Iterator[Finding]:
    """Everything that joining depends on, one thing after the other; nothing is made.

    Args:
        images: looks at where images come from, if that is no folder.
    """
    with tempfile.TemporaryDirectory() as scratch:  # mode 0700
        authority = Path(scratch) / "ca.pem"
        authority.write_text(invitation.authority)
        seen: list[Look] = []
        yield from examined(
            (
                ("authority", lambda: authority_finding(invitation.authority.encode())),
                ("images", images or (lambda: images_finding(settings.data))),
                ("address", lambda: address_finding(settings, authority, seen)),
            )
        )
    yield from map(clock_finding, seen)


def join(folder: Path, settings: NodeSettings, invitation: Invitation) -> Joined:
    """Make the node and enrol it, all or nothing.

    Raises: AlreadyJoined, OtherInvitation, InvitationExpired; InvitationUsed, AggregatorProblem and what else
        refuses before anybody can be enrolled, and then nothing of it stays; NotFinished, and then the same
        call goes on.
    """
    begun = check_folder(folder, invitation)
    if begun is None:
        invitation.check_time(time.time())  # a lost answer is asked for again, however late
    node = Node(folder, settings)
    identity, begun = _begin(node, invitation, begun)
    try:
        asyncio.run(_enrol(node, invitation.token))
    except AggregatorProblem as error:
        if error.status not in SETTLED:
            raise NotFinished(reason=error) from error
        _forget(folder, begun)
        if error.code == "token-refused":
            raise InvitationUsed(name=invitation.name) from error
        raise
    except Error as error:
        raise NotFinished(reason=error) from error
    node.save()
    (folder / BEGUN).unlink()
    plans, certificate = asyncio.run(_first_look(node))
    return Joined(node, identity.public_key, plans, certificate)


def _begin(node: Node, invitation: Invitation, begun: Begun | None) -> tuple[Identity, Begun]:
    """Settings, authority and key on the disk, before the aggregator hears of them."""
    folder, settings = node.folder, node.settings
    there = begun.there if begun else tuple(sorted(os.listdir(folder))) if folder.exists() else None
    now = Begun(settings=settings, invitation=invitation.hash.hex(), there=there)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if begun is None and node.key.exists():
            raise KeyFileExists(path=node.key)
        text = json.dumps(now.model_dump(mode="json"), indent=2)
        replace_durably(folder / BEGUN, text.encode(), private=True)
        replace_durably(node.authority, invitation.authority.encode(), private=True)
        if not node.key.exists():
            Identity.generate(settings.name).save(node.key)
    except OSError:
        if begun is None:
            _forget(folder, now)
        raise
    return Identity.load(settings.name, node.key), now


def _forget(folder: Path, begun: Begun) -> None:
    """Take away what joining has made, and nothing else."""
    with suppress(OSError):
        if begun.there is None:
            shutil.rmtree(folder)
            return
        for path in folder.iterdir():
            if path.name not in begun.there:
                path.unlink()


async def _enrol(node: Node, token: str) -> None:
    async with line_to_aggregator(node) as line:
        await line.enrol(token)


async def _first_look(node: Node) -> tuple[int | None, bool]:
    """How many plans are on offer, and whether a client certificate was wanted, and got."""
    certificate = False
    with suppress(Error):
        async with line_to_aggregator(node) as line:
            try:
                return len((await line.offers()).offers), False
            except AggregatorProblem as error:
                if error.code != "wrong-certificate":
                    return None, False
            await get_certificate(node, line)
            certificate = True
        async with line_to_aggregator(node) as line:
            return len((await line.offers()).offers), True
    return None, certificate
