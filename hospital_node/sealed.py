"""A file that only this node can read: sealed (ChaCha20-Poly1305) under a key that its identity derives."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from medveil.files import replace_durably, replace_lightly
from medveil.identity import Secret

_NONCE = 12


class SealedFile:
    """One file, written whole or not at all.

    Args:
        key: that only this node's identity can derive.
        bound: what the content is; sealed as something else it does not open.
    """

    def __init__(self, path: Path, key: Secret, bound: bytes) -> None:
        self.path, self._cipher, self._bound = path, ChaCha20Poly1305(key.reveal()), bound

    def write(self, content: bytes, *, synced: bool = True) -> None:
        """Put it in place of what was there, on stable storage; not ``synced``, a power cut may leave nothing
        that opens. Raises: OSError."""
        nonce = secrets.token_bytes(_NONCE)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sealed = self._cipher.encrypt(nonce, content, self._bound)
        replace = replace_durably if synced else replace_lightly
        replace(self.path, nonce, sealed, private=True)

    def read(self) -> bytes | None:
        """What it holds; None if there is nothing, or nothing whole."""
        try:
            sealed = self.path.read_bytes()
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._bound)
        except (OSError, ValueError, InvalidTag):
            return None

    def write_arrays(self, arrays: Mapping[str, NDArray[Any]], *, synced: bool = True) -> None:
        """As :meth:`write`, of named arrays."""
        buffer = io.BytesIO()
        content: dict[str, Any] = dict(arrays)
        np.savez(buffer, **content)
        self.write(buffer.getvalue(), synced=synced)

    def read_arrays(self) -> dict[str, NDArray[Any]]:
        """The named arrays that it holds; none if there is nothing, or nothing whole."""
        content = self.read()
        try:
            with np.load(io.BytesIO(content or b""), allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
            return {}
