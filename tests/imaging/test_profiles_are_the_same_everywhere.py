"""A study says what its profile is and makes; who has another one refuses; an own Compose keeps its word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai.transforms as steps
import nibabel
import numpy as np
import pytest
import torch

from medveil.profile_source import code_of, profile_hash
from medveil.profiles import PROFILES, Profile, xray
from medveil.study import Study, Transforms
from medveil_imaging import transforms as ways
from medveil_imaging.composed import BadProfile
from medveil_imaging.fingerprints import OtherProfile, check_profile, fingerprint, with_profile
from medveil_imaging.sources.raw import Film, Unusable
from medveil_imaging.sources.site import read_site
from medveil_imaging.transforms import film_transform

MakeStudy = Callable[..., Study]
KINDS: dict[str, dict[str, Any]] = {
    "xray": {"profile": "xray", "size": (32, 32)},
    "picture": {"profile": "picture", "size": (32, 24)},
    "mri": {"profile": "mri", "size": (24, 24, 24), "spacing_mm": (2.0, 2.0, 2.0)},
    "large": {"profile": "mri", "size": (64, 72, 60), "spacing_mm": (4.0, 3.0, 4.0)},
    "channels": {"profile": "mri", "size": (24,) * 3, "spacing_mm": (2.0,) * 3, "channels": ("t1", "t2")},
    "patches": {"profile": "mri", "size": (8,) * 3, "spacing_mm": (2.0,) * 3, "patches": 2},
    "slices": {"profile": "mri_slices", "size": (24, 24), "spacing_mm": (2.0, 2.0, 4.0)},
}

PLAIN = 'A = 1\n\n\ndef f() -> int:\n    return A + len("# no comment")\n'
EXPLAINED = (
    '"""What it is."""\r\n\r\n# Why.\r\nA = 1  # one\r\n\r\ndef f() -> int:\r\n'
    '    """More.\r\n\r\n    And more.\r\n    """\r\n    return A + len("# no comment")   \r\n'
)


def test_explanations_and_line_ends_are_no_code_and_a_constant_is() -> None:
    assert code_of(EXPLAINED) == code_of(PLAIN)
    assert code_of(PLAIN.replace("1", "2")) != code_of(PLAIN)
    assert code_of(PLAIN.replace("# no", "#no")) != code_of(PLAIN)


def test_each_profile_has_a_hash_of_its_own_and_nobody_else_has_one() -> None:
    assert len({profile_hash(name) for name in PROFILES}) == len(list(PROFILES))
    with pytest.raises(FileNotFoundError):
        profile_hash("nobodys")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_fingerprint_is_stable_and_passes_here(kind: str) -> None:
    known = with_profile(Transforms(**KINDS[kind]))
    assert fingerprint(known) == known.fingerprint
    check_profile(known)
    check_profile(Transforms(**KINDS[kind]))  # of an earlier version: it asks for nothing
    assert Transforms.model_validate(known.model_dump(mode="json")) == known


@pytest.mark.parametrize(("error", "passes"), [(0.004, True), (0.05, False)])
def test_rounding_is_no_other_profile_and_a_real_difference_is(error: float, passes: bool) -> None:
    known = with_profile(Transforms(**KINDS["xray"]))
    noise = np.random.default_rng(0).uniform(-error, error, len(known.fingerprint))
    other = known.model_copy(update={"fingerprint": tuple(np.array(known.fingerprint) + noise)})
    if passes:
        return check_profile(other)
    with pytest.raises(OtherProfile, match=r"'xray'.*another image of the phantom"):
        check_profile(other)


def nearest(transforms: Transforms, _: str, build: Any = ways._geometry) -> Any:
    return build(transforms, "nearest")


@pytest.mark.parametrize(
    ("kind", "place", "change"),
    [
        ("xray", (xray, "CLIP_PERCENTILES"), (2.0, 98.0)),
        ("mri", (ways, "AXES"), (("R", "L"), ("P", "A"), ("I", "S"))),
        ("large", (ways, "AXES"), (("R", "L"), ("P", "A"), ("I", "S"))),
        ("mri", (ways, "_geometry"), nearest),
        ("mri", (ways, "z_score"), lambda image: image / image.max()),
        ("slices", (ways, "AXES"), (("L", "R"), ("P", "A"), ("S", "I"))),
        ("channels", (ways, "z_score"), lambda image: image / image.std()),
    ],
)
def test_another_way_has_another_fingerprint(
    kind: str, place: tuple[Any, str], change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = with_profile(Transforms(**KINDS[kind]))
    monkeypatch.setattr(*place, change)
    with pytest.raises(OtherProfile, match="another image of the phantom"):
        check_profile(known)


def test_other_code_is_named_before_anything_is_made() -> None:
    other = Transforms(**KINDS["xray"], profile_hash="0" * 64)
    with pytest.raises(OtherProfile, match=r"'xray'.*other code"):
        check_profile(other)


@pytest.fixture
def own() -> Iterator[Callable[..., str]]:
    """Registers a profile with a Compose of its own for one test."""
    entries = dict(PROFILES._entries)

    def put(**fields: Any) -> str:
        PROFILES.register("own")(Profile(images="own images", recipes_of="mri", **fields))
        return "own"

    yield put
    PROFILES._entries.clear()
    PROFILES._entries.update(entries)


def squared(shape: Any) -> Any:
    return steps.Compose([steps.ScaleIntensity(0.0, 1.0), lambda image: image**2, steps.Resize(shape.size)])


def test_an_own_compose_is_the_whole_way_of_a_film(own: Callable[..., str]) -> None:
    pixels = np.random.default_rng(0).uniform(0, 4000, (40, 30)).astype(np.float32)
    kept = pixels.copy()
    transforms = Transforms(profile=own(size=(16, 16), compose=squared), size=(16, 16))
    made = film_transform(transforms)(Film(pixels))
    wanted = squared(transforms)(torch.from_numpy(kept)[None])
    assert torch.equal(made, wanted.as_tensor())
    assert np.array_equal(pixels, kept)


def volumes(shape: Any) -> Any:
    return steps.Compose(
        [
            steps.Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            steps.ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True, channel_wise=True),
            steps.ResizeWithPadOrCrop(shape.size),
        ]
    )


def outlines(shape: Any) -> Any:
    return steps.Compose(
        [
            steps.Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            steps.ResizeWithPadOrCrop(shape.size),
        ]
    )


def a_site(tmp_path: Path, write_manifest: Callable[..., Path]) -> Path:
    labels = np.zeros((20, 18, 16), np.uint8)
    labels[4:9, 5:9, 6:9] = 1
    voxels = (100 * labels + np.random.default_rng(0).integers(0, 50, labels.shape)).astype(np.int16)
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    for name, array in (("a", voxels), ("l", labels)):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, 1, 1, 1])), site / f"{name}.nii.gz")
    line = {"image": "a.nii.gz", "label_map": "l.nii.gz", "patient_id": "A", "split": "train"}
    return write_manifest(line)


def test_an_own_compose_reads_outlined_volumes(
    own: Callable[..., str], tmp_path: Path, make_study: MakeStudy, write_manifest: Callable[..., Path]
) -> None:
    name = own(size=(16,) * 3, spacing_mm=(1.0,) * 3, compose=volumes, outline=outlines)
    fields = {"size": (16,) * 3, "spacing_mm": (1.0,) * 3}
    site = read_site(a_site(tmp_path, write_manifest), make_study(name, "segmentation", **fields))
    assert not [p for p in site.problems if p.severity == "error"]
    images, labels = site.train[0].take([0])
    assert images.shape == (1, 1, 16, 16, 16)
    assert float(images[0, 0][labels[0] == 1].min()) > float(images[0, 0][labels[0] == 0].max())
    assert fingerprint(Transforms(profile=name, **fields))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"compose": lambda shape: steps.Compose([steps.RandFlip(1.0)])}, "chance"),
        ({"compose": lambda shape: steps.Compose([steps.Resize((8, 8))])}, "into the study's shape"),
        (
            {"compose": lambda shape: steps.Compose([lambda image: image * torch.nan])},
            "into the study's shape",
        ),
        ({"compose": lambda shape: steps.Compose([lambda image: image * 0])}, "Nothing is left"),
    ],
)
def test_an_own_compose_that_breaks_its_word_is_refused(
    own: Callable[..., str], fields: dict[str, Any], problem: str
) -> None:
    transforms = Transforms(profile=own(size=(16, 16), **fields), size=(16, 16))
    pixels = np.random.default_rng(0).uniform(0, 9, (16, 16)).astype(np.float32)
    with pytest.raises((BadProfile, Unusable), match=problem):
        film_transform(transforms)(Film(pixels))


def test_a_study_of_outlines_wants_a_way_for_label_maps(
    own: Callable[..., str], make_study: MakeStudy
) -> None:
    name = own(size=(16,) * 3, spacing_mm=(1.0,) * 3, compose=volumes)
    fields = {"size": (16,) * 3, "spacing_mm": (1.0,) * 3}
    make_study(name, **fields)
    with pytest.raises(ValueError, match="'own' has no way for label maps"):
        make_study(name, "segmentation", **fields)


def test_a_way_for_label_maps_that_mixes_classes_costs_the_line(
    own: Callable[..., str], tmp_path: Path, make_study: MakeStudy, write_manifest: Callable[..., Path]
) -> None:
    def blurred(shape: Any) -> Any:
        return steps.Compose([steps.Resize(shape.size, mode="trilinear")])

    name = own(size=(16,) * 3, spacing_mm=(1.0,) * 3, compose=volumes, outline=blurred)
    study = make_study(name, "segmentation", size=(16,) * 3, spacing_mm=(1.0,) * 3)
    site = read_site(a_site(tmp_path, write_manifest), study)
    assert (2, "unusable-image") in [(p.row, p.code) for p in site.problems]
