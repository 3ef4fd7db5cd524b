"""How a researcher becomes known to a consortium, and the folder in which that is kept."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from medveil.authority import read_authority
from medveil.errors import BadFile, BadOption, Error
from medveil.files import replace_durably
from medveil.handed import parsed, problem_of, read_whole
from medveil.identity import Identity
from medveil.private_files import OTHERS
from medveil.shown import plain
from medveil.values import Frozen, Name
from medveil_research.client import Client, NoAnswer
from medveil_research.options import FOLDER

FILE, KEY, AUTHORITY = "research.json", "identity.key", "ca.pem"
SETTINGS_BYTES = 2**16


class NotEnrolled(Error):
    """No folder of an enrolled researcher."""

    code = "not-enrolled"

    def __init__(self, *, folder: Path) -> None:
        super().__init__(
            what=f"Nobody's key for a consortium lies in '{plain(folder)}'.",
            meaning="A consortium tells its studies to researchers whose key it knows; nothing was asked.",
            remedy="Name the folder with --folder, or get a token from the admin and enrol: "
            "medveil research enroll TOKEN --name NAME --aggregator ADDRESS --authority ca.pem",
        )


class AlreadyEnrolled(Error):
    """A folder that holds another researcher's key, or one for another consortium."""

    code = "already-enrolled"

    def __init__(self, *, folder: Path, name: str, aggregator: str) -> None:
        super().__init__(
            what=f"'{plain(folder)}' holds the key of {plain(name)} for {plain(aggregator)}.",
            meaning="A folder is for one researcher of one consortium. The token was not used.",
            remedy="Name another folder for this one: --folder.",
        )


class Settings(Frozen):
    """Who, and where."""

    name: Name
    aggregator: Annotated[str, Field(pattern=r"^https://[^/\s]+$", max_length=300)]


@dataclass(frozen=True)
class Enrolment:
    """A researcher's folder: settings, identity key and the aggregator's pinned authority."""

    folder: Path
    settings: Settings

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Enrolment:
        """Read the folder that ``medveil research enroll`` made. Raises: NotEnrolled, BadFile."""
        if not (folder / FILE).exists():
            raise NotEnrolled(folder=folder)
        data = read_whole(folder / FILE, SETTINGS_BYTES)
        return cls(folder, parsed(Settings, data, name=str(folder / FILE), most=SETTINGS_BYTES))

    def identity(self) -> Identity:
        """Raises: BadFile."""
        read_whole(self.folder / KEY, 32)
        try:
            return Identity.load(self.settings.name, self.folder / KEY)
        except ValueError as error:
            raise BadFile(name=KEY, problem="it is not a key of 32 bytes") from error

    def client(self) -> Client:
        """A connection; the caller closes it. Raises: BadFile."""
        authority = self.folder / AUTHORITY
        read_authority(authority)
        return Client(self.settings.aggregator, authority, self.identity())


def enrol(folder: Path, *, name: str, aggregator: str, authority: Path, token: str) -> Enrolment:
    """Make a researcher's folder and use a one-time token; everything else is checked before that.

    Where the answer is lost, the same call again goes on with the same key, and the aggregator takes the
    same token from it. Where a token is refused, nothing of a new folder is left.

    Args:
        aggregator: e.g. ``https://fl.example.org:8443``. authority: its ``ca.pem``.
    Raises: BadOption, BadFile, AlreadyEnrolled, CertificateRefused, NoAnswer.
    """
    settings = _settings(name, aggregator)
    certificate = read_authority(authority)
    if not token.strip() or len(token) > 200 or not token.isprintable():
        raise BadOption(problem="the token is empty, or no token of an aggregator")
    new = Enrolment(folder, settings)
    known = (folder / FILE).exists()
    if known and (found := Enrolment.load(folder).settings) != settings:
        raise AlreadyEnrolled(folder=folder, name=found.name, aggregator=found.aggregator)
    with Client(settings.aggregator, authority, Identity.generate(settings.name)) as stranger:
        stranger.check_up()
    if not known:
        _make(new, certificate)
    with new.client() as client:
        if known and _is_enrolled(client):
            return new
        try:
            client.enrol(token.strip())
        except NoAnswer as error:
            if not known and not error.lost:
                _remove(new)
            raise
    return new


def _settings(name: str, aggregator: str) -> Settings:
    try:
        return Settings(name=name, aggregator=aggregator.strip().rstrip("/"))
    except ValidationError as error:
        wrong = problem_of(error)
        hint = "it is like https://fl.example.org:8443" if wrong.startswith("aggregator") else wrong
        raise BadOption(problem=f"--{'aggregator' if hint != wrong else 'name'}: {hint}") from error


def _make(new: Enrolment, certificate: bytes) -> None:
    """The folder, on stable storage before the token is used. Raises: BadOption, OSError."""
    folder = new.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & OTHERS:
        raise BadOption(
            problem=f"--folder: other users of this machine have rights to '{plain(folder)}', and a key "
            "is to lie in it; name one that does not exist yet, or close it with chmod 700"
        )
    if not (folder / KEY).exists():  # else it was made, and the machine went off before it was used
        Identity.generate(new.settings.name).save(folder / KEY)
    replace_durably(folder / AUTHORITY, certificate, private=True)
    replace_durably(folder / FILE, new.settings.model_dump_json(indent=2).encode() + b"\n", private=True)


def _remove(new: Enrolment) -> None:
    """What :func:`_make` has made; the folder only if nothing else is in it."""
    for name in (FILE, AUTHORITY, KEY):
        (new.folder / name).unlink(missing_ok=True)
    if not any(new.folder.iterdir()):
        new.folder.rmdir()


def _is_enrolled(client: Client) -> bool:
    try:
        client.plans()
    except NoAnswer as error:
        if error.told == "unknown-sender":
            return False
        raise
    return True
