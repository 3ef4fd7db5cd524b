"""The admin's key file, and how another key takes its place.

A file and a database cannot be changed in one transaction. So the new key is on the disk under another name
before the log says that it signs, and gets the old one's name after that: whichever of the two signs the
newest entry of the log is the admin key. A crash at any point leaves the old state whole, or the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aggregator.settings import Settings
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.crashpoints import step, steps
from aggregator.storage.database import alone
from aggregator.storage.store import Store
from aggregator.storage.transactions import WrongAdminKey
from medveil.errors import Error
from medveil.files import put_in_place, sync
from medveil.identity import Identity

KEY, NEXT = "admin.key", "admin.key.next"


class NoAdminKey(Error):
    """The file of the admin key is not there or is none."""

    code = "no-admin-key"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"There is no admin key to go on with: {problem}.",
            meaning="Nothing can be signed without it, so nothing was changed.",
            remedy="Copy admin.key from a backup. If there is none: new-admin-key --without-old-key.",
        )


@dataclass(frozen=True)
class Changed:
    """What a change of the key has done."""

    old: bytes
    new: bytes
    number: int
    """The first entry of the audit log that the new key signs."""
    head: str
    """The log's head after it, NUMBER:HASH."""
    plans: int
    """How many plans were signed again."""


def load_admin(folder: Path) -> Identity:
    """The admin key's file. Raises: NoAdminKey."""
    return _load(folder / KEY)


def open_store(settings: Settings) -> Store:
    """The aggregator's store; the admin key signs what is changed in it.

    If a crash has left two keys, it is the one that signs the newest entry. If neither does, the store can be
    read and checked and refuses every change.
    Raises: NoAdminKey, what Store raises.
    """
    try:
        store = Store(settings.where, load_admin(settings.folder))
    except NoAdminKey:
        other = _open_next(settings)
        if other is None:
            raise
        return other
    other = None if _signs(store) else _open_next(settings)
    if other is None:
        return store
    store.close()
    return other


def _open_next(settings: Settings) -> Store | None:
    """With the key that has not got its last name yet, if it is the one that signs."""
    try:
        store = Store(settings.where, _load(settings.folder / NEXT))
    except NoAdminKey:
        return None
    if _signs(store):
        return store
    store.close()
    return None


def settle_key(folder: Path, store: Store) -> None:
    """Finish, or clear away, what a crash has left. Only for a process that keeps every other one away.

    Raises: StorageFailed.
    """
    file = folder / NEXT
    if not file.exists() or not _signs(store):
        return
    try:
        present = _load(file).public_key == store.transactions.admin_key
    except NoAdminKey:
        present = False
    if present:
        _put_in_place(folder)
    else:
        file.unlink(missing_ok=True)


def new_admin_key(settings: Settings, *, without_old: bool = False) -> Changed:
    """Give a stopped aggregator another admin key.

    Args:
        without_old: the present key is lost or stolen: it is not asked to hand over.
    Raises: StillRunning, WrongAdminKey, NoAdminKey: then the old key is in force. StorageFailed: then it is,
        or the new one if only its last name could not be given; what is started next finds out.
    """
    with alone(settings.where):
        new = Identity.generate("admin")
        try:
            store = open_store(settings)
        except NoAdminKey:
            if not without_old:
                raise
            store = Store(settings.where, new)
        try:
            return change_key(settings.folder, store, new, without_old=without_old)
        finally:
            store.close()


def change_key(folder: Path, store: Store, new: Identity, *, without_old: bool = False) -> Changed:
    """What :func:`new_admin_key` does, for whoever keeps every other process away."""
    old, replaced = store.transactions.admin_key, None
    if not without_old:
        store.transactions.check_admin_key()
    elif _signs(store):
        replaced = old
    else:
        replaced = store.log.recorded_key()
        if replaced is None:
            raise NoAdminKey(problem="the log, begun by an earlier version, does not name the lost key")
    settle_key(folder, store)
    file = folder / NEXT
    try:
        file.unlink(missing_ok=True)  # a key that a crash has left and that has never signed
        with step("key.write"):
            new.save(file)
        with step("key.sync-folder"):
            sync(folder)
    except OSError as error:
        raise StorageFailed() from error
    number = store.log.change_admin_key(new, replaced=replaced)
    _put_in_place(folder)
    head, plans = str(store.transactions.head), len(store.plans.all())
    return Changed(replaced or old, new.public_key, number, head, plans)


def _put_in_place(folder: Path) -> None:
    """The old key is overwritten: nothing needs it any more, and nobody should have it."""
    try:
        put_in_place(folder / NEXT, folder / KEY, step=steps("key"))
    except OSError as error:
        raise StorageFailed() from error


def _load(file: Path) -> Identity:
    try:
        return Identity.load("admin", file)
    except FileNotFoundError as error:
        raise NoAdminKey(problem=f"{file.name} is not there") from error
    except (OSError, ValueError) as error:
        raise NoAdminKey(problem=f"{file.name} cannot be read") from error


def _signs(store: Store) -> bool:
    try:
        store.transactions.check_admin_key()
    except WrongAdminKey:
        return False
    return True
