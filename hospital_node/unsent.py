"""The noised contribution of the round in hand, kept on disk until the round is over.

A node that crashes after its computation sends the same numbers again, masked anew, and pays once. What is
kept has its noise already and is what the ledger has paid for. It is no masked vector yet, so it is sealed
(ChaCha20-Poly1305) under a key that only this node's identity can derive: no copy of the file alone shows it.
"""

from __future__ import annotations

import io
import secrets
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from medveil.files import replace_durably
from medveil.identity import Secret
from medveil.tasks import Sums
from medveil.tensors import Update

Computed = tuple[Update, Sums | None]
LABEL = "kept-contribution"
"""What the sealing key is derived for."""
_NONCE = 12


class Unsent:
    """One file that holds the newest contribution; an older one is overwritten."""

    def __init__(self, path: Path, key: Secret) -> None:
        self._path, self._cipher = path, ChaCha20Poly1305(key.reveal())

    def store(self, key: str, computed: Computed) -> None:
        """Keep it, on stable storage, under a key that names plan, round and model."""
        update, sums = computed
        content: dict[str, Any] = {f"sum {name}": values for name, values in (sums or {}).items()}
        content |= {"key": np.array(key), "update": update.values, "counted": np.array(sums is not None)}
        buffer = io.BytesIO()
        np.savez(buffer, **content)
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + self._cipher.encrypt(nonce, buffer.getvalue(), LABEL.encode())
        replace_durably(self._path, sealed, private=True)

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
            self._path.unlink(missing_ok=True)

    def _open(self) -> tuple[str | None, Computed | None]:
        """The key and what is kept under it; None if there is nothing, or nothing whole."""
        try:
            sealed = self._path.read_bytes()
            content = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], LABEL.encode())
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                sums = {n.removeprefix("sum "): stored[n] for n in stored.files if n.startswith("sum ")}
                return str(stored["key"]), (Update(stored["update"]), sums if stored["counted"] else None)
        except (OSError, ValueError, KeyError, InvalidTag, zipfile.BadZipFile, EOFError):
            return None, None
