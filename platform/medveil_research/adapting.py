"""A shared model trained on at one hospital, for that hospital alone.

What a meta-learned start (strategy ``reptile``) is for; any other model may be adapted too. No noise is
added: the adapted model may remember this hospital's patients, and must not leave it.
Source: Nichol, Achiam, Schulman, 2018, and Wang et al., "Federated evaluation of on-device personalization",
2019, for judging a model after local training.
"""

from __future__ import annotations

import numpy as np

from hospital_node.training import TrainingRound, choose_device, train
from medveil.noise_policies import NoPrivacy
from medveil.study import Strategy, Study, Training
from medveil.tensors import Float32
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
    masked = study.secure_aggregation.model_copy(update={"update_clip": FREE})
    plain = study.model_copy(
        update={
            "privacy": NoPrivacy(),
            "strategy": Strategy(),
            "training": local_training(study, steps=steps),
            "secure_aggregation": masked,
            "compression": None,
        }
    )
    given = TrainingRound(
        plain,
        vector,
        site.train,
        number=study.mean_rounds + 1,
        declared_patients=len(site.train),
        noise=None,
        charge=None,
        device=choose_device(),
    )
    return np.asarray(vector + train(given).values, np.float32)
