"""How the machine under an aggregator does: who leads, what is in hand, how it answers, and what runs out."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform
import shutil
from pathlib import Path
from typing import Literal

from cryptography import x509

from aggregator.settings import LAST_BACKUP, Settings
from aggregator.storage.store import Store
from aggregator.watching.values import Short
from medveil.reports import Amount, Count, Finite
from medveil.values import Frozen

PACKAGES = (
    "medveil",
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "cryptography",
    "cbor2",
    "numpy",
    "dp-accounting",
    "jinja2",
    "argon2-cffi",
    "prometheus-client",
    "obstore",
)
"""What answers the network, keeps data or reckons privacy; the others are in ``pip list``."""
CERTIFICATES = ("server.pem", "ca.pem", "next/server.pem", "hospitals-ca.pem", "nodes-ca.pem")
SOON_DAYS, BACKUP_DAYS, FULL_SHARE = 30.0, 2.0, 0.1
"""When a certificate, a backup and a disk want to be looked at."""
Mark = Literal["done", "late", "refused", "waiting"]


class Minute(Frozen):
    """The requests of one minute, of everybody."""

    at: Amount
    """When it began."""
    requests: Count
    refused: Count
    """Answered with 4xx."""
    failed: Count
    """Answered with 5xx, or not at all."""


class Requests(Frozen):
    """How this process answers, of late."""

    minutes: tuple[Minute, ...]
    """Oldest first; the last one goes on."""
    per_s: Amount
    """Of the last full minutes."""
    usual_s: Amount | None
    """Half of the answers took at most so long; polls wait on purpose and are left out. None without any."""
    slow_s: Amount | None
    """And all but one in a hundred at most so long."""


class Running(Frozen):
    """What only the process itself knows."""

    leads: bool
    started: Amount
    version: Short
    workers: Count
    """Processes that may open sums."""
    workers_alive: Count
    jobs: Count
    """Handed to them and not done."""
    requests_in_hand: Count | None = None
    """None in a process that stands by."""
    body_bytes: Count | None = None
    """Of messages that are being received."""
    body_limit: Count
    streams: Count = 0
    """Browsers that follow a page."""
    unsent: Count | None = None
    """Entries of the audit log that its archive does not have; None without an archive."""
    unsent_since: Amount | None = None
    """When the oldest of them was written."""
    requests: Requests


class Certificate(Frozen):
    """A certificate in the folder ``tls``."""

    file: Short
    until: Amount
    days: Finite
    """Left; below 0 it has ended."""
    mark: Mark


class Package(Frozen):
    """An installed package."""

    name: Short
    version: Short


class System(Frozen):
    """The machine and this process."""

    running: Running | None
    """None if it is asked in a terminal, beside the process."""
    database: Literal["sqlite", "postgresql"]
    database_bytes: Count
    lead: Count
    """How often a process has taken the lead."""
    open_attempts: Count
    audit_entries: Count
    disk_free: Count
    disk_size: Count
    disk_mark: Mark
    backup_at: Amount | None
    """None if none was made on this machine."""
    backup_mark: Mark
    certificates: tuple[Certificate, ...]
    packages: tuple[Package, ...]
    as_of: Amount


def system(store: Store, settings: Settings, running: Running | None, *, now: float) -> System:
    """The machine as it is now."""
    extent, head = store.past.extent(), store.past.head()
    disk = shutil.disk_usage(settings.folder)
    backup = _last_backup(settings.folder)
    old = backup is not None and now - backup > BACKUP_DAYS * 86_400
    return System(
        running=running,
        database="postgresql" if extent.kind == "postgresql" else "sqlite",
        database_bytes=extent.bytes,
        lead=extent.lead,
        open_attempts=extent.open_attempts,
        audit_entries=head.number,
        disk_free=disk.free,
        disk_size=disk.total,
        disk_mark="late" if disk.free < FULL_SHARE * disk.total else "done",
        backup_at=backup,
        backup_mark="waiting" if backup is None else "late" if old else "done",
        certificates=tuple(_certificates(settings.folder / "tls", now)),
        packages=tuple(_packages()),
        as_of=now,
    )


def _last_backup(folder: Path) -> float | None:
    try:
        with open(folder / LAST_BACKUP, "rb") as file:
            at = float(file.read(40))
    except (OSError, ValueError):
        return None
    return at if 0 < at < 1e11 else None


def _certificates(folder: Path, now: float) -> list[Certificate]:
    found = []
    for name in CERTIFICATES:
        try:
            until = x509.load_pem_x509_certificate((folder / name).read_bytes()).not_valid_after_utc
        except (OSError, ValueError):
            continue
        at = until.astimezone(dt.UTC).timestamp()
        days = (at - now) / 86_400
        mark: Mark = "refused" if days < 0 else "late" if days < SOON_DAYS else "done"
        found.append(Certificate(file=name, until=at, days=days, mark=mark))
    return found


def _packages() -> list[Package]:
    found = [Package(name="python", version=platform.python_version())]
    for name in PACKAGES:
        try:
            found.append(Package(name=name, version=importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
