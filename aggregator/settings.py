"""Where the aggregator keeps things, and what it listens on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from aggregator.monitoring import Monitoring
from aggregator.ways_in import SignIn
from medveil.errors import BadFile, Error
from medveil.files import replace_durably
from medveil.folders import settings_in
from medveil.handed import checked, read_whole

FILE = "aggregator.json"
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of both classes here, where they are read from the file: a misspelt name is an error, not a default."""
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
DATABASE_VARIABLE = "MEDVEIL_DATABASE"
DATABASE_FILE_VARIABLE = "MEDVEIL_DATABASE_FILE"
"""A file that holds the URL and nothing else: how container engines hand in a secret."""
URL_BYTES = 65_536
LAST_BACKUP = "last-backup"
"""File in the aggregator's folder: when ``medveil aggregator backup`` was done last, Unix seconds."""


class NoAggregator(Error):
    """The folder holds no aggregator."""

    code = "no-aggregator"

    def __init__(self, *, folder: Path) -> None:
        super().__init__(
            what=f"There is no aggregator in the folder '{folder}'.",
            meaning="Nothing was done.",
            remedy="Name the aggregator's folder with --folder, or make one with 'medveil aggregator init'.",
        )


@dataclass(frozen=True)
class Limits:
    """All limits in one place; ``aggregator.json`` may change them under ``limits``."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    connections: Count = 2_000
    """Open connections; the next one is answered 503."""
    handshake_s: Seconds = 10.0
    head_s: Seconds = 10.0
    """Time from the first byte of a request (or from the connection) to the end of its headers."""
    stall_s: Seconds = 10.0
    """What a body, and a reader of an answer, may take beyond ``size / bytes_per_s``."""
    bytes_per_s: Count = 16_384
    """Least average speed of a body and of the reader of an answer (131 kbit/s)."""
    linger_s: Seconds = 2.0
    """How long a refused sender may go on reading our answer or sending what nobody wants."""
    idle_s: Seconds = 65.0
    """How long a connection may stay open between requests; longer than nginx keeps its own (60 s)."""
    grace_s: Seconds = 4.0
    """After SIGTERM: who is still sending by then is cut off."""
    headers: Count = 64
    header_bytes: Count = 16_384
    target_bytes: Count = 2_048
    body_memory: Count = 192 * 2**20
    """Large bodies in memory at one time, all senders together; further ones wait outside."""
    bodies: Count = 2
    """Large bodies of one sender in memory at one time."""
    small_body: Annotated[int, Field(ge=0)] = 65_536
    """Bodies up to this size never wait for larger ones: they have ``small_memory`` to themselves."""
    small_memory: Annotated[int, Field(ge=0)] = 32 * 2**20
    body_wait_s: Seconds = 20.0
    requests_per_s: Rate = 50.0
    """Requests of one sender, on average; ``burst`` at once."""
    burst: Count = 200
    parallel: Count = 16
    """Requests of one sender in hand at one time, long polls included."""
    newcomers_per_s: Rate = 5.0
    """Refused enrolment tokens of one address (IPv6: of its /64), on average; four seconds' worth at once."""

    @property
    def changed(self) -> dict[str, float]:
        """Those that are not as they come, by name."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Limits, name)}


@dataclass(frozen=True)
class Settings:
    """One aggregator: its folder, its database and its address.

    The folder holds ``aggregator.json`` (these settings), ``admin.key``, ``tls/``, ``aggregator.db`` (unless
    the database is elsewhere), ``models/``, ``sums/`` and ``uploads/`` (unless they are in a bucket).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    folder: Path
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8443
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("localhost", "127.0.0.1")
    """DNS names and addresses in the server's certificate."""
    client_certificates: bool = False
    """Whether hospitals must show a TLS client certificate as well (see :mod:`aggregator.access.tls`)."""
    limits: Limits = Limits()
    sign_in: SignIn = field(default_factory=SignIn)
    workers: Annotated[int, Field(ge=0)] = 0
    """Most processes that unmask sums; 0 stands for one for each core."""
    database: str = field(default="", repr=False)
    """URL of a PostgreSQL database; empty for SQLite in the folder. It may hold a password."""

    blobs: str = ""
    """``s3://BUCKET/PREFIX?endpoint=URL&region=NAME``; empty for the folder. Credentials: the environment."""
    cluster: str = ""
    """``tls://HOST:PORT`` of the scheduler whose workers add up large sums; empty: this machine does."""
    without_cluster: str = "local"
    """What becomes of a sum when that cluster is not to be had: ``local`` or ``wait``."""
    consortium: str = ""
    """What hospitals know the consortium by; the first name if empty."""
    address: str = ""
    """Where hospitals reach it, if that is not the first name and the port: a front stands before it."""
    authority: str = ""
    """File (PEM) of the authority that signs what hospitals are shown there, if it is not ``tls/ca.pem``."""

    monitoring: Monitoring = field(default_factory=Monitoring)
    """What machines may see, and where they are told."""

    @property
    def where(self) -> Path | str:
        """The database: the URL in the environment, else in the file named there, else the one set here, else
        the file in the folder.

        Raises: BadFile: the file that the environment names cannot be read, or is empty.
        """
        url = os.environ.get(DATABASE_VARIABLE) or _handed() or self.database
        return url or self.folder / "aggregator.db"

    @property
    def url(self) -> str:
        """Address for the hospitals."""
        name = self.names[0]
        return self.address or f"https://{f'[{name}]' if ':' in name else name}:{self.port}"

    @property
    def title(self) -> str:
        """What hospitals know the consortium by."""
        return self.consortium or self.names[0]

    def save(self) -> None:
        """Write ``aggregator.json``."""
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        values["limits"] = self.limits.changed
        values["monitoring"] = self.monitoring.model_dump(mode="json", exclude_defaults=True)
        values["sign_in"] = self.sign_in.model_dump(mode="json", exclude_defaults=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(values, indent=2) + "\n"
        replace_durably(self.folder / FILE, text.encode(), private=True)


def _handed() -> str:
    """The URL in the file that the environment names; empty if it names none."""
    name = os.environ.get(DATABASE_FILE_VARIABLE)
    if not name:
        return ""
    try:
        url = read_whole(Path(name), URL_BYTES).decode().strip()
    except BadFile as error:
        problem = f"the file that it names is refused: {error.what.rstrip('.')}"
        raise BadFile(name=DATABASE_FILE_VARIABLE, problem=problem) from error
    except UnicodeDecodeError as error:
        raise BadFile(name=DATABASE_FILE_VARIABLE, problem="the file that it names is no text") from error
    if not url:
        raise BadFile(name=DATABASE_FILE_VARIABLE, problem="the file that it names is empty")
    return url


def load(folder: Path, *, only_read: bool = False) -> Settings:
    """Read the settings of an aggregator made by ``medveil aggregator init``.

    Args: only_read: nothing will be written into this folder, which may be a backup of another user's.
    Raises: NoAggregator, FolderOfAnother, BadFile.
    """

    def check(values: object) -> Settings:
        if not isinstance(values, dict) or "folder" in values:
            raise BadFile(name=str(folder / FILE), problem="it is no list of settings by name")
        return TypeAdapter(Settings).validate_python({**values, "folder": folder})

    data = settings_in(folder, FILE, NoAggregator, only_read=only_read)
    return checked(check, data, name=str(folder / FILE))
