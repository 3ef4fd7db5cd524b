"""What judges an image: a study's network in torch, or the same model as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from medveil.errors import BadOption
from medveil.study import Study
from medveil.tensors import from_safetensors, model_hash
from medveil_imaging.fingerprints import check_profile
from medveil_research.export.onnx import Session
from medveil_research.hand_on import finished_model, read_handed
from medveil_research.manifests import MANIFEST
from medveil_research.programs import network_of

Judge = Callable[[torch.Tensor], torch.Tensor]
"""Images (k, channels, \\*size), float32, on the CPU → logits."""


@dataclass(frozen=True)
class Judging:
    """A model that is ready."""

    study: Study
    version: str
    judge: Judge
    engine: str
    """"torch" or "onnx"."""


def judging(folder: Path, *, threads: int, key: bytes | None = None) -> Judging:
    """The model in a folder: as it was fetched (``study.toml``, ``model.safetensors``), or as it was handed
    on as ``weights`` or ``onnx``; then every file is held against the signed manifest first.

    Args:
        threads: of the processor, for every image. key: who must have signed the manifest.
    Raises:
        BadFile, BadModelFile, BadExport: what is there is no model, or not the one that was signed.
        OtherProfile: this machine makes other tensors of an image than the study's.
        MissingLibrary: onnxruntime is not installed.
    """
    if (folder / MANIFEST).is_file():
        handed = read_handed(folder, key=key)
        if handed.manifest.form == "onnx":
            check_profile(handed.study.transforms)
            session = Session(handed.data(".onnx"), threads=threads)
            return Judging(handed.study, handed.manifest.version, session, "onnx")
    study, network, version = in_torch(folder, threads=threads, key=key)

    def judge(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = network(images)
        return found.float()

    return Judging(study, version, judge, "torch")


def in_torch(folder: Path, *, threads: int, key: bytes | None = None) -> tuple[Study, nn.Module, str]:
    """The study, its network with the weights of a folder, and the version.

    Raises: as :func:`judging`; BadOption: the model was handed on in a format that torch does not run.
    """
    if not (folder / MANIFEST).is_file():
        if key is not None:
            raise BadOption(problem="--key is for a model with a signed manifest, and this one has none")
        finished = finished_model(folder)
        study, weights = finished.study, finished.weights
    else:
        handed = read_handed(folder, key=key)
        if handed.manifest.form != "weights":
            form = handed.manifest.form
            raise BadOption(problem=f"a model in the format '{form}' cannot be taken here; 'weights' can")
        study = handed.study
        weights = from_safetensors(handed.data(".safetensors"), study.model.tensors)
    check_profile(study.transforms)
    torch.set_num_threads(threads)
    return study, network_of(study, weights), model_hash(weights, study.model.tensors).hex()
