"""The whole model, fixed parts included, as one ONNX file: it runs wherever onnxruntime runs, without torch.

Input ``image``: float32 (batch, channels, \\*size), output ``logits``: (batch, outputs), or (batch, outputs,
\\*size) of a model that outlines. What becomes of an image before is in the card, and in the file's metadata.

Source: ONNX IR and operators of the ONNX project; torch.onnx's exporter over torch.export.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medveil.study import Study
from medveil_research.export import EXPORTS
from medveil_research.export.weights import card_of
from medveil_research.extras import library
from medveil_research.finished import Finished
from medveil_research.preprocessing import steps_of
from medveil_research.programs import (
    BATCH,
    NotExportable,
    check_same,
    hushed,
    network_of,
    program_of,
    trial_images,
)

if TYPE_CHECKING:
    from onnx import ModelProto

FORM = "onnx"
INPUT, OUTPUT = "image", "logits"
MOST_BYTES = 2**31 - 2**20
"""Of one file of protocol buffers."""


@EXPORTS.register(FORM)
def onnx(finished: Finished, folder: Path) -> list[Path]:
    """``<stem>.onnx``, held against torch on made-up images, and ``<stem>.json``.

    Raises:
        NotExportable: an operator that ONNX lacks, too large, or other numbers than the network's.
        MissingLibrary: onnx, onnxscript or onnxruntime is not installed.
    """
    study = finished.study
    if 4 * study.model.tensors.size > MOST_BYTES:
        raise NotExportable(name=study.model.name, form=FORM, problem="its weights take more than 2 GB")
    network = network_of(study, finished.weights)
    model = _model(study, network)
    described = {"study": study.name, "version": finished.version, "preprocessing": steps_of(study)}
    described |= {"classes": list(study.classes), "task": study.task}
    for name, value in described.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"medveil.{name}", value if isinstance(value, str) else json.dumps(value)
    data = model.SerializeToString(deterministic=True)
    apart = check_same(study, network, Session(data, threads=2), form=FORM)
    path, card = (folder / f"{finished.stem}.{ending}" for ending in ("onnx", "json"))
    path.write_bytes(data)
    told = {"input": INPUT, "output": OUTPUT, "opset": model.opset_import[0].version, "difference": apart}
    text = json.dumps(card_of(finished) | {"onnx": told}, indent=2, ensure_ascii=False)
    card.write_text(text + "\n", encoding="utf-8")
    return [path, card]


class Session:
    """An ONNX model in onnxruntime, on so many threads of this machine's processor.

    Raises: MissingLibrary.
    """

    def __init__(self, data: bytes, *, threads: int) -> None:
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images (k, channels, \\*size)."""
        given = np.ascontiguousarray(images.detach().numpy(), np.float32)
        return torch.from_numpy(self._session.run([OUTPUT], {INPUT: given})[0])


def _model(study: Study, network: torch.nn.Module) -> ModelProto:
    checker = library("onnx").checker
    library("onnxscript")
    program = program_of(study, network, form=FORM)
    with hushed():
        try:
            written: Any = torch.onnx.export(
                program,
                (trial_images(study)[:2].contiguous(),),
                dynamo=True,
                dynamic_shapes=None,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise NotExportable(name=study.model.name, form=FORM, problem=_lacking(error)) from error
    model: ModelProto = written.model_proto
    _tidy(model)
    checker.check_model(model, full_check=True)
    return model


def _lacking(error: Exception) -> str:
    """Which operator, if the exporter tells."""
    reason: BaseException | None = error
    while reason is not None:
        text = str(reason)
        if "OpOverload(op='" in text:
            name = text.split("OpOverload(op='", 1)[1].split("'", 1)[0]
            return f"ONNX has no operator for torch's '{name}'"
        reason = reason.__cause__
    return "the network has an operator that ONNX lacks"


def _tidy(model: ModelProto) -> None:
    """No word of the machine that wrote it, and the batch's size called as it is."""
    graph = model.graph
    own = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    del model.metadata_props[:], graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    for function in (graph, *model.functions):
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in function.value_info:
            _rename(value, own)
            del value.metadata_props[:]
    for value in (*graph.input, *graph.output):
        _rename(value, own)
        del value.metadata_props[:]
    for tensor in graph.initializer:
        del tensor.metadata_props[:]


def _rename(value: Any, own: str) -> None:
    for dimension in value.type.tensor_type.shape.dim:
        if own and dimension.dim_param == own:
            dimension.dim_param = BATCH
