"""Files that hold the same bytes: only files of one size are read, each once, in pieces."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medveil.progress import tell
from medveil.stopping import check_stopped
from medveil_imaging.sources.tree import File

PIECE = 2**20


def copies_among(root: Path, files: Sequence[File]) -> list[list[File]]:
    """Groups of two and more files with the same content, each group in the order given.

    A file that cannot be read is a copy of none.
    """
    sizes: dict[int, list[File]] = defaultdict(list)
    for file in files:
        sizes[file.size].append(file)
    doubtful = [file for same in sizes.values() if len(same) > 1 for file in same]
    contents: dict[bytes, list[File]] = defaultdict(list)
    for done, file in enumerate(doubtful, start=1):
        check_stopped()
        tell("files compared", done, len(doubtful))
        digest = _digest(os.path.join(root, file.path))
        if digest is not None:
            contents[digest].append(file)
    return [same for same in contents.values() if len(same) > 1]


def _digest(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            found = hashlib.blake2b(digest_size=32)
            while piece := file.read(PIECE):
                found.update(piece)
            return found.digest()
    except OSError:
        return None
