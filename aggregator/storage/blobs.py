"""Files that are either whole or absent: models by hash, masked segments by attempt and hospital."""

from __future__ import annotations

import hashlib
import mmap
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from aggregator.storage.crashpoints import step, steps
from medveil.errors import Error, RemoteProtocolError
from medveil.files import NameNotSynced, put_in_place, replace_durably, sync

SCRATCH = ".scratch"
"""Ending of a file that is being written."""
DRAFT = ".part"
"""Ending of a file that grows in the hands of the workers."""
_ASIDE = re.compile(r"(\d{1,9})-(\d{1,9})\.([0-9a-f]{64})")
_MAPPED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""All pages at once where the system can, not one fault after the other."""


class DamagedBlob(RemoteProtocolError):
    """A stored file does not have the hash it is known by."""

    code = "damaged-blob"

    def __init__(self) -> None:
        super().__init__(
            what="A stored file is missing or damaged.",
            meaning="It was not used; nothing damaged is ever summed or served.",
            remedy="Check the aggregator's disk. An upload is simply sent again; restore models from backup.",
        )


class StorageFailed(Error):
    """The disk, the database or the bucket did not take or give what it should."""

    code = "storage-failed"

    def __init__(self) -> None:
        super().__init__(
            what="A disk, the database or the bucket of the aggregator does not work at the moment.",
            meaning="Nothing was acknowledged that is not stored. Nodes send it again; a command you repeat.",
            remedy="Check that it is there, not full and not failing; for a backup its folder's disk, too.",
        )


class UnusableBlobs(Error):
    """A store of blobs that cannot be used."""

    code = "unusable-blobs"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The store of blobs cannot be used: {problem}.",
            meaning="The aggregator was not started; nothing was changed.",
            remedy="Correct 'blobs' in aggregator.json; credentials belong in the environment.",
        )


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write, fsync, rename, fsync the folder: after a crash the file is whole or not there.

    A file whose fsync failed is lost, whatever a second fsync would say: it is removed, and so written anew.
    Raises: StorageFailed; what was there is then as before, or gone if only the last step failed.
    """
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}{SCRATCH}")
    try:
        _make_folder(path.parent)
        replace_durably(path, data, scratch=scratch, step=steps("blob"))
    except OSError as error:
        _remove(path if isinstance(error, NameNotSynced) else scratch)
        raise StorageFailed() from error


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each of them on the disk before anything is put into it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


class Blobs:
    """The aggregator's folder of files."""

    def __init__(self, folder: Path) -> None:
        self._models = folder / "models"
        self._sums = folder / "sums"
        self._uploads = folder / "uploads"

    def put_model(self, name: str, data: bytes) -> None:
        """Keep a model or an optimiser state under its own hash; keeping it again repairs a damaged one."""
        write_durably(self._models / name, data)

    def open_model(self, name: str) -> BinaryIO:
        """A model or an optimiser state, to be read in pieces. Raises: DamagedBlob if it is not there."""
        return _open(self._models / name)

    def put_sum(self, name: str, data: bytes) -> None:
        """Keep what proves a version under its own hash; keeping it again repairs a damaged one."""
        write_durably(self._sums / name, data)

    def open_sum(self, name: str) -> BinaryIO:
        """The sum behind a version, or its proof. Raises: DamagedBlob if it is not there."""
        return _open(self._sums / name)

    def draft(self, attempt: str, name: str, draft_id: str) -> Path:
        """Where a file of an attempt may grow on this machine; it goes with the attempt's uploads.

        Args:
            draft_id: one for each try, so that a job of an earlier one, still running, writes elsewhere.
        """
        return self._uploads / attempt / f"{name}-{draft_id}{DRAFT}"

    def forget_drafts(self, attempt: str) -> None:
        """Remove what earlier tries have left."""
        for file in (self._uploads / attempt).glob(f"*{DRAFT}"):
            _remove(file)

    def keep_model(self, name: str, draft: Path) -> None:
        """Make a finished draft the model (or optimiser state) of this hash. Raises: StorageFailed."""
        _keep(draft, self._models / name)

    def keep_sum(self, name: str, draft: Path) -> None:
        """Make a finished draft the sum of this hash. Raises: StorageFailed."""
        _keep(draft, self._sums / name)

    def put_segment(self, attempt: str, source: int | str, number: int, data: bytes) -> None:
        """Keep one segment of a masked upload; a repeated upload replaces an unsigned one.

        Args:
            source: a hospital's index, or what a relay's sum is stored under.
        """
        self._put_upload(attempt, f"{source}-{number}", data)

    def put_aside(self, attempt: str, source: int, number: int, data: bytes) -> None:
        """Keep one segment under its own hash as well: nothing that is written later can change it.

        So a process that does not lead, and does not know what the leader has taken, may write it.
        """
        self._put_upload(attempt, _aside(source, number, hashlib.sha256(data).digest()), data)

    def put_part(self, attempt: str, name: str, number: int, data: bytes) -> None:
        """Keep a part of a sum, whole but not through a power cut: it can be made again.

        Raises: StorageFailed.
        """
        path = self._uploads / attempt / f"{name}-{number}"
        scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}{SCRATCH}")
        try:
            _make_folder(path.parent)
            scratch.write_bytes(data)
            scratch.replace(path)
        except OSError as error:
            _remove(scratch)
            raise StorageFailed() from error

    def segment(self, attempt: str, source: int | str, number: int, digest: bytes) -> bytes:
        """Read a segment that has exactly this SHA-256.

        Raises: DamagedBlob.
        """
        with self.signed_segment(attempt, source, number, digest) as found:
            return bytes(found)

    @contextmanager
    def signed_segment(
        self, attempt: str, source: int | str, number: int, digest: bytes
    ) -> Iterator[memoryview]:
        """The bytes of the segment with this SHA-256, whoever has taken it. Raises: DamagedBlob."""
        with ExitStack() as opened:
            for name in (f"{source}-{number}", _aside(source, number, digest)):
                with suppress(DamagedBlob):
                    found = opened.enter_context(self._mapped(attempt, name))
                    if hashlib.sha256(found).digest() == digest:
                        break
            else:
                raise DamagedBlob()
            yield found

    def aside(self, attempt: str) -> set[tuple[int, int, str]]:
        """Source, number and hash of every segment that was put aside. Raises: StorageFailed."""
        return set(named_aside(p.name for p in (self._uploads / attempt).glob("*.*")))

    @contextmanager
    def mapped_segment(self, attempt: str, source: int | str, number: int) -> Iterator[memoryview]:
        """The bytes of a segment without a copy of them, unchecked.

        Raises: DamagedBlob if it is not there or empty.
        """
        with self._mapped(attempt, f"{source}-{number}") as view:
            yield view

    @contextmanager
    def _mapped(self, attempt: str, name: str) -> Iterator[memoryview]:
        try:
            with open(self._uploads / attempt / name, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, flags=_MAPPED, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DamagedBlob() from error
        with data, memoryview(data) as view:
            yield view

    def names(self) -> set[str]:
        """Every model and optimiser state that is kept. Raises: StorageFailed."""
        return {p.name for p in self._models.iterdir()} if self._models.is_dir() else set()

    def probe(self) -> None:
        """Try a durable write that changes nothing. Raises: StorageFailed."""
        write_durably(self._models / "ready.probe", b"ready")

    def uploads(self) -> set[str]:
        """The attempts of which there are masked vectors."""
        return {p.name for p in self._uploads.iterdir()} if self._uploads.is_dir() else set()

    def forget_uploads(self, attempt: str) -> None:
        """Remove an attempt's masked vectors; they are of no use once it is over."""
        with step("blob.forget"):
            shutil.rmtree(self._uploads / attempt, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a crash has left half written. Only while nobody else writes."""
        for folder in (self._models, self._sums):
            for file in folder.glob(f"*{SCRATCH}"):
                _remove(file)

    def _put_upload(self, attempt: str, name: str, data: bytes) -> None:
        write_durably(self._uploads / attempt / name, data)


def _aside(source: int | str, number: int, digest: bytes) -> str:
    return f"{source}-{number}.{digest.hex()}"


def named_aside(names: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """Those of these names that segments have that were put aside: source, number, hash."""
    for name in names:
        if found := _ASIDE.fullmatch(name):
            yield int(found[1]), int(found[2]), found[3]


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DamagedBlob() from error


def _keep(draft: Path, path: Path) -> None:
    try:
        _make_folder(path.parent)
        with step("blob.sync"):
            sync(draft)
        put_in_place(draft, path, step=steps("blob"))
    except OSError as error:
        _remove(path if isinstance(error, NameNotSynced) else draft)
        raise StorageFailed() from error
