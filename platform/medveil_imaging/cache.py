"""Images that were brought into shape once, kept on disk for the next time: sealed, of limited size.

A record holds arrays. It is sealed piece by piece with AES-256-GCM under a key of its own, made from the
owner's key and a random salt, so no nonce is used twice, a part can be read alone, and a changed byte is
noticed. A record's name is a keyed hash: a file tells neither what is in it nor of whom. All of it may be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import shutil
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from medveil.files import new_private
from medveil.identity import Secret
from medveil.ids import join
from medveil.study import Study
from medveil.tasks import TASKS

ENDING = ".images"
FIRST = struct.Struct("!16s16s16s")
"""What a file begins with: format, salt, and a keyed hash of both by which its key is known."""
FORMAT = b"medveil images 1"
HEAD = struct.Struct("!4s16s32sIQI")
"""What a record begins with: mark, salt, name, bytes of its note, bytes that are sealed, checksum."""
MARK = b"\0rec"
PIECE = 2**18
"""Bytes that are sealed together: the least that is read of a record."""
TAG = 16
MOST_NOTE = 2**20
FILE_BYTES = 2**28
"""A file takes no further record from here on. What is too much is removed file by file."""
MOST_FILES = 256
"""All are open while a cache is used. A process that has little to add leaves a small one."""
RESERVE_BYTES = 2**30
"""Room that is always left on the disk: the node's journal and ledger need it more."""
IN_MEMORY_BYTES = 2**28
"""Sites whose images take no more than this are kept in memory, as they are read."""


class Damaged(Exception):
    """A record is not what was written."""


@dataclass(eq=False)
class _File:
    path: Path
    handle: int
    size: int
    newest: float
    used: bool = False

    def __del__(self) -> None:
        os.close(self.handle)


@dataclass(frozen=True, slots=True)
class Record:
    """Some arrays in the cache, with a note about them. Readable as long as it is referred to."""

    file: _File = field(repr=False)
    start: int
    """Of its sealed parts."""
    key: bytes = field(repr=False)
    name: bytes = field(repr=False)
    note_bytes: int

    def note(self) -> bytes:
        """Raises: Damaged."""
        return bytes(self._pieces(0, self.start, self.note_bytes, 0, self.note_bytes))

    def read(self, sizes: Sequence[int], part: int, start: int, stop: int) -> np.ndarray:
        """Bytes ``start`` to ``stop`` of a part, shape (stop - start,), uint8; nothing else is unsealed.

        Args:
            sizes: bytes of every part, as they were when it was put.
        Raises: Damaged.
        """
        begin = self.start + _sealed(self.note_bytes) + sum(map(_sealed, sizes[:part]))
        return self._pieces(part + 1, begin, sizes[part], start, stop)

    def _pieces(self, part: int, begin: int, size: int, start: int, stop: int) -> np.ndarray:
        first, last = start // PIECE, max(start, stop - 1) // PIECE
        low, high = first * PIECE, min(size, (last + 1) * PIECE)
        cipher, found = AESGCM(self.key), np.empty(high - low, np.uint8)
        try:
            length = high - low + TAG * (last - first + 1)
            data = memoryview(os.pread(self.file.handle, length, begin + first * (PIECE + TAG)))
            for piece in range(first, last + 1):
                plain = found[piece * PIECE - low : (piece + 1) * PIECE - low]
                sealed = data[(piece - first) * (PIECE + TAG) :][: len(plain) + TAG]
                cipher.decrypt_into(_nonce(part, piece), sealed, self.name, plain.data)
        except (InvalidTag, OSError, ValueError) as error:
            raise Damaged from error
        return found[start - low : stop - low]


class ImageCache:
    """A folder of sealed records. Several processes may use one folder; each writes files of its own.

    Args:
        key: 32 bytes; records of another key are removed.
        most_bytes: of all files together. What was used longest ago goes first, but nothing that this object
            has handed out.
    """

    def __init__(self, folder: Path, key: Secret, *, most_bytes: int) -> None:
        self.folder, self._key, self._most = folder, key.reveal(), most_bytes
        self._lock = threading.Lock()
        self._known: dict[bytes, Record] = {}
        self._files: list[_File] = []
        self._open: _File | None = None
        self.full = ""
        """Why records were not taken: "size" or "disk"; empty if all were."""
        self.strangers = 0
        """Files of another key that were removed."""
        self._look()

    def name_of(self, *parts: bytes) -> bytes:
        """A record's name, 32 bytes: equal for equal parts, and nobody without the key can try parts."""
        return hmac.digest(self._key, b"name" + join(*parts), "sha256")

    def secret(self, label: bytes) -> bytes:
        """32 bytes for another use of whoever has the key."""
        return hmac.digest(self._key, b"secret" + label, "sha256")

    def find(self, name: bytes) -> Record | None:
        """A record that was put under this name, now or earlier."""
        record = self._known.get(name)
        if record is not None and not record.file.used:
            record.file.used = True
            with contextlib.suppress(OSError):  # somebody has emptied the folder: it can be read all the same
                os.utime(record.file.path)
        return record

    def put(self, name: bytes, note: bytes, parts: Sequence[np.ndarray]) -> Record | None:
        """Keep arrays under a name; a record of that name is forgotten.

        Returns: the record; None if there is no room (see :attr:`full`). What was there is then as before.
        """
        salt = secrets.token_bytes(16)
        plain = [np.frombuffer(note, np.uint8), *(part.reshape(-1).view(np.uint8) for part in parts)]
        sealed_bytes = sum(_sealed(one.nbytes) for one in plain)
        head = HEAD.pack(MARK, salt, name, len(note), sealed_bytes, 0)
        head = head[:-4] + zlib.crc32(head[:-4]).to_bytes(4, "big")
        with self._lock:
            file = self._file_for(HEAD.size + sealed_bytes)
            if file is None:
                return None
            record = Record(file, file.size + HEAD.size, self._record_key(salt), name, len(note))
            try:
                end = _write(file.handle, record.start, _all_sealed(record, plain))
                _write(file.handle, file.size, [head])  # the head is last: without it nothing was written
            except OSError:
                self.full = "disk"
                with contextlib.suppress(OSError):
                    os.ftruncate(file.handle, file.size)
                return None
            file.size, file.used = end, True
            self._known[name] = record
            return record

    @property
    def size(self) -> int:
        """Bytes of all files, as far as this object knows them."""
        return sum(file.size for file in self._files)

    def _record_key(self, salt: bytes) -> bytes:
        return hmac.digest(self._key, b"record" + salt, "sha256")

    def _proof(self, salt: bytes) -> bytes:
        return hmac.digest(self._key, b"file" + salt, "sha256")[:16]

    def _look(self) -> None:
        """Find what is there."""
        for number, path in enumerate(_newest_first(self.folder)):
            with contextlib.suppress(OSError):  # removed meanwhile
                if number >= MOST_FILES:
                    path.unlink()
                    continue
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                told = os.fstat(handle)
                file = _File(path, handle, told.st_size, told.st_mtime)
                first = os.pread(handle, FIRST.size, 0)
                salt = first[16:32]
                if len(first) < FIRST.size or first != FIRST.pack(FORMAT, salt, self._proof(salt)):
                    self.strangers += 1
                    path.unlink()
                    continue
                self._files.append(file)
                for record in self._records(file):
                    self._known[record.name] = record

    def _records(self, file: _File) -> Iterator[Record]:
        """The whole ones; after a damaged head nothing more is found in a file."""
        place = FIRST.size
        while place + HEAD.size <= file.size:
            head = os.pread(file.handle, HEAD.size, place)
            mark, salt, name, note_bytes, sealed_bytes, check = HEAD.unpack(head)
            place += HEAD.size + sealed_bytes
            if mark != MARK or check != zlib.crc32(head[:-4]) or place > file.size or note_bytes > MOST_NOTE:
                return
            yield Record(file, place - sealed_bytes, self._record_key(salt), name, note_bytes)

    def _file_for(self, needed: int) -> _File | None:
        """The file that takes a record of that many bytes."""
        if not self._room_for(needed):
            return None
        if (
            self._open is None
            or self._open.size > max(FILE_BYTES, self._most // MOST_FILES)
            or not self._open.path.exists()
        ):
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = self.folder / (secrets.token_hex(8) + ENDING)
                handle = new_private(path, to_read=True)
                self._open = _File(path, handle, FIRST.size, 0.0)
                salt = secrets.token_bytes(16)
                _write(handle, 0, [FIRST.pack(FORMAT, salt, self._proof(salt))])
            except OSError:
                self.full = "disk"
                return None
            self._files.append(self._open)
        return self._open

    def _room_for(self, needed: int) -> bool:
        while self.size + needed > self._most:
            idle = [file for file in self._files if not file.used and file is not self._open]
            if not idle:
                self.full = "size"
                return False
            oldest = min(idle, key=lambda file: file.newest)
            self._files.remove(oldest)
            self._known = {name: one for name, one in self._known.items() if one.file is not oldest}
            oldest.path.unlink(missing_ok=True)
        parent = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        if shutil.disk_usage(parent).free < needed + RESERVE_BYTES:
            self.full = "disk"
            return False
        return True


def in_memory(study: Study, lines: int) -> bool:
    """Whether the images of so many lines are few enough to be kept in memory."""
    transforms = study.transforms
    if transforms.patches:  # volumes of any extent
        return False
    voxels = prod(transforms.size)
    each = 4 * transforms.channel_count * voxels + (8 * voxels if TASKS[study.task].outlines else 0)
    return lines * transforms.images_per_line * each <= IN_MEMORY_BYTES


@contextlib.contextmanager
def temporary_cache() -> Iterator[ImageCache]:
    """For a reading that nobody comes back to: its key is nowhere but in memory, its files go at the end."""
    with tempfile.TemporaryDirectory(prefix="medveil-images-") as folder:
        yield ImageCache(Path(folder), Secret(secrets.token_bytes(32)), most_bytes=2**50)


def files_in(folder: Path) -> list[Path]:
    """The files of a cache."""
    return sorted(folder.glob("*" + ENDING))


def _newest_first(folder: Path) -> list[Path]:
    found = []
    for path in files_in(folder):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def cache_size(folder: Path) -> int:
    """Bytes of a cache's files."""
    found = 0
    for path in files_in(folder):
        with contextlib.suppress(OSError):
            found += path.stat().st_size
    return found


def clear_cache(folder: Path) -> None:
    """Remove every record. Whoever reads them at this moment goes on. Raises: OSError."""
    for path in files_in(folder):
        path.unlink(missing_ok=True)


def _sealed(size: int) -> int:
    """Bytes on disk of so many bytes."""
    return size + TAG * max(1, -(-size // PIECE))


def _nonce(part: int, piece: int) -> bytes:
    """No two pieces of a record have one, and no two records a key."""
    return struct.pack("!IQ", part, piece)


def _all_sealed(record: Record, parts: Sequence[np.ndarray]) -> Iterator[bytes]:
    cipher = AESGCM(record.key)
    for number, part in enumerate(parts):
        for piece in range(max(1, -(-part.nbytes // PIECE))):
            plain = part[piece * PIECE : (piece + 1) * PIECE]
            yield cipher.encrypt(_nonce(number, piece), plain.data, record.name)


def _write(handle: int, place: int, pieces: Sequence[bytes] | Iterator[bytes]) -> int:
    """Returns: where it ends."""
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            done = os.pwrite(handle, rest, place)
            rest, place = rest[done:], place + done
    return place
