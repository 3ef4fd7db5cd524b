"""Back up a running aggregator and restore it: one folder with everything, checked on both ways.

The keys are copied first, then the database: an admin key that was changed in between does not fit, and is
found. Models and sums are written before the row that names them and never change, so whatever the copy names
is in the folders copied after it. Masked vectors of an open attempt are left out: a restored aggregator ends
that attempt.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from aggregator.adminkey import KEY, NEXT, open_store, settle_key
from aggregator.auditlog import Head
from aggregator.blobs import SCRATCH, Blobs, StorageFailed, open_blobs, write_durably
from aggregator.database import alone
from aggregator.settings import Settings
from aggregator.store import Store
from medveil.errors import Error

DATABASE = "aggregator.db"
MANIFEST = "backup.json"
BEFORE = ("aggregator.json", KEY, NEXT, "tls")
AFTER = ("models", "sums")
"""What is copied before the database, and after it."""


class NotThere(Error):
    """A backup or a place for one that cannot be used."""

    code = "backup-unusable"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The backup cannot be used: {problem}.",
            meaning="Nothing was changed.",
            remedy="Name an empty folder as the target, and a whole backup to restore from.",
        )


def back_up(settings: Settings, target: Path) -> Head | None:
    """Copy everything into an empty folder; the aggregator may go on meanwhile.

    Models and sums in a bucket stay there: they never change and are never removed (docs/operations.md).
    With PostgreSQL the database itself is not copied: dump it first, with pg_dump (docs/operations.md).
    Returns: the head of the audit log in the copy; None with PostgreSQL.
    Raises: NotThere, StorageFailed, BadEntry if the copied log is broken.
    """
    if target.exists() and any(target.iterdir()):
        raise NotThere(problem=f"{target.name} is not empty")
    head = None
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in BEFORE:
            _copy(settings.folder / name, target / name)
        if isinstance(settings.where, Path):
            copy_database(settings.where, target / DATABASE)
            head = _verified(replace(settings, folder=target))
        for name in AFTER:
            _copy(settings.folder / name, target / name)
        content = {
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "head": None if head is None else str(head),
            "files": _digests(target),
        }
    except OSError as error:
        raise StorageFailed() from error
    write_durably(target / MANIFEST, json.dumps(content, indent=1).encode())
    return head


def restore(backup: Path, settings: Settings) -> Head:
    """Put a backup into an empty folder (with PostgreSQL: beside the database that pg_restore has filled).

    Open attempts are ended: their masked vectors are not in a backup, and the hospitals have gone on.
    Args:
        settings: the folder to fill; its ``where`` is the database.
    Returns: the head of the audit log; hospitals that have seen a later one find out that it was rolled back.
    Raises: NotThere, StillRunning, StorageFailed, BadEntry, UnusableBlobs.
    """
    content = check(backup)
    if settings.folder.exists() and any(settings.folder.iterdir()):
        raise NotThere(problem=f"{settings.folder.name} is not empty")
    try:
        for name in content["files"]:
            target = settings.folder / name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if name != DATABASE or isinstance(settings.where, Path):
                write_durably(target, (backup / name).read_bytes())
                os.chmod(target, 0o600)
    except OSError as error:
        raise StorageFailed() from error
    store = open_store(settings)
    try:
        head = store.verify_log()
        _check_models(store, open_blobs(settings.folder, settings.blobs))
        if content["head"] not in (None, str(head)):
            raise NotThere(problem="its database is not the one that was backed up")
        with alone(settings.where):
            settle_key(settings.folder, store)
            store.restored(head)
            return store.head
    finally:
        store.close()


def _check_models(store: Store, blobs: Blobs) -> None:
    """Whether every plan's newest model is there: in the folder just filled, or in the bucket it names."""
    there = blobs.names()
    for plan, _, _ in store.plans():
        version, state = store.progress(plan.id).newest
        if not {version.model, *state.values()} <= there:
            raise NotThere(problem=f"the newest model of plan {plan.id[:16]} is not among the kept models")


def check(backup: Path) -> dict[str, Any]:
    """Whether every file of a backup is what was copied; the manifest. Raises: NotThere."""
    try:
        content: dict[str, Any] = json.loads((backup / MANIFEST).read_bytes())
        expected = dict(content["files"])
        found = _digests(backup)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotThere(problem=f"{backup.name} is no backup") from error
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise NotThere(problem=f"{name} is damaged, missing or was added")
    return content


def copy_database(source: Path, target: Path) -> None:
    """SQLite's own online copy: a consistent state, whoever writes meanwhile."""
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
    except sqlite3.Error as error:
        raise StorageFailed() from error


def _verified(copy: Settings) -> Head:
    store = open_store(copy)
    try:
        return store.verify_log()
    finally:
        store.close()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(f"*{SCRATCH}"))
    elif source.exists():
        shutil.copy2(source, target)


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path != folder / MANIFEST:
            with open(path, "rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
