"""A study: what is learned, how, under which privacy policy. Frozen, hashed, under version control."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from medveil.augmentations import MIRROR, filled
from medveil.bounds import (
    CLASS_NAME,
    LARGEST,
    LARGEST_DELTA,
    MOST_COUNTS,
    MOST_EPOCHS,
    MOST_HOSPITALS,
    MOST_IMAGES,
    MOST_PARAMETERS,
    MOST_STEPS,
    MOST_TENSORS,
    MOST_VOXELS,
    STORED,
    options_beyond,
)
from medveil.cohort import Cohort
from medveil.compression import Compression, PublicMap, map_of
from medveil.errors import BadFile
from medveil.evaluation import Evaluation, parts_problem, sums_problem
from medveil.handed import problem_of, read_toml
from medveil.ids import canonical, digest
from medveil.noise_policies import JointNoise, Privacy
from medveil.parent import Parent
from medveil.personal import Shared
from medveil.personal import check as check_personal
from medveil.profiles import PROFILES
from medveil.registry import Registry
from medveil.shown import is_plain, plain
from medveil.tasks import TASKS, column_problem, has_scores
from medveil.tensors import ModelSpec
from medveil.values import Frozen, MaskGraph, Name, PositiveFloat, Sha256, Weights

Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]
LEAST_DECLARED = 10
"""Fewest patients that a hospital declares, however few it has."""
HEAD_MM = 200.0
"""Height of a usual MR volume of a head; for an estimate of how many slices it has."""
CENTRE = "head.centre"
"""Tensor of a centred model that holds the released mean; it travels with the weights and is not trained."""


def _one_of(registry: Registry[Any]) -> AfterValidator:
    """A name that a module of this version has registered."""

    def known(name: str) -> str:
        if name not in registry:
            raise ValueError(f"there is no '{plain(name, 48)}' here, it must be one of {', '.join(registry)}")
        return name

    return AfterValidator(known)


TaskName = Annotated[str, _one_of(TASKS)]
ProfileName = Annotated[str, _one_of(PROFILES)]


class ModelChoice(Frozen):
    """A registered model, its options, the exact tensors that are trained, and where training starts."""

    name: Annotated[str, Field(pattern=r"^([a-z0-9_]{1,48}|monai:[A-Za-z0-9_]{1,42})$")]
    options: dict[str, int | float | str | bool] = Field(default_factory=dict)
    tensors: ModelSpec
    initial_model: Sha256
    parent: Parent | None = Field(default=None, exclude_if=lambda given: given is None)
    """The published model that the initial one was made of."""
    personal: Annotated[
        tuple[str, ...], Field(max_length=MOST_TENSORS, exclude_if=lambda given: not given)
    ] = ()
    """Tensors whose weights stay in each hospital (:mod:`medveil.personal`)."""


class Slices(Frozen):
    """Which axial slices of a resampled volume are images; bounds as shares of its extent, feet to head."""

    every: Annotated[int, Field(ge=1, le=1024)] = 1
    """Each how many-th slice."""
    low: Annotated[float, Field(ge=0, lt=1)] = 0.0
    high: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError("'low' must lie below 'high'")
        return self


class Target(Frozen):
    """The number that a regression learns: a column of the manifest, and between what it lies.

    The range is public, the same for all hospitals, and bounds what one patient adds to a sum. A line whose
    number lies outside of it is not used.
    """

    column: Annotated[str, Field(min_length=1, max_length=CLASS_NAME)]
    unit: Annotated[str, Field(max_length=20)] = ""
    """As people write it: "years"."""
    low: Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
    high: Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError("'low' must lie below 'high'")
        if column_problem([self.column]) or not is_plain(self.column + self.unit):
            raise ValueError("'column' must be the name of the column that holds the number")
        return self


class Transforms(Frozen):
    """How an image becomes a tensor; :mod:`medveil.profiles` has what differs between kinds of image."""

    profile: ProfileName
    size: Annotated[tuple[int, ...], Field(min_length=2, max_length=3)]
    """Height and width in pixels, or the three edges in voxels after resampling, RAS order."""
    spacing_mm: tuple[PositiveFloat, ...] = ()
    """Voxel edges after resampling, in mm; of volumes only."""
    channels: Annotated[tuple[Name, ...], Field(max_length=16, exclude_if=lambda given: not given)] = ()
    """Names of the sequences that make one image, in order; without names it has its profile's channels.
    All lie on the grid of the first, which a label map is drawn on."""
    patches: Annotated[int, Field(ge=0, exclude_if=lambda given: given == 0)] = 0
    """Patches of ``size`` that a step sees of each volume, which keeps its own extent; 0: every image is
    brought to ``size`` and seen whole."""
    slices: Annotated[Slices | None, Field(exclude_if=lambda given: given is None)] = None
    """Of a profile that cuts volumes into slices; without it each slice is an image."""
    profile_hash: Annotated[Sha256 | None, Field(exclude_if=lambda given: given is None)] = None
    """Of the profile's code (:func:`medveil.profile_source.profile_hash`); a node with other code refuses."""
    fingerprint: Annotated[
        tuple[FiniteFloat, ...], Field(max_length=1024, exclude_if=lambda given: not given)
    ] = ()
    """What all of this makes of a phantom (``medveil_imaging.fingerprints``); a node that gets another one
    refuses."""

    @property
    def images_per_line(self) -> int:
        """Images that a line of a manifest gives; of volumes that are cut into slices about as many."""
        if not PROFILES[self.profile].sliced:
            return 1
        bounds = self.slices or Slices()
        return math.ceil((bounds.high - bounds.low) * HEAD_MM / self.spacing_mm[2] / bounds.every)

    @property
    def channel_count(self) -> int:
        """Channels of every image tensor."""
        return len(self.channels) or PROFILES[self.profile].channels

    @model_validator(mode="after")
    def _fits_profile(self) -> Self:
        profile = PROFILES[self.profile]
        dims, spacings = profile.dims, 3 if profile.reads_volumes else 0
        if len(self.size) != dims or len(self.spacing_mm) != spacings:
            raise ValueError(f"profile '{self.profile}' wants {dims} sizes and {spacings} spacings")
        if not all(8 <= edge <= 1024 for edge in self.size):
            raise ValueError("every edge of 'size' must lie between 8 and 1024")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("two channels have the same name")
        if self.channels and not profile.reads_volumes:
            raise ValueError(f"profile '{self.profile}' has films; channels are of volumes")
        if self.slices and not profile.sliced:
            raise ValueError(f"profile '{self.profile}' cuts nothing into slices")
        if self.patches and dims != 3:
            raise ValueError("only volumes are trained by patches")
        return self


class Training(Frozen):
    """One hospital's work in one round, and how many rounds there are."""

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    local_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps per round; the only unit of work under differential privacy."""
    local_epochs: Annotated[int, Field(ge=1)] | None = None
    """Passes over the training images per round; without privacy only."""
    batch_images: Annotated[int, Field(ge=1)] = 32
    """Images per step without privacy. Under privacy the draw over patients decides."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1, exclude_if=lambda given: given == 0)] = 0.0
    """Share of the rate by which a step of ``adamw`` draws the weights towards zero."""
    gradient_norm: Annotated[PositiveFloat | None, Field(exclude_if=lambda given: given is None)] = None
    """Without privacy only: a longer gradient of a step is shortened to this."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """``linear``: the rate falls in equal steps from ``learning_rate`` to nearly 0 over all rounds;
    ``cosine``: as half a cosine does."""
    augment: bool = False
    """Random shifts of up to 1/16 of the edge (and nothing that changes the finding)."""
    augmentations: Annotated[
        dict[str, dict[str, float]], AfterValidator(filled), Field(exclude_if=lambda given: not given)
    ] = Field(default_factory=dict)
    """Random changes of every image before a step (:mod:`medveil.augmentations`), after a shift."""

    @model_validator(mode="after")
    def _one_unit_of_work(self) -> Self:
        if (self.local_steps is None) == (self.local_epochs is None):
            raise ValueError("give either local_steps or local_epochs")
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError("weight_decay is for the optimizer 'adamw'")
        return self

    def rate_at(self, gone: float) -> float:
        """The learning rate when this share of all rounds is over, from 0 to 1."""
        if self.schedule == "linear":
            return self.learning_rate * (1 - gone)
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * gone)) / 2
        return self.learning_rate

    def rate_in(self, number: int, done: float = 0.0) -> float:
        """The learning rate in a round, counted from 1, of which the share ``done`` is over, in [0, 1)."""
        return self.rate_at(min(1.0, (number - 1 + done) / self.rounds))

    @property
    def varies(self) -> bool:
        """Whether a step changes images at random, so that it never sees the same tensor twice."""
        return self.augment or bool(self.augmentations)


class SecureAggregation(Frozen):
    """The ring, the lanes and whom a mask must resist."""

    lane_bits: Literal[16, 21, 32] = 21
    """Bits per coordinate in a 64-bit word: 4, 3 or 2 lanes, that is 2.0, 2.67 or 4.0 bytes per parameter."""
    update_clip: PositiveFloat
    """Largest magnitude of one coordinate of an update, in model units; beyond it the node saturates."""
    max_weight: Annotated[int, Field(ge=1, le=2**31)]
    """Most patients one hospital may count for."""
    weights: Weights = "declared"
    """What a hospital counts in the mean: the patients that it declares, or as much as any other, or their
    square, which suits local noise best. Each sum shows the total; two totals show the difference."""
    colluders: Annotated[int, Field(ge=0)] = 0
    """Hospitals assumed to pool what they know with the aggregator."""
    mask_graph: MaskGraph = "complete"
    """Who shares a mask with whom: all pairs; or, of more than 128 hospitals, pairs nobody else knows."""

    @property
    def least_weight(self) -> int:
        """The smallest weight with which a hospital may enter a sum."""
        return self.weight_of(min(LEAST_DECLARED, self.max_weight))

    @property
    def largest_weight(self) -> int:
        """The largest weight with which a hospital may enter a sum."""
        return self.weight_of(self.max_weight)

    def weight_of(self, declared: int) -> int:
        """What a hospital that declares so many patients counts in the mean."""
        if self.weights == "equal":
            return 1
        return declared**2 if self.weights == "squared" else declared

    @model_serializer(mode="wrap")
    def _as_ever(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``weights`` where it says what studies meant before it was there: their hashes hold."""
        return {k: v for k, v in values(self).items() if (k, v) != ("weights", "declared")}


class Strategy(Frozen):
    """How the mean update becomes the next global model; every hospital computes it again."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,48}$")] = "fedavg"
    options: dict[str, float] = Field(default_factory=dict)
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the past in the running average of the models; the last round publishes that average."""


class Deadlines(Frozen):
    """Longest time per phase, in seconds; a phase ends early when every hospital in reach has answered."""

    advertise_s: Seconds = 120.0
    share_s: Seconds = 120.0
    train_s: Seconds = 6 * 3600.0
    upload_s: Seconds = 1800.0
    agree_s: Seconds = 120.0
    unmask_s: Seconds = 120.0
    silence_s: Seconds = 60.0
    """A hospital not heard from for this long is not waited for."""


class Study(Frozen):
    """Everything a hospital approves, except who the others are (that is the :class:`medveil.plan.Plan`)."""

    name: Name
    description: Annotated[str, Field(max_length=2000)] = ""
    task: TaskName
    classes: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """Meaning of the labels 0, 1, 2 …; in a label map 0 is the background. A regression has none."""
    target: Target | None = Field(default=None, exclude_if=lambda given: given is None)
    """Of a regression only."""
    model: ModelChoice
    transforms: Transforms
    training: Training
    privacy: Privacy
    strategy: Strategy = Strategy()
    secure_aggregation: SecureAggregation
    cohort: Cohort = Cohort()
    evaluation: Evaluation = Evaluation()
    deadlines: Deadlines = Deadlines()
    compression: Compression | None = Field(default=None, exclude_if=lambda given: given is None)
    """How updates are shortened; without it each number of an update is sent in each round."""
    attempts: Annotated[int, Field(ge=1, le=5)] = 2
    """Tries at one round's secure sum before the study goes on with the next round."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        cohort = self.cohort
        if cohort.min_hospitals < self.secure_aggregation.colluders + 2:
            raise ValueError("cohort.min_hospitals must exceed secure_aggregation.colluders by two or more")
        if cohort.max_hospitals < cohort.min_hospitals:
            raise ValueError("cohort.max_hospitals lies below cohort.min_hospitals")
        if cohort.max_hospitals > 128 and self.secure_aggregation.mask_graph == "complete":
            raise ValueError("more than 128 hospitals need secure_aggregation.mask_graph = 'hidden'")
        if self.privacy.kind != "none" and self.training.local_steps is None:
            raise ValueError("under differential privacy the unit of work is local_steps")
        if cohort.persons is not None and self.privacy.kind == "none":
            raise ValueError("cohort.persons is for studies with noise: it keeps one budget a person")
        if isinstance(self.privacy, JointNoise):
            self._joint_noise_adds_up()
        shared = self.privacy.counts_on_others
        honest = 0 if self.privacy.kind == "none" else self.privacy.evaluation_sharers
        if cohort.min_hospitals < honest + self.secure_aggregation.colluders:
            raise ValueError("cohort.min_hospitals lies below privacy.honest_hospitals plus the colluders")
        if self.centred and self.privacy.kind != "none" and self.privacy.sample_rate < 1:
            raise ValueError("a centred model wants every patient in each step (sample_rate = 1)")
        if self.centred and not 1 <= self.mean_rounds < self.training.rounds:
            raise ValueError("a centred model wants rounds for the mean and at least one to train")
        if self.secure_aggregation.weights == "squared" and self.privacy.kind == "none":
            raise ValueError("weights 'squared' are for local noise; without it they only favour the large")
        if self.transforms.patches and (not TASKS[self.task].outlines or self.centred):
            raise ValueError("patches are for tasks that outline, and not for a centred model")
        if self.training.gradient_norm is not None and self.privacy.kind != "none":
            raise ValueError("gradient_norm is for studies without noise; with noise there is clip_norm")
        if MIRROR in self.training.augmentations and not PROFILES[self.transforms.profile].mirrors:
            raise ValueError(f"left and right differ in images of profile '{self.transforms.profile}'")
        spec, joint = self.model.tensors, isinstance(self.privacy, JointNoise)
        given = {"joint": joint, "centred": self.centred}
        if self.compression is not None:
            self.compression.check(spec, rounds=self.training.rounds, **given)
        if self.model.personal:
            check_personal(spec, self.model.personal, **given, compressed=self.compression is not None)
        asked, task, noised = self.evaluation, TASKS[self.task], self.privacy.kind != "none"
        problem = task.problem(self) or parts_problem(asked, self.classes, shared=shared)
        problem = problem or sums_problem(asked, outlines=task.outlines, blends=noised and has_scores(task))
        if problem is not None:
            raise ValueError(problem)
        profile = PROFILES[self.transforms.profile]
        if TASKS[self.task].outlines and profile.compose is not None and profile.outline is None:
            raise ValueError(f"profile '{self.transforms.profile}' has no way for label maps")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        return self

    def _joint_noise_adds_up(self) -> None:
        training = self.training
        if training.local_steps != 1 or training.optimizer != "sgd" or training.momentum != 0:
            raise ValueError("joint noise wants one plain SGD step a round (momentum: at the aggregator)")
        if self.secure_aggregation.weights != "declared":
            # Each divides by its own number of patients: a large hospital's noise would hide little of a
            # small one's update. Weighted with that number, all noises are equal in the sum.
            raise ValueError("joint noise adds up only where weights are 'declared'")

    @model_validator(mode="after")
    def _within_bounds(self, info: ValidationInfo) -> Self:
        problem = None if info.context == STORED else too_much(self)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def hash(self) -> bytes:
        """SHA-256 over the canonical form; what two people compare to know they mean the same study."""
        return digest("study", canonical(self.model_dump(mode="json")))

    @property
    def centred(self) -> bool:
        """Whether the first rounds, instead of training, release the mean of the model's fixed features."""
        return self.model.options.get("centred") is True

    @property
    def mean_rounds(self) -> int:
        """Rounds that release the mean: the centre is the average of what they release."""
        rounds = self.model.options.get("mean_rounds", 1)
        return rounds if self.centred and type(rounds) is int else 0

    @property
    def trained_weights(self) -> int:
        """Weights that training steps change: all that travels but the released mean."""
        return sum(t.size for t in self.model.tensors.root if t.name != CENTRE)

    def public_map(self, number: int) -> PublicMap | None:
        """What shortens the updates of round ``number``; None where they are sent whole."""
        seed, chosen = bytes.fromhex(self.model.initial_model), self.compression
        if chosen is not None:
            return map_of(chosen, self.model.tensors, seed=seed, number=number)
        return self.shared

    @property
    def shared(self) -> Shared | None:
        """The weights that are not personal; None where all are shared."""
        return Shared(self.model.tensors, self.model.personal) if self.model.personal else None

    @property
    def uploaded(self) -> int:
        """Numbers that a hospital sends of an update in a training round."""
        shortened = self.public_map(1)
        return self.model.tensors.size if shortened is None else shortened.length

    @property
    def train_steps(self) -> int | None:
        """Optimiser steps that the whole study pays for, where the unit of work is a step."""
        steps = self.training.local_steps
        return None if steps is None else steps * self.training.rounds


def read_study(path: Path) -> Study:
    """Read a study file (TOML).

    Raises:
        BadFile: unreadable, too long, not TOML, or a field is missing, unknown or out of range.
    """
    try:
        return Study.model_validate(read_toml(path))
    except ValidationError as error:
        raise BadFile(name=plain(path.name), problem=problem_of(error)) from error


def too_much(study: Study) -> str | None:
    """The first place where a study goes beyond the bounds, and how; None if nowhere."""
    return next(_beyond(study), None)


def _beyond(study: Study) -> Iterator[str]:
    yield from _numbers(study)
    for name in study.classes:
        if not name.strip() or len(name) > CLASS_NAME or not is_plain(name):
            shown = plain(name, CLASS_NAME)
            yield f"classes: a name has 1 to {CLASS_NAME} printable characters, not '{shown}'"
    if not is_plain(study.description, lines=True):
        yield "description: it holds characters that cannot be shown (control or formatting characters)"
    for tensor in study.model.tensors.root:
        if not is_plain(tensor.name):
            yield "model.tensors: a name holds characters that cannot be shown"
    for place, options in (("model", study.model.options), ("strategy", study.strategy.options)):
        yield from options_beyond(f"{place}.options", dict(options))


def _numbers(study: Study) -> Iterator[str]:
    training, rounds, image = study.training, study.training.rounds, math.prod(study.transforms.size)
    shapes = [tensor.shape for tensor in study.model.tensors.root]
    per_patient = 1 if study.privacy.kind == "none" else study.privacy.images_per_patient
    at_once = training.batch_images if study.privacy.kind == "none" else per_patient
    for place, value, most in (
        ("training.local_steps times rounds", (training.local_steps or 0) * rounds, MOST_STEPS),
        ("training.local_epochs times rounds", (training.local_epochs or 0) * rounds, MOST_EPOCHS),
        ("training.batch_images", training.batch_images, MOST_IMAGES),
        ("privacy.images_per_patient", per_patient, MOST_IMAGES),
        ("transforms.size, in pixels or voxels,", image, MOST_VOXELS),
        ("transforms.patches times the images of a step", at_once * study.transforms.patches, MOST_IMAGES),
        ("model.tensors, in tensors,", len(shapes), MOST_TENSORS),
        ("model.tensors, in dimensions,", max(len(shape) for shape in shapes), 8),
        ("evaluation, groups and hospitals times the counts of each,", _counts_of_parts(study), MOST_COUNTS),
        ("cohort.min_hospitals", study.cohort.min_hospitals, MOST_HOSPITALS),
        ("secure_aggregation.max_weight, squared,", study.secure_aggregation.largest_weight, 2**31),
        ("secure_aggregation.colluders", study.secure_aggregation.colluders, MOST_HOSPITALS),
    ):
        if value > most:
            yield f"{place} must not exceed {most:,}"
    if study.privacy.kind != "none" and study.privacy.delta > LARGEST_DELTA:
        yield f"privacy.delta must not exceed {LARGEST_DELTA:g}"
    if any(edge > MOST_PARAMETERS for shape in shapes for edge in shape) or (
        study.model.tensors.size > MOST_PARAMETERS
    ):
        yield f"model.tensors must not exceed {MOST_PARAMETERS:,} parameters"


def _counts_of_parts(study: Study) -> int:
    parts = study.evaluation.parts_besides(study.cohort.max_hospitals)
    return parts * sum(TASKS[study.task].layout(study).values()) if parts else 0
