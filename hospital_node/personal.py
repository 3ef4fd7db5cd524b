"""This hospital's personal weights of a plan: sealed on its disk, and sent to nobody.

They are trained with the shared weights, in the same steps, and hold as soon as a published sum has what was
learned of the shared ones beside them (:mod:`hospital_node.by_round`). After a round without this hospital
they are what they were before it. Before its first sum, or when the file is lost, they are the plan's initial
ones, which stand in every version of the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hospital_node.by_round import ByRound
from medveil.identity import Secret
from medveil.log import get_logger
from medveil.plan import Plan
from medveil.tensors import Float32, Update

LABEL = "personal-weights"
"""What the sealing key is derived for."""
log = get_logger()


class PersonalWeights:
    """Of one plan whose study has some.

    Args:
        folder: where the file lies. key: that only this node's identity can derive.
    """

    def __init__(self, folder: Path, plan: Plan, key: Secret) -> None:
        shared = plan.study.shared
        if shared is None:
            raise ValueError("all weights of this study are shared")
        self._plan, self._shared = plan, shared
        self._places = shared.stays(0, plan.study.model.tensors.size)
        self._kept = ByRound(folder / f"{plan.lineage}.personal", key, f"{LABEL} {plan.lineage}")

    def whole(self, model: Float32, summed: int) -> Float32:
        """The model as this hospital has it: the shared weights with its own personal ones.

        Args:
            model: a version, float32, shape (d,).
            summed: the last round whose sum has this hospital's update; 0: none yet.
        """
        if summed == 0:
            return model
        own = self._kept.find(summed, size=int(self._places.sum()))
        if own is None:
            log.warning("personal.lost", plan=self._plan.id, round=summed)
            return model
        mine = model.copy()
        mine[self._places] = own
        return mine

    def part(self, number: int, start: Float32, update: Update, *, summed: int) -> Update:
        """What round ``number`` sends of an update; what becomes of the personal weights is on disk then.

        Args:
            start: where training began, as :meth:`whole` gave it, shape (d,).
            update: shape (d,). summed: as there.
        Returns: shape (``study.uploaded``,).
        Raises: OSError.
        """
        own = np.asarray(start[self._places] + update.values[self._places], np.float32)
        self._kept.keep(number, own, beside=summed)
        return Update(self._shared.forward(update.values))

    def forget(self) -> None:
        """Begin with the plan's initial ones again."""
        self._kept.forget()
