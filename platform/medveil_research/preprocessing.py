"""What becomes of an image before a network sees it: in words, and as transforms of MONAI alone.

The grey scale of a profile is a function of its file. It goes along as the code that it is, without what
belongs to MedVeil, so whoever has numpy and MONAI makes the same tensors.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from medveil.profiles import PROFILES, Profile, as_it_is
from medveil.study import Study, Transforms
from medveil_imaging.patches import OVERLAP

AXES = [["L", "R"], ["P", "A"], ["I", "S"]]
KEY = "image"


class Unwritable(ValueError):
    """A profile's way cannot be written with MONAI's transforms; the text says why."""


def steps_of(study: Study) -> list[str]:
    """The way from a file to the tensor, a sentence a step."""
    transforms = study.transforms
    profile = PROFILES[transforms.profile]
    size = " x ".join(map(str, transforms.size))
    steps = [_read(profile)]
    if transforms.channels:
        steps.append(f"Channels, in this order, on the grid of the first: {', '.join(transforms.channels)}.")
    if profile.compose is not None:
        return [*steps, f"What compose() of the profile '{transforms.profile}' does, to {size}."]
    if transforms.patches:
        steps.append("Outer layers in which every channel is as dark as it is anywhere are cut off.")
    if profile.grey is not as_it_is:
        steps.append(f"Grey scale, channel by channel: {_said(profile)}")
    if profile.reads_volumes:
        spacing = " x ".join(f"{edge:g}" for edge in transforms.spacing_mm)
        steps.append(f"Turned to RAS axes, resampled (trilinear, border repeated) to {spacing} mm.")
    else:
        steps.append(f"Resized to {size}, bilinear with antialiasing (torch interpolate, antialias=True).")
    if profile.z_score:
        steps.append("Each channel less its mean, divided by its standard deviation over all pixels (n).")
    if profile.reads_volumes:
        steps.append(_cut(transforms, profile, size))
    return steps


def _read(profile: Profile) -> str:
    if profile.reads_volumes:
        return "A volume as float32 with its affine in RAS mm (NIfTI, or the slices of one DICOM series)."
    if profile.channels == 3:
        return "A picture as float32, red, green and blue from 0 to 255."
    return (
        "A film as float32, bright = dense tissue, upright; of DICOM after modality LUT or rescale, with "
        "MONOCHROME1 inverted."
    )


def _said(profile: Profile) -> str:
    return (inspect.getdoc(profile.grey) or profile.grey.__name__).split("\n\n")[0].replace("\n", " ")


def _cut(transforms: Transforms, profile: Profile, size: str) -> str:
    if profile.sliced:
        return f"Each axial slice cropped or padded ({profile.outside:g}) around its centre to {size}."
    if transforms.patches:
        return (
            f"Padded ({profile.outside:g}) to {size} at least, and seen through windows of {size} that "
            f"overlap by {OVERLAP:g}, weighted by a Gaussian."
        )
    return f"Cropped or padded ({profile.outside:g}) around its centre to {size}."


def code_of_profile(name: str) -> list[str]:
    """The profile's own functions and numbers, as lines of Python that need nothing of MedVeil."""
    found = importlib.util.find_spec(f"medveil.profiles.{name}")
    if found is None or found.origin is None:
        raise Unwritable(f"the profile '{name}' is no file of its own")
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    kept = [node for node in tree.body if not _of_medveil(node)]
    return ast.unparse(ast.Module(kept, [])).splitlines()


def _of_medveil(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").startswith("medveil")
    return isinstance(node, ast.Expr)  # its docstrings, and the line that registers it


def monai_transforms(study: Study) -> list[dict[str, Any]]:
    """Configuration of MONAI's dictionary transforms from a path under "image" to the tensor.

    It refers to ``@profile``, the namespace of :func:`code_of_profile`.

    Raises: Unwritable.
    """
    transforms = study.transforms
    profile = PROFILES[transforms.profile]
    if profile.sliced:
        raise Unwritable("it sees slices of a volume, and a bundle hands it whole ones")
    steps = _loaded(transforms, profile)
    if profile.compose is not None:
        return [*steps, _lambda(f"$@profile[{profile.compose.__name__!r}](@shape)")]
    if transforms.patches:
        seen = "$lambda image: image > image.amin(dim=(1, 2, 3), keepdim=True)"
        steps.append(
            {
                "_target_": "CropForegroundd",
                "keys": KEY,
                "source_key": KEY,
                "select_fn": seen,
                "allow_smaller": True,
            }
        )
    if profile.grey is not as_it_is:
        name = profile.grey.__name__
        if f"def {name}(" not in "\n".join(code_of_profile(transforms.profile)):
            raise Unwritable("its grey scale is no function of the profile's own file")
        steps.append(_lambda(_grey(name)))
    return steps + (_volume(transforms, profile) if profile.reads_volumes else _film(transforms, profile))


def _loaded(transforms: Transforms, profile: Profile) -> list[dict[str, Any]]:
    load: dict[str, Any] = {"_target_": "LoadImaged", "keys": KEY, "image_only": True}
    channels = "$-1" if profile.channels == 3 or len(transforms.channels) > 1 else "no_channel"
    if not profile.reads_volumes:
        wanted = "RGB" if profile.channels == 3 else "F"
        load |= {
            "reader": {
                "_target_": "PILReader",
                "reverse_indexing": False,
                "converter": f"$lambda picture: picture.convert({wanted!r})",
            }
        }
    first = {"_target_": "EnsureChannelFirstd", "keys": KEY, "channel_dim": channels}
    return [load, first, {"_target_": "EnsureTyped", "keys": KEY, "dtype": "$torch.float32"}]


def _lambda(function: str) -> dict[str, Any]:
    return {"_target_": "Lambdad", "keys": KEY, "func": function}


def _grey(name: str) -> str:
    each = f"@profile[{name!r}](numpy.array(layer, dtype=numpy.float32))"
    return (
        f"$lambda image: monai.data.MetaTensor(torch.from_numpy(numpy.stack([{each} for layer in image])), "
        "meta=image.meta, applied_operations=image.applied_operations)"
    )


def _film(transforms: Transforms, profile: Profile) -> list[dict[str, Any]]:
    resize = (
        f"$lambda image: torch.nn.functional.interpolate(image[None], size={list(transforms.size)}, "
        "mode='bilinear', antialias=True, align_corners=False)[0]"
    )
    return [_lambda(resize), *_scaled(profile)]


def _volume(transforms: Transforms, profile: Profile) -> list[dict[str, Any]]:
    fit = "SpatialPadd" if transforms.patches else "ResizeWithPadOrCropd"
    return [
        {"_target_": "Orientationd", "keys": KEY, "axcodes": "RAS", "labels": AXES},
        {
            "_target_": "Spacingd",
            "keys": KEY,
            "pixdim": list(transforms.spacing_mm),
            "mode": "bilinear",
            "padding_mode": "border",
        },
        *_scaled(profile),
        {
            "_target_": fit,
            "keys": KEY,
            "spatial_size": list(transforms.size),
            "value": profile.outside,
        },
    ]


def _scaled(profile: Profile) -> list[dict[str, Any]]:
    if not profile.z_score:
        return []
    return [{"_target_": "NormalizeIntensityd", "keys": KEY, "channel_wise": True}]
