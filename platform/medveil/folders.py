"""The folder of a node, an aggregator, a keeper or a relay: whether it is one, and whose it is."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Callable
from pathlib import Path
from shlex import quote

from medveil.errors import BadFile, Error
from medveil.shown import plain

MOST_BYTES = 4 * 2**20
"""Of a file of settings."""
ROOT = 0


class FolderOfAnother(Error):
    """The folder belongs to another user of this machine, as that of a service does."""

    code = "folder-of-another"

    def __init__(self, *, folder: Path, owner: int | None, user: int) -> None:
        whose = "another user" if owner is None else _name(owner)
        why = (
            "Root's new files in it could not be read or replaced by that user's service"
            if user == ROOT
            else f"This user, {_name(user)}, may not read it"
        )
        how = "" if owner is None else f": put sudo -u {_for_sudo(owner)} before it"
        give = "" if user == ROOT else f" If it should be this user's, root gives it: {_chown(user, folder)}"
        super().__init__(
            what=f"The folder '{folder}' belongs to {whose}.",
            meaning=f"Nothing was done. {why}.",
            remedy=f"Run the same command as the user to whom it belongs{how}.{give}",
        )


def named(folder: Path) -> str:
    """The option that names it, for a command that is shown to be typed or pasted."""
    return f"--folder {quote(str(folder))}"


def settings_in(folder: Path, name: str, absent: Callable[..., Error], *, only_read: bool = False) -> bytes:
    """What the file of its settings holds.

    Args:
        name: of that file.
        absent: takes ``folder``; the error if there is no such file.
        only_read: nothing will be written into this folder.
    Raises: what ``absent`` makes; FolderOfAnother if this user may not read it, or is root and would leave
        files of its own among another user's; BadFile.
    """
    path = folder / name
    try:
        with open(path, "rb") as file:
            owner = os.fstat(file.fileno()).st_uid
            data = file.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise absent(folder=folder) from error
    except PermissionError as error:
        whose = _owner(path, folder)
        if whose == os.geteuid():
            raise BadFile(name=plain(path), problem="its owner may not read it: chmod 600") from error
        raise FolderOfAnother(folder=folder, owner=whose, user=os.geteuid()) from error
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it cannot be read"
        raise BadFile(name=plain(path), problem=problem) from error
    if not only_read and os.geteuid() == ROOT != owner and _owner_of_new(folder) != owner:
        raise FolderOfAnother(folder=folder, owner=owner, user=ROOT)
    if len(data) > MOST_BYTES:
        raise BadFile(name=plain(path), problem=f"it is longer than {MOST_BYTES:,} bytes")
    return data


def _owner(*paths: Path) -> int | None:
    """Of the first that may be looked at."""
    for path in paths:
        try:
            return path.stat().st_uid
        except OSError:
            continue
    return None


def _owner_of_new(folder: Path) -> int | None:
    """To whom a file belongs that this process makes there; some file systems give all to one user."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid
    except OSError:
        return ROOT


def _name(user: int) -> str:
    """Its number where it has no name."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _for_sudo(user: int) -> str:
    name = _name(user)
    return f"'#{name}'" if name.isdecimal() else name


def _chown(user: int, folder: Path) -> str:
    return f"chown -R {_name(user)}: {quote(str(folder))}"
