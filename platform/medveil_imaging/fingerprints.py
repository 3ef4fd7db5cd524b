"""What a study's transforms make of a phantom, as a few numbers: the same at every hospital, or no training.

The hash of a profile's file does not tell whether the libraries beneath it do the same at two hospitals. So a
study also holds what comes out: of each channel the means over some blocks, the deviation, and both ends.
They are numbers and compared with a tolerance. A hash of them would differ whenever one of them lies at the
edge of its rounding, which two processors decide differently; and it could not tell near from far.
"""

from __future__ import annotations

import numpy as np
import torch
from nibabel.quaternions import quat2mat
from torch.nn import functional

from medveil.errors import Error
from medveil.profile_source import profile_hash
from medveil.profiles import PROFILES
from medveil.study import Transforms
from medveil_imaging.sources.raw import Film, Float32, Unusable, Volume
from medveil_imaging.transforms import film_transform, slice_transform, volume_transform

AGREE = 0.01
"""How far two numbers of one fingerprint may lie apart, in units of the finished tensor (a z-score, mostly)
or, of large ones, as a share: processors differ by 1e-5, another percentile or interpolation by more."""
DIGITS = 4
"""Decimal places that a study holds."""
FILM = (150, 120)
VOLUME = (34, 30, 26)


class OtherProfile(Error):
    """This machine does not bring images into the tensors that the study was made for."""

    code = "other-profile"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The profile '{name}' is another one here: {problem}.",
            meaning="Images would become other tensors than at the other hospitals, so the plan is refused.",
            remedy="Install the version of MedVeil and of the profile's file that the study was made with.",
        )


def with_profile(transforms: Transforms) -> Transforms:
    """The same with its profile's hash and fingerprint, as a new study has them.

    Raises: BadProfile, Unusable: the profile cannot be used.
    """
    known = {"profile_hash": profile_hash(transforms.profile), "fingerprint": fingerprint(transforms)}
    return transforms.model_copy(update=known)


def check_profile(transforms: Transforms) -> None:
    """Whether this machine's profile is the one that the study was made with; old studies ask for none.

    Raises: OtherProfile.
    """
    name = transforms.profile
    if transforms.profile_hash is not None and transforms.profile_hash != profile_hash(name):
        raise OtherProfile(name=name, problem="its file holds other code than the study's")
    if not transforms.fingerprint:
        return
    try:
        found = np.array(fingerprint(transforms))
    except Unusable as error:
        raise OtherProfile(name=name, problem="it makes no image of the phantom") from error
    told = np.array(transforms.fingerprint)
    if found.shape != told.shape or bool((np.abs(found - told) > AGREE * np.maximum(1, np.abs(told))).any()):
        raise OtherProfile(
            name=name, problem="it makes another image of the phantom than where it was written"
        )


def fingerprint(transforms: Transforms) -> tuple[float, ...]:
    """Of each channel of the finished phantom: means over 4 x 4 or 2 x 2 x 2 blocks, deviation, both ends.

    Raises: BadProfile, Unusable: the profile makes nothing of it.
    """
    made = phantom(transforms).double()
    flat = made.flatten(1)
    pool = functional.adaptive_avg_pool2d if made.ndim == 3 else functional.adaptive_avg_pool3d
    blocks = pool(made, 4 if made.ndim == 3 else 2).flatten(1)
    ends = torch.stack([flat.std(1, correction=0), flat.min(1).values, flat.max(1).values], 1)
    return tuple(round(float(value), DIGITS) for value in torch.cat([blocks, ends], 1).flatten())


def phantom(transforms: Transforms) -> torch.Tensor:
    """The finished phantom: float32 (channels, \\*edges), of a sliced volume (channels, slices, \\*edges).

    Raises: BadProfile, Unusable: the profile makes nothing of it.
    """
    profile = PROFILES[transforms.profile]
    if not profile.reads_volumes:
        return film_transform(transforms)(_film(transforms.channel_count))
    if profile.sliced:
        return slice_transform(transforms)(_volume(transforms))[0].transpose(0, 1)
    return volume_transform(transforms)(_volume(transforms))


def _film(channels: int) -> Film:
    """A made-up film, different in every quarter; in colour from 0 to 255, else in 12 bits."""
    down, across = (np.mgrid[0 : FILM[0], 0 : FILM[1]] / np.array(FILM)[:, None, None]).astype(np.float64)
    layers = []
    for channel in range(channels):
        shade = 0.3 + 0.3 * across + 0.1 * down * (1 + channel)
        shade += 0.25 * np.exp(-(((across - 0.3) / 0.2) ** 2) - ((down - 0.6 + 0.1 * channel) / 0.25) ** 2)
        shade[(np.abs(across - 0.75) < 0.02) & (down < 0.5)] += 0.3  # a wire
        shade[:4, :9] = 1.6  # a lead marker, which must not set the scale
        layers.append(shade / 1.6)
    if channels == 1:
        return Film(np.rint(4095 * layers[0]).astype(np.float32))
    return Film(np.rint(255 * np.stack(layers)).astype(np.float32))


def _volume(transforms: Transforms) -> Volume:
    """A made-up head that fills the study's field of view, with oblique axes and voxels of three lengths.

    Its voxels are stored from front to back, right to left, and up; no half of it is like another.
    """
    edges = transforms.size if len(transforms.size) == 3 else (*transforms.size, max(transforms.size))
    radius = 0.45 * np.array(edges) * transforms.spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = quat2mat((0.7, 0.05, -0.04, -0.7)) @ np.diag([1.0, -1.0, 1.0])
    affine[:3, :3] *= 2.4 * radius[[1, 0, 2]] / np.array(VOLUME)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(VOLUME) - 1) / 2 + 0.05 * radius
    index = np.stack(np.meshgrid(*map(np.arange, VOLUME), indexing="ij"), -1)
    right, front, up = np.moveaxis((index @ affine[:3, :3].T + affine[:3, 3]) / radius, -1, 0)
    layers: list[Float32] = []
    for channel in range(transforms.channel_count):
        head = right**2 + front**2 + up**2 < 1
        beside = ((right - 0.4) / 0.3) ** 2 + ((front - 0.2 * channel) / 0.4) ** 2
        spot = np.exp(-beside - ((up + 0.3) / 0.3) ** 2)
        grey = head * (400 + 150 * right + 120 * front + 90 * up + (500 - 60 * channel) * spot)
        layers.append(np.rint(grey * (1 + channel)).astype(np.float32))
    return Volume(layers[0] if len(layers) == 1 else np.stack(layers), affine)
