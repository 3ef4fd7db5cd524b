"""What a command writes is for its own user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from medveil.errors import Error
from medveil.shown import plain

OTHERS = 0o077
"""Every right of a group and of everybody else."""


class OpenFolder(Error):
    """A folder for patients' files that others on this machine may enter."""

    code = "open-folder"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"Other users of this machine have rights to the folder '{plain(name)}'.",
            meaning="What comes out of patients' images would lie there, so nothing was started.",
            remedy="Name a folder that does not exist yet, or close this one with chmod 700.",
        )


def keep_private() -> None:
    """Let this process and all that it starts make folders of mode 0700 and files of mode 0600."""
    os.umask(OTHERS)


def private_folder(folder: Path) -> None:
    """Make a folder of mode 0700 if there is none. Raises: OpenFolder if there is one with other rights."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & OTHERS:
        raise OpenFolder(name=folder.name)
