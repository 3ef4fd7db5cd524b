"""What a study has cost, for a worker to count: the accountant takes 70 MB that the server can do without."""

from __future__ import annotations

from medveil.study import Study


def local_epsilon(study: Study, rounds: int) -> float:
    """What a patient has spent after so many rounds against everybody, all other hospitals included."""
    from privacy.dp.policy import cost

    return cost(study, rounds=rounds).epsilon_local
