"""What this hospital has learned and a compressed study has not yet sent; sealed on disk between rounds.

The next round's training begins at the global model plus what is held back, and adds to it; what the round's
public map sends of the two leaves it, and so does what no later round will send. Three things move it:

* A version came of a round and this hospital is among its survivors: what it sent is no longer held back,
  what its training in that round added is.
* A version came of a round without this hospital, which was absent, late or dropped: that training is
  forgotten, as it is without compression, and so is what the round's map would have sent of what was held
  back. So nothing is older than the others' own, and nobody can make a hospital's share of a later sum grow
  by leaving it out (docs/decisions/0037-smaller-uploads.md).
* No version came of a round: what was held back before it stays.

It is training as it is, noised where the study's updates are; so it is sealed (ChaCha20-Poly1305) under a key
that only this node's identity can derive. A file that is missing or damaged counts as nothing held back.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from medveil.files import put_in_place, replace_durably
from medveil.identity import Secret
from medveil.log import get_logger
from medveil.plan import Plan
from medveil.study import Study
from medveil.tensors import Float32, Update

LABEL = "held-back"
"""What the sealing key is derived for."""
_NONCE, _MODEL = 12, 32
log = get_logger()


class HeldBack:
    """Of one plan with compression.

    Args:
        folder: where its two files lie: what is held back now, and what will be if the round is summed.
    """

    def __init__(self, folder: Path, plan: Plan, key: Secret) -> None:
        self._plan, self._cipher = plan, ChaCha20Poly1305(key.reveal())
        self._now, self._next = folder / f"{plan.id}.held", folder / f"{plan.id}.held-next"

    def start(self, model: Float32) -> Float32:
        """Where this hospital's training begins: the global model, float32 (d,), plus what is held back."""
        return np.asarray(model + self._vector(), np.float32)

    def shorten(self, number: int, model: bytes, update: Update) -> Update:
        """What is sent in round ``number`` of what is held back and an update that began at :meth:`start`.

        What will be held back if the round is summed is on stable storage then.

        Args:
            model: the hash of the round's global model.
            update: shape (d,).
        Returns: shape (``study.uploaded``,), each within ``study.secure_aggregation.update_clip``; what is
            beyond it stays held back.
        Raises: OSError.
        """
        sent, rest = parted(self._plan.study, number, self._vector() + update.values)
        self._keep(self._next, _name(number, model), rest)
        return sent

    def passed(self, number: int, model: bytes, *, summed: bool) -> None:
        """A version came of round ``number`` that started from a model; told twice, it changes nothing more.

        Args:
            summed: whether this hospital is among its survivors.
        """
        try:
            found = self._open(self._next)
            if summed and found is not None and found[0] == _name(number, model):
                put_in_place(self._next, self._now)
            else:
                self._drop(number)
        except OSError:
            log.warning("held-back.lost", plan=self._plan.id)
            self.forget()

    def forget(self) -> None:
        """Nothing is held back any more."""
        for path in (self._now, self._next):
            with suppress(OSError):
                path.unlink()

    def _vector(self) -> Float32:
        found = self._open(self._now)
        return np.zeros(self._plan.study.model.tensors.size, np.float32) if found is None else found[1]

    def _drop(self, number: int) -> None:
        found, sending = self._open(self._now), self._plan.study.public_map(number)
        if found is not None and sending is not None:
            old = found[1]
            self._keep(self._now, found[0], old - sending.backward(sending.forward(old), 0, len(old)))

    def _keep(self, path: Path, name: bytes, vector: Float32) -> None:
        nonce = secrets.token_bytes(_NONCE)
        content = name + np.ascontiguousarray(vector, "<f4").tobytes()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_durably(path, nonce, self._cipher.encrypt(nonce, content, self._bound), private=True)

    def _open(self, path: Path) -> tuple[bytes, Float32] | None:
        """The name and the vector; None if there is nothing, or nothing whole, of it."""
        try:
            sealed = path.read_bytes()
            content = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._bound)
        except (OSError, ValueError, InvalidTag):
            return None
        head = len(_name(0, bytes(_MODEL)))
        vector = np.frombuffer(content, "<f4", offset=head)
        return (content[:head], vector) if len(vector) == self._plan.study.model.tensors.size else None

    @property
    def _bound(self) -> bytes:
        return f"{LABEL} {self._plan.id}".encode()


def parted(study: Study, number: int, whole: Float32) -> tuple[Update, Float32]:
    """What round ``number`` sends of an update, and what is left of it.

    Args:
        whole: float32, shape (d,).
    Returns: shape (``study.uploaded``,), each within the study's ``update_clip``; and shape (d,).
        What no later round will send is not left: the others never hear of it, and this hospital's training
        would go on from what the finished model lacks. Without compression all is sent.
    """
    sending, limit = study.public_map(number), np.float32(study.secure_aggregation.update_clip)
    if sending is None:
        return Update(whole), np.zeros_like(whole)
    sent = np.clip(sending.forward(whole), -limit, limit)
    rest = whole - sending.backward(sent, 0, len(whole))
    return Update(sent), sending.still(rest, study.training.rounds)


def _name(number: int, model: bytes) -> bytes:
    """Of a round and the model that it starts from."""
    return number.to_bytes(8, "big") + model
