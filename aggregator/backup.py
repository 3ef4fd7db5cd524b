"""Back up a running aggregator and restore it: one folder with everything, checked on both ways.

The keys are copied first, then the database: an admin key that was changed in between does not fit, and is
found. Models and sums are written before the row that names them and never change, so whatever the copy names
is in the folders copied after it. Masked vectors of an open attempt are left out: a restored aggregator ends
that attempt.

The list of files is signed with the admin key, and whoever restores types that key's fingerprint: a backup is
often kept by others, and a restored aggregator opens and obeys what is in it. No link is followed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aggregator.adminkey import KEY, NEXT, load_admin, open_store, settle_key
from aggregator.auditlog import Head
from aggregator.settings import LAST_BACKUP, Settings
from aggregator.storage.blobs import SCRATCH, Blobs, StorageFailed, write_durably
from aggregator.storage.database import alone, copy_database, shown_address
from aggregator.storage.open import open_blobs
from aggregator.storage.store import Store
from medveil.errors import Error
from medveil.files import replace_lightly
from medveil.identity import BadSignature, Identity, verify
from medveil.ids import canonical, fingerprint
from medveil.outside import NotPlain, decode_json

DATABASE = "aggregator.db"
MANIFEST = "backup.json"
BEFORE = ("aggregator.json", KEY, NEXT, "tls")
AFTER = ("models", "sums")
"""What is copied before the database, and after it."""
LABEL = "backup"
MAX_MANIFEST_BYTES, MAX_FILES = 2**27, 1_000_000
PIECE = 2**20


class NotThere(Error):
    """A backup or a place for one that cannot be used."""

    code = "backup-unusable"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The backup cannot be used: {problem}.",
            meaning="Nothing was changed.",
            remedy="Name an empty folder as the target, and a whole backup to restore from.",
        )


class NotSigned(Error):
    """A backup of a version that did not sign them."""

    code = "backup-not-signed"

    def __init__(self) -> None:
        super().__init__(
            what="The backup is not signed: an earlier version of MedVeil made it, or somebody changed it.",
            meaning="Nobody can say whether its files are those that were copied. Nothing was restored.",
            remedy="If it never left a place that only you can write to, restore it with --accept-unsigned.",
        )


class OtherKey(Error):
    """A backup that another key has signed than the one whose fingerprint was typed."""

    code = "backup-of-another-key"

    def __init__(self) -> None:
        super().__init__(
            what="The backup is not signed with the admin key of this fingerprint.",
            meaning="It is another aggregator's, or the fingerprint is mistyped. Nothing was restored.",
            remedy="Its fingerprint was shown when the backup was made; 'medveil node heads' at any hospital "
            "shows it too.",
        )


def back_up(settings: Settings, target: Path) -> Head | None:
    """Copy everything into an empty folder; the aggregator may go on meanwhile.

    Models and sums in a bucket stay there: they never change and are never removed (docs/operations.md).
    With PostgreSQL the database itself is not copied: dump it first, with pg_dump (docs/operations.md).
    Returns: the head of the audit log in the copy; None with PostgreSQL.
    Raises: NotThere, StorageFailed, NoAdminKey, ForeignSchema, DamagedDatabase, BadEntry if the copied log is
        broken.
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
            "files": {name: _digest(path) for name, path in _files(target)},
        }
    except OSError as error:
        raise StorageFailed() from error
    signed = _signed(content, load_admin(target))
    write_durably(target / MANIFEST, json.dumps(signed, indent=1).encode())
    with suppress(OSError):  # the backup is whole; only the alarm for old ones would not know of it
        replace_lightly(settings.folder / LAST_BACKUP, f"{time.time():.0f}\n".encode())
    return head


@dataclass(frozen=True)
class Backup:
    """A backup that was checked."""

    folder: Path
    head: str | None
    """Of the audit log in it; None with PostgreSQL."""
    files: Mapping[str, str]
    """Name → SHA-256."""


def restore(backup: Backup, settings: Settings) -> Head:
    """Put a checked backup into an empty folder; with PostgreSQL beside the database that pg_restore filled.

    Open attempts are ended: their masked vectors are not in a backup, and the hospitals have gone on.
    Args:
        settings: the folder to fill; its ``where`` is the database.
    Returns: the head of the audit log; hospitals that have seen a later one find out that it was rolled back.
    Raises: NotThere, ForeignSchema, DamagedDatabase, StillRunning, StorageFailed, BadEntry, UnusableBlobs.
    """
    if settings.folder.exists() and any(settings.folder.iterdir()):
        raise NotThere(problem=f"{settings.folder.name} is not empty")
    _fill(settings, backup)
    store = open_store(settings)
    try:
        store.transactions.check_file()
        head = store.log.verify()
        _check_models(store, open_blobs(settings.folder, settings.blobs))
        if backup.head not in (None, str(head)):
            raise NotThere(problem="its database is not the one that was backed up")
        with alone(settings.where):
            settle_key(settings.folder, store)
            store.plans.restored(head)
            return store.transactions.head
    finally:
        store.close()


def _fill(settings: Settings, backup: Backup) -> None:
    """Copy the files. Raises: NotThere for one that is not as it was checked; then nothing is left."""
    try:
        for name, expected in backup.files.items():
            if name == DATABASE and not isinstance(settings.where, Path):
                continue
            if _copy_file(backup.folder / name, settings.folder / name) != expected:
                _empty(settings.folder)
                raise NotThere(problem=f"{name} was changed after it was checked")
    except OSError as error:
        raise StorageFailed() from error


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check_models(store: Store, blobs: Blobs) -> None:
    """Whether every plan's newest model is there: in the folder just filled, or in the bucket it names."""
    there = blobs.names()
    for plan, _, _ in store.plans.all():
        version, state = store.plans.progress(plan.id).newest
        if not {version.model, *state.values()} <= there:
            raise NotThere(problem=f"the newest model of plan {plan.id[:16]} is not among the kept models")


def check(backup: Path, *, admin_key: str | None) -> Backup:
    """Whether every file of a backup is what was copied, and the named key's holder says so.

    Args:
        admin_key: fingerprint that the backup's key must have, as a person typed it; None takes a backup
            without a signature, and no other.
    Raises: NotThere, NotSigned, OtherKey.
    """
    try:
        content = _manifest(backup)
        _check_signature(content, admin_key)
        expected = content["files"]
        found = {name: _digest(path) for name, path in _files(backup) if name != MANIFEST}
    except OSError as error:
        raise NotThere(problem=f"{backup.name} is no backup, or cannot be read") from error
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise NotThere(problem=f"{name} is damaged, missing or was added")
    return Backup(backup, content["head"], expected)


def _manifest(backup: Path) -> dict[str, Any]:
    file = backup / MANIFEST
    if file.is_symlink() or not file.is_file() or file.stat().st_size > MAX_MANIFEST_BYTES:
        raise NotThere(problem=f"{backup.name} is no backup")
    try:
        content: dict[str, Any] = decode_json(
            file.read_bytes(), max_bytes=MAX_MANIFEST_BYTES, max_items=2 * MAX_FILES
        )
    except NotPlain as error:
        raise NotThere(problem=f"{MANIFEST} cannot be read") from error
    plain = isinstance(content, dict) and isinstance(content.get("files"), dict) and "head" in content
    if not plain or not all(isinstance(digest, str) for digest in content["files"].values()):
        raise NotThere(problem=f"{MANIFEST} is no list of files")
    return content


def _signed(content: dict[str, Any], key: Identity) -> dict[str, Any]:
    signature = key.sign(LABEL, canonical(content))
    return {**content, "admin_key": key.public_key.hex(), "signature": signature.hex()}


def _check_signature(content: dict[str, Any], admin_key: str | None) -> None:
    """Raises: NotSigned, OtherKey, NotThere."""
    told = {name: value for name, value in content.items() if name not in ("admin_key", "signature")}
    if len(told) == len(content):
        if admin_key is not None:
            raise NotSigned()
        return
    try:
        key, signature = bytes.fromhex(content["admin_key"]), bytes.fromhex(content["signature"])
        verify(key, signature, LABEL, canonical(told))
    except (KeyError, TypeError, ValueError, BadSignature) as error:
        raise NotThere(problem="its list of files does not fit its signature") from error
    if admin_key is None or _digits(admin_key) != _digits(fingerprint(key)):
        raise OtherKey()


def _digits(typed: str) -> str:
    """A fingerprint without the blanks and dashes that people put between its groups."""
    return "".join(typed.upper().replace("-", " ").split())


def _verified(copy: Settings) -> Head:
    store = open_store(copy)
    try:
        store.transactions.check_file()
        return store.log.verify()
    finally:
        store.close()


def _copy(source: Path, target: Path) -> None:
    """A file or a whole folder; the folder itself may be a link to where it lies, nothing in it may."""
    if not source.is_dir():
        if source.exists():
            _copy_file(source, target)
        return
    target.mkdir(mode=0o700, exist_ok=True)
    for name, path in _files(source):
        if not name.endswith(SCRATCH):
            _copy_file(path, target / name)


def _copy_file(source: Path, target: Path) -> str:
    """Copy piece by piece, durably, readable by this user only; SHA-256 of what was copied."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = hashlib.sha256()
    with open(source, "rb", opener=_no_link) as file, open(target, "xb", opener=_private) as copy:
        while piece := file.read(PIECE):
            seen.update(piece)
            copy.write(piece)
        copy.flush()
        os.fsync(copy.fileno())
    shutil.copystat(source, target, follow_symlinks=False)
    os.chmod(target, 0o600)
    return seen.hexdigest()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder by its name there. Raises: NotThere for a link, a pipe or the like."""

    def refused(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=refused):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(place, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise NotThere(problem=f"{path.relative_to(folder)} is a link or no file")
            if path.is_file():
                yield str(path.relative_to(folder)), path


def _digest(path: Path) -> str:
    with open(path, "rb", opener=_no_link) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opens(settings: Settings) -> list[tuple[str, str]]:
    """What settings open or lead to elsewhere: for the person who restores them from an archive.

    An address may hold a password; it is shown without.
    """
    told = [
        ("listens", f"on {settings.host}, port {settings.port}"),
        ("names", ", ".join(settings.names)),
        ("client certificates", "asked for" if settings.client_certificates else "not asked for"),
        ("database", shown_address(settings.database) if settings.database else "in the folder"),
        ("models", settings.blobs or "in the folder"),
    ]
    changed = [f"{name} = {value}" for name, value in settings.limits.changed.items()]
    return [*told, ("limits", ", ".join(changed) or "as they come")]
