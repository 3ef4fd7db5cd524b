"""Networks that are safe for per-patient gradients, by name: one file each, found through :data:`MODELS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from medveil.errors import Error
from medveil.registry import Registry
from medveil.shown import plain
from medveil.study import CENTRE, Study
from medveil.tasks import TASKS
from medveil.tensors import Float32, ModelSpec, TensorSpec, flatten, unflatten
from medveil_imaging.frozen import BASE, is_digest, load_frozen
from medveil_imaging.tuning import DEFAULTS, Tuning, frozen_of, tune, tuning_of

Option = int | float | str | bool
Options = Mapping[str, Option]


@dataclass(frozen=True)
class ModelShape:
    """What goes in (``channels`` of ``size`` pixels or voxels) and how many logits come out."""

    size: tuple[int, ...]
    outputs: int
    channels: int = 1

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return len(self.size)


Builder = Callable[[ModelShape, Options], nn.Module]
MODELS: Registry[Builder] = Registry("model", __name__)


class BadModel(Error):
    """A study asks a model for something it cannot be."""

    code = "bad-model"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The model '{name}' cannot be built: {problem}.",
            meaning="No training was started and nothing left the hospital.",
            remedy="Correct 'model' or 'transforms' in the study file.",
        )


class UnsafeModel(Error):
    """A network would let one patient's gradient depend on another patient, or would remember data."""

    code = "unsafe-model"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The network was refused: {problem}.",
            meaning="Its per-patient gradients could not be bounded, so no privacy promise would hold.",
            remedy="Use group or instance norm without running statistics, and no trained buffers.",
        )


class ModelMismatch(Error):
    """The tensors a study lists are not those its model trains."""

    code = "model-mismatch"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The study lists other tensors than the model '{name}' trains.",
            meaning="Hospitals would add up vectors that do not mean the same weights.",
            remedy="Create the study again with this version of MedVeil, and let the hospitals approve it.",
        )


def outputs_for(task: str, classes: Sequence[str]) -> int:
    """Logits a model gives for a task with these classes. Raises: UnknownName."""
    return TASKS[task].outputs(classes)


def shape_of(study: Study) -> ModelShape:
    """Input size and number of logits that a study asks for."""
    outputs = outputs_for(study.task, study.classes)
    return ModelShape(study.transforms.size, outputs, study.transforms.channel_count)


def build(name: str, shape: ModelShape, options: Options, *, seed: int = 0) -> nn.Module:
    """A network in training mode with initial weights that depend on the seed alone.

    Options that every model takes decide which of them are trained (:mod:`medveil_imaging.tuning`).

    Guarantees: torch's global generators are left as they were; no layer mixes the images of a batch.
    Raises:
        UnknownName: no such model. BadModel: size or options do not suit it. UnsafeModel: see there.
        NoEncoder, BadEncoder: the file with the frozen weights is not here, or is another's.
    """
    model, tuning = build_whole(name, shape, options, seed=seed)
    freeze(name, shape, model, tuning, seed=seed)
    frozen = frozen_of(model)
    if frozen and not is_digest(tuning.base):
        problem = f"option '{BASE}' must be the SHA-256 of the file with what is frozen (--from sets it)"
        raise BadModel(name=name, problem=problem)
    if tuning.base and not frozen:
        raise BadModel(name=name, problem=f"option '{BASE}' is for weights that are not trained")
    if frozen:
        load_frozen(frozen, tuning.base, of=name)
    return model


def build_whole(name: str, shape: ModelShape, options: Options, *, seed: int) -> tuple[nn.Module, Tuning]:
    """The network with all of its weights to be trained, and what its options say of that."""
    builder = MODELS[name]
    shared = read_options(name, {k: v for k, v in options.items() if k in DEFAULTS}, DEFAULTS)
    own = {key: value for key, value in options.items() if key not in DEFAULTS}
    try:
        tuning = tuning_of(shared)
    except ValueError as error:
        raise BadModel(name=name, problem=str(error)) from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make_safe(builder(shape, own)), tuning


def freeze(name: str, shape: ModelShape, model: nn.Module, tuning: Tuning, *, seed: int) -> None:
    """Freeze what is not trained, and add adapters that depend on the seed alone. Raises: BadModel."""
    if tuning:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                tune(model, tuning, shape.outputs)
            except ValueError as error:
                raise BadModel(name=name, problem=plain(str(error), 300)) from error


def build_model(study: Study) -> nn.Module:
    """The network of a study; its trained parameters are exactly ``study.model.tensors``, in that order.

    The weights are those of seed 0; load the round's vector with :func:`load_vector`.

    Raises:
        ModelMismatch: the lists differ. UnknownName, BadModel, UnsafeModel: as in :func:`build`.
    """
    model = build(study.model.name, shape_of(study), study.model.options)
    if spec_of(model) != study.model.tensors:
        raise ModelMismatch(name=study.model.name)
    if study.transforms.patches and getattr(model, "frozen_features", False):
        raise BadModel(name=study.model.name, problem="its features are of whole images, not of patches")
    return model


def spec_of(model: nn.Module) -> ModelSpec:
    """Names and shapes of the trained parameters and of a released mean, in the network's own order."""
    return ModelSpec(
        tuple(
            TensorSpec(name=name, shape=tuple(parameter.shape))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad or name == CENTRE
        )
    )


def vector_of(model: nn.Module) -> Float32:
    """The trained parameters as one float32 vector of shape (d,), in the order of :func:`spec_of`."""
    tensors = {name: parameter.detach().cpu().numpy() for name, parameter in model.named_parameters()}
    return flatten(tensors, spec_of(model))


def load_vector(model: nn.Module, vector: Float32) -> None:
    """Set the trained parameters from a vector of shape (d,); the inverse of :func:`vector_of`."""
    # torch warns of arrays that it must not change, though it only reads here.
    values = vector if vector.flags.writeable else vector.copy()
    tensors = unflatten(values, spec_of(model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors:
                parameter.copy_(torch.from_numpy(tensors[name]))


def initial_vector(name: str, shape: ModelShape, options: Options, *, seed: int) -> tuple[ModelSpec, Float32]:
    """Where training starts: the model's spec and a vector (d,) that depends on the seed alone.

    Raises:
        UnknownName, BadModel, UnsafeModel: as in :func:`build`.
    """
    model = build(name, shape, options, seed=seed)
    return spec_of(model), vector_of(model)


def make_safe(model: nn.Module) -> nn.Module:
    """Make a network fit for per-patient gradients, or refuse it.

    Every in-place activation is switched to its ordinary form (in-place changes break gradient hooks).

    Raises:
        UnsafeModel: batch statistics, running statistics or any other stored buffer.
    """
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise UnsafeModel(problem="batch norm mixes the patients of a batch")
        if getattr(layer, "track_running_stats", False):
            raise UnsafeModel(problem="a norm layer keeps running statistics of the data")
        if getattr(layer, "inplace", False):
            setattr(layer, "inplace", False)  # noqa: B010 (a plain attribute, which nn.Module's type hides)
    weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if set(model.state_dict()) - set(weights):
        raise UnsafeModel(problem="it stores buffers beside its weights")
    if len(weights) != len(list(model.parameters())):
        raise UnsafeModel(problem="it has one weight under two names")
    return model.train()


def read_options(name: str, options: Options, defaults: Mapping[str, Option]) -> dict[str, Option]:
    """The options with defaults filled in; each keeps the type of its default.

    Raises:
        BadModel: an unknown option or one of another type.
    """
    for key, value in options.items():
        if key not in defaults:
            known = ", ".join(sorted(defaults)) or "none"
            raise BadModel(name=name, problem=f"it has no option '{key}' (options: {known})")
        whole = type(value) is int and type(defaults[key]) is float  # people write 1 for 1.0
        if type(value) is not type(defaults[key]) and not whole:
            raise BadModel(name=name, problem=f"option '{key}' must be {type(defaults[key]).__name__}")
    return {**defaults, **options}


def whole_number(name: str, options: Mapping[str, Option], key: str, *, low: int, high: int) -> int:
    """An integer option within bounds.

    Raises:
        BadModel: outside of them.
    """
    value = int(options[key])
    if not low <= value <= high:
        raise BadModel(name=name, problem=f"option '{key}' must lie between {low} and {high}")
    return value
