"""The noised contribution of the round in hand, kept on disk until the round is over.

A node that crashes after its computation sends the same numbers again, masked anew, and pays once. What is
kept has its noise already and is what the ledger has paid for. It is no masked vector yet, so it is sealed
under a key that only this node's identity can derive: no copy of the file alone shows it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hospital_node.sealed import SealedFile
from medveil.identity import Secret
from medveil.tasks import Sums
from medveil.tensors import Update

if TYPE_CHECKING:
    from hospital_node.settings import Node

Computed = tuple[Update, Sums | None]
LABEL = "kept-contribution"
"""What the sealing key is derived for."""


class Unsent:
    """One file that holds the newest contribution; an older one is overwritten."""

    def __init__(self, path: Path, key: Secret) -> None:
        self._file = SealedFile(path, key, LABEL.encode())

    @classmethod
    def of_plan(cls, node: Node, plan: str, key: Secret) -> Self:
        """Where a plan's contribution is kept; what an earlier version kept of it is taken over."""
        path, former = node.unsent.with_name(f"unsent-{plan[:16]}.sealed"), cls(node.unsent, key)
        if node.unsent.exists() and not path.exists() and (former._open()[0] or "").startswith(plan):
            os.replace(node.unsent, path)
        return cls(path, key)

    def store(self, key: str, computed: Computed) -> None:
        """Keep it, on stable storage, under a key that names plan, round and model."""
        update, sums = computed
        content: dict[str, Any] = {f"sum {name}": values for name, values in (sums or {}).items()}
        content |= {"key": np.array(key), "update": update.values, "counted": np.array(sums is not None)}
        self._file.write_arrays(content)

    def find(self, key: str) -> Computed | None:
        """What was kept under exactly this key; None if there is nothing, or nothing whole, of it."""
        found, computed = self._open()
        return computed if found == key else None

    def forget(self, plan: str) -> None:
        """Remove what was kept for a plan. A restarted node passes finished plans; another's stays.

        Args:
            plan: what the key begins with.
        """
        found, _ = self._open()
        if found is None or found.startswith(plan):
            self._file.path.unlink(missing_ok=True)

    def _open(self) -> tuple[str | None, Computed | None]:
        """The key and what is kept under it; None if there is nothing, or nothing whole."""
        stored = self._file.read_arrays()
        try:
            sums = {n.removeprefix("sum "): values for n, values in stored.items() if n.startswith("sum ")}
            return str(stored["key"]), (Update(stored["update"]), sums if stored["counted"] else None)
        except (ValueError, KeyError):
            return None, None
