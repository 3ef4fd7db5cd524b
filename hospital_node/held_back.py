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

It is training as it is, noised where the study's updates are; so it is sealed under a key that only this
node's identity can derive. A file that is missing or damaged counts as nothing held back.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from hospital_node.sealed import SealedFile
from medveil.files import put_in_place
from medveil.identity import Secret
from medveil.log import get_logger
from medveil.plan import Plan
from medveil.study import Study
from medveil.tensors import Float32, Update

LABEL = "held-back"
"""What the sealing key is derived for."""
_MODEL = 32
log = get_logger()


class HeldBack:
    """Of one plan with compression.

    Args:
        folder: where its two files lie: what is held back now, and what will be if the round is summed.
    """

    def __init__(self, folder: Path, plan: Plan, key: Secret) -> None:
        self._plan, bound = plan, f"{LABEL} {plan.lineage}".encode()
        self._now = SealedFile(folder / f"{plan.lineage}.held", key, bound)
        self._next = SealedFile(folder / f"{plan.lineage}.held-next", key, bound)

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
                put_in_place(self._next.path, self._now.path)
            else:
                self._drop(number)
        except OSError:
            log.warning("held-back.lost", plan=self._plan.id)
            self.forget()

    def forget(self) -> None:
        """Nothing is held back any more."""
        for file in (self._now, self._next):
            with suppress(OSError):
                file.path.unlink()

    def _vector(self) -> Float32:
        found = self._open(self._now)
        return np.zeros(self._plan.study.model.tensors.size, np.float32) if found is None else found[1]

    def _drop(self, number: int) -> None:
        found, sending = self._open(self._now), self._plan.study.public_map(number)
        if found is not None and sending is not None:
            old = found[1]
            self._keep(self._now, found[0], old - sending.backward(sending.forward(old), 0, len(old)))

    def _keep(self, file: SealedFile, name: bytes, vector: Float32) -> None:
        file.write(name + np.ascontiguousarray(vector, "<f4").tobytes())

    def _open(self, file: SealedFile) -> tuple[bytes, Float32] | None:
        """The name and the vector; None if there is nothing, or nothing whole, of it."""
        content, head = file.read(), len(_name(0, bytes(_MODEL)))
        if content is None or len(content) != head + 4 * self._plan.study.model.tensors.size:
            return None
        return content[:head], np.frombuffer(content, "<f4", offset=head)


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
