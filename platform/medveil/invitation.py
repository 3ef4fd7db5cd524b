"""An invitation: the one file that brings a hospital into a consortium, and the words that stand for it.

It holds the aggregator's address, the authority that signs its TLS certificate, and a one-time token for one
name. Its twelve words stand for all of it: whoever alters the file, and be it by a letter, makes other words.
docs/decisions/0043-an-invitation-is-one-file.md says what this proves and what it does not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field, ValidationError, field_validator

from medveil.authority import certificates_in, read_authority
from medveil.errors import Error, utc
from medveil.handed import read_whole
from medveil.ids import canonical, digest
from medveil.outside import NotPlain, decode_json
from medveil.shown import is_plain, plain
from medveil.spoken import words_of
from medveil.values import Frozen, Name

ENDING = ".invitation"
FORMAT = "medveil-invitation-1"
MOST_BYTES = 2**18
MOST_AUTHORITY = 2**16
ADDRESS = r"^https://[A-Za-z0-9.\[\]:_-]{1,300}$"
Address = Annotated[str, Field(pattern=ADDRESS)]
"""Of an aggregator: https, a host and perhaps a port, and nothing behind."""
MOST_TITLE = 80


class NotAnInvitation(Error):
    """A file that is no invitation, or no longer."""

    code = "not-an-invitation"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The file '{plain(name, 100)}' is no invitation: {problem}.",
            meaning="Nothing was made and nothing was sent.",
            remedy="Name the file that 'medveil aggregator invite' has written, or ask for another one.",
        )


class InvitationAltered(Error):
    """An invitation that says something else than it did when it was written."""

    code = "invitation-altered"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The invitation '{plain(name, 100)}' has been altered since it was written.",
            meaning="It is damaged, or leads to a stranger's server. Nothing was made and nothing was sent.",
            remedy="Ask the consortium's admin for the file once more, on another way, and tell them.",
        )


class InvitationExpired(Error):
    """An invitation that is too old."""

    code = "invitation-expired"

    def __init__(self, *, expires: float) -> None:
        super().__init__(
            what=f"This invitation was good until {utc(expires)}; this machine's clock says {utc()}.",
            meaning="Nothing was made and nothing was sent.",
            remedy="Is the clock right? If so, ask the consortium's admin for a new one: "
            "medveil aggregator invite NAME --again.",
        )


class Invitation(Frozen):
    """What an invitation says."""

    format: Literal["medveil-invitation-1"] = "medveil-invitation-1"
    name: Name
    """The hospital's."""
    consortium: str
    aggregator: Address
    authority: Annotated[str, Field(max_length=MOST_AUTHORITY)]
    """The authorities that may have signed the aggregator's certificate, as PEM."""
    token: Annotated[str, Field(pattern=r"^[0-9a-f]{48}$", repr=False)]
    expires: Annotated[int, Field(ge=0, lt=2**40)]
    """Unix seconds."""

    @field_validator("consortium")
    @classmethod
    def _shown_as_it_is(cls, text: str) -> str:
        if not is_title(text):
            raise ValueError("it is no name of a consortium")
        return text

    @field_validator("authority")
    @classmethod
    def _certificates(cls, text: str) -> str:
        certificates_in(text.encode())
        return text

    @property
    def hash(self) -> bytes:
        """Of everything that it says."""
        return digest("invitation", canonical(self.model_dump()))

    @property
    def words(self) -> tuple[str, ...]:
        """The twelve words that stand for all of it."""
        return words_of(self.hash)

    def check_time(self, now: float) -> None:
        """Raises: InvitationExpired."""
        if now >= self.expires:
            raise InvitationExpired(expires=self.expires)

    def to_bytes(self) -> bytes:
        """As a file: JSON that a person can read, and the hash of it."""
        return json.dumps(self.model_dump() | {"hash": self.hash.hex()}, indent=2).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """An invitation's file. Raises: BadFile if it cannot be read; NotAnInvitation, InvitationAltered."""
        data = read_whole(path, MOST_BYTES)
        try:
            found = decode_json(data.removeprefix(b"\xef\xbb\xbf"), max_bytes=MOST_BYTES, max_items=100)
        except NotPlain as error:
            raise NotAnInvitation(name=path.name, problem="it is not written like one") from error
        if not isinstance(found, dict) or not str(found.get("format", "")).startswith("medveil-invitation-"):
            raise NotAnInvitation(name=path.name, problem="it is another kind of file")
        if found["format"] != FORMAT:
            raise NotAnInvitation(name=path.name, problem="it was written by another version of MedVeil")
        sealed = found.pop("hash", None)
        try:
            invitation = cls.model_validate(found)
        except ValidationError as error:
            raise InvitationAltered(name=path.name) from error
        if sealed != invitation.hash.hex():
            raise InvitationAltered(name=path.name)
        return invitation


def is_title(text: str) -> bool:
    """Whether a consortium can be called so: one line that is shown as it is."""
    return 0 < len(text) <= MOST_TITLE and is_plain(text) and text == text.strip()


def authority_in(path: Path) -> str:
    """The certificates of a file as plain PEM: what else stands there stays behind. Raises: BadFile."""
    found = certificates_in(read_authority(path, MOST_AUTHORITY))
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in found)
