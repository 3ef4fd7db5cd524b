"""Image → tensor, each by itself, in the way of its dimensions; :mod:`medveil.profiles` says the rest.

A film: its profile's grey scale, resized to ``size`` with antialiasing, z-scored.
A volume: its profile's grey scale, turned to RAS, resampled to ``spacing_mm``, z-scored, cropped or padded
around the centre to ``size``. A label map takes the same way with nearest neighbours. Of a sliced volume each
axial slice is cropped or padded instead. Where a study trains by patches, a volume keeps its own extent and
is only padded, to one patch at least. MONAI is loaded when a transform is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from medveil.profiles import PROFILES, Profile
from medveil.study import Slices, Transforms
from medveil_imaging.composed import counted, label_way, layers, not_flat, own_place, own_way, plain
from medveil_imaging.sources.raw import Film, Float32, Float64, Unusable, Volume

FLAT = 1e-6
"""A standard deviation below this share of the largest value is rounding, not an image."""
SAME_SPACING_MM = 1e-3
MOST_SLICES = 1024
"""Of one volume; as many as a patient may have lines."""

AXES = (("L", "R"), ("P", "A"), ("I", "S"))


def film_transform(transforms: Transforms) -> Callable[[Film], torch.Tensor]:
    """Film → float32 (channels, rows, columns).

    Raises:
        Unusable: nothing is left to see after clipping ("constant-image").
    """
    profile = PROFILES[transforms.profile]
    if profile.compose is not None:
        return own_way(transforms, profile.compose)
    from monai.transforms import Compose

    def pixels_of(film: Film) -> torch.Tensor:
        return torch.from_numpy(_grey(profile, film.pixels, 2))

    # log_stats off: MONAI would log the range of the pixels when a step fails.
    prepare = Compose([pixels_of, partial(_resized, size=transforms.size)], log_stats=False)

    def apply(film: Film) -> torch.Tensor:
        return _scaled(profile, prepare(film))

    return apply


def label_film_transform(transforms: Transforms) -> Callable[[Film], tuple[torch.Tensor, bool]]:
    """Label map of a film → int64 (\\*size), and whether a structure is too small to be left in it."""

    def nearest(labels: Film) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(labels.pixels))[None, None]
        return functional.interpolate(pixels, size=transforms.size, mode="nearest-exact")[0]

    place = label_way(transforms) or nearest
    return lambda labels: counted(place(labels), labels.pixels)


def volume_transform(transforms: Transforms) -> Callable[[Volume], torch.Tensor]:
    """Volume → float32 (channels, \\*size) in RAS axes; to cut patches from, \\*shape, not below ``size``.

    Raises:
        Unusable: all voxels equal ("constant-image").
    """
    profile = PROFILES[transforms.profile]
    if profile.compose is not None:
        return own_way(transforms, profile.compose)
    place, crop = _placed(transforms), _to_size(transforms, profile.outside)
    return lambda volume: plain(crop(place(volume)))


def placed_volume(transforms: Transforms) -> Callable[[Volume], tuple[torch.Tensor, Float64]]:
    """As :func:`volume_transform`, with the affine of the voxels that it gives, in RAS mm.

    For what a model outlines, which is to lie on the volume again.

    Raises:
        Unusable: as there; or the profile's own way does not say where its voxels lie ("no-way-back").
    """
    profile = PROFILES[transforms.profile]
    if profile.compose is not None:
        return own_place(transforms, profile.compose)
    from monai.data import MetaTensor

    place, crop = _oriented(transforms, "bilinear"), _to_size(transforms, profile.outside)

    def apply(volume: Volume) -> tuple[torch.Tensor, Float64]:
        placed = place(replace(volume, voxels=_grey(profile, volume.voxels, 3)))
        cut = crop(MetaTensor(_scaled(profile, plain(placed)), affine=placed.affine))
        return plain(cut), _affine_of(cut)

    return apply


def placed_slices(transforms: Transforms) -> Callable[[Volume], tuple[torch.Tensor, list[int], Float64]]:
    """As :func:`slice_transform`, with the affine of the volume of all slices, whose third index is their
    number. Raises: Unusable: as :func:`placed_volume`."""
    from monai.data import MetaTensor
    from monai.transforms import ResizeWithPadOrCrop

    cut, profile = slice_transform(transforms), PROFILES[transforms.profile]
    own = None if profile.compose is None else own_place(transforms, profile.compose)
    place = _oriented(transforms, "nearest")

    def apply(volume: Volume) -> tuple[torch.Tensor, list[int], Float64]:
        images, chosen = cut(volume)
        if own is None:
            whole: Any = place(
                replace(volume, voxels=volume.voxels[:1] if volume.voxels.ndim > 3 else volume.voxels)
            )
        else:
            image, affine = own(volume)
            whole = MetaTensor(image, affine=torch.from_numpy(affine))
        fit: Any = ResizeWithPadOrCrop((*transforms.size, whole.shape[-1]))
        return images, chosen, _affine_of(fit(whole))

    return apply


def _affine_of(image: Any) -> Float64:
    return np.asarray(image.affine, np.float64)


def _placed(transforms: Transforms) -> Callable[[Volume], torch.Tensor]:
    """Volume → (channels, \\*edges) with its grey scale, RAS axes and the study's spacing."""
    profile, place = PROFILES[transforms.profile], _geometry(transforms, "bilinear")
    return lambda volume: _scaled(profile, place(replace(volume, voxels=_grey(profile, volume.voxels, 3))))


def slice_transform(transforms: Transforms) -> Callable[[Volume], tuple[torch.Tensor, list[int]]]:
    """Volume → its axial slices, float32 (k, channels, right, anterior), feet first, and their numbers.

    The volume is resampled and z-scored as a whole. Slices without any contrast, outside of the patient, are
    left out.

    Raises:
        Unusable: all voxels equal ("constant-image"), or no slice is left between the bounds ("no-slices").
    """
    from monai.transforms import ResizeWithPadOrCrop

    profile = PROFILES[transforms.profile]
    own = profile.compose
    whole = _placed(transforms) if own is None else own_way(transforms, own)
    crop = ResizeWithPadOrCrop(transforms.size, value=profile.outside)

    def apply(volume: Volume) -> tuple[torch.Tensor, list[int]]:
        image = whole(volume)
        chosen = [k for k in _between(transforms, image.shape[-1]) if _has_contrast(image[..., k])]
        if not 0 < len(chosen) <= MOST_SLICES:
            raise Unusable(
                "no-slices",
                f"The volume has no slices between the study's bounds, or more than {MOST_SLICES}.",
                "Check that the volume shows the part of the body that the study is about.",
            )
        return torch.stack([plain(crop(image[..., k])) for k in chosen]), chosen

    return apply


def _has_contrast(image: torch.Tensor) -> bool:
    """Whether any channel has two values."""
    flat = image.flatten(1)
    return bool((flat.max(1).values > flat.min(1).values).any())


def _between(transforms: Transforms, count: int) -> range:
    """The numbers of the slices that the study wants of so many."""
    bounds = transforms.slices or Slices()
    return range(math.floor(bounds.low * count), math.ceil(bounds.high * count), bounds.every)


def label_slice_transform(
    transforms: Transforms,
) -> Callable[[Volume, list[int]], tuple[torch.Tensor, bool]]:
    """Label map → int64 (k, \\*size) of the slices with these numbers, and whether a structure was cut."""
    from monai.transforms import ResizeWithPadOrCrop

    place = label_way(transforms) or _geometry(transforms, "nearest")
    crop = ResizeWithPadOrCrop(transforms.size)

    def apply(labels: Volume, chosen: list[int]) -> tuple[torch.Tensor, bool]:
        placed = place(labels)[..., chosen]
        kept = torch.stack([plain(crop(placed[..., k])) for k in range(len(chosen))])
        return kept[:, 0].round().long(), int((kept > 0).sum()) < int((placed > 0).sum())

    return apply


def label_transform(transforms: Transforms) -> Callable[[Volume], tuple[torch.Tensor, bool]]:
    """Label map → int64, as large as its volume's tensor, and whether cutting to size lost some structure."""
    own = label_way(transforms)
    if own is not None:
        return lambda labels: counted(own(labels), labels.voxels)
    place = _geometry(transforms, "nearest")
    crop = _to_size(transforms, 0.0)

    def apply(labels: Volume) -> tuple[torch.Tensor, bool]:
        placed = place(labels)
        kept = plain(crop(placed))
        return kept[0].round().long(), int((kept > 0).sum()) < int((placed > 0).sum())

    return apply


def _to_size(transforms: Transforms, outside: float) -> Callable[[torch.Tensor], Any]:
    """Around the centre: to size; where patches are cut out of it, a volume is padded and never cropped."""
    from monai.transforms import ResizeWithPadOrCrop, SpatialPad

    kind = SpatialPad if transforms.patches else ResizeWithPadOrCrop
    resize: Callable[[torch.Tensor], Any] = kind(transforms.size, value=outside)
    return resize


def _grey(profile: Profile, pixels: Float32, dims: int) -> Float32:
    """Shape (channels, …), each channel by itself."""
    grey = [np.require(profile.grey(layer), np.float32, ["C", "W"]) for layer in layers(pixels, dims)]
    return grey[0][None] if len(grey) == 1 else np.stack(grey)


def _scaled(profile: Profile, image: torch.Tensor) -> torch.Tensor:
    """Each channel z-scored by itself: sequences of an MRI have scales of their own."""
    return torch.stack([z_score(layer) for layer in image]) if profile.z_score else not_flat(image)


def z_score(image: torch.Tensor) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over all pixels of one image, or of one of its channels.

    Raises:
        Unusable: the image is constant.
    """
    values = image.double()
    low, high = float(values.min()), float(values.max())
    deviation = float(values.std(correction=0))
    if not deviation > FLAT * max(abs(low), abs(high)):
        raise Unusable("constant-image", "Nothing is left to see.", "Check that the export was not blank.")
    return ((values - values.mean()) / deviation).float()


def _resized(image: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Bilinear with antialiasing: thin structures fade instead of flickering in and out."""
    if image.shape[1:] == size:
        return image
    return functional.interpolate(
        image[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0]


def _geometry(transforms: Transforms, mode: str) -> Callable[[Volume], torch.Tensor]:
    place = _oriented(transforms, mode)
    return lambda volume: plain(place(volume))


def _oriented(transforms: Transforms, mode: str) -> Callable[[Volume], Any]:
    """In RAS axes and with the study's spacing, as a MetaTensor."""
    from monai.data import MetaTensor
    from monai.transforms import Orientation, Spacing

    orient = Orientation(axcodes="RAS", labels=AXES)
    wanted = transforms.spacing_mm
    resample = Spacing(pixdim=wanted, mode=mode, padding_mode="border", recompute_affine=False)

    def apply(volume: Volume) -> Any:
        voxels = torch.from_numpy(np.ascontiguousarray(layers(volume.voxels, 3)))
        placed: Any = orient(MetaTensor(voxels, affine=torch.from_numpy(volume.affine)))
        spacing = np.linalg.norm(placed.affine[:3, :3].numpy(), axis=0)
        if np.abs(spacing - wanted).max() > SAME_SPACING_MM:
            _check_resampled_size(tuple(placed.shape[1:]), spacing, transforms)
            placed = resample(placed)
        return placed

    return apply


def _check_resampled_size(shape: tuple[int, ...], spacing: Any, transforms: Transforms) -> None:
    """A wrong voxel size (1 m for 1 mm) would ask for terabytes; no patient is larger than this."""
    edges_mm = np.array(shape) * spacing
    if edges_mm.max() > 3000 or np.prod(edges_mm / transforms.spacing_mm) > 2**28:
        raise Unusable("bad-geometry", "The header makes the volume impossibly large.", "Export it again.")
