"""What judges an image: a study's network in torch, or the same model as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from medveil.errors import BadOption
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors, model_hash
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
    if not (folder / MANIFEST).is_file():
        if key is not None:
            raise BadOption(problem="--key is for a model with a signed manifest, and this one has none")
        finished = finished_model(folder)
        return _in_torch(finished.study, finished.weights, finished.version, threads)
    handed = read_handed(folder, key=key)
    told, study = handed.manifest, handed.study
    check_profile(study.transforms)
    if told.form == "onnx":
        session = Session(handed.data(".onnx"), threads=threads)
        return Judging(study, told.version, session, "onnx")
    if told.form != "weights":
        raise BadOption(problem=f"a model in the format '{told.form}' has its own programs; see its README")
    weights = from_safetensors(handed.data(".safetensors"), study.model.tensors)
    return _in_torch(study, weights, model_hash(weights, study.model.tensors).hex(), threads)


def _in_torch(study: Study, weights: Float32, version: str, threads: int) -> Judging:
    check_profile(study.transforms)
    torch.set_num_threads(threads)
    network = network_of(study, weights)

    def judge(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = network(images)
        return found.float()

    return Judging(study, version, judge, "torch")
