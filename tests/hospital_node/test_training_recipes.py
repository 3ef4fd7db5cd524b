"""Recipes: every shipped model has one, and it makes a study that trains."""

from __future__ import annotations

from typing import Any

import pytest

from medveil.noise_policies import LocalNoise
from medveil.study import SecureAggregation, Training
from medveil_imaging.models import MODELS
from medveil_imaging.recipes import NoRecipe, is_measured, recipe
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.accounting import Event, calibrate, epsilon

FILMS = ("wavelet_head", "small_cnn", "lenet", "densenet121", "frozen_encoder")


def shipped(name: str, privacy: Any, **options: Any) -> Any:
    film = name in FILMS
    task, profile = ("classification", "xray") if film else ("segmentation", "mri")
    task, profile = ("regression", "brain") if name == "depth_head" else (task, profile)
    return recipe(model=name, task=task, profile=profile, privacy=privacy, **({"hospitals": 5} | options))


@pytest.mark.parametrize("privacy", ["none", "local"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_shipped_model_has_a_recipe_that_a_study_accepts(name: str, privacy: Any) -> None:
    found = shipped(name, privacy)
    SecureAggregation(lane_bits=found.lane_bits, update_clip=found.update_clip, max_weight=1000)
    if privacy == "local":
        assert found.training.local_steps is not None
        steps = found.training.local_steps * found.training.rounds
        noise = calibrate(8.0, 1e-5, sample_rate=1.0, steps=steps)
        LocalNoise(
            clip_norm=found.clip_norm,
            clipping=found.clipping,
            images_per_patient=found.images_per_patient,
            noise_multiplier=noise,
            evaluation_multiplier=2.0,
            epsilon=8.0,
        )
        assert epsilon([Event(noise, 1.0, steps)], 1e-5) <= 8.0


@pytest.mark.parametrize("name", sorted(MODELS))
def test_one_lane_step_is_far_finer_than_the_clip_and_wide_cohorts_get_wide_lanes(name: str) -> None:
    found, wide = shipped(name, "none", hospitals=10), shipped(name, "none", hospitals=128)
    assert (2**found.lane_bits - 1) // (2 * 10) > 100_000
    assert (2**wide.lane_bits - 1) // (2 * 128) > 100_000


def test_rounds_can_be_given_and_nothing_else_changes() -> None:
    usual, short = shipped("small_cnn", "none"), shipped("small_cnn", "none", rounds=2)
    assert short.training == usual.training.model_copy(update={"rounds": 2})
    assert isinstance(short.training, Training)


def test_a_linear_head_walks_slower_where_little_signal_is_left() -> None:
    found = shipped("wavelet_head", "local")
    assert found.for_epsilon(8.0) == found.for_epsilon(6.0) == found
    assert found.for_epsilon(3.0).training.learning_rate == pytest.approx(found.training.learning_rate / 2)
    assert found.for_epsilon(1.0).training.learning_rate == pytest.approx(found.training.learning_rate / 6)
    joint = recipe(model="wavelet_head", task="classification", profile="xray", privacy="joint", hospitals=5)
    assert joint.for_epsilon(3.0).training.learning_rate == pytest.approx(100 * 3 / 8)
    assert joint.for_epsilon(20.0) == joint.for_epsilon(8.0) == joint
    network = shipped("small_cnn", "local")
    assert network.for_epsilon(1.0) == network
    for model, rate in (("position_head", 4.0), ("hippocampus_head", 0.3)):
        found = shipped(model, "joint", hospitals=4)
        assert found.for_epsilon(8.0).training.learning_rate == rate
        assert found.for_epsilon(3.0).training.learning_rate == pytest.approx(rate * 3 / 8)


@pytest.mark.parametrize("privacy", ["local", "joint"])
def test_a_private_mean_takes_at_most_a_tenth_of_the_budget(privacy: Any) -> None:
    assert shipped("wavelet_head", privacy, rounds=10).mean_rounds == 1
    assert not shipped("wavelet_head", privacy, rounds=9).mean_rounds


@pytest.mark.parametrize("privacy", ["local", "joint"])
def test_brains_which_differ_little_get_more_rounds_for_their_mean_and_most_to_train(privacy: Any) -> None:
    found = shipped("depth_head", privacy)
    assert 0.2 <= found.mean_rounds / found.training.rounds <= 0.25
    assert shipped("depth_head", privacy, rounds=3).mean_rounds == 0


@pytest.mark.parametrize(
    ("model", "task", "profile"),
    [
        ("unet3d", "classification", "mri"),
        ("wavelet_head", "classification", "mri"),
        ("position_head", "classification", "mri"),
    ],
)
def test_a_combination_without_a_recipe_is_named(model: str, task: str, profile: str) -> None:
    with pytest.raises(NoRecipe) as caught:
        recipe(model=model, task=task, profile=profile, privacy="none", hospitals=3)
    assert caught.value.code == "no-recipe"
    assert model in str(caught.value)


@pytest.mark.parametrize("what", [("classification", "xray"), ("regression", "mri"), ("segmentation", "mri")])
@pytest.mark.parametrize("privacy", ["none", "local"])
def test_a_network_without_a_recipe_begins_with_general_settings_called_so(
    what: tuple[str, str], privacy: Any
) -> None:
    task, profile = what
    found = recipe(model="monai:UNet", task=task, profile=profile, privacy=privacy, hospitals=3)
    assert (found.training.local_steps is None) == (privacy == "none")
    assert not is_measured("monai:UNet")
    assert is_measured("small_cnn")
    with pytest.raises(NoRecipe):
        recipe(model="monai:UNet", task=task, profile=profile, privacy="joint", hospitals=3)


@pytest.mark.parametrize("variant", ["patches", "residual"])
def test_patches_and_residual_units_have_settings_of_their_own_and_change_no_others(variant: Any) -> None:
    usual, found = shipped("unet3d", "none"), shipped("unet3d", "none", variant=variant)
    assert (usual.training.optimizer, found.training.optimizer) == ("adam", "adamw")
    assert not usual.training.augmentations
    for model, privacy in (("unet3d", "local"), ("segresnet3d", "none")):
        assert shipped(model, privacy, variant=variant) == shipped(model, privacy)


def test_a_new_study_takes_the_settings_of_what_it_asks_for() -> None:
    options: dict[str, Any] = {"task": "segmentation", "profile": "mri", "hospitals": 3, "privacy": "none"}
    size = (16, 16, 16)
    plain, patches = (
        new_study(StudyOptions(name="volumes", size=size, patches=count, **options))[0] for count in (0, 2)
    )
    assert (plain.training.optimizer, patches.training.optimizer) == ("adam", "adamw")
    assert patches.transforms.patches == 2
    private = StudyOptions(name="volumes", patches=2, **(options | {"privacy": "local"}))
    assert private.chosen_model == "unet3d"
    assert StudyOptions(name="volumes", options={"units": 2}, **options).variant == "residual"
