"""A profile's own MONAI ``Compose``, held to its word: no chance, the study's shape, whole class numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from medveil.errors import Error
from medveil.profiles import PROFILES
from medveil.study import Transforms
from medveil_imaging.sources.raw import Film, Float32, Float64, Unusable, Volume


class BadProfile(Error):
    """A profile's own way into a tensor does not keep its word."""

    code = "bad-profile"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The profile '{name}' cannot be used: {problem}.",
            meaning="No image was read with it, and nothing was trained.",
            remedy="Tell whoever wrote the profile; docs/extending.md says what its Compose must do.",
        )


def own_way(
    transforms: Transforms, build: Callable[[Transforms], Any]
) -> Callable[[Film | Volume], torch.Tensor]:
    """What a profile's own ``Compose`` makes.

    Raises: BadProfile: it leaves something to chance. When called, Unusable: what it makes does not fit.
    """
    from monai.transforms import Compose, RandomizableTrait

    compose, profile = build(transforms), PROFILES[transforms.profile]
    if isinstance(compose, Compose) and any(isinstance(t, RandomizableTrait) for t in compose.transforms):
        raise BadProfile(name=transforms.profile, problem="it leaves something to chance")

    def fits(made: torch.Tensor) -> bool:
        edges = tuple(made.shape[1:])
        if len(edges) != (3 if profile.reads_volumes else 2) or len(made) != transforms.channel_count:
            return False
        if transforms.patches:
            return all(edge >= least for edge, least in zip(edges, transforms.size, strict=True))
        return profile.sliced or edges == transforms.size

    def apply(image: Film | Volume) -> torch.Tensor:
        made = plain(compose(_given(image))).float()
        if not (fits(made) and bool(torch.isfinite(made).all())):
            raise _misshapen()
        return not_flat(made)

    return apply


def own_place(
    transforms: Transforms, build: Callable[[Transforms], Any]
) -> Callable[[Volume], tuple[torch.Tensor, Float64]]:
    """As :func:`own_way` for volumes, with the affine of what is made, in RAS mm.

    Raises: Unusable, when called: MONAI's bookkeeping was lost on the way.
    """
    from monai.data import MetaTensor

    checked, compose = own_way(transforms, build), build(transforms)

    def apply(volume: Volume) -> tuple[torch.Tensor, Float64]:
        made = compose(_given(volume))
        if not isinstance(made, MetaTensor):
            raise Unusable(
                "no-way-back",
                "The study's profile does not say where its voxels lie in the patient.",
                "Tell whoever wrote the profile: its Compose must keep MONAI's MetaTensor.",
            )
        return checked(volume), np.asarray(made.affine, np.float64)

    return apply


def label_way(transforms: Transforms) -> Callable[[Film | Volume], torch.Tensor] | None:
    """A profile's own way for label maps, if it has a way of its own."""
    build = PROFILES[transforms.profile].outline
    if build is None:
        return None
    compose = build(transforms)
    return lambda labels: plain(compose(_given(labels)))


def counted(placed: torch.Tensor, labels: Float32) -> tuple[torch.Tensor, bool]:
    """A label map, int64, and whether a class of it is nowhere any more.

    Raises: Unusable: it has numbers that it had not.
    """
    values = placed[0].numpy()
    left, before = set(np.unique(values).tolist()), set(np.unique(labels).tolist())
    if not left <= before | {0.0}:
        raise _misshapen()
    return placed[0].long(), not before - {0.0} <= left


def layers(pixels: Float32, dims: int) -> Float32:
    """With its channels as the first axis."""
    return pixels if pixels.ndim > dims else pixels[None]


def plain(image: Any) -> torch.Tensor:
    """Leave MONAI's bookkeeping (affine, history of transforms) behind."""
    tensor: torch.Tensor = image.as_subclass(torch.Tensor)
    return tensor.contiguous()


def not_flat(image: torch.Tensor) -> torch.Tensor:
    """The image. Raises: Unusable: it is constant."""
    if bool(image.min() == image.max()):
        raise Unusable("constant-image", "Nothing is left to see.", "Check that the export was not blank.")
    return image


def _given(image: Film | Volume) -> torch.Tensor:
    """As a ``Compose`` gets it: a copy, for what was read is compared with other images later."""
    if isinstance(image, Film):
        return torch.from_numpy(layers(image.pixels, 2).astype(np.float32, order="C"))
    from monai.data import MetaTensor

    voxels = torch.from_numpy(layers(image.voxels, 3).astype(np.float32, order="C"))
    placed: torch.Tensor = MetaTensor(voxels, affine=torch.from_numpy(image.affine))
    return placed


def _misshapen() -> Unusable:
    return Unusable(
        "unusable-image",
        "The study's profile does not bring this image into the study's shape.",
        "Export it again; if it happens to all images, tell whoever wrote the profile.",
    )
