"""What this hospital has made in single rounds of a plan, sealed on its disk; the sums say which of it holds.

Something is made with an update, before the update leaves, and holds as soon as a published sum has that
update. So two are kept: the one that holds, of the last round whose sum this hospital is in, and the one of
the round in hand. Which of them is to be used nobody has to remember: the node's own version of the model
says in which round this hospital was summed last, and it is looked up by that round. A crash between any two
steps leaves both.
"""

from __future__ import annotations

from pathlib import Path

from hospital_node.sealed import SealedFile
from medveil.identity import Secret
from medveil.tensors import Float32


class ByRound:
    """One plan's file of vectors.

    Args:
        path: where it lies. key: that only this node's identity can derive. bound: what the vectors are.
    """

    def __init__(self, path: Path, key: Secret, bound: str) -> None:
        self._file = SealedFile(path, key, bound.encode())

    def find(self, number: int, *, size: int) -> Float32 | None:
        """The vector of a round, float32, shape (size,); None if it is not there, or damaged."""
        found = self._open().get(number)
        return None if found is None or found.shape != (size,) else found

    def keep(self, number: int, vector: Float32, *, beside: int) -> None:
        """Keep a round's vector on stable storage, and of the others that of round ``beside``."""
        kept = {n: values for n, values in self._open().items() if n == beside} | {number: vector}
        self._file.write_arrays({str(n): values for n, values in kept.items()})

    def forget(self) -> None:
        """Nothing of the plan is kept any more."""
        self._file.path.unlink(missing_ok=True)

    def _open(self) -> dict[int, Float32]:
        """What is kept, by round; nothing if nothing whole is there."""
        try:
            return {int(name): values for name, values in self._file.read_arrays().items()}
        except ValueError:
            return {}
