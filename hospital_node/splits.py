"""What earlier versions noted about patients' splits (``splits.json``), kept so that it still counts.

A patient keeps the split of the first private study for life. Today the ledger and its cohorts tell which
that is. Before, a file of hashes did, keyed with a key that lay in the same file: whoever had the file could
try names. Here the hashes are hashed once more under a key of this node's identity, and the old key, which
finding somebody still takes, is sealed under another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from medveil.errors import Error
from medveil.files import replace_durably
from medveil.identity import Identity
from privacy.dp.policy import Split

FORMAT = "medveil splits 2"
PREFIX = "splits:"
"""What the name of such a file begins with in the ledger; its hash follows."""
NEVER, LOST = "splits:none", "splits:lost"
"""In place of a name: no patient was met before; and nobody knows any more who was."""
LABEL = "former-splits"
_NONCE = 12


class SplitsDamaged(Error):
    """The file that says which patient is in which split cannot be used."""

    code = "splits-damaged"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The file '{name}', which remembers patients' splits, is gone or not what was written.",
            meaning="Without it a patient could pay twice and be counted once; nothing private is computed.",
            remedy="Restore it from a backup of the node's folder, or see 'medveil node ledger go-on'.",
        )


class FormerSplits:
    """Data set → patients met by earlier versions, by hash → split."""

    def __init__(self, old_key: bytes, own_key: bytes, datasets: Mapping[str, Mapping[str, str]]) -> None:
        self._old, self._own = old_key, own_key
        self._datasets = {d: {n: Split(s) for n, s in known.items()} for d, known in datasets.items()}

    def before(self, pseudonym: str) -> dict[str, Split]:
        """Data set → the split in which a patient was met there, by the pseudonym as it was written."""
        name = _again(self._own, _first(self._old, pseudonym))
        return {d: known[name] for d, known in self._datasets.items() if name in known}

    def __len__(self) -> int:
        return sum(len(known) for known in self._datasets.values())


def read_former(path: Path, identity: Identity) -> tuple[FormerSplits, str]:
    """The file as this version keeps it, and its name for the ledger; one of an earlier version is rewritten.

    Guarantees: after a crash the file is the old one or the new one.
    Raises: SplitsDamaged, also if there is no file.
    """
    own, seal = (identity.secret_for(f"{LABEL}-{use}").reveal() for use in ("names", "seal"))
    try:
        data = path.read_bytes()
        book = json.loads(data)
        if "format" not in book:
            data = json.dumps(_rewritten(book, own, seal), sort_keys=True).encode()
            replace_durably(path, data, private=True)
            book = json.loads(data)
        if book["format"] != FORMAT:
            raise ValueError("another format")
        sealed = bytes.fromhex(book["sealed"])
        old = ChaCha20Poly1305(seal).decrypt(sealed[:_NONCE], sealed[_NONCE:], LABEL.encode())
        former = FormerSplits(old, own, book["datasets"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidTag) as error:
        raise SplitsDamaged(name=path.name) from error
    return former, PREFIX + hashlib.sha256(data).hexdigest()


def _rewritten(book: Any, own: bytes, seal: bytes) -> dict[str, Any]:
    """Raises: ValueError, KeyError, TypeError, AttributeError, if it is no such file."""
    old = bytes.fromhex(book["key"])
    nonce = hmac.digest(seal, old, "sha256")[:_NONCE]  # two processes that rewrite it write the same
    if len(old) != 32:
        raise ValueError("not a file of splits")
    datasets = {
        dataset: {_again(own, name): Split(split).value for name, split in known.items()}
        for dataset, known in book["datasets"].items()
    }
    sealed = nonce + ChaCha20Poly1305(seal).encrypt(nonce, old, LABEL.encode())
    return {"format": FORMAT, "sealed": sealed.hex(), "datasets": datasets}


def _first(key: bytes, pseudonym: str) -> str:
    """The hash that earlier versions made."""
    return hmac.new(key, pseudonym.encode(), hashlib.sha256).hexdigest()[:32]


def _again(key: bytes, name: str) -> str:
    return hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:32]
