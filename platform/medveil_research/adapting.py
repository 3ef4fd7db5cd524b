"""A shared model trained on at one hospital, for that hospital alone.

What a meta-learned start (strategy ``reptile``) is for; any other model may be adapted too. No noise is
added: the adapted model may remember this hospital's patients, and must not leave it.
Source: Nichol, Achiam, Schulman, 2018, and Wang et al., "Federated evaluation of on-device personalization",
2019, for judging a model after local training.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hospital_node.training import TrainingRound, choose_device, train
from medveil.errors import BadOption
from medveil.noise_policies import NoPrivacy
from medveil.study import ModelChoice, Strategy, Study, Training
from medveil.tasks import TASKS
from medveil.tensors import Float32, flatten, model_hash, unflatten
from medveil_imaging.models import initial_vector, shape_of
from medveil_imaging.models.on_top import NAME as ON_TOP
from medveil_imaging.models.on_top import options_under
from medveil_imaging.recipes import recipe
from medveil_imaging.sources.site import SiteData

FREE = 1e12
"""In place of an update's largest coordinate: nothing is encoded here."""


def local_training(study: Study, *, steps: int) -> Training:
    """The study's own training where it has no noise, else the shipped one without noise, at a constant rate.

    Raises: NoRecipe: the study has noise, and nothing is shipped for its model without.
    """
    own = study.training
    if study.privacy.kind != "none":
        own = recipe(
            model=study.model.name,
            task=study.task,
            profile=study.transforms.profile,
            privacy="none",
            hospitals=1,
            variant="patches" if study.transforms.patches else "",
        ).training
    changes = {"rounds": study.mean_rounds + 1, "local_steps": steps, "local_epochs": None}
    return own.model_copy(update={**changes, "schedule": "constant"})


def adapted(study: Study, vector: Float32, site: SiteData, *, steps: int) -> Float32:
    """The model after so many steps on the site's training patients, float32 (d,).

    Raises: NoRecipe; ``training-diverged`` as in training.
    """
    return trained_here(study, vector, site, local_training(study, steps=steps))


def trained_here(study: Study, vector: Float32, site: SiteData, training: Training) -> Float32:
    """The model after one round of this training on the site's patients, without noise, float32 (d,).

    Raises: ``training-diverged`` as in training.
    """
    masked = study.secure_aggregation.model_copy(update={"update_clip": FREE})
    unnoised = study.model_copy(
        update={
            "privacy": NoPrivacy(),
            "strategy": Strategy(),
            "training": training,
            "secure_aggregation": masked,
            "compression": None,
        }
    )
    given = TrainingRound(
        unnoised,
        vector,
        site.train,
        number=study.mean_rounds + 1,
        declared_patients=len(site.train),
        noise=None,
        charge=None,
        device=choose_device(),
    )
    return np.asarray(vector + train(given).values, np.float32)


@dataclass(frozen=True)
class HouseModel:
    """A model of one hospital: the shared one, and a network of its own on top."""

    study: Study
    """The shared study with this model, as ``predict``, ``evaluate`` and ``export`` read it."""
    weights: Float32 = field(repr=False)
    """All of them, the shared model's too: float32 (d,)."""


def on_top_of(study: Study, vector: Float32, *, seed: int = 0) -> HouseModel:
    """The shared model under a fresh U-Net, which changes nothing of what it says before it is trained.

    Raises:
        BadOption: the study outlines nothing in volumes, trains by patches, or has a network on top already.
    """
    name, shape = study.model.name, shape_of(study)
    problem = ""
    if not TASKS[study.task].outlines or shape.dims != 3:
        problem = "--on-top is for models that outline structures in volumes"
    elif study.transforms.patches:
        problem = "--on-top is for models of whole volumes, not of patches"
    elif name == ON_TOP:
        problem = "--on-top: this model has a network on top already; --adapt alone trains it on"
    elif study.model.personal:
        problem = "--on-top is for a model whose weights were all published"
    if problem:
        raise BadOption(problem=problem)
    options = {"under": name, **options_under(study.model.options)}
    spec, start = initial_vector(ON_TOP, shape, options, seed=seed)
    shared = unflatten(vector, study.model.tensors)
    tensors = unflatten(start, spec) | {f"under.{part}": values for part, values in shared.items()}
    whole = flatten(tensors, spec)
    choice = ModelChoice(
        name=ON_TOP, options=options, tensors=spec, initial_model=model_hash(whole, spec).hex()
    )
    return HouseModel(study.model_copy(update={"model": choice}), whole)


def trained_on_top(house: HouseModel, site: SiteData, *, steps: int) -> Float32:
    """A house model after so many steps on the site's training patients: its weights, float32 (d,).

    The rate falls to zero. No noise is added: it may remember patients, and must not leave the hospital.

    Raises: as :func:`adapted`.
    """
    task, profile = house.study.task, house.study.transforms.profile
    usual = recipe(model=ON_TOP, task=task, profile=profile, privacy="none", hospitals=1).training
    changes = {"rounds": 1, "local_steps": steps, "local_epochs": None, "schedule": "linear"}
    return trained_here(house.study, house.weights, site, usual.model_copy(update=changes))
