"""Model tensors as the wire sees them: a spec, one flat vector, and a safetensors file we check ourselves."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from medveil.errors import RemoteProtocolError
from medveil.ids import digester
from medveil.outside import NotPlain, decode_json

Float32 = NDArray[np.float32]
MAX_HEADER_BYTES = 8 * 2**20


class TensorSpec(BaseModel):
    """Name and shape of one trained float32 tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=200)]
    shape: tuple[Annotated[int, Field(ge=1)], ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


class ModelSpec(RootModel[tuple[TensorSpec, ...]]):
    """The trained tensors of a model, in the order in which they are laid into one vector."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({t.name for t in self.root}) != len(self.root) or not self.root:
            raise ValueError("tensor names must be different and at least one")
        return self

    @property
    def size(self) -> int:
        """Number of parameters, d."""
        return sum(t.size for t in self.root)


@dataclass(frozen=True)
class Update:
    """Trained minus global weights of one hospital. Plain floats: it has no way onto the wire."""

    values: Float32
    """Shape (d,), model units."""

    def __repr__(self) -> str:
        return f"Update({len(self.values)} parameters)"


class BadModelFile(RemoteProtocolError):
    """A model file does not hold exactly the tensors of the study."""

    code = "bad-model-file"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The model file was refused: {problem}.",
            meaning="It is not the model that this study trains, or it was damaged on its way.",
            remedy="Fetch it again; if it stays so, tell the consortium's admin.",
        )


def flatten(tensors: Mapping[str, NDArray[Any]], spec: ModelSpec) -> Float32:
    """Lay the tensors into one float32 vector of shape (d,), in the order of ``spec``."""
    return np.concatenate([np.asarray(tensors[t.name], np.float32).reshape(-1) for t in spec.root])


def unflatten(vector: Float32, spec: ModelSpec) -> dict[str, Float32]:
    """The inverse of :func:`flatten`; the tensors are views of ``vector``."""
    if vector.shape != (spec.size,):
        raise ValueError(f"expected a vector of {spec.size} entries, got shape {vector.shape}")
    tensors, start = {}, 0
    for tensor in spec.root:
        tensors[tensor.name] = vector[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return tensors


def model_hash(vector: Float32, spec: ModelSpec) -> bytes:
    """SHA-256 over names, shapes and little-endian float32 bytes: the name of an immutable model version."""
    hasher = model_hasher(spec)
    hasher.update(np.ascontiguousarray(vector, "<f4").data)
    return hasher.digest()


def model_hasher(spec: ModelSpec) -> hashlib._Hash:
    """:func:`model_hash` up to the vector's bytes, for those who have the vector in pieces."""
    parts = [json.dumps([t.name, list(t.shape)]).encode() for t in spec.root]
    hasher = digester("model", *parts)
    hasher.update((4 * spec.size).to_bytes(8, "big"))
    return hasher


def to_safetensors(vector: Float32, spec: ModelSpec) -> bytes:
    """Serialise a model; no metadata, float32 only, the vector in one piece behind the header."""
    if vector.shape != (spec.size,):
        raise ValueError(f"expected a vector of {spec.size} entries, got shape {vector.shape}")
    return b"".join((safetensors_header(spec), np.ascontiguousarray(vector, "<f4").data))


def safetensors_header(spec: ModelSpec) -> bytes:
    """What stands before the vector in :func:`to_safetensors`: a multiple of 8 bytes."""
    entries, start = {}, 0
    for tensor in spec.root:
        end = start + 4 * tensor.size
        entries[tensor.name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def from_safetensors(data: bytes, spec: ModelSpec) -> Float32:
    """Read a model of exactly this spec into one vector of shape (d,).

    The header is checked here before the library sees it: no duplicate keys (the library keeps the last one
    silently), no metadata, every name, dtype and shape as the spec says, offsets gapless, all values finite.

    Raises:
        BadModelFile: anything else.
    """
    header, body = _split(data, max_header=_header_limit(spec))
    wanted = {t.name: list(t.shape) for t in spec.root}
    if set(header) != set(wanted):
        raise BadModelFile(problem="its tensor names are not those of the study")
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _start(item[1])):
        start, end = end, end + 4 * math.prod(wanted[name])
        if entry != {"dtype": "F32", "shape": wanted[name], "data_offsets": [start, end]}:
            raise BadModelFile(problem="a tensor's type, shape or place in the file is wrong")
    if end != len(body):
        raise BadModelFile(problem="its length does not match its header")
    vector = flatten(safetensors.numpy.load(data), spec)
    if not np.all(np.isfinite(vector)):
        raise BadModelFile(problem="it holds values that are not finite numbers")
    return vector


def spec_of(data: bytes) -> ModelSpec:
    """The spec of a safetensors file we made ourselves, in the order of its data."""
    header, _ = _split(data, max_header=MAX_HEADER_BYTES)
    order = sorted(header.items(), key=lambda item: _start(item[1]))
    return ModelSpec(tuple(TensorSpec(name=k, shape=tuple(v["shape"])) for k, v in order))


def largest_file(spec: ModelSpec) -> int:
    """Most bytes that a model file of this spec may have; longer ones are refused before they are read."""
    return 8 + _header_limit(spec) + 4 * spec.size


def _header_limit(spec: ModelSpec) -> int:
    """Twice the header that we write, for other writers' spaces and escapes."""
    return min(2 * len(safetensors_header(spec)) + 1024, MAX_HEADER_BYTES)


def _split(data: bytes, *, max_header: int) -> tuple[dict[str, Any], memoryview]:
    length = int.from_bytes(data[:8], "little") if len(data) >= 8 else -1
    if not 2 <= length <= min(max_header, len(data) - 8):
        raise BadModelFile(problem="it has no complete header")
    try:
        header = decode_json(data[8 : 8 + length], max_bytes=max_header)
    except NotPlain as error:
        raise BadModelFile(problem="its header is not plain JSON") from error
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise BadModelFile(problem="its header does not describe tensors")
    return header, memoryview(data)[8 + length :]


def _start(entry: dict[str, Any]) -> int:
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or not offsets or not isinstance(offsets[0], int):
        raise BadModelFile(problem="its header does not describe tensors")
    return offsets[0]
