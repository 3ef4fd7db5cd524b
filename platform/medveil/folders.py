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

    def __init__(self, *, folder: Path, owner: str, user: str, why: str) -> None:
        super().__init__(
            what=f"The folder '{folder}' belongs to {owner}, and this user is {user}.",
            meaning=f"Nothing was done. {why}.",
            remedy=f"Run the same command as that user: put sudo -u {_for_sudo(owner)} before it. If the "
            f"folder should be this user's, root gives it: chown -R {user}: {quote(str(folder))}",
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
        raise _of_another(folder, whose, "This user may not read it") from error
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it cannot be read"
        raise BadFile(name=plain(path), problem=problem) from error
    if not only_read and os.geteuid() == ROOT != owner and _owner_of_new(folder) != owner:
        raise _of_another(folder, owner, "New files of root's in it could not be used by that user's service")
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


def _owner_of_new(folder: Path) -> int:
    """To whom a file belongs that root makes there; some file systems give all to one user.

    Root's, where none can be made.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid
    except OSError:
        return ROOT


def _of_another(folder: Path, owner: int | None, why: str) -> FolderOfAnother:
    return FolderOfAnother(folder=folder, owner=_name(owner), user=_name(os.geteuid()), why=why)


def _name(user: int | None) -> str:
    """Its number where it has no name."""
    if user is None:
        return "somebody"
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _for_sudo(name: str) -> str:
    return f"'#{name}'" if name.isdecimal() else name
