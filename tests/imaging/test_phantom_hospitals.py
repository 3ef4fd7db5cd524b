"""Phantom hospitals are real files, reproducible, learnable together and hard to learn alone."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medveil.metrics import empty, summarise
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.models import ModelShape, build
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_imaging.sources.phantom_volume import ANTERIOR, POSTERIOR, MrScanner, draw_volume
from medveil_imaging.sources.site import SiteData, read_site

MakeStudy = Callable[..., Study]


def pixels(site: SiteData) -> torch.Tensor:
    return torch.cat([p.images for p in site.train + site.val + site.test])


def test_the_same_seed_writes_the_same_hospitals(tmp_path: Path, make_study: MakeStudy) -> None:
    study = make_study()
    read = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sites = write_phantom_sites(tmp_path / name, profile="xray", hospitals=1, patients=10, seed=seed)
        read.append(pixels(read_site(sites[0], study)))
    assert torch.equal(read[0], read[1])
    assert read[0].shape != read[2].shape or not torch.equal(read[0], read[2])


def test_film_hospitals_differ_and_are_read_without_a_problem(tmp_path: Path, make_study: MakeStudy) -> None:
    sites = write_phantom_sites(tmp_path, profile="xray", patients=10, hospitals=2)
    assert [site.name for site in sites] == ["hospital-1", "hospital-2"]
    shares = []
    for folder in sites:
        site = read_site(folder, make_study(size=(32, 32)))
        assert site.problems == ()
        assert [len(split) for split in (site.train, site.val, site.test)] == [7, 1, 2]
        assert {len(p) for p in site.train} <= {1, 2, 3}
        shares.append(float(torch.cat([p.labels for p in site.train]).double().mean()))
    assert len(set(shares)) > 1


@pytest.mark.parametrize("profile", ["xray", "mri"])
def test_too_small_a_phantom_is_refused(tmp_path: Path, profile: str) -> None:
    with pytest.raises(ValueError, match="ten patients"):
        write_phantom_sites(tmp_path, profile=profile, patients=9)


def test_a_drawn_volume_has_its_parts_in_order_and_the_scale_of_its_scanner() -> None:
    median = []
    for scale in (100.0, 10_000.0):
        voxels, labels = draw_volume(MrScanner(scale, 0.6, 0.03), 1.0, np.random.default_rng(0))
        assert np.unique(labels).tolist() == [0, ANTERIOR, POSTERIOR]
        front, back = (np.nonzero(labels == part)[1].mean() for part in (ANTERIOR, POSTERIOR))
        assert front > back
        median.append(np.median(voxels))
    assert median[1] == pytest.approx(100 * median[0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("hospitals", [2, 4])
def test_mri_hospitals_have_label_maps_and_scales_a_hundredfold_apart(
    tmp_path: Path, make_study: MakeStudy, hospitals: int
) -> None:
    import nibabel

    sites = write_phantom_sites(tmp_path, profile="mri", patients=10, hospitals=hospitals)
    study = make_study("mri", "segmentation", size=(40, 56, 40))
    scales, orientations = [], set()
    for folder in sites:
        site = read_site(folder, study)
        assert site.problems == ()
        assert all(p.labels.unique().tolist() == [0, 1, 2] for p in site.train)
        stored = [nibabel.load(path) for path in sorted((folder / "images").iterdir())]
        scales.append(float(np.median([np.asarray(image.dataobj).max() for image in stored])))
        orientations |= {nibabel.aff2axcodes(image.affine) for image in stored}
        front = [p.labels[0].eq(1).nonzero()[:, 1].double().mean() for p in site.train]
        back = [p.labels[0].eq(2).nonzero()[:, 1].double().mean() for p in site.train]
        assert all(f > b for f, b in zip(front, back, strict=True))  # anterior is in front, in RAS
    assert 50 < scales[-1] / scales[0] < 200
    assert len(orientations) > 1


@pytest.mark.slow
def test_mri_classification_comes_as_nifti_and_as_dicom_series(tmp_path: Path, make_study: MakeStudy) -> None:
    sites = write_phantom_sites(tmp_path, profile="mri", hospitals=2, patients=10, task="classification")
    for folder, series in zip(sites, (False, True), strict=True):
        with (folder / "manifest.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert all((folder / row["image"]).is_dir() == series for row in rows)
        site = read_site(folder, make_study("mri", size=(40, 56, 40)))
        assert site.problems == ()
        assert site.train[0].images.shape[1:] == (1, 40, 56, 40)


def test_a_series_and_a_nifti_file_of_one_volume_give_the_same_tensor(
    tmp_path: Path, make_study: MakeStudy
) -> None:
    from medveil_imaging.sources.phantom import _write_nifti, _write_series
    from medveil_imaging.sources.read import read_volume
    from medveil_imaging.transforms import volume_transform

    voxels = np.random.default_rng(0).integers(0, 4000, (12, 14, 10)).astype(np.float32)
    _write_nifti(tmp_path / "a.nii.gz", voxels, "LPS")
    _write_series(tmp_path / "b", voxels, "PH1-0001", np.random.default_rng(1))
    apply = volume_transform(make_study("mri").transforms)
    assert torch.allclose(
        apply(read_volume(tmp_path / "a.nii.gz")), apply(read_volume(tmp_path / "b")), atol=2e-3
    )


def _stack(patients: tuple[PatientImages, ...], model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    return model.features(torch.cat([p.images for p in patients])), torch.cat([p.labels for p in patients])


def _fit(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Full-batch gradient descent with momentum on the logistic head, 150 steps."""
    weights, velocity = torch.zeros(features.shape[1]), torch.zeros(features.shape[1])
    for step in range(150):
        gradient = features.T @ (torch.sigmoid(features @ weights) - labels.float()) / len(labels)
        velocity = 0.9 * velocity + gradient
        weights = weights - 10 * (1 - step / 150) * velocity
    return weights


def _auroc(weights: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> float:
    scores = features @ weights
    pairs = scores[labels == 1][:, None] - scores[labels == 0][None]
    return float((pairs > 0).double().mean())


@pytest.mark.slow
def test_films_are_learned_together_and_not_alone(tmp_path: Path, make_study: MakeStudy) -> None:
    sites = write_phantom_sites(tmp_path, profile="xray")
    study, model = make_study(size=(64, 64)), build("wavelet_head", ModelShape((64, 64), 1), {})
    read = [read_site(folder, study) for folder in sites]
    train = [_stack(site.train, model) for site in read]
    tests = [_stack(site.test, model) for site in read]
    features, labels = (torch.cat([pair[i] for pair in tests]) for i in (0, 1))
    together = _auroc(_fit(*(torch.cat([pair[i] for pair in train]) for i in (0, 1))), features, labels)
    alone = [_auroc(_fit(*pair), features, labels) for pair in train]
    assert together >= 0.95
    assert float(np.mean(alone)) <= together - 0.05


@pytest.mark.slow
def test_volumes_are_learned_by_a_small_network(tmp_path: Path, make_study: MakeStudy) -> None:
    sites = write_phantom_sites(tmp_path, profile="mri")
    study = make_study("mri", "segmentation", size=(40, 56, 40))
    read = [read_site(folder, study) for folder in sites]
    model = build("unet3d", ModelShape((40, 56, 40), 3), {})
    task, random = TASKS["segmentation"], torch.Generator().manual_seed(0)
    images = torch.cat([p.images for site in read for p in site.train])
    labels = torch.cat([p.labels for site in read for p in site.train])
    optimizer = torch.optim.Adam(model.parameters(), 6e-3)
    for _ in range(4):
        for batch in torch.randperm(len(images), generator=random).split(2):
            optimizer.zero_grad()
            task.loss(model(images[batch]), labels[batch]).mean().backward()
            optimizer.step()
    sums = empty(study)
    with torch.no_grad():
        for patient in (p for site in read for p in site.test):
            for name, share in task.sums(study, model(patient.images), patient.labels).items():
                sums[name] += share
    assert summarise(study, sums)["dice"] >= 0.8


def test_phantom_films_have_lungs_to_outline(tmp_path: Path, make_study: MakeStudy) -> None:
    folder = write_phantom_sites(tmp_path, profile="xray", task="segmentation", hospitals=1, patients=10)[0]
    site = read_site(folder, make_study("xray", "segmentation", size=(32, 32)))
    assert site.problems == ()
    images, labels = site.train[0].take([0])
    assert labels.unique().tolist() == [0, 1, 2]
    assert float(images[0, 0][labels[0] > 0].mean()) < float(images[0, 0][labels[0] == 0].mean())
