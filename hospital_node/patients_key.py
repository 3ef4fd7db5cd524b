"""The key of this hospital's pseudonyms and splits: made once, kept beside the node's other keys.

It is no part of the node's identity: a node that is made anew with another identity must know its patients
again. It may be there before the node is: a manifest is often written first.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from medveil.errors import Error
from medveil.files import new_private, sync
from medveil.identity import Secret

FILE = "patients.key"
KEY_BYTES = 32


class PatientsKeyDamaged(Error):
    """The key of the pseudonyms is not what was written."""

    code = "patients-key-damaged"

    def __init__(self) -> None:
        super().__init__(
            what=f"The file {FILE} in the node's folder holds no key.",
            meaning="With another key every patient would get a new pseudonym and count as somebody else.",
            remedy=f"Restore it from a backup of the node's folder. Remove {FILE} only if no manifest was "
            "made with it.",
        )


def patients_key(folder: Path) -> tuple[Secret, bool]:
    """The key of this node's folder, and whether it was made just now; the folder is made if it is not there.

    Guarantees: mode 0600; of two processes that make it, both get the same.
    Raises: PatientsKeyDamaged.
    """
    path, made = folder / FILE, False
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _make(path)
    value = path.read_bytes()
    if len(value) != KEY_BYTES:
        raise PatientsKeyDamaged()
    return Secret(value), made


def _make(path: Path) -> bool:
    """A new key, whole before it has its name; False if another process was first."""
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = new_private(scratch)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(scratch, path)
    except FileExistsError:
        return False
    finally:
        scratch.unlink()
    sync(path.parent)
    return True
