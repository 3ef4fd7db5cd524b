"""What a file holds, as a hash: of its bytes, whatever it is called."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import lru_cache
from pathlib import Path

MOST_REMEMBERED = 2**18


def content_digest(path: Path) -> bytes:
    """SHA-256 of a file's content; of a folder, of all its files' contents whatever they are called.

    Remembered as long as no file was touched, so that a folder that is looked at twice is read once.
    Raises: OSError.
    """
    if not path.is_dir():
        return _of_file(path, _as_it_is(path))
    told = [repr((inside.name, _as_it_is(inside))) for inside in _files(path)]
    return _of_folder(path, hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).digest())


def _files(folder: Path) -> list[Path]:
    return sorted(inside for inside in folder.iterdir() if not inside.is_dir())


def _as_it_is(path: Path) -> tuple[int, ...]:
    one = path.stat()
    return one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@lru_cache(MOST_REMEMBERED)
def _of_file(path: Path, _as_it_was: tuple[int, ...]) -> bytes:
    return _digest(path)


@lru_cache(MOST_REMEMBERED)
def _of_folder(folder: Path, _as_they_were: bytes) -> bytes:
    inside = Counter(_digest(path) for path in _files(folder))
    return hashlib.sha256(b"".join(sorted(inside.elements()))).digest()
