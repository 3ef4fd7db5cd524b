"""Replacing a file so that a crash leaves the old one or the new one, whole and on stable storage."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

PART = ".part"
"""Ending of a file that is being written."""
OWNERS = 0o600
Step = Callable[[str], AbstractContextManager[None]]
"""Goes around each of the steps ``write``, ``sync``, ``rename`` and ``sync-folder``."""


class NameNotSynced(OSError):
    """The file is whole and has its name, but a power cut may still take the name away."""


class NameTaken(FileExistsError):
    """There is something of this name, which may be somebody's work."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EEXIST, "it is there already", str(path))


def _no_step(_: str) -> AbstractContextManager[None]:
    return nullcontext()


def replace_durably(
    path: Path,
    *parts: bytes | memoryview,
    private: bool = False,
    scratch: Path | None = None,
    step: Step = _no_step,
) -> None:
    """Write beside, fsync, rename, fsync the folder.

    Args:
        parts: the content, one after the other.
        private: readable by the owner only, whatever the process's umask.
        scratch: where to write first, in the same folder; the name with ``.part`` if left out. Whoever lets
            several writers at one path names one for each.
        step: what goes around each step, for a test that ends the process there.
    Raises: OSError, and then what was there is as before; NameNotSynced if only the last step failed.
    """
    scratch = scratch or path.with_name(path.name + PART)
    with open(scratch, "wb", opener=owners if private else None) as file:
        with step("write"):
            file.writelines(parts)
            file.flush()
        with step("sync"):
            os.fsync(file.fileno())
    put_in_place(scratch, path, step=step)


def replace_lightly(path: Path, *parts: bytes | memoryview, private: bool = False) -> None:
    """Write beside and rename, for what can be made again: a crash of this process leaves the old or the new,
    a power cut perhaps an empty file. Raises: OSError."""
    scratch = path.with_name(path.name + PART)
    with open(scratch, "wb", opener=owners if private else None) as file:
        file.writelines(parts)
    os.replace(scratch, path)


def put_in_place(scratch: Path, path: Path, *, step: Step = _no_step) -> None:
    """Give a file that is on stable storage its name, there as well. Raises: OSError, NameNotSynced."""
    with step("rename"):
        os.replace(scratch, path)
    try:
        with step("sync-folder"):
            sync(path.parent)
    except OSError as error:
        raise NameNotSynced(*error.args) from error


@contextmanager
def whole_folder(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A folder to fill: it gets its name, on stable storage, when the block ends well; else nothing stays.

    Args:
        private: for its owner only.
    Raises: NameTaken, also if somebody was faster; OSError.
    """
    _check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}{PART}")
    scratch.mkdir(0o700 if private else 0o777)
    try:
        yield scratch
        for each in (*scratch.rglob("*"), scratch):
            sync(each)
        name_folder(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def name_folder(scratch: Path, path: Path) -> None:
    """Give a folder that is on stable storage a name that nothing has. Raises: NameTaken, OSError."""
    _check_free(path)
    try:
        put_in_place(scratch, path)
    except NameNotSynced:
        raise
    except OSError:
        _check_free(path)  # somebody was faster
        raise


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise NameTaken(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to stable storage. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def new_private(path: Path, *, to_read: bool = False) -> int:
    """The handle of a new file that its owner alone may read, whatever the process's umask.

    Args:
        to_read: whether what is written may be read again by this handle.
    Raises: FileExistsError: there is something of this name, be it a link; OSError.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | (os.O_RDWR if to_read else os.O_WRONLY)
    return os.open(path, flags, OWNERS)


def owners(path: str, flags: int) -> int:
    """For :func:`open`: a file that is made is its owner's alone."""
    return os.open(path, flags, OWNERS)
