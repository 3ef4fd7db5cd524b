"""What a schedule costs each patient and what it leaves to learn, before anything is written or trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from medveil.bounds import LARGEST_DELTA, default_delta
from medveil.errors import BadFile
from medveil.profiles import PROFILES
from medveil.study import ProfileName, TaskName
from medveil.values import Drawn, NoiseKind
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.recipes import recipe
from medveil_research.joint import CURIOUS, default_honest, joint_lines
from medveil_research.masked_sums import course_of_recipe
from medveil_research.outlook import mean_is_clear
from medveil_research.shared_figures import asked_sharers, sharing_lines, usual_sharers
from medveil_research.studies import default_model
from medveil_research.words import budget_words, filter_words, group_lines, matched_lines, mean_words, plain
from privacy.dp import accounting
from privacy.dp.accounting import Event
from privacy.dp.matched import Course, UnmatchedNoise, gain, matched_multipliers, round_weights
from privacy.dp.policy import jointly

EXACT = (
    "          exact discrete noise, in whole numbers: the same price, and no assumption on floating point"
)


@dataclass(frozen=True)
class PrivacyPlan:
    """Noise, price and outlook of one schedule.

    ``epsilon_local`` holds against everybody. ``epsilon_joint`` counts the noise of ``sharers`` hospitals in
    every sum. With several steps a round (``LocalNoise``) there is no proof that the others' noise helps, so
    it is the same number (see :class:`privacy.dp.policy.Cost`). Both are of training; test patients pay the
    same, or where the figures' noise is shared what ``medveil_research.shared_figures`` says.
    """

    event: Event
    """One hospital's own noise, over all steps."""
    sharers: int
    """Hospitals whose noise training counts on; 1 under ``LocalNoise``."""
    evaluation_multiplier: float
    """Noise of the final evaluation in units of one patient's largest share, for the same epsilon: of the
    hospitals together that share it."""
    delta: float
    parameters: int
    patients: int
    hospitals: int
    epsilon_local: float
    epsilon_joint: float
    mean_rounds: int = 0
    """Of ``rounds`` those that release the mean of the features instead of training."""
    rounds: int = 1
    group_columns: int = 0
    """Columns by which test patients have figures in groups."""
    noise: Drawn = "gaussian"
    course: Course | None = None
    """What decides how much each round counts, if their noise is matched to it."""
    figure_sharers: int = 1
    """Hospitals whose noise the figures of a plan with local noise count on."""
    least: int = 3
    """Fewest hospitals in a sum, where the figures' noise is shared."""
    patient_mu: float | None = None
    """The most that a filter lets through of a patient, by the noise that ``epsilon_joint`` counts."""

    @property
    def multipliers(self) -> tuple[float, ...]:
        """The noise of each round that trains, as a study counts it, where it is matched; else none.

        Raises: UnmatchedNoise.
        """
        if self.course is None:
            return ()
        return matched_multipliers(self.noise_multiplier, replace(self.course, mean_rounds=self.mean_rounds))

    @property
    def events(self) -> tuple[Event, ...]:
        """What a patient pays by one hospital's own noise. Raises: UnmatchedNoise."""
        most = None if self.patient_mu is None else self.patient_mu * math.sqrt(self.sharers)
        return accounting.at_most(self._steps, most)

    @property
    def _steps(self) -> tuple[Event, ...]:
        """One hospital's own noise, by rounds of equal noise."""
        if self.course is None:
            return (self.event,)
        steps, own = self.event.steps // self.rounds, math.sqrt(self.sharers)
        trained = [Event(multiplier / own, 1.0, steps) for multiplier in self.multipliers]
        return accounting.combined([replace(self.event, steps=steps * self.mean_rounds), *trained])

    @property
    def noise_multiplier(self) -> float:
        """What a study states: the noise that its epsilon rests on, in units of the clipping norm."""
        return jointly(self.event, self.sharers).noise_multiplier

    @property
    def mu(self) -> float:
        """The training as one Gaussian: signal over noise for one patient (at sample rate 1 exactly)."""
        return (
            self.event.sample_rate * math.sqrt(self.training_steps) / (self._paid * math.sqrt(self.sharers))
        )

    @property
    def _paid(self) -> float:
        """One hospital's own noise with which steps at the full norm would cost what the plan does."""
        most = None if self.patient_mu is None else self.patient_mu * math.sqrt(self.sharers)
        return accounting.paid_multiplier(self.event.noise_multiplier, self.event.steps, most)

    def mean_is_clear(self, mean_rounds: int) -> bool:
        """Whether that many rounds of this schedule could release a mean that is worth them."""
        return self.rounds > mean_rounds and self.event.sample_rate == 1 and mean_is_clear(
            width=self.parameters,
            noise_multiplier=self._paid,
            steps=self.event.steps // self.rounds * mean_rounds,
            patients=self.patients,
            hospitals=self.hospitals,
        )  # fmt: skip

    @property
    def training_steps(self) -> int:
        """Steps without those that the released mean is paid with."""
        return self.event.steps * (self.rounds - self.mean_rounds) // self.rounds

    @property
    def noise_to_signal(self) -> float:
        """sqrt(d) / (mu N) of the averaged model; N counts the patients as far as noise is shared."""
        own = accounting.noise_to_signal(
            parameters=self.parameters,
            noise_multiplier=self._paid,
            steps=self.training_steps,
            patients=self.patients,
            sample_rate=self.event.sample_rate,
        )
        return own / math.sqrt(self.hospitals)

    def lines(self) -> list[str]:
        """The plan in words, a few lines."""
        everybody = self.event.sample_rate == 1
        who = "every patient" if everybody else f"each patient with chance {self.event.sample_rate:g}"
        if self.sharers > 1:
            noise = [
                f"noise     {self.noise_multiplier:.4g} times the clipping norm in every sum, each step",
                f"          {self.event.noise_multiplier:.4g} of it by each hospital; "
                f"{self.sharers} of {self.hospitals} must add theirs and keep it to themselves",
            ]
            table = joint_lines(
                self.events,
                self.delta,
                least=min(self.sharers + 1, self.hospitals),
                hospitals=self.hospitals,
            )
            joint = [
                f"          {self.epsilon_joint:.3g} jointly, counting the noise of {self.sharers} hospitals",
                *(f"          {line}" for line in table),
            ]
        else:
            noise = [
                f"noise     {self.event.noise_multiplier:g} times the clipping norm, each step, each hospital"
            ]
            joint = [
                f"          {self.epsilon_joint:.3g} jointly: after several steps, others' noise is no help"
            ]
        if self.course is not None:
            course = replace(self.course, mean_rounds=self.mean_rounds)
            words = matched_lines(self.multipliers, mean_rounds=self.mean_rounds, gain=gain(course))
            noise += [f"          {line}" for line in words]
        if self.patient_mu is not None:
            noise += [f"          {line}" for line in filter_words(self.patient_mu)]
        mean = [f"          {mean_words(self.mean_rounds, self.rounds)}"] if self.mean_rounds else []
        return [
            *noise,
            *([EXACT] if self.noise == "discrete" else []),
            f"steps     {self.event.steps} in all, {who} in each",
            *mean,
            f"epsilon   {self.epsilon_local:.3g} against everybody, even if all other hospitals collude",
            *joint,
            f"delta     {plain(self.delta)}",
            *self._figures(),
            *(f"{' ' * 10}{line}" for line in group_lines(self.group_columns)),
            f"model     {self.parameters:,} trained parameters",
            f"outlook   sqrt(d)/(mu N) = {self.noise_to_signal:.2f} with mu {self.mu:.3g}, "
            f"N {self.patients} patients at each of {self.hospitals} hospitals",
            f"          {budget_words(self.noise_to_signal)}",
        ]

    def _figures(self) -> list[str]:
        told = f"figures   {self.evaluation_multiplier:g} times one patient's share of noise on the final "
        if self.figure_sharers == 1:
            return [f"{told}evaluation; test patients pay at most the same"]
        shared = sharing_lines(
            self.evaluation_multiplier, self.delta, sharers=self.figure_sharers, least=self.least
        )
        own = self.evaluation_multiplier / math.sqrt(self.figure_sharers)
        return [f"{told}evaluation, {own:.4g} by each hospital", *(f"          {line}" for line in shared)]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is to be trained under noise, and for which price: exactly one of epsilon and noise multiplier."""

    epsilon: float | None = None
    noise_multiplier: float | None = None
    """As a study states it: under joint noise that of the honest hospitals' noise together."""
    rounds: int
    steps: int
    """Of one hospital in one round."""
    patients: int
    """Training patients of a typical hospital."""
    hospitals: int
    parameters: int
    delta: float | None = None
    """None: min(1e-5, 1 / (10 patients))."""
    sample_rate: float = 1.0
    """Chance with which a patient enters a step."""
    privacy: NoiseKind = "local"
    honest: int | None = None
    """Hospitals that joint noise counts on; None: as a new study does."""
    mean_rounds: int = 0
    """The first rounds, that many, release the mean of the features, for the price of any others."""
    group_columns: int = 0
    """Columns by which test patients have figures in groups."""
    noise: Drawn = "gaussian"
    """How noise is drawn."""
    course: Course | None = None
    """Of rounds whose noise is matched to what they count; None: all have equal noise."""
    share_figures: bool | None = None
    """Of local noise: whether hospitals share the noise of the figures; None: as a new study does."""
    patient_use: float | None = None
    """Share of the squared norm that patients are expected to need; a filter stops whoever needs more."""


def plan_privacy(schedule: Schedule) -> PrivacyPlan:
    """Fit the noise to an epsilon, or compute the epsilon of a noise.

    Guarantees: for a given epsilon the schedule costs at most that.
    Raises:
        BadFile: both or none of epsilon and noise, or a value out of range.
        EpsilonOutOfReach: no noise is enough. UnmatchedNoise: nobody knows what the rounds count.
    """
    given, rate = _checked(schedule), schedule.sample_rate
    delta = default_delta(schedule.patients) if schedule.delta is None else schedule.delta
    if not (0 < delta <= LARGEST_DELTA and 0 < rate <= 1):
        raise BadFile(name="The plan", problem="delta must lie in (0, 0.001] and the sample rate in (0, 1]")
    sharers = _sharers(schedule)
    total = schedule.rounds * schedule.steps
    noise = schedule.noise_multiplier or accounting.calibrate(given, delta, sample_rate=rate, steps=total)
    price, most = accounting.epsilon([Event(noise, rate, total)], delta), None
    if schedule.patient_use is not None:
        noise, most = _filtered(schedule, noise, price, delta)
    event = Event(noise / math.sqrt(sharers), rate, total)
    paid = [Event(1 / (most * math.sqrt(sharers)), 1.0, 1)] if most else [event]
    of_figures = _figure_sharers(schedule, price, delta)
    return PrivacyPlan(
        event=event,
        sharers=sharers,
        evaluation_multiplier=accounting.calibrate(price, delta, sample_rate=1.0, steps=1),
        delta=delta,
        parameters=schedule.parameters,
        patients=schedule.patients,
        hospitals=schedule.hospitals,
        epsilon_local=price if sharers == 1 else accounting.epsilon(paid, delta),
        epsilon_joint=price,
        mean_rounds=schedule.mean_rounds,
        rounds=schedule.rounds,
        group_columns=schedule.group_columns,
        noise=schedule.noise,
        course=schedule.course,
        figure_sharers=of_figures,
        least=max(3, of_figures + CURIOUS),
        patient_mu=most,
    )


def _figure_sharers(schedule: Schedule, epsilon: float, delta: float) -> int:
    if schedule.privacy != "local" or schedule.share_figures is False:
        return 1
    if schedule.share_figures:
        return asked_sharers(schedule.hospitals, CURIOUS)
    return usual_sharers(epsilon, delta, hospitals=schedule.hospitals, colluders=CURIOUS) or 1


def _filtered(schedule: Schedule, noise: float, price: float, delta: float) -> tuple[float, float]:
    """Noise and budget of a schedule with a filter. Raises: BadFile."""
    use = schedule.patient_use or 0.0
    if not 0 < use <= 1 or schedule.sample_rate < 1:
        raise BadFile(
            name="The plan",
            problem="a filter wants an expected use in (0, 1] and every patient in each step (sample rate 1)",
        )
    return accounting.for_use(noise, use, price, delta)


def _checked(schedule: Schedule) -> float:
    """The epsilon or noise that was given. Raises: BadFile."""
    epsilon, noise = schedule.epsilon, schedule.noise_multiplier
    if (epsilon is None) == (noise is None):
        raise BadFile(name="The plan", problem="give either --epsilon or --noise-multiplier")
    given = epsilon if noise is None else noise
    if given is None or not (math.isfinite(given) and given > 0):
        raise BadFile(name="The plan", problem="epsilon or noise must be a number above 0")
    if schedule.mean_rounds and (schedule.rounds <= schedule.mean_rounds or schedule.sample_rate < 1):
        raise BadFile(
            name="The plan", problem="a centred model wants rounds to train and every patient in each step"
        )
    if schedule.course is not None:
        if schedule.sample_rate < 1:
            raise UnmatchedNoise(problem="it wants every patient in each step (sample_rate = 1)")
        round_weights(schedule.course)
    counts = schedule.rounds, schedule.steps, schedule.patients, schedule.hospitals, schedule.parameters
    if min(counts) < 1:
        raise BadFile(name="The plan", problem="rounds, steps, patients and hospitals start at 1")
    return given


def _sharers(schedule: Schedule) -> int:
    if schedule.privacy == "local":
        if schedule.honest is not None:
            raise BadFile(name="The plan", problem="--honest is for --privacy joint")
        return 1
    if schedule.steps != 1:
        raise BadFile(name="The plan", problem="joint noise wants one step a round: --steps 1")
    counted = default_honest(schedule.hospitals) if schedule.honest is None else schedule.honest
    if not 2 <= counted <= schedule.hospitals:
        raise BadFile(name="The plan", problem="--honest must lie between 2 and the number of hospitals")
    return counted


@dataclass(frozen=True)
class Shipped:
    """What the shipped recipe and model say where the researcher says nothing."""

    model: str
    parameters: int
    rounds: int
    steps: int
    mean_rounds: int
    matched: bool
    course: Course


def shipped(
    *,
    task: TaskName,
    profile: ProfileName,
    model: str | None,
    classes: int,
    size: tuple[int, ...] | None,
    privacy: NoiseKind = "local",
    rounds: int | None = None,
) -> Shipped:
    """Trained weights of a model and its recipe's schedule.

    Raises:
        NoDefaultModel, NoRecipe, UnknownName, BadModel: the combination does not exist.
    """
    name = model or default_model(task, profile, privacy)
    usual = recipe(model=name, task=task, profile=profile, privacy=privacy, hospitals=1, rounds=rounds)
    training = usual.training
    shape = ModelShape(size or PROFILES[profile].size, outputs_for(task, [str(c) for c in range(classes)]))
    spec, _ = initial_vector(name, shape, {}, seed=0)
    return Shipped(
        model=name,
        parameters=spec.size,
        rounds=training.rounds,
        steps=training.local_steps or 1,
        mean_rounds=usual.mean_rounds,
        matched=usual.matched,
        course=course_of_recipe(usual),
    )
