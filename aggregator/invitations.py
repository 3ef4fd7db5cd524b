"""Inviting hospitals: one file for each, and who has which door open."""

from __future__ import annotations

import math
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from aggregator.admin import check_newcomer, opened
from aggregator.settings import Settings
from medveil.errors import BadFile, BadOption, Error
from medveil.files import new_private, replace_durably
from medveil.handed import problem_of, read_whole
from medveil.invitation import ENDING, MOST_BYTES, Invitation, authority_in
from medveil.shown import plain

LONGEST_DAYS = 60.0
SHORTEST_DAYS = 1 / 24


@dataclass(frozen=True)
class Newcomer:
    """A name that was invited, or is enrolled with a key."""

    name: str
    role: str
    state: str
    """``open``, ``expired``, ``taken back``, ``enrolled`` or ``revoked``."""
    until: float
    """When an open or expired token ends, Unix seconds; infinite for all others."""
    key: bytes | None
    """Of whoever is enrolled."""


def invite(
    settings: Settings, name: str, *, days: float, target: Path | None = None, again: bool = False
) -> tuple[Path, Invitation]:
    """Write the one file that brings a hospital in; of its token only a hash is kept.

    Args:
        days: until it expires.
        target: the file; ``NAME.invitation`` where the command was typed if None. Only an earlier invitation
            of this name is written over, and only ``again``.
        again: take back an invitation, or token, of this name that is still open.
    Returns: the file, readable by its owner only, and what it says.
    Raises: BadOption, BadFile, AlreadyThere, OpenToken. Then there is no file and no token.
    """
    check_newcomer(name)
    if not SHORTEST_DAYS <= days <= LONGEST_DAYS:
        raise BadOption(problem=f"--days takes {SHORTEST_DAYS:.2f} to {LONGEST_DAYS:g}")
    now = time.time()
    invitation = _invitation(settings, name, int(now + days * 86_400))
    path = target or Path(f"{name}{ENDING}")
    with opened(settings) as store:
        before = _earlier(path, name) if again else b""
        if before:
            replace_durably(path, invitation.to_bytes(), private=True)
        else:
            _write_new(path, invitation.to_bytes())
        try:
            store.register.add_only_token(
                invitation.token,
                name=name,
                role="hospital",
                expires=float(invitation.expires),
                now=now,
                again=again,
            )
        except BaseException:
            if before:
                replace_durably(path, before, private=True)
            else:
                path.unlink(missing_ok=True)
            raise
    return path, invitation


def _earlier(path: Path, name: str) -> bytes:
    """The invitation of this name that lies there, to be written over; empty if something else does."""
    with suppress(Error):
        if Invitation.read(path).name == name:
            return read_whole(path, MOST_BYTES)
    return b""


def _invitation(settings: Settings, name: str, expires: int) -> Invitation:
    """Raises: BadFile, if the settings have no address or no authority that fits it."""
    host = urlsplit(settings.url).hostname or ""
    if not settings.authority and host not in {one.lower() for one in settings.names}:
        raise BadFile(
            name="aggregator.json",
            problem=f"'address' leads to '{plain(host, 100)}', which is no name of the certificate in tls/; "
            "name as 'authority' the file of the authority that has signed what is shown there",
        )
    own, following = settings.folder / "tls" / "ca.pem", settings.folder / "tls" / "next" / "ca.pem"
    authority = authority_in(settings.folder / settings.authority if settings.authority else own)
    if not settings.authority and following.exists():  # the certificate is about to be replaced
        authority += authority_in(following)
    try:
        return Invitation(
            name=name,
            consortium=settings.title,
            aggregator=settings.url,
            authority=authority,
            token=secrets.token_hex(24),
            expires=expires,
        )
    except ValidationError as error:
        raise BadFile(name="aggregator.json", problem=problem_of(error)) from error


def _write_new(path: Path, data: bytes) -> None:
    """A file of mode 0600 where there was none. Raises: BadOption, BadFile.

    It is not synced: it is handed on at once, and one that a power cut has halved shows it by its last line.
    """
    try:
        with open(new_private(path), "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise BadOption(
            problem=f"there is already a file '{plain(path)}'; move it away, or name another with --output"
        ) from error
    except OSError as error:
        if not isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError):
            path.unlink(missing_ok=True)  # it was begun, and the disk is full
        raise BadFile(name=plain(path), problem=error.strerror or type(error).__name__) from error


def take_back(settings: Settings, name: str) -> None:
    """Let nobody enrol with this name's open invitation any more. Raises: UnknownPerson if there is none."""
    with opened(settings) as store:
        store.register.take_back_tokens(name, now=time.time())


def newcomers(settings: Settings) -> list[Newcomer]:
    """Everybody who was invited or is enrolled, by name."""
    now = time.time()
    with opened(settings) as store:
        tokens, parties = store.register.enrol_tokens(), store.register.enrolled_keys()
    found: dict[str, Newcomer] = {}
    for token in tokens:  # the one that ends last stands, and an open one before all others
        state = "taken back" if token.used else "open" if token.expires > now else "expired"
        before = found.get(token.name)
        if before is None or before.state != "open" or state == "open":
            until = math.inf if token.used else token.expires
            found[token.name] = Newcomer(token.name, token.role, state, until, None)
    for party in parties:
        state = "revoked" if party.revoked else "enrolled"
        found[party.name] = Newcomer(party.name, party.role, state, math.inf, party.public_key)
    return [found[name] for name in sorted(found)]
