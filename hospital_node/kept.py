"""The noised contribution of the round in hand, kept on disk until the round is over.

A node that crashes after its computation sends the same numbers again, masked anew, and pays once. What is
kept has its noise already: it is what the ledger has paid for, and it stays in the node's own folder.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from hospital_node.files import replace_durably
from medveil.metrics import Sums
from medveil.tensors import Update

Made = tuple[Update, Sums | None]


class Kept:
    """One file that holds the newest contribution; an older one is overwritten."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def store(self, key: str, made: Made) -> None:
        """Keep it, on stable storage, under a key that names plan, round and model."""
        update, sums = made
        content: dict[str, Any] = {f"sum {name}": values for name, values in (sums or {}).items()}
        content |= {"key": np.array(key), "update": update.values, "counted": np.array(sums is not None)}
        buffer = io.BytesIO()
        np.savez(buffer, **content)
        replace_durably(self._path, buffer.getvalue())

    def find(self, key: str) -> Made | None:
        """What was kept under exactly this key; None if there is nothing (readable) of it."""
        try:
            with np.load(io.BytesIO(self._path.read_bytes()), allow_pickle=False) as stored:
                if str(stored["key"]) != key:
                    return None
                sums = {n.removeprefix("sum "): stored[n] for n in stored.files if n.startswith("sum ")}
                return Update(stored["update"]), sums if stored["counted"] else None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            return None

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)
