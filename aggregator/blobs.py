"""Files that are either whole or absent: models by hash, masked segments by attempt and hospital."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medveil.errors import Error, RemoteProtocolError

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
    """The disk (or the database on it) did not take or give what it should."""

    code = "storage-failed"

    def __init__(self) -> None:
        super().__init__(
            what="The aggregator's storage does not work at the moment.",
            meaning="Nothing was acknowledged that is not on the disk; the nodes send it again.",
            remedy="Check that the aggregator's disk is neither full nor failing.",
        )


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write, fsync, rename, fsync the folder: after a crash the file is whole or not there.

    Raises: StorageFailed; what is there is then as before.
    """
    try:
        _write(path, data)
    except OSError as error:
        raise StorageFailed() from error


def _write(path: Path, data: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    with open(scratch, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _rename(scratch, path)


def _rename(scratch: Path, path: Path) -> None:
    os.replace(scratch, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Blobs:
    """The aggregator's folder of files."""

    def __init__(self, folder: Path) -> None:
        self._models = folder / "models"
        self._sums = folder / "sums"
        self._uploads = folder / "uploads"

    def put_model(self, name: str, data: bytes) -> None:
        """Keep a model or an optimiser state under its own hash; keeping it twice changes nothing."""
        path = self._models / name
        if not path.exists():
            write_durably(path, data)

    def model(self, name: str) -> bytes:
        """Read one back. Raises: DamagedBlob if it is not there."""
        try:
            return (self._models / name).read_bytes()
        except OSError as error:
            raise DamagedBlob() from error

    def open_model(self, name: str) -> BinaryIO:
        """A model or an optimiser state, to be read in pieces. Raises: DamagedBlob if it is not there."""
        return _open(self._models / name)

    def put_sum(self, name: str, data: bytes) -> None:
        """Keep what proves a version under its own hash; keeping it twice changes nothing."""
        path = self._sums / name
        if not path.exists():
            write_durably(path, data)

    def open_sum(self, name: str) -> BinaryIO:
        """The sum behind a version, or its proof. Raises: DamagedBlob if it is not there."""
        return _open(self._sums / name)

    def draft(self, attempt: str, name: str) -> Path:
        """Where a file of an attempt may grow on this machine; it goes with the attempt's uploads."""
        return self._uploads / attempt / f"{name}.part"

    def keep_model(self, name: str, draft: Path) -> None:
        """Make a finished draft the model (or optimiser state) of this hash. Raises: StorageFailed."""
        _keep(draft, self._models / name)

    def keep_sum(self, name: str, draft: Path) -> None:
        """Make a finished draft the sum of this hash. Raises: StorageFailed."""
        _keep(draft, self._sums / name)

    def put_segment(self, attempt: str, hospital: int, number: int, data: bytes) -> None:
        """Keep one segment of a masked upload; a repeated upload replaces an unsigned one."""
        write_durably(self._segment(attempt, hospital, number), data)

    def segment(self, attempt: str, hospital: int, number: int, digest: bytes) -> bytes:
        """Read a segment that has exactly this SHA-256.

        Raises: DamagedBlob.
        """
        try:
            data = self._segment(attempt, hospital, number).read_bytes()
        except OSError as error:
            raise DamagedBlob() from error
        if hashlib.sha256(data).digest() != digest:
            raise DamagedBlob()
        return data

    @contextmanager
    def mapped_segment(self, attempt: str, hospital: int, number: int) -> Iterator[memoryview]:
        """The bytes of a segment without a copy of them, unchecked.

        Raises: DamagedBlob if it is not there or empty.
        """
        try:
            with open(self._segment(attempt, hospital, number), "rb") as file:
                data = mmap.mmap(file.fileno(), 0, flags=_MAPPED, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DamagedBlob() from error
        with data, memoryview(data) as view:
            yield view

    def forget_uploads(self, attempt: str) -> None:
        """Remove an attempt's masked vectors; they are of no use once it is over."""
        shutil.rmtree(self._uploads / attempt, ignore_errors=True)

    def _segment(self, attempt: str, hospital: int, number: int) -> Path:
        return self._uploads / attempt / f"{hospital}-{number}"


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DamagedBlob() from error


def _keep(draft: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sync(draft)
        _rename(draft, path)
    except OSError as error:
        raise StorageFailed() from error
