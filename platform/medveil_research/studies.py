"""A new study from proven settings: what is trained, where it starts, and noise that fits the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from medveil.bounds import LARGEST_DELTA, default_delta
from medveil.errors import BadFile, Error
from medveil.study import (
    LEAST_DECLARED,
    Cohort,
    Deadlines,
    Evaluation,
    JointNoise,
    LocalNoise,
    MaskGraph,
    ModelChoice,
    NoPrivacy,
    SecureAggregation,
    Study,
    Transforms,
    Weights,
)
from medveil.tensors import model_hash, to_safetensors
from medveil_imaging.models import ModelShape, Option, initial_vector, outputs_for
from medveil_imaging.recipes import PrivacyKind, Recipe, recipe
from medveil_research.joint import CURIOUS, joint_lines, least_in_sum
from medveil_research.starts import fresh, fresh_seed
from medveil_research.study_file import FolderTaken, to_toml, write_study
from medveil_research.words import budget_words, mean_words, plain
from privacy.dp import accounting
from privacy.dp.policy import Split, study_events
from privacy.joint_steps import COARSEST, FINE, step_in_noise

__all__ = [
    "FolderTaken",
    "HopelessPlan",
    "check_hope",
    "default_model",
    "new_study",
    "noise_to_signal",
    "outlook",
    "to_toml",
    "write_study",
]

Task = Literal["classification", "segmentation"]
Profile = Literal["xray", "mri"]
NoiseKind = Literal["local", "joint"]
DEFAULT_MODELS = {
    ("classification", "xray"): "wavelet_head",
    ("classification", "mri"): "small_cnn",
    ("segmentation", "mri"): "unet3d",
}
PRIVATE_MODELS = {("segmentation", "mri"): "position_head"}
"""Where noise asks for far fewer weights than the usual model has."""
DEFAULT_CLASSES: dict[str, tuple[str, ...]] = {
    "classification": ("negative", "positive"),
    "segmentation": ("background", "structure"),
}
DEFAULT_SIZES: dict[str, tuple[int, ...]] = {"xray": (64, 64), "mri": (48, 64, 48)}
SPACING_MM = (1.0, 1.0, 1.0)
MAX_WEIGHT = 4096
"""Largest weight of one hospital when nobody has said how many patients there are."""


HOPELESS = 1.0
"""Noise over signal from which a study is refused."""


class HopelessPlan(Error):
    """The noise of the whole run exceeds its signal."""

    code = "hopeless-plan"

    def __init__(self, *, ratio: float) -> None:
        super().__init__(
            what=f"The noise would be {ratio:.2f} times what the model can learn.",
            meaning="Such a run spends the patients' budget and learns next to nothing, so it is refused.",
            remedy="Take a smaller model, more patients, a larger epsilon or joint noise; --anyway goes on "
            "regardless, and the study tells its hospitals so.",
        )


MOST_MEAN_NOISE = 0.5
"""Longest noise of a released mean, in units of the features' length, with which subtracting it helps."""


def mean_is_clear(
    *, width: int, noise_multiplier: float, steps: int, patients: int | None, hospitals: int
) -> bool:
    """Whether a private mean is worth its round: its noise must be short beside the features, of length 1.

    Args:
        width: features of an image. noise_multiplier, steps: of one hospital's round.
        patients: of a typical hospital; None: unknown, and so not clear.
    """
    if patients is None:
        return False
    own = accounting.noise_to_signal(
        parameters=width, noise_multiplier=noise_multiplier, steps=steps, patients=patients
    )
    return own / math.sqrt(hospitals) <= MOST_MEAN_NOISE


def check_hope(ratio: float | None, *, anyway: bool) -> None:
    """Refuse what cannot be learned; an unknown ratio is not judged.

    Raises:
        HopelessPlan: more noise than signal, and nobody insists.
    """
    if ratio is not None and ratio > HOPELESS and not anyway:
        raise HopelessPlan(ratio=ratio)


class NoDefaultModel(Error):
    """No model is known for the combination of task and kind of image."""

    code = "no-default-model"

    def __init__(self, *, task: str, profile: str) -> None:
        super().__init__(
            what=f"MedVeil has no model for {task} of '{profile}' images.",
            meaning="No study was written.",
            remedy="Segmentation is for profile 'mri'; or name a model of your own with --model.",
        )


def default_model(task: Task, profile: Profile, privacy: PrivacyKind) -> str:
    """The usual model for a task, kind of image and privacy.

    Raises:
        NoDefaultModel: there is none.
    """
    usual = DEFAULT_MODELS if privacy == "none" else DEFAULT_MODELS | PRIVATE_MODELS
    if (task, profile) not in usual:
        raise NoDefaultModel(task=task, profile=profile)
    return usual[task, profile]


def new_study(
    *,
    name: str,
    task: Task,
    profile: Profile,
    model: str | None = None,
    privacy: PrivacyKind = "local",
    epsilon: float = 8.0,
    delta: float | None = None,
    hospitals: int,
    rounds: int | None = None,
    size: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    patients_hint: int | None = None,
    seed: int | None = None,
    deadlines: Deadlines | None = None,
    options: Mapping[str, Option] | None = None,
    mask_graph: MaskGraph = "complete",
    weights: Weights = "declared",
    colluders: int | None = None,
    anyway: bool = False,
) -> tuple[Study, bytes]:
    """A complete study and its initial model (safetensors).

    Args:
        model: a registered model; the usual one for the task without it.
        epsilon, delta: price of the whole study, evaluation included, for each patient; ignored for privacy
            "none". Delta is min(1e-5, 1 / (10 patients)) unless said otherwise.
        hospitals: how many take part; the study admits at least ten.
        rounds: instead of the recipe's own number.
        size: edges of the tensor, in pixels (xray) or voxels of 1 mm (mri).
        patients_hint: training patients of a typical hospital; it sets how finely weights are encoded, and
            decides whether a private mean is worth its round.
        seed: decides the initial weights and nothing else; never noise. Without it they are fresh, so that
            no other plan has them; two plans with one seed start from one model, and the second is refused.
        options: of the model.
        mask_graph: "hidden" is needed by more than 128 hospitals; see docs/protocol.md.
        weights: what a hospital counts in the mean: the patients it declares, or as much as any other.
        colluders: members assumed to pool what they know with the aggregator; joint noise does without
            theirs. One in a joint study and none otherwise, unless said.
        anyway: make a study with more noise than signal; it carries a mark that hospitals see.

    Guarantees: the whole schedule costs at most ``epsilon``; equal arguments with a seed give an equal study.
    Raises:
        NoDefaultModel, NoRecipe, UnknownName, BadModel: the combination does not exist.
        BadFile: a value is out of range. EpsilonOutOfReach: no noise is enough.
        HopelessPlan: more noise than signal, and nobody insists.
    """
    chosen = model or default_model(task, profile, privacy)
    labels = tuple(classes or DEFAULT_CLASSES[task])
    edges = tuple(size or DEFAULT_SIZES[profile])
    settings = recipe(
        model=chosen, task=task, profile=profile, privacy=privacy, hospitals=hospitals, rounds=rounds
    )
    if privacy != "none":
        settings = settings.for_epsilon(epsilon)
    joint = privacy == "joint"
    curious = (CURIOUS if joint else 0) if colluders is None else colluders
    least = least_in_sum(hospitals, curious) if joint else max(3, curious + 2)
    try:
        small = default_delta(patients_hint or 1) if delta is None else delta
        policy = _policy(privacy, settings, epsilon, small, least - curious)
        transforms = Transforms(
            profile=profile, size=edges, spacing_mm=SPACING_MM if profile == "mri" else ()
        )
        shape = ModelShape(size=edges, outputs=outputs_for(task, labels))
        choice, initial = _model(chosen, shape, dict(options or {}), seed)
        if (
            settings.centred
            and policy.kind != "none"
            and "centred" not in choice.options
            and mean_is_clear(
                width=choice.tensors.size,
                noise_multiplier=policy.own_multiplier,
                steps=settings.training.local_steps or 1,
                patients=patients_hint,
                hospitals=hospitals,
            )
        ):
            choice, initial = _model(chosen, shape, {**choice.options, "centred": True}, seed)
        study = Study(
            name=name,
            task=task,
            classes=labels,
            model=choice,
            transforms=transforms,
            training=settings.training,
            privacy=policy,
            strategy=settings.strategy,
            secure_aggregation=_masked_sum(
                settings,
                policy,
                patients_hint,
                hospitals=max(10, hospitals),
                mask_graph=mask_graph,
                weights=weights,
                colluders=curious,
            ),
            cohort=Cohort(min_hospitals=least, max_hospitals=max(10, hospitals)),
            evaluation=Evaluation(every_round=privacy == "none"),
            deadlines=deadlines or Deadlines(),
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BadFile(name="The study", problem=f"{place}: {first['msg']}") from error
    if patients_hint:
        ratio = noise_to_signal(study, patients=patients_hint, hospitals=hospitals)
        check_hope(ratio, anyway=anyway)
        if ratio is not None and ratio > HOPELESS:
            study = _marked(study)
    return study, initial


def _marked(study: Study) -> Study:
    """The study with the mark that its author insisted."""
    content = study.model_dump()
    content["privacy"]["despite_noise"] = True
    return Study.model_validate(content)


def _model(
    name: str, shape: ModelShape, options: dict[str, Option], seed: int | None
) -> tuple[ModelChoice, bytes]:
    spec, start = initial_vector(name, shape, options, seed=fresh_seed() if seed is None else seed)
    if seed is None:
        start = fresh(spec, start)
    choice = ModelChoice(
        name=name, options=options, tensors=spec, initial_model=model_hash(start, spec).hex()
    )
    return choice, to_safetensors(start, spec)


def _policy(
    kind: PrivacyKind, settings: Recipe, epsilon: float, delta: float, honest: int
) -> NoPrivacy | LocalNoise | JointNoise:
    """Everybody in every step: no secret draw to protect, exact accounting, and the least noise."""
    if kind == "none":
        return NoPrivacy()
    steps = settings.training.rounds * (settings.training.local_steps or 0)
    if not (0 < delta <= LARGEST_DELTA and math.isfinite(epsilon) and epsilon > 0):
        raise BadFile(
            name="The study", problem="privacy: epsilon must be above 0 and delta between 0 and 0.001"
        )
    noise: dict[str, Any] = {
        "clip_norm": settings.clip_norm,
        "clipping": settings.clipping,
        "noise_multiplier": accounting.calibrate(epsilon, delta, sample_rate=1.0, steps=steps),
        "images_per_patient": settings.images_per_patient,
        "epsilon": epsilon,
        "evaluation_multiplier": accounting.calibrate(epsilon, delta, sample_rate=1.0, steps=1),
        "delta": delta,
    }
    return LocalNoise(**noise) if kind == "local" else JointNoise(**noise, honest_hospitals=honest)


def _masked_sum(
    settings: Recipe,
    policy: NoPrivacy | LocalNoise | JointNoise,
    patients: int | None,
    *,
    hospitals: int,
    mask_graph: MaskGraph,
    weights: Weights,
    colluders: int,
) -> SecureAggregation:
    """Room for a hospital with twice the usual patients: a lane's steps are shared out over the weight.

    Joint noise must never be cut: the clip leaves eight standard deviations at the smallest hospital. Nor may
    it be finer than the encoding's steps: where it would be, lanes are wider.
    """
    room = MAX_WEIGHT if patients is None else max(64, 2 ** math.ceil(math.log2(2 * patients)))
    clip = settings.update_clip
    if isinstance(policy, JointNoise):
        stride = settings.training.learning_rate * policy.clip_norm
        room = room if patients is None else max(64, 2 * patients)
        clip = 2.0 ** math.ceil(math.log2(stride * (1 + 8 * policy.own_multiplier / LEAST_DECLARED)))
    masked = SecureAggregation(
        lane_bits=settings.lane_bits,
        update_clip=clip,
        max_weight=room,
        mask_graph=mask_graph,
        weights=weights,
        colluders=colluders,
    )
    return _fine_enough(masked, settings, policy, hospitals) if isinstance(policy, JointNoise) else masked


def _fine_enough(
    masked: SecureAggregation, settings: Recipe, noise: JointNoise, hospitals: int
) -> SecureAggregation:
    """Wider lanes where the encoding's steps are coarse beside the noise. Raises: BadFile: no lane is."""

    def step(chosen: SecureAggregation) -> float:
        return step_in_noise(settings.training, noise, chosen, hospitals=hospitals, centred=settings.centred)

    wide = masked.model_copy(update={"lane_bits": 32})
    chosen = masked if step(masked) <= FINE else wide
    if step(chosen) > COARSEST:
        raise BadFile(
            name="The study",
            problem="joint noise of so many hospitals with so many patients would be finer than the steps of "
            "the encoding; take fewer rounds, or privacy 'local'",
        )
    return chosen


def noise_to_signal(study: Study, *, patients: int, hospitals: int) -> float | None:
    """Noise over signal of the averaged model, sqrt(d) / (mu N sqrt(hospitals)); None without privacy.

    Args:
        patients: N, training patients of one hospital: its own noise hides them, whatever the others add.
    """
    training = study.training
    if study.privacy.kind == "none" or training.local_steps is None:
        return None
    own = accounting.noise_to_signal(
        parameters=study.trained_weights,
        noise_multiplier=study.privacy.own_multiplier,
        steps=training.local_steps * (training.rounds - study.centred),
        patients=patients,
        sample_rate=study.privacy.sample_rate,
    )
    return own / math.sqrt(hospitals)


def _missing(least: int, hospitals: int) -> str:
    if least == hospitals:
        return f"each round needs all {hospitals}, so one that is missing stops the study meanwhile"
    return "with fewer a round makes no model"


def outlook(study: Study, *, patients: int | None, hospitals: int) -> list[str]:
    """What to expect of a study, in a few lines for its author."""
    lines = [f"model    {study.model.name}, {study.trained_weights:,} trained parameters"]
    if study.privacy.kind == "none":
        return [
            *lines,
            "privacy  NONE: the masks hide each hospital's update, but nothing limits what the finished",
            "         model can reveal about one patient. Hospitals must allow this in their own policy.",
        ]
    lines.append(
        f"privacy  epsilon {study.privacy.epsilon:g} at delta {plain(study.privacy.delta)} per patient "
        f"for all {study.training.rounds} rounds; noise multiplier {study.privacy.noise_multiplier:g}"
    )
    if study.centred:
        lines.append(f"         {mean_words(study.training.rounds)}")
    if study.privacy.kind == "joint":
        least = study.cohort.min_hospitals
        lines += [
            f"         counts on the noise of {study.privacy.honest_hospitals} hospitals in every sum of "
            f"{least} or more; " + _missing(least, hospitals),
            *(
                f"         {line}"
                for line in joint_lines(
                    study_events(study)[Split.TRAIN], study.privacy.delta, least=least, hospitals=hospitals
                )
            ),
        ]
    if patients is None:
        return [
            *lines,
            "noise    unknown: say --patients (of a typical hospital) to learn what the noise will cost",
        ]
    ratio = noise_to_signal(study, patients=patients, hospitals=hospitals)
    if ratio is None:
        return lines
    return [*lines, f"noise    {ratio:.2f} of the signal: {budget_words(ratio)}"]
