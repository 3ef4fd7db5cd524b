"""The door to training: nothing private is trained before the self-check has passed."""

from __future__ import annotations

from hospital_node.training.checks import require_safe
from hospital_node.training.run import TrainingRound, check_paid, train_unchecked
from medveil.progress import unheard
from medveil.tensors import Update


def train(given: TrainingRound) -> Update:
    """Train the global model on this hospital's patients, after the study's self-check if it is private.

    Returns, guarantees and further errors: as :func:`hospital_node.training.run.train_unchecked`.
    Raises:
        NotSafe: the self-check found that this model's gradients cannot be bounded per patient.
    """
    if given.study.privacy.kind != "none":
        check_paid(given)  # it is refused before the seconds that a self-check takes
        with unheard():  # it trains as well, on patients who were made up
            require_safe(given.study, given.device)
    return train_unchecked(given)
