"""How a node reaches its PACS, kept in ``pacs.json`` beside ``node.json``. No password is ever in it."""

from __future__ import annotations

import stat
from getpass import getpass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from hospital_node.pacs.lists import OptedOut, read_opted_out
from hospital_node.pacs.peer import Pacs
from hospital_node.pacs.problems import NoPacs, PasswordShown
from hospital_node.pacs.throttle import Hours, Throttle
from medveil.errors import BadOption
from medveil.files import replace_durably
from medveil.handed import parsed
from medveil.identity import Secret
from medveil.private_files import OTHERS
from medveil.shown import can_ask
from medveil.values import Frozen

FILE = "pacs.json"
MOST_PASSWORD = 1024
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Title = Annotated[str, Field(pattern=r"^[!-\[\]-~]{1,16}$")]


class PacsSettings(Frozen):
    """What the hospital says of its PACS."""

    address: Annotated[str, Field(pattern=r"^(https?|dimse|dimse-tls)://[^\s]+$", max_length=500)]
    """``https://pacs.example.org/dicom-web``, or ``dimse://TITLE@pacs.example.org:104``, or with TLS
    ``dimse-tls://TITLE@pacs.example.org:2762``."""
    user: Annotated[str, Field(max_length=200)] = ""
    password_file: Path | None = None
    """Of mode 0600; without it the password is asked for at the terminal."""
    authority: Path | None = None
    certificate: Path | None = None
    """This node's own with its key, mode 0600, where the PACS asks for one (DIMSE over TLS)."""
    proxy: Annotated[str, Field(pattern=r"^(https?://[^\s]+)?$")] = ""
    title: Title = "MEDVEIL"
    """This node's own title, where the PACS speaks DIMSE."""
    most_mb_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most megabytes a second that are fetched."""
    hours: str = ""
    """``20:00-06:00``: when images may be fetched; at any time without it."""
    opt_out: Path | None = None
    plain_http: bool = False
    """Whether a password may go to another machine without TLS."""

    @field_validator("hours")
    @classmethod
    def _written_as_hours(cls, text: str) -> str:
        if text:
            try:
                Hours.of(text)
            except BadOption as error:
                raise ValueError("hours are written like 20:00-06:00") from error
        return text

    @property
    def speaks_dimse(self) -> bool:
        """Whether the PACS is asked over DIMSE."""
        return self.address.startswith(("dimse:", "dimse-tls:"))

    def check(self) -> None:
        """Raises: PasswordShown, BadOption, BadPacsList: what is wrong before anything is sent."""
        for address in (self.address, self.proxy):
            parts = urlsplit(address)
            if parts.password or (parts.username and not self.speaks_dimse):
                raise PasswordShown(
                    problem="An address holds a user or password.",
                    remedy="Leave them out of it; use --pacs-user and --pacs-password-file.",
                )
        plain = self.address.startswith("http:") and urlsplit(self.address).hostname not in LOOPBACK
        if plain and self.user and not self.plain_http:
            raise PasswordShown(
                problem="The address of the PACS begins with http:, so nothing would hide the password.",
                remedy="Use its https: address, or accept that with --pacs-plain-http.",
            )
        if self.password_file is not None:
            _check_file(self.password_file)
        if self.certificate is not None:
            _check_file(self.certificate, "key", "--pacs-certificate")
            if not self.address.startswith("dimse-tls:"):
                raise BadOption(problem="--pacs-certificate is for an address that begins with dimse-tls:")
        if self.authority is not None and not self.authority.is_file():
            raise BadOption(problem="there is no such file of certificates (--pacs-ca)")
        self.opted_out()

    def opted_out(self) -> OptedOut:
        """Who said no. Raises: BadPacsList: the list that was named cannot be read, so nobody is safe."""
        return OptedOut() if self.opt_out is None else read_opted_out(self.opt_out)

    def password(self) -> Secret:
        """From the file, or from who sits at the terminal. Raises: PasswordShown, BadOption."""
        if self.password_file is not None:
            _check_file(self.password_file)
            text = self.password_file.read_bytes()[: MOST_PASSWORD + 1].rstrip(b"\r\n")
        elif can_ask():
            text = getpass("Password of the PACS: ").encode()
        else:
            raise BadOption(problem="the PACS wants a password: name a file with --pacs-password-file")
        if not text or len(text) > MOST_PASSWORD:
            raise BadOption(problem="the password of the PACS is empty, or far too long")
        return Secret(text)

    def connected(self, throttle: Throttle | None = None) -> Pacs:
        """A PACS that can be asked. Raises: what :meth:`check` and :meth:`password` raise, DimseMissing."""
        self.check()
        if throttle is None:
            throttle = Throttle(None if self.most_mb_s is None else self.most_mb_s * 1e6)
        if self.speaks_dimse:
            from hospital_node.pacs.dimse import Dimse

            return Dimse(
                self.address,
                title=self.title,
                throttle=throttle,
                authority=self.authority,
                certificate=self.certificate,
            )
        from hospital_node.pacs.dicomweb import DicomWeb

        login = (self.user, self.password()) if self.user else None
        return DicomWeb(
            self.address, login=login, authority=self.authority, proxy=self.proxy, throttle=throttle
        )


def load(folder: Path) -> PacsSettings:
    """The settings in a node's folder. Raises: NoPacs, BadFile."""
    try:
        data = (folder / FILE).read_bytes()
    except FileNotFoundError as error:
        raise NoPacs() from error
    return parsed(PacsSettings, data, name=FILE)


def save(folder: Path, settings: PacsSettings) -> None:
    """Keep them. Raises: OSError."""
    text = settings.model_dump_json(indent=2) + "\n"
    replace_durably(folder / FILE, text.encode(), private=True)


def _check_file(path: Path, what: str = "password", option: str = "--pacs-password-file") -> None:
    """Raises: PasswordShown, BadOption."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BadOption(problem=f"there is no such file with the {what} ({option})") from error
    if not stat.S_ISREG(mode):
        raise BadOption(problem=f"what {option} names is no file")
    if mode & OTHERS:
        raise PasswordShown(
            problem=f"Other users of this machine have rights to the file with the {what}.",
            remedy=f"Close it with chmod 600, and change the {what} if somebody may have read it.",
        )
