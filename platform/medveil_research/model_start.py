"""Where a study's model starts: fresh weights, or weights trained elsewhere, and what of them is frozen."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from medveil.shown import plain
from medveil.starts import FRESH, FRESH_OF_TRAINED, fresh, fresh_seed
from medveil.study import ModelChoice, Study
from medveil.tensors import Float32, ModelSpec, flatten, model_hash, to_safetensors
from medveil_imaging.frozen import BASE, encoder_path, keep_frozen
from medveil_imaging.models import (
    BadModel,
    ModelShape,
    Option,
    build_whole,
    freeze,
    initial_vector,
    shape_of,
    spec_of,
    vector_of,
)
from medveil_imaging.tuning import frozen_of
from medveil_imaging.weight_files import BadStartWeights, Fit, WeightFile, start_from


def start_model(
    name: str,
    shape: ModelShape,
    own: Mapping[str, Option],
    *,
    seed: int | None,
    weights: WeightFile | None = None,
    partly: bool = False,
) -> tuple[ModelChoice, bytes]:
    """The model of a new study and its initial weights (safetensors).

    Args:
        own: the model's options. seed: decides the initial weights; None: nobody else has them.
        weights: start from these; where some of the model is frozen, the frozen ones go into a file of their
            own in this machine's folder of encoders, and the study names it.
        partly: see :func:`medveil_imaging.weight_files.start_from`.

    Raises:
        UnknownName, BadModel, UnsafeModel, NoEncoder, BadEncoder: as :func:`medveil_imaging.models.build`.
        BadStartWeights: the weights do not fit.
    """
    drawn, options = fresh_seed() if seed is None else seed, dict(own)
    if weights is None:
        spec, start = initial_vector(name, shape, options, seed=drawn)
    elif weights.published is not None and seed is not None:
        # Its hospitals have sent sums from exactly this model, and send no second one (check_start).
        raise BadStartWeights(
            name=weights.name,
            problem="with a seed the study would start from the very model that an earlier one ended with",
            remedy="Leave --seed out.",
        )
    elif _is_same(name, options, weights) and not partly:  # what is frozen goes on being frozen
        spec, _ = initial_vector(name, shape, options, seed=drawn)
        start = _trained_part(spec, weights)
    else:
        model = _trained_elsewhere(name, shape, options, weights, seed=drawn, partly=partly)
        spec, start = spec_of(model), vector_of(model)
    if seed is None:
        start = fresh(spec, start, most=FRESH if weights is None else FRESH_OF_TRAINED)
    choice = ModelChoice(
        name=name,
        options=options,
        tensors=spec,
        initial_model=model_hash(start, spec).hex(),
        parent=weights.published.parent if weights and weights.published else None,
    )
    return choice, to_safetensors(start, spec)


def _trained_elsewhere(
    name: str,
    shape: ModelShape,
    options: dict[str, Option],
    weights: WeightFile,
    *,
    seed: int,
    partly: bool,
) -> nn.Module:
    """The network with these weights; what of them is frozen goes into a file that ``options`` then name."""
    model, tuning = build_whole(name, shape, options, seed=seed)
    if tuning.base:
        raise BadModel(name=name, problem=f"start weights are given, and option '{BASE}' names others")
    start_from(model, weights, partly=partly)
    freeze(name, shape, model, tuning, seed=seed)
    frozen = frozen_of(model)
    if frozen:
        options[BASE] = keep_frozen({key: value.detach().numpy() for key, value in frozen.items()})
    return model


def _is_same(name: str, options: Mapping[str, Option], weights: WeightFile) -> bool:
    """Whether a published model is of the same kind, its fixed and frozen parts included."""
    published = weights.published
    if published is None:
        return False
    return (name, dict(options)) == (published.study.model.name, published.study.model.options)


def _trained_part(spec: ModelSpec, weights: WeightFile) -> Float32:
    """Raises: BadStartWeights."""
    shapes = {name: tuple(value.shape) for name, value in weights.tensors.items()}
    off = [tensor.name for tensor in spec.root if shapes.get(tensor.name) != tensor.shape]
    off += [name for name in shapes if name not in {tensor.name for tensor in spec.root}]
    if off:
        raise BadStartWeights(
            name=weights.name,
            problem=f"'{plain(off[0], 80)}' has another shape in this study, or is in one of them only",
            remedy="Choose the size and classes that it belongs to, or take what fits with --partial-start.",
        )
    return flatten({name: value.numpy() for name, value in weights.tensors.items()}, spec)


def what_fits(study: Study, weights: WeightFile) -> Fit:
    """What of a file of weights a study's network has taken, and what not."""
    if _is_same(study.model.name, study.model.options, weights) and weights.tensors.keys() == {
        tensor.name for tensor in study.model.tensors.root
    }:
        return Fit(tuple(weights.tensors), (), ())
    own = {key: value for key, value in study.model.options.items() if key != BASE}
    model, _ = build_whole(study.model.name, shape_of(study), own, seed=0)
    return start_from(model, weights, partly=True)


def start_lines(study: Study, weights: WeightFile) -> list[str]:
    """The same for the study's author."""
    fit, parent = what_fits(study, weights), study.model.parent
    lines = []
    if parent is not None:
        lines.append(f"start    {parent.words}")
        if weights.published and weights.published.study.model.personal:
            lines.append("         without that study's personal weights: they begin where they began there")
    lines += [f"start    {weights.name}: {len(fit.taken)} tensors taken{_listed(', not used: ', fit.left)}"]
    if fit.fresh:
        lines.append(f"         begin afresh: {_listed('', fit.fresh)}")
    if weights.unread:
        lines.append(f"         not opened: {_listed('', weights.unread)}")
    return lines


def _listed(before: str, names: tuple[str, ...], most: int = 4) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return before + ", ".join(plain(name, 60) for name in names[:most]) + more


def hand_on_frozen(study: Study, folder: Path) -> list[str]:
    """Put the file of frozen weights, if the study has one, beside it; what its author must do with it."""
    digest = str(study.model.options.get(BASE, ""))
    if not digest:
        return []
    path = encoder_path(digest)
    shutil.copyfile(path, folder / path.name)
    return [
        f"frozen   {folder / path.name}, {path.stat().st_size / 1e6:.1f} MB: not trained. Give it to every",
        "         hospital with the study; it belongs into the node's folder of encoders under this name.",
    ]
