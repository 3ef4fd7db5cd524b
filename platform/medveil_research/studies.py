"""A new study from proven settings: what is trained, where it starts, and noise that fits the schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from medveil.bounds import LARGEST_DELTA, SMALLEST, default_delta
from medveil.cohort import Cohort
from medveil.compression import Compression
from medveil.errors import BadFile, Error
from medveil.evaluation import Evaluation
from medveil.groups import Groups
from medveil.noise_policies import JointNoise, LocalNoise, NoPrivacy
from medveil.profiles import PROFILES
from medveil.strategies import strategy_of
from medveil.study import (
    Deadlines,
    ModelChoice,
    ProfileName,
    SecureAggregation,
    Slices,
    Study,
    Target,
    TaskName,
    Transforms,
)
from medveil.tasks import TASKS, has_scores
from medveil.values import Drawn, MaskGraph, PrivacyKind, Sha256, Weights
from medveil_imaging.fingerprints import with_profile
from medveil_imaging.models import ModelShape, Option, build, outputs_for
from medveil_imaging.personal import personal_tensors
from medveil_imaging.recipes import Recipe, Variant, recipe
from medveil_imaging.weight_files import WeightFile
from medveil_research.contract import prove_if_new
from medveil_research.joint import CURIOUS, least_in_sum
from medveil_research.masked_sums import course_of_recipe, masked_sum
from medveil_research.model_start import start_model
from medveil_research.outlook import HOPELESS, check_hope, mean_is_clear, noise_to_signal
from medveil_research.shared_figures import asked_sharers, usual_sharers
from medveil_research.strategy_choice import weights_for, with_strategy
from privacy.dp import accounting
from privacy.dp.grid import check_grid
from privacy.dp.matched import UnmatchedNoise, check_course

Policy = NoPrivacy | LocalNoise | JointNoise
DEFAULT_MODELS = {
    ("classification", "xray"): "wavelet_head",
    ("classification", "mri"): "small_cnn",
    ("segmentation", "mri"): "unet3d",
    ("segmentation", "xray"): "monai:UNet",
    ("findings", "xray"): "wavelet_head",
    ("findings", "mri"): "small_cnn",
    ("regression", "xray"): "wavelet_head",
    ("regression", "mri"): "small_cnn",
    ("regression", "brain"): "depth_head",
}
PRIVATE_MODELS = {("segmentation", "mri"): "position_head"}
"""Where noise asks for far fewer weights than the usual model has."""


class NoDefaultModel(Error):
    """No model is known for the combination of task and kind of image."""

    code = "no-default-model"

    def __init__(self, *, task: str, profile: str) -> None:
        super().__init__(
            what=f"MedVeil has no model for {task} of '{profile}' images.",
            meaning="No study was written.",
            remedy="Name one with --model: docs/researcher.md lists them, 'monai:UNet' outlines films.",
        )


def default_model(task: TaskName, profile: ProfileName, privacy: PrivacyKind) -> str:
    """The usual model for a task, kind of image and privacy.

    Raises:
        NoDefaultModel: there is none.
    """
    usual = DEFAULT_MODELS if privacy == "none" else DEFAULT_MODELS | PRIVATE_MODELS
    for kind in (profile, PROFILES[profile].recipes_of):
        found = usual.get((TASKS[task].recipes_of, kind))
        if found is not None:
            return found
    raise NoDefaultModel(task=task, profile=profile)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What a new study shall be; what is None follows from proven settings."""

    name: str
    task: TaskName
    profile: ProfileName
    hospitals: int
    """How many take part; the study admits at least ten."""
    model: str | None = None
    """A registered model; None: the usual one for the task."""
    privacy: PrivacyKind = "local"
    epsilon: float = 8.0
    """Price of the whole study, evaluation included, for each patient; ignored for privacy "none"."""
    noise: Drawn = "gaussian"
    """Drawn in floating point, or exact whole numbers."""
    delta: float | None = None
    """None: min(1e-5, 1 / (10 patients))."""
    rounds: int | None = None
    """Instead of the recipe's own number."""
    size: Sequence[int] | None = None
    """Edges of the tensor, in pixels or in voxels of the profile's usual spacing."""
    channels: Sequence[str] = ()
    """Sequences that make one volume, in order."""
    patches: int = 0
    """Patches of ``size`` that a step sees of each volume; 0: a volume is brought to ``size``."""
    slices: Slices | None = None
    """Which slices are images, of a profile that cuts volumes."""
    classes: Sequence[str] | None = None
    target: Target | None = None
    """Of a regression: the number that it learns."""
    lesions: bool = False
    """Whether connected parts of each outlined structure are counted, too."""
    groups: Mapping[str, Groups] = field(default_factory=dict)
    """Groups of test patients that have figures of their own."""
    smallest_group: int = SMALLEST
    """A group of fewer patients is not shown."""
    per_site: bool = False
    """Whether each hospital's own figures are shown."""
    patients_hint: int | None = None
    """Training patients of a typical hospital: sets how finely weights are encoded, and decides whether a
    private mean is worth its round."""
    seed: int | None = None
    """Decides the initial weights and nothing else; never noise. None: they are fresh, so that no other plan
    has them; two plans with one seed start from one model, and the second is refused."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    options: Mapping[str, Option] = field(default_factory=dict)
    """Of the model."""
    persons: Sha256 | None = None
    """Hash of the consortium's persons file: nobody is in two hospitals of the study. None: not asked."""
    mask_graph: MaskGraph = "complete"
    """"hidden" is needed by more than 128 hospitals; see docs/protocol.md."""
    weights: Weights | None = None
    """What a hospital counts in the mean: the patients it declares, as much as any other, or their square.
    None: as its strategy wants it, else declared."""
    strategy: str | None = None
    """A registered strategy; None: the recipe's."""
    strategy_options: Mapping[str, float] = field(default_factory=dict)
    """Of the strategy; of the recipe's own one they override what is named."""
    colluders: int | None = None
    """Members assumed to pool what they know with the aggregator; shared noise does without theirs. None: one
    where noise is shared, else none."""
    patient_use: float | None = None
    """Share of the squared clipping norm that patients are expected to need: the noise is made for it, and a
    filter stops whoever needs more (docs/decisions/0065-a-filter-for-each-patient.md). None: no filter."""
    matched: bool | None = None
    """Whether each round has noise of its own, matched to what it counts in the final model. None: as the
    recipe does, where that is known."""
    share_figures: bool | None = None
    """Of local noise: whether the hospitals share the noise of the figures. None: they do where three or more
    take part and the price against everybody stays within what hospitals allow by default."""
    start_weights: WeightFile | None = None
    """Trained elsewhere; the model starts from them. Of a frozen part hospitals get a file of its own.
    Where a study has published them, model, options, edges, channels, classes and target are that study's
    unless they are given."""
    partial_start: bool = False
    """Take what fits of the start weights, and let the rest of the model begin afresh."""
    compression: Compression | None = None
    """How updates are shortened; a study with it has no private mean."""
    personal: Sequence[str] = ()
    """Weights that stay in each hospital (:func:`medveil_imaging.personal.personal_tensors`); a study with
    some has no private mean."""
    anyway: bool = False
    """Make a study with more noise than signal; it carries a mark that hospitals see."""

    @property
    def chosen_model(self) -> str:
        """The model's name. Raises: NoDefaultModel."""
        privacy = (
            "none" if self.patch_count else self.privacy
        )  # a private model knows the place in a whole crop
        if self.model is None and self.before is not None:
            return self.before.model.name
        return self.model or default_model(self.task, self.profile, privacy)

    @property
    def before(self) -> Study | None:
        """The study that has published the start weights, if one has."""
        published = None if self.start_weights is None else self.start_weights.published
        return None if published is None else published.study

    @property
    def model_options(self) -> dict[str, Option]:
        """Of the model: those given, and the others as in the study before if that had the same model."""
        same = self.before is not None and self.before.model.name == self.chosen_model
        return {**(self.before.model.options if self.before is not None and same else {}), **self.options}

    @property
    def images(self) -> Transforms | None:
        """How the study before sees images of the same kind, if there was one."""
        before = self.before
        return before.transforms if before is not None and before.transforms.profile == self.profile else None

    @property
    def answers(self) -> Study | None:
        """The study before, if it has the same task."""
        return self.before if self.before is not None and self.before.task == self.task else None

    @property
    def patch_count(self) -> int:
        """Patches of each volume in a step."""
        return self.patches or (self.images.patches if self.images else 0)

    @property
    def variant(self) -> Variant:
        """In which the model is used, as its recipe sees it."""
        return "patches" if self.patch_count else "residual" if self.model_options.get("units") else ""

    @property
    def usual_delta(self) -> float:
        """The delta that is meant."""
        return default_delta(self.patients_hint or 1) if self.delta is None else self.delta

    @cached_property
    def figure_sharers(self) -> int | None:
        """Hospitals whose noise the figures of a local study count on; None: each hospital's own is enough.

        Raises: BadFile: the author insists, and too few take part.
        """
        curious = CURIOUS if self.colluders is None else self.colluders
        wanted = not self.per_site if self.share_figures is None else self.share_figures
        if self.privacy != "local" or not wanted:
            return None
        if self.share_figures:
            return asked_sharers(self.hospitals, curious)
        return usual_sharers(self.epsilon, self.usual_delta, hospitals=self.hospitals, colluders=curious)

    @property
    def curious(self) -> int:
        """How many members the study does without."""
        shared = self.privacy == "joint" or self.figure_sharers is not None
        return (CURIOUS if shared else 0) if self.colluders is None else self.colluders

    @property
    def least(self) -> int:
        """Fewest hospitals in a sum. Raises: BadFile: too few take part for joint noise."""
        if self.privacy == "joint":
            return least_in_sum(self.hospitals, self.curious)
        return max(3, self.curious + (self.figure_sharers or 2))

    @property
    def most(self) -> int:
        """Most hospitals in a sum."""
        return max(10, self.hospitals)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of their numbers."""
        usual = self.answers.classes if self.answers else TASKS[self.task].classes
        return tuple(self.classes or usual)

    @property
    def edges(self) -> tuple[int, ...]:
        """Of the tensor."""
        usual = self.images.size if self.images else PROFILES[self.profile].size
        return tuple(self.size or usual)


def new_study(options: StudyOptions) -> tuple[Study, bytes]:
    """A complete study and its initial model (safetensors).

    Guarantees: the whole schedule costs at most ``epsilon``; equal options with a seed give an equal study.
    Raises:
        NoDefaultModel, NoRecipe, UnknownName, BadModel: the combination does not exist.
        BadStrategy: options that the strategy does not take, or privacy that it cannot bear.
        BadFile: a value is out of range. EpsilonOutOfReach: no noise is enough.
        HopelessPlan: more noise than signal, and nobody insists. RingTooSmall: lanes too coarse for it.
        BadStartWeights: they do not fit. UnfitNetwork: a network that is not shipped failed its trial.
    """
    settings = _settings(options)
    try:
        policy, transforms = _policy(options, settings), _transforms(options)
        choice, initial = _start(options, transforms, settings, policy)
        study = Study(
            name=options.name,
            task=options.task,
            classes=options.labels,
            target=options.target or (options.answers.target if options.answers else None),
            model=choice,
            transforms=transforms,
            training=settings.training,
            privacy=policy,
            strategy=settings.strategy,
            compression=options.compression,
            secure_aggregation=_masked_sum(options, settings, policy),
            cohort=Cohort(min_hospitals=options.least, max_hospitals=options.most, persons=options.persons),
            evaluation=_evaluation(options),
            deadlines=options.deadlines,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BadFile(name="The study", problem=f"{place}: {first['msg']}") from error
    check_grid(study)
    strategy_of(study)
    prove_if_new(study)
    if options.patients_hint:
        ratio = noise_to_signal(study, patients=options.patients_hint, hospitals=options.hospitals)
        check_hope(ratio, anyway=options.anyway)
        if ratio is not None and ratio > HOPELESS:
            study = _marked(study)
    return study, initial


def _evaluation(options: StudyOptions) -> Evaluation:
    return Evaluation(
        every_round=options.privacy == "none",
        lesions=options.lesions,
        groups=dict(options.groups),
        smallest_group=options.smallest_group,
        per_site=options.per_site,
        blended=options.privacy != "none" and has_scores(TASKS[options.task]),
    )


def _transforms(options: StudyOptions) -> Transforms:
    return with_profile(
        Transforms(
            profile=options.profile,
            size=options.edges,
            spacing_mm=PROFILES[options.profile].spacing_mm,
            channels=tuple(options.channels or (options.images.channels if options.images else ())),
            slices=options.slices or (options.images.slices if options.images else None),
            patches=options.patch_count,
        )
    )


def _settings(options: StudyOptions) -> Recipe:
    found = recipe(
        model=options.chosen_model,
        task=options.task,
        profile=options.profile,
        privacy=options.privacy,
        hospitals=options.hospitals,
        rounds=options.rounds,
        variant=options.variant,
    )
    found = with_strategy(found, options.strategy, options.strategy_options)
    return found if options.privacy == "none" else found.for_epsilon(options.epsilon)


def _marked(study: Study) -> Study:
    """The study with the mark that its author insisted."""
    content = study.model_dump()
    content["privacy"]["despite_noise"] = True
    return Study.model_validate(content)


def _start(
    options: StudyOptions, transforms: Transforms, settings: Recipe, policy: Policy
) -> tuple[ModelChoice, bytes]:
    """The model and where it starts; with a private mean where the recipe has one and it is clear enough."""
    own = dict(options.model_options)
    if options.epsilon < settings.equalised_below and options.before is None:
        own.setdefault("equalised", True)
    choice, initial = _model(options, transforms, own)
    whole = options.before is None and options.compression is None and not options.personal
    if not settings.mean_rounds or "centred" in choice.options or not whole:
        return choice, initial
    if policy.kind != "none" and not mean_is_clear(
        width=choice.tensors.size,
        noise_multiplier=accounting.paid_multiplier(
            policy.own_multiplier,
            settings.training.rounds * (settings.training.local_steps or 1),
            policy.own_patient_mu,
        ),
        steps=(settings.training.local_steps or 1) * settings.mean_rounds,
        patients=options.patients_hint,
        hospitals=options.hospitals,
    ):
        return choice, initial
    more: dict[str, Option] = {"centred": True}
    if settings.mean_rounds > 1:
        more["mean_rounds"] = settings.mean_rounds
    return _model(options, transforms, {**choice.options, **more})


def _model(
    options: StudyOptions, transforms: Transforms, own: Mapping[str, Option]
) -> tuple[ModelChoice, bytes]:
    """Args: own: the model's own options."""
    shape = ModelShape(transforms.size, outputs_for(options.task, options.labels), transforms.channel_count)
    choice, initial = start_model(
        options.chosen_model,
        shape,
        own,
        seed=options.seed,
        weights=options.start_weights,
        partly=options.partial_start,
    )
    if not options.personal:
        return choice, initial
    network = build(choice.name, shape, choice.options)
    return choice.model_copy(update={"personal": personal_tensors(network, options.personal)}), initial


def _policy(options: StudyOptions, settings: Recipe) -> Policy:
    """Everybody in every step: no secret draw to protect, exact accounting, and the least noise."""
    if options.privacy == "none":
        return NoPrivacy()
    honest, epsilon = options.least - options.curious, options.epsilon
    delta = options.usual_delta
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
        "noise": options.noise,
        "matched": _is_matched(options, settings),
    }
    if options.patient_use is not None:
        if not 0 < options.patient_use <= 1:
            raise BadFile(name="The study", problem="privacy: the expected use must lie in (0, 1]")
        smaller, most = accounting.for_use(noise["noise_multiplier"], options.patient_use, epsilon, delta)
        noise |= {"noise_multiplier": smaller, "patient_mu": most}
    if options.privacy == "local":
        return LocalNoise(**noise, honest_hospitals=options.figure_sharers)
    return JointNoise(**noise, honest_hospitals=honest)


def _masked_sum(options: StudyOptions, settings: Recipe, policy: Policy) -> SecureAggregation:
    return masked_sum(
        settings,
        policy,
        patients=options.patients_hint,
        hospitals=options.most,
        mask_graph=options.mask_graph,
        weights=weights_for(settings.strategy, options.weights),
        colluders=options.curious,
    )


def _is_matched(options: StudyOptions, settings: Recipe) -> bool:
    """As the author says. Else as the recipe does, unless another strategy than its own forbids it.

    Raises: UnmatchedNoise: the author wants what cannot be.
    """
    if options.matched is False or not (options.matched or settings.matched):
        return False
    try:
        check_course(course_of_recipe(settings), compressed=options.compression is not None)
    except UnmatchedNoise:
        if options.matched:
            raise
        return False
    return True
