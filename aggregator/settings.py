"""Where the aggregator keeps things, and what it listens on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from aggregator.monitoring import Monitoring
from aggregator.ways_in import SignIn
from medveil.errors import BadFile

DATABASE_VARIABLE = "MEDVEIL_DATABASE"
DATABASE_FILE_VARIABLE = "MEDVEIL_DATABASE_FILE"
"""A file that holds the URL and nothing else: how container engines hand in a secret."""
LAST_BACKUP = "last-backup"
"""File in the aggregator's folder: when ``medveil aggregator backup`` was done last, Unix seconds."""


@dataclass(frozen=True)
class Limits:
    """All limits in one place; ``aggregator.json`` may change them under ``limits``."""

    connections: int = 2_000
    """Open connections; the next one is answered 503."""
    handshake_s: float = 10.0
    head_s: float = 10.0
    """Time from the first byte of a request (or from the connection) to the end of its headers."""
    stall_s: float = 10.0
    """What a body, and a reader of an answer, may take beyond ``size / bytes_per_s``."""
    bytes_per_s: int = 16_384
    """Least average speed of a body and of the reader of an answer (131 kbit/s)."""
    linger_s: float = 2.0
    """How long a refused sender may go on reading our answer or sending what nobody wants."""
    idle_s: float = 65.0
    """How long a connection may stay open between requests; longer than nginx keeps its own (60 s)."""
    grace_s: float = 4.0
    """After SIGTERM: who is still sending by then is cut off."""
    headers: int = 64
    header_bytes: int = 16_384
    target_bytes: int = 2_048
    body_memory: int = 192 * 2**20
    """Large bodies in memory at one time, all senders together; further ones wait outside."""
    bodies: int = 2
    """Large bodies of one sender in memory at one time."""
    small_body: int = 65_536
    """Bodies up to this size never wait for larger ones: they have ``small_memory`` to themselves."""
    small_memory: int = 32 * 2**20
    body_wait_s: float = 20.0
    requests_per_s: float = 50.0
    """Requests of one sender, on average; ``burst`` at once."""
    burst: int = 200
    parallel: int = 16
    """Requests of one sender in hand at one time, long polls included."""
    newcomers_per_s: float = 5.0
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

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8443
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    """DNS names and addresses in the server's certificate."""
    client_certificates: bool = False
    """Whether hospitals must show a TLS client certificate as well (see :mod:`aggregator.access.tls`)."""
    limits: Limits = Limits()
    sign_in: SignIn = field(default_factory=SignIn)
    workers: int = 0
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
        (self.folder / "aggregator.json").write_text(json.dumps(values, indent=2) + "\n")


def _handed() -> str:
    """The URL in the file that the environment names; empty if it names none."""
    name = os.environ.get(DATABASE_FILE_VARIABLE)
    if not name:
        return ""
    try:
        url = Path(name).read_text().strip()
    except (OSError, ValueError) as error:
        raise BadFile(name=DATABASE_FILE_VARIABLE, problem=str(error)) from error
    if not url:
        raise BadFile(name=DATABASE_FILE_VARIABLE, problem="the file that it names is empty")
    return url


def load(folder: Path) -> Settings:
    """Read the settings of an aggregator made by ``medveil aggregator init``.

    Raises: BadFile.
    """
    path = folder / "aggregator.json"
    try:
        values = json.loads(path.read_text())
        known = {f.name for f in fields(Settings)} - {"folder"}
        if set(values) - known:
            raise ValueError(f"it does not know {', '.join(sorted(set(values) - known))}")
        return Settings(
            folder=folder,
            host=values["host"],
            port=int(values["port"]),
            names=tuple(values["names"]),
            client_certificates=bool(values.get("client_certificates", False)),
            limits=Limits(**values.get("limits", {})),
            sign_in=SignIn.read(values.get("sign_in", {})),
            database=str(values.get("database", "")),
            workers=int(values.get("workers", 0)),
            blobs=str(values.get("blobs", "")),
            monitoring=Monitoring.read(values.get("monitoring", {})),
            **{key: str(values.get(key, "")) for key in ("consortium", "address", "authority", "cluster")},
            without_cluster=str(values.get("without_cluster", "local")),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(name=str(path.name), problem=str(error) or type(error).__name__) from error
