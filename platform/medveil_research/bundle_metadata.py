"""``configs/metadata.json`` of a MONAI Bundle, typed: what this writes satisfies MONAI's schema.

The types here ask for all that MONAI's schema of 25 July 2024 asks for, and for no field that it does not
know; a test holds what is written against a copy of that schema where one is given. Its address, which each
bundle names, is :data:`SCHEMA`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medveil.profiles import PROFILES
from medveil.study import Study
from medveil.tasks import TASKS
from medveil.values import Frozen

if TYPE_CHECKING:
    from medveil_research.finished import Finished

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
Said = Annotated[str, Field(min_length=1)]


class Tensor(Frozen):
    """What goes into the network, or comes out of it."""

    type: Literal["image", "probabilities", "number"]
    format: Said
    modality: str | None = None
    num_channels: Annotated[int, Field(ge=1)]
    spatial_shape: tuple[int, ...]
    dtype: Literal["float32"] = "float32"
    value_range: tuple[float, ...] = ()
    is_patch_data: bool = False
    channel_def: dict[str, str]


class InsAndOuts(Frozen):
    """Of one network."""

    inputs: dict[Literal["image"], Tensor]
    outputs: dict[Literal["pred"], Tensor]


class Metadata(Frozen):
    """The whole file."""

    schema_: Annotated[str, Field(alias="schema")] = SCHEMA
    version: Said
    changelog: dict[str, str]
    monai_version: Said
    pytorch_version: Said
    numpy_version: Said
    required_packages_version: dict[str, str]
    name: Said
    task: Said
    description: Said
    authors: Said
    copyright: Said
    data_source: Said
    data_type: Said
    image_classes: Said
    pred_classes: Said
    eval_metrics: dict[str, float]
    intended_use: Said
    references: tuple[str, ...] = ()
    network_data_format: InsAndOuts


def metadata_of(finished: Finished) -> dict[str, object]:
    """The metadata of a bundle, as plain values."""
    study = finished.study
    profile, task = PROFILES[study.transforms.profile], TASKS[study.task]
    cost = "without noise"
    if study.privacy.kind != "none":
        cost = f"with epsilon {finished.epsilon:.4g} at delta {study.privacy.delta:g} for a patient"
    told = Metadata(
        version="1.0.0",
        changelog={"1.0.0": f"version {finished.version} of study {study.name}"},
        monai_version=version("monai"),
        pytorch_version=version("torch").partition("+")[0],
        numpy_version=version("numpy"),
        required_packages_version={"pytorch-ignite": version("pytorch-ignite"), "fire": version("fire")},
        name=study.name,
        task=f"{study.task} of {profile.images}: to {task.aim(study)}",
        description=(
            f"{study.model.name}, trained by federated learning with MedVeil {version('medveil')}, {cost}. "
            + study.description
        ).strip(),
        authors="the hospitals and researchers of the study",
        copyright="as the study's hospitals have agreed",
        data_source="images of the study's hospitals, which never left them",
        data_type="nibabel" if profile.reads_volumes else "png",
        image_classes="; ".join(study.transforms.channels) or profile.images,
        pred_classes="; ".join(study.classes) or (study.target.column if study.target else "a number"),
        eval_metrics=dict(finished.figures),
        intended_use="research only: no medical device, not for diagnosis",
        network_data_format=InsAndOuts(inputs={"image": _input(study)}, outputs={"pred": _output(study)}),
    )
    return told.model_dump(mode="json", by_alias=True, exclude_none=True)


def _input(study: Study) -> Tensor:
    transforms = study.transforms
    names = transforms.channels or tuple(f"channel {k}" for k in range(transforms.channel_count))
    return Tensor(
        type="image",
        format="magnitude",
        modality="MR" if PROFILES[transforms.profile].reads_volumes else "XR",
        num_channels=transforms.channel_count,
        spatial_shape=transforms.size,
        is_patch_data=transforms.patches > 0,
        channel_def={str(place): name for place, name in enumerate(names)},
    )


def _output(study: Study) -> Tensor:
    outputs = TASKS[study.task].outputs(study.classes)
    names = study.classes[-outputs:] or (study.target.column if study.target else "a number",)
    outlines = TASKS[study.task].outlines
    return Tensor(
        type="image" if outlines else "number" if study.target else "probabilities",
        format="segmentation" if outlines else "regression" if study.target else "classes",
        num_channels=outputs,
        spatial_shape=study.transforms.size if outlines else (),
        is_patch_data=outlines and study.transforms.patches > 0,
        channel_def={str(place): name for place, name in enumerate(names)},
    )
