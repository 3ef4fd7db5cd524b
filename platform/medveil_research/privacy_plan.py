"""What a schedule costs each patient and what it leaves to learn, before anything is written or trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medveil.errors import BadFile, Error
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.recipes import recipe
from medveil_research.studies import DEFAULT_SIZES, Profile, Task, default_model
from medveil_research.words import budget_words, plain
from privacy.dp import accounting
from privacy.dp.accounting import Event

HOPELESS = 1.0
"""Noise over signal from which a run is refused."""


class HopelessPlan(Error):
    """The noise of the whole run exceeds its signal."""

    code = "hopeless-plan"

    def __init__(self, *, ratio: float) -> None:
        super().__init__(
            what=f"The noise would be {ratio:.2f} times what the model can learn.",
            meaning="Such a run spends the patients' budget and learns next to nothing, so it is refused.",
            remedy="Take a smaller model, more patients or a larger epsilon; --anyway goes on regardless.",
        )


@dataclass(frozen=True)
class PrivacyPlan:
    """Noise, price and outlook of one schedule under ``LocalNoise``.

    ``epsilon_local`` holds against everybody. ``epsilon_joint`` would count the other hospitals' noise too;
    with several steps a round there is no proof that it helps, so it is the same number (see
    :class:`privacy.dp.policy.Cost`).
    """

    event: Event
    delta: float
    parameters: int
    patients: int
    hospitals: int
    epsilon_local: float
    epsilon_joint: float

    @property
    def mu(self) -> float:
        """The run as one Gaussian: its signal over its noise, for one patient (at sample rate 1 exactly)."""
        return self.event.sample_rate * math.sqrt(self.event.steps) / self.event.noise_multiplier

    @property
    def noise_to_signal(self) -> float:
        """sqrt(d) / (mu N sqrt(hospitals)): of the averaged model, N the patients of one hospital."""
        own = accounting.noise_to_signal(
            parameters=self.parameters,
            noise_multiplier=self.event.noise_multiplier,
            steps=self.event.steps,
            patients=self.patients,
            sample_rate=self.event.sample_rate,
        )
        return own / math.sqrt(self.hospitals)

    def lines(self) -> list[str]:
        """The plan in words, a few lines."""
        everybody = self.event.sample_rate == 1
        who = "every patient" if everybody else f"each patient with chance {self.event.sample_rate:g}"
        return [
            f"noise     {self.event.noise_multiplier:g} times the clipping norm, each step, each hospital",
            f"steps     {self.event.steps} in all, {who} in each",
            f"epsilon   {self.epsilon_local:.3g} against everybody, even if all other hospitals collude",
            f"          {self.epsilon_joint:.3g} jointly: after several steps, others' noise does not count",
            f"delta     {plain(self.delta)}",
            f"model     {self.parameters:,} trained parameters",
            f"outlook   sqrt(d)/(mu N) = {self.noise_to_signal:.2f} with mu {self.mu:.3g}, "
            f"N {self.patients} patients at each of {self.hospitals} hospitals",
            f"          {budget_words(self.noise_to_signal)}",
        ]


def plan_privacy(
    *,
    epsilon: float | None,
    noise_multiplier: float | None,
    rounds: int,
    steps: int,
    patients: int,
    hospitals: int,
    parameters: int,
    delta: float | None = None,
    sample_rate: float = 1.0,
) -> PrivacyPlan:
    """Fit the noise to an epsilon, or compute the epsilon of a noise.

    Args:
        epsilon, noise_multiplier: exactly one of them.
        rounds, steps: steps of one hospital in one round, and rounds.
        patients: training patients of a typical hospital.
        delta: by default min(1e-5, 1 / (10 patients)).
        sample_rate: chance with which a patient enters a step.

    Guarantees: for a given epsilon the schedule costs at most that.
    Raises:
        BadFile: both or none of epsilon and noise, or a value out of range.
    """
    if (epsilon is None) == (noise_multiplier is None):
        raise BadFile(name="The plan", problem="give either --epsilon or --noise-multiplier")
    given = epsilon if noise_multiplier is None else noise_multiplier
    if given is None or not (math.isfinite(given) and given > 0):
        raise BadFile(name="The plan", problem="epsilon or noise must be a number above 0")
    if min(rounds, steps, patients, hospitals, parameters) < 1:
        raise BadFile(name="The plan", problem="rounds, steps, patients and hospitals start at 1")
    chosen = accounting.default_delta(patients) if delta is None else delta
    if not (0 < chosen < 0.01 and 0 < sample_rate <= 1):
        raise BadFile(name="The plan", problem="delta must lie in (0, 0.01) and the sample rate in (0, 1]")
    total = rounds * steps
    noise = noise_multiplier or accounting.calibrate(given, chosen, sample_rate=sample_rate, steps=total)
    event = Event(noise, sample_rate, total)
    cost = accounting.epsilon([event], chosen)
    return PrivacyPlan(event, chosen, parameters, patients, hospitals, cost, cost)


@dataclass(frozen=True)
class Shipped:
    """What the shipped recipe and model say where the researcher says nothing."""

    model: str
    parameters: int
    rounds: int
    steps: int


def shipped(
    *, task: Task, profile: Profile, model: str | None, classes: int, size: tuple[int, ...] | None
) -> Shipped:
    """Trained weights of a model and its recipe's schedule under ``LocalNoise``.

    Raises:
        NoDefaultModel, NoRecipe, UnknownName, BadModel: the combination does not exist.
    """
    name = model or default_model(task, profile, "local")
    training = recipe(model=name, task=task, profile=profile, privacy="local", hospitals=1).training
    shape = ModelShape(size or DEFAULT_SIZES[profile], outputs_for(task, [str(c) for c in range(classes)]))
    spec, _ = initial_vector(name, shape, {}, seed=0)
    return Shipped(name, spec.size, training.rounds, training.local_steps or 1)


def check_hope(plan: PrivacyPlan, *, anyway: bool) -> None:
    """Refuse what cannot be learned.

    Raises:
        HopelessPlan: more noise than signal, and nobody insists.
    """
    if plan.noise_to_signal > HOPELESS and not anyway:
        raise HopelessPlan(ratio=plan.noise_to_signal)
