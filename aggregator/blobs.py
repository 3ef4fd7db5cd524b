"""Files that are either whole or absent: models by hash, masked segments by attempt and hospital."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from medveil.errors import Error, RemoteProtocolError


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
    os.replace(scratch, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Blobs:
    """The aggregator's folder of files."""

    def __init__(self, folder: Path) -> None:
        self._models = folder / "models"
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

    def forget_uploads(self, attempt: str) -> None:
        """Remove an attempt's masked vectors; they are of no use once it is over."""
        shutil.rmtree(self._uploads / attempt, ignore_errors=True)

    def _segment(self, attempt: str, hospital: int, number: int) -> Path:
        return self._uploads / attempt / f"{hospital}-{number}"
