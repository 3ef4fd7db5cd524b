"""Folders that an earlier commit has left, kept as vectors: every file, and its database as SQL."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "vectors"
"""Never made anew: they are what the code of their time has written."""


def unpack(name: str, folder: Path, *, database: str) -> dict[str, Any]:
    """Put a vector's files and database where they were, below ``folder``; the whole vector."""
    told: dict[str, Any] = json.loads((VECTORS / name).read_text())
    for file, content in told["files"].items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(content))
    with closing(sqlite3.connect(folder / database)) as link:
        link.executescript("\n".join(told["sql"]))
    return told
