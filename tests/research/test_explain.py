"""A map lies where the answer rests, outlines are compared as evaluation does, and no name is on the page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from handed_models import command, fetched
from medveil.errors import BadOption
from medveil.study import Study
from medveil_imaging.models import build_model
from medveil_imaging.sources.readers import in_this_process
from medveil_research.explanation.gallery import Asked, Gallery, explained, outlined
from medveil_research.explanation.maps import NoGradCam, grad_cam, last_convolution, occlusion
from medveil_research.explanation.page import render
from medveil_research.explanation.pictures import AGREED, EXTRA, MISSED, as_seen, with_map, with_outlines
from medveil_research.prediction.cases import cases_in
from medveil_research.studies import StudyOptions, new_study

NAME = "Quillfeather_Ottoline_1931"
FILMS: dict[str, Any] = {"task": "classification", "profile": "xray", "model": "small_cnn", "size": (32, 32)}


def study_of(**options: Any) -> Study:
    usual: dict[str, Any] = {
        "name": "looked-at",
        "privacy": "none",
        "hospitals": 3,
        "seed": 1,
        "anyway": True,
    }
    return new_study(StudyOptions(**(usual | options)))[0]


class Corner(nn.Module):
    """Answers by the mean of one corner, through two convolutions that keep places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        for layer in (self.first, self.second):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.register_buffer("corner", torch.zeros(32, 32), persistent=False)
        self.get_buffer("corner")[2:10, 20:30] = 1 / 80

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.second(self.first(images)) * self.get_buffer("corner")).sum((1, 2, 3))[:, None]


def bright_corner() -> torch.Tensor:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 2:10, 20:30] = 4.0
    image[..., 24:30, 4:10] = 4.0  # as bright, and of no account
    return image


def test_occlusion_falls_most_where_the_answer_rests_and_nowhere_else() -> None:
    found = occlusion(Corner().eval(), bright_corner(), 0, torch.sigmoid)
    assert found.shape == (32, 32)
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    assert 2 <= row < 10
    assert 20 <= column < 30
    assert float(found[24:30, 4:10].abs().max()) < 1e-6


@pytest.mark.parametrize("plus", [False, True])
def test_grad_cam_shows_what_speaks_for_an_answer_and_leaves_the_network_as_it_was(plus: bool) -> None:
    network = Corner().eval().requires_grad_(False)
    image = bright_corner()
    layer = last_convolution(network, image)
    assert layer == "second"
    first = grad_cam(network, image, 0, layer=layer, plus=plus)
    assert float(first.max()) == pytest.approx(1)
    assert float(first[4:8, 22:28].min()) > 0.9
    assert float(first[12:20].max()) < 0.1
    assert torch.equal(first, grad_cam(network, image, 0, layer=layer, plus=plus))
    assert not any(weight.requires_grad or weight.grad is not None for weight in network.parameters())
    assert not network.second._forward_hooks


def test_fixed_features_have_no_grad_cam_and_say_so(tmp_path: Path) -> None:
    study = study_of(**FILMS | {"model": "wavelet_head"})
    film(tmp_path / "a.png")
    network, cases = build_model(study).eval(), cases_in([tmp_path], study)
    with pytest.raises(NoGradCam, match="wavelet_head"):
        explained(study, network, cases, Asked("gradcam"), readers=in_this_process)
    assert explained(study, network, cases, Asked(), readers=in_this_process).method == "Occlusion"


def film(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50, 40), dtype=np.uint8)).save(path)
    return path


def pictures_of(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/png;base64,([A-Za-z0-9+/=]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def test_the_page_names_no_file_and_holds_pictures_of_pixels_alone(tmp_path: Path) -> None:
    study = study_of(**FILMS)
    for k in range(3):
        film(tmp_path / f"{NAME}_{k}.png", k)
    (tmp_path / f"{NAME}_x.png").write_bytes(b"no picture")
    cases = cases_in([tmp_path], study)
    gallery = explained(study, build_model(study).eval(), cases, Asked(), readers=in_this_process)
    page = render(study, "ab" * 32, gallery)
    assert gallery.method == "Grad-CAM"
    assert [number for number, _ in gallery.refused] == [4]
    assert NAME not in page
    assert str(tmp_path) not in page
    pictures = pictures_of(page)
    assert len(pictures) == 3
    assert all(not picture.info for picture in pictures)
    assert all(picture.width == 2 * picture.height + 6 >= 512 for picture in pictures)
    assert "script" not in re.sub("no script", "", page)


def test_a_class_that_the_study_does_not_have_is_refused(tmp_path: Path) -> None:
    study = study_of(**FILMS | {"classes": ("a", "b", "c")})
    film(tmp_path / "a.png")
    network, cases = build_model(study).eval(), cases_in([tmp_path], study)
    with pytest.raises(BadOption, match="a, b, c"):
        explained(study, network, cases, Asked(answer="d"), readers=in_this_process)
    (one,) = explained(study, network, cases, Asked(answer="b"), readers=in_this_process).groups[0][1]
    assert one.words.startswith("b ")


class Bright(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([1 - images, images - 1], 1)


def site(folder: Path, count: int) -> Path:
    """Volumes whose expert has drawn less and less of what is bright: first all of it, last nothing."""
    folder.mkdir()
    lines = ["image,patient_id,split,label_map"]
    for k in range(count):
        voxels = np.random.default_rng(k).normal(0, 1, (16, 16, 16)).astype(np.float32)
        voxels[4:12, 4:12, 4:12] += 40
        labels = np.zeros((16, 16, 16), np.uint8)
        labels[4:12, 4:12, 4 : 12 - k] = 1
        for name, part in (("i", voxels), ("l", labels)):
            nibabel.save(nibabel.Nifti1Image(part, np.eye(4)), folder / f"{NAME}{name}{k}.nii")
        lines.append(f"{NAME}i{k}.nii,{NAME}{k},test,{NAME}l{k}.nii")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Gallery]:
    heads: dict[str, Any] = {
        "task": "segmentation",
        "profile": "mri",
        "model": "unet3d",
        "size": (16, 16, 16),
    }
    study = study_of(**heads)
    folder = site(tmp_path_factory.mktemp("site") / "a", 9)
    return study, outlined(study, Bright(), folder, readers=in_this_process)


def test_best_median_and_worst_are_those_by_dice(gallery: tuple[Study, Gallery]) -> None:
    _, found = gallery
    assert [title for title, _ in found.groups] == ["Best", "Median", "Worst"]
    # 8 layers against 8 - k of them; the ninth outline is empty and has no Dice
    wanted = [f"Dice {2 * (8 - k) / (16 - k):.3f}" for k in range(8)]
    words = [[one.words for one in part] for _, part in found.groups]
    assert words == [wanted[:2], wanted[3:5], wanted[6:]]
    assert found.images == 9


def test_the_page_of_outlines_names_nobody(gallery: tuple[Study, Gallery]) -> None:
    study, found = gallery
    page = render(study, "cd" * 32, found)
    assert NAME not in page
    assert len(pictures_of(page)) == 6
    assert "only the expert" in page


def test_outlines_have_the_colours_of_the_key() -> None:
    truth, found = np.array([[1, 1, 0, 0, 1]]), np.array([[1, 0, 1, 0, 2]])
    made = with_outlines(np.zeros((1, 5), np.float32), truth, found)
    wanted = [AGREED, MISSED, EXTRA, (0, 0, 0), EXTRA]
    assert np.abs(2 * made[0].astype(int) - np.array(wanted)).max() <= 1


def test_a_map_covers_nothing_where_it_is_not_above_zero() -> None:
    image = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    values = np.where(image > 0.5, image, -1).astype(np.float32)
    made = with_map(image, values, 1.0)
    grey = (made == made[..., :1]).all(-1)
    assert (grey == (values <= 0)).all()


def test_an_axial_slice_is_seen_from_the_feet() -> None:
    cut = np.zeros((4, 6))  # right, anterior
    cut[3, 5] = 1  # far right, far front
    assert np.argwhere(as_seen(cut)).tolist() == [[0, 0]]  # top left


@pytest.mark.slow
def test_the_command_writes_a_page_for_its_owner_alone(tmp_path: Path) -> None:
    folder = fetched(tmp_path / "films", model="small_cnn", privacy="none", patients_hint=None)
    film(tmp_path / "in" / "a.png")
    page = tmp_path / "page.html"
    given = ("explain", str(folder), str(tmp_path / "in"), "-o", str(page))
    code, said = command(*given)
    assert (code, "Grad-CAM, 1 images" in said) == (0, True)
    assert page.stat().st_mode & 0o777 == 0o600
    assert command(*given)[1].endswith("[target-exists]")
