"""Volumes of any extent: trained on by patches, judged through windows, and a patient counts once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from hospital_node.training import NotSafe, TrainingRound, evaluate, run, self_check, train
from medveil.identity import Secret
from medveil.study import Study
from medveil.tasks import TASKS
from medveil.tensors import Float32
from medveil_imaging.cache import ImageCache
from medveil_imaging.models import BadModel, ModelShape, build_model, initial_vector, spec_of, vector_of
from medveil_imaging.patches import by_windows, random_patches, without_margins
from medveil_imaging.patients import PatientVolumes
from medveil_imaging.sources.raw import Volume
from medveil_imaging.sources.site import read_site
from planting import plant
from tries import leading

CPU = torch.device("cpu")
PATCH = (8, 8, 8)
SHAPES = ((12, 9, 10), (8, 17, 8))
CLASSES = ("background", "front", "back")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_study(module: nn.Module | None = None, **changes: Any) -> tuple[Study, Float32]:
    options = {"channels": "4-8"}
    if module is None:
        spec, vector = initial_vector("unet3d", ModelShape(PATCH, len(CLASSES)), options, seed=1)
    else:
        spec, vector = spec_of(module), vector_of(module)
    transforms = {"profile": "mri", "size": PATCH, "spacing_mm": (1.0, 1.0, 1.0), "patches": 2}
    content: dict[str, Any] = {
        "name": "patches",
        "task": "segmentation",
        "classes": CLASSES,
        "model": {"name": "unet3d", "options": options, "tensors": spec, "initial_model": "0" * 64},
        "transforms": transforms | changes.pop("transforms", {}),
        "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
        "privacy": {"kind": "none"},
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content | changes), vector


def numbered(*shapes: tuple[int, ...]) -> PatientVolumes:
    """Volumes whose every voxel says where it is, with label maps that follow from that number."""
    images = tuple(torch.arange(float(np.prod(shape))).view(1, *shape) for shape in shapes)
    return PatientVolumes("numbered", images, tuple((one[0] % 3).long() for one in images))


def test_patches_lie_inside_one_volume_with_their_labels_and_reach_every_corner() -> None:
    patient, generator = numbered(*SHAPES), torch.Generator().manual_seed(0)
    images, labels = random_patches(patient, [0, 1], PATCH, count=300, generator=generator)
    assert images.shape == (600, 1, *PATCH)
    assert torch.equal(labels, (images[:, 0] % 3).long())
    for place, shape in enumerate(SHAPES):
        seen = images[300 * place : 300 * (place + 1), 0].flatten(1)
        corner = seen.min(1).values
        steps = torch.arange(PATCH[0])
        expected = corner[:, None, None, None] + (
            steps[:, None, None] * shape[1] * shape[2] + steps[:, None] * shape[2] + steps
        )
        assert torch.equal(seen.view(-1, *PATCH), expected)
        assert {0.0, float(np.prod(shape) - 1)} <= set(seen.flatten().tolist())


@pytest.mark.parametrize("voxels", [1, 30])
def test_every_second_patch_lies_around_a_structure_however_small_it_is(voxels: int) -> None:
    labels = torch.zeros(60, 20, 20, dtype=torch.long)
    labels.view(-1)[torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(1))[:voxels]] = 1
    patient = PatientVolumes("rare", (torch.zeros(1, 60, 20, 20),), (labels,))
    generator = torch.Generator().manual_seed(0)
    _, seen = random_patches(patient, [0], (2, 2, 2), count=400, generator=generator)
    share = float((seen > 0).flatten(1).any(1).float().mean())
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("label", [0, 1])
def test_a_volume_without_structure_or_background_gives_patches_as_well(label: int) -> None:
    patient = PatientVolumes("plain", (torch.zeros(1, 9, 9, 9),), (torch.full((9, 9, 9), label),))
    images, labels = random_patches(patient, [0], PATCH, count=3, generator=torch.Generator())
    assert images.shape == (3, 1, *PATCH)
    assert (labels == label).all()


class Pointwise(nn.Module):
    """Logits of a voxel from that voxel alone, so that windows must give what the whole volume gives."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)  # the same weights whatever ran before
            self.layer = nn.Conv3d(1, 3, 1)
        self.shapes: set[tuple[int, ...]] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shapes.add(tuple(images.shape[2:]))
        logits: torch.Tensor = self.layer(images)
        return logits


def test_windows_give_the_logits_of_the_whole_volume_and_the_network_sees_patches_only() -> None:
    module = Pointwise()
    for shape in (*SHAPES, PATCH):
        image = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(by_windows(module, image, PATCH, CPU), module.layer(image), atol=1e-5)
    assert module.shapes == {PATCH}


def test_a_patient_with_volumes_of_unlike_shapes_counts_once_with_the_mean_of_their_dice() -> None:
    module = Pointwise()
    study, vector = make_study(module)
    generator = torch.Generator().manual_seed(0)
    images = tuple(torch.randn(1, *shape, generator=generator) for shape in SHAPES)
    labels = (
        torch.randint(3, SHAPES[0], generator=generator),
        torch.randint(2, SHAPES[1], generator=generator),
    )
    found = evaluate(
        study, vector, [PatientVolumes("two", images, labels)], device=CPU, build=lambda _: module
    )
    dice = []
    for image, truth in zip(images, labels, strict=True):
        predicted = module.layer(image[None]).argmax(1)[0]
        hits = [int(((predicted == c) & (truth == c)).sum()) for c in (1, 2)]
        total = [int((predicted == c).sum() + (truth == c).sum()) for c in (1, 2)]
        dice.append([2 * h / t if t else 0.0 for h, t in zip(hits, total, strict=True)])
    assert found["dice/front"] == pytest.approx((dice[0][0] + dice[1][0]) / 2)
    assert found["dice/back"] == pytest.approx(dice[0][1])  # the second volume has none
    assert (found["cases/front"], found["cases/back"], found["patients"]) == (1, 1, 1)


def test_a_model_that_knows_whole_crops_is_not_trained_by_patches() -> None:
    size = (16, 16, 16)
    spec, _ = initial_vector("position_head", ModelShape(size, len(CLASSES)), {}, seed=1)
    model = {"name": "position_head", "tensors": spec, "initial_model": "0" * 64}
    study, _ = make_study(model=model, transforms={"size": size})
    with pytest.raises(BadModel, match="patches"):
        build_model(study)


TAKEN = "taken(chosen, seen, most_bytes=piece)"
FAULTS = {
    "every patch is a patient": "([Drawn(i[None], l[None]) for i, l in zip(one.images, one.labels)] "
    f"for p in {TAKEN} for one in p)",
    "every image is a patient": f"([Drawn(i, l) for i, l in zip(one.images.split(2), one.labels.split(2))] "
    f"for p in {TAKEN} for one in p)",
    "a piece is taken twice": f"(p for p in {TAKEN} for _ in 'ab')",
}
NOISE = {
    "kind": "local",
    "clip_norm": 0.3,
    "noise_multiplier": 5.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 90,
}
PRIVATE = {"privacy": NOISE, "training": {"rounds": 2, "local_steps": 3, "learning_rate": 1.0}}


@pytest.mark.parametrize("fault", leading(FAULTS, 1))
def test_a_patient_whose_patches_count_for_more_than_one_is_refused(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = make_study(**PRIVATE)
    plant(monkeypatch, run, "_train_private", TAKEN, FAULTS[fault])
    with pytest.raises(NotSafe) as caught:
        self_check(study, build_model(study))
    assert caught.value.check == "one-patient"


def test_a_patient_with_many_patches_counts_once() -> None:
    study, _ = make_study(**PRIVATE)
    self_check(study, build_model(study))  # its canary has four volumes, larger than a patch


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_sums_of_single_images_join_to_those_of_all_at_once(task: str) -> None:
    study, _ = make_study(transforms={"patches": 0}, task=task)
    generator = torch.Generator().manual_seed(0)
    shape = PATCH if task == "segmentation" else ()
    logits = 5 * torch.randn(4, 3, *shape, generator=generator)
    labels = torch.randint(3, (4, *shape), generator=generator)
    whole = TASKS[task].sums(study, logits, labels)
    single = [TASKS[task].sums(study, logits[k : k + 1], labels[k : k + 1]) for k in range(4)]
    joined = TASKS[task].of_images(study, single)
    assert joined.keys() == whole.keys()
    for name, value in whole.items():
        assert joined[name] == pytest.approx(value)


def test_the_loss_of_a_large_volume_is_that_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medveil.tasks.segmentation.PIECE", 100)
    study, _ = make_study()
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(1, 3, *PATCH, generator=generator),
        torch.randint(3, (1, *PATCH), generator=generator),
    )
    task = TASKS["segmentation"]
    assert task.sums(study, logits, labels)["loss"] == pytest.approx(
        float(task.loss(logits, labels)), rel=1e-5
    )


def test_training_by_patches_learns() -> None:
    training = {"rounds": 1, "local_epochs": 6, "batch_images": 2, "learning_rate": 1e-2, "optimizer": "adam"}
    study, vector = make_study(training=training)
    generator = torch.Generator().manual_seed(0)
    patients = []
    for place in range(8):
        labels = torch.zeros(SHAPES[place % 2], dtype=torch.long)
        labels[2:6, 2:7, 1:5], labels[:2, 2:7, 1:5] = 1, 2
        image = labels[None] - 1 + 0.2 * torch.randn(1, *labels.shape, generator=generator)
        patients.append(PatientVolumes(str(place), (image,), (labels,)))
    given = TrainingRound(
        study, vector, patients, number=1, declared_patients=8, noise=None, charge=None, device=CPU
    )
    before, after = (
        evaluate(study, model, patients, device=CPU) for model in (vector, vector + train(given).values)
    )
    assert after["dice/front"] > before["dice/front"] + 8 * 0.2


@pytest.mark.slow
def test_volumes_keep_their_extent_and_are_padded_to_one_patch(
    write_volumes: Callable[..., Path],
) -> None:
    study, _ = make_study()
    site = read_site(write_volumes((12, 9, 10), (5, 9, 30)), study)
    assert not [problem for problem in site.problems if problem.severity == "error"]
    shapes = [tuple(one.take([k])[0].shape) for one in site.train for k in range(len(one))]
    assert shapes == [(1, 1, 12, 9, 10), (1, 1, 8, 9, 30)]
    for one in site.train:
        for k in range(len(one)):
            image, labels = one.take([k])
            assert labels.shape == image[:, 0].shape
            assert torch.equal(labels[0] > 0, image[0, 0] == image.max())


def test_volumes_that_lie_on_disk_give_the_same_patches(
    write_volumes: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = make_study()
    folder = write_volumes((12, 9, 10), (9, 9, 30))
    here = read_site(folder, study).train[0]
    monkeypatch.setattr("medveil_imaging.cache.IN_MEMORY_BYTES", 0)
    cache = ImageCache(folder / "cache", Secret(bytes(32)), most_bytes=2**24)
    there = read_site(folder, study, cache=cache).train[0]
    assert type(here) is PatientVolumes is not type(there)
    for one, other in zip(
        *(
            random_patches(patient, [0, 1], PATCH, count=3, generator=torch.Generator().manual_seed(0))
            for patient in (here, there)
        ),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_layers_in_which_nothing_was_imaged_are_left_out_and_the_rest_keeps_its_place() -> None:
    affine = np.array([[0, 2.0, 0, 5], [-1, 0, 0, 7], [0, 0, 3, 9], [0, 0, 0, 1]])
    voxels = np.full((2, 9, 10, 11), -5, np.float32)
    labels = np.zeros((9, 10, 11), np.float32)
    voxels[0, 2:5, 4:6, 3:9], voxels[1, 3, 7, 4], labels[6, 4, 4] = 1, 0, 1
    image, outlined = without_margins(Volume(voxels, affine), Volume(labels, affine))
    assert np.array_equal(image.voxels, voxels[:, 2:7, 4:8, 3:9])
    assert np.array_equal(outlined.voxels, labels[2:7, 4:8, 3:9])
    assert np.array_equal(image.affine, outlined.affine)
    assert np.array_equal(image.affine @ [4, 0, 1, 1], affine @ [6, 4, 4, 1])
    plain = Volume(np.ones((8, 8, 8), np.float32), np.eye(4))
    assert without_margins(plain, Volume(np.zeros((8, 8, 8), np.float32), np.eye(4)))[0] is plain


def test_a_site_with_air_around_its_heads_trains_on_the_heads(tmp_path: Path) -> None:
    study, _ = make_study()
    voxels, labels = np.zeros((30, 30, 30), np.float32), np.zeros((30, 30, 30), np.uint8)
    voxels[9:20, 3:15, 10:22], labels[10:12, 5:9, 11:13] = (
        np.random.default_rng(0).random((11, 12, 12)) + 1,
        2,
    )
    for name, values in (("v", voxels), ("l", labels)):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    manifest = "image,label_map,patient_id,split\nv.nii.gz,l.nii.gz,someone,train\n"
    (tmp_path / "manifest.csv").write_text(manifest, encoding="utf-8")
    image, truth = read_site(tmp_path, study).train[0].take([0])
    assert image.shape == (1, 1, 11, 12, 12)
    assert abs(float(image.mean())) < 1e-5  # air takes no part in the scale
    assert torch.equal(truth[0], torch.from_numpy(labels[9:20, 3:15, 10:22]).long())


@pytest.fixture
def write_volumes(tmp_path: Path) -> Callable[..., Path]:
    """A site with one patient and a volume of each shape; its brightest voxel is the structure."""

    def write(*shapes: tuple[int, ...]) -> Path:
        lines = ["image,label_map,patient_id,split"]
        for number, shape in enumerate(shapes):
            voxels = np.random.default_rng(number).random(shape).astype(np.float32)
            labels = (voxels == voxels.max()).astype(np.uint8)
            for name, values in ((f"v{number}", voxels), (f"l{number}", labels)):
                nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
            lines.append(f"v{number}.nii.gz,l{number}.nii.gz,someone,train")
        (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path

    return write


def test_a_study_without_patches_does_not_mention_them() -> None:
    study, _ = make_study(transforms={"patches": 0})
    assert "patches" not in study.model_dump(mode="json")["transforms"]
    assert study.hash != make_study()[0].hash


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "classification"},
        {"transforms": {"profile": "xray", "size": (16, 16), "spacing_mm": ()}, "task": "classification"},
        {"transforms": {"patches": 5000}},
        {"transforms": {"patches": -1}},
    ],
)
def test_patches_are_refused_where_nothing_is_outlined_or_where_they_are_too_many(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        make_study(**changes)
