"""A model file holds exactly the study's tensors, or it is refused before any library sees it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medveil.ids import digest
from medveil.tensors import (
    BadModelFile,
    ModelSpec,
    TensorSpec,
    Update,
    flatten,
    from_safetensors,
    model_hash,
    safetensors_header,
    spec_of,
    to_safetensors,
    unflatten,
)

SPEC = ModelSpec((TensorSpec(name="weight", shape=(2, 3)), TensorSpec(name="bias", shape=(2,))))
VECTOR = np.arange(8, dtype=np.float32)
specs = st.lists(
    st.tuples(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=6),
              st.lists(st.integers(1, 4), max_size=3)),
    min_size=1, max_size=5, unique_by=lambda t: t[0],
).map(lambda ts: ModelSpec(tuple(TensorSpec(name=n, shape=tuple(s)) for n, s in ts)))  # fmt: skip


def build(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entries(**changes: Any) -> dict[str, Any]:
    good = {
        "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "bias": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    }
    return good | changes


@given(specs, st.integers(0, 2**32))
def test_a_model_survives_its_file_and_its_tensors(spec: ModelSpec, seed: int) -> None:
    vector = np.random.default_rng(seed).normal(size=spec.size).astype(np.float32)
    assert np.array_equal(from_safetensors(to_safetensors(vector, spec), spec), vector)
    assert np.array_equal(flatten(unflatten(vector, spec), spec), vector)
    assert spec.size == sum(math.prod(t.shape) for t in spec.root)


@given(specs, st.integers(0, 2**32))
def test_a_file_is_a_header_and_the_vector_in_one_piece_and_the_library_reads_it(
    spec: ModelSpec, seed: int
) -> None:
    vector = np.random.default_rng(seed).normal(size=spec.size).astype(np.float32)
    data = to_safetensors(vector, spec)
    assert data == safetensors_header(spec) + vector.tobytes()
    assert len(safetensors_header(spec)) % 8 == 0
    assert spec_of(data) == spec
    for name, tensor in safetensors.numpy.load(data).items():
        assert np.array_equal(tensor, unflatten(vector, spec)[name])


def test_the_hash_of_a_model_is_the_one_of_its_definition() -> None:
    names = [b'["weight", [2, 3]]', b'["bias", [2]]']
    assert model_hash(VECTOR, SPEC) == digest("model", *names, VECTOR.tobytes())


@given(st.integers(0, 7), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_hash_names_one_model_only(place: int, value: float) -> None:
    changed = VECTOR.copy()
    changed[place] = value
    same = changed.tobytes() == VECTOR.tobytes()
    assert (model_hash(changed, SPEC) == model_hash(VECTOR, SPEC)) == same


def test_the_hash_covers_names_shapes_and_order() -> None:
    renamed = ModelSpec((TensorSpec(name="w", shape=(2, 3)), SPEC.root[1]))
    reshaped = ModelSpec((TensorSpec(name="weight", shape=(3, 2)), SPEC.root[1]))
    swapped = ModelSpec(SPEC.root[::-1])
    hashes = {model_hash(VECTOR, s) for s in (SPEC, renamed, reshaped, swapped)}
    assert len(hashes) == 4


BODY = VECTOR.tobytes()
DUPLICATE = (
    b'{"weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
    b'"bias":{"dtype":"F32","shape":[2],"data_offsets":[24,32]},'
    b'"bias":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}}'
)
BAD = {
    "duplicate key": build(DUPLICATE, BODY),
    "duplicate inner key": build(DUPLICATE.replace(b'[2,3]', b'[2,3],"shape":[2,3]', 1), BODY),
    "metadata": build(entries(__metadata__={"a": "b"}), BODY),
    "wrong type": build(entries(bias={"dtype": "I32", "shape": [2], "data_offsets": [24, 32]}), BODY),
    "half": build(entries(bias={"dtype": "F16", "shape": [2], "data_offsets": [24, 28]}), BODY[:28]),
    "wrong shape": build(entries(bias={"dtype": "F32", "shape": [1, 2], "data_offsets": [24, 32]}), BODY),
    "missing tensor": build({"weight": entries()["weight"]}, BODY[:24]),
    "extra tensor": build(entries(x={"dtype": "F32", "shape": [0], "data_offsets": [32, 32]}), BODY),
    "gap": build(entries(bias={"dtype": "F32", "shape": [2], "data_offsets": [28, 36]}), BODY + bytes(4)),
    "overlap": build(entries(bias={"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}), BODY[:24]),
    "extra field": build(entries(bias={**entries()["bias"], "x": 1}), BODY),
    "offsets no list": build(entries(bias={"dtype": "F32", "shape": [2], "data_offsets": 24}), BODY),
    "offsets text": build(entries(bias={"dtype": "F32", "shape": [2], "data_offsets": ["a", "b"]}), BODY),
    "no entries": build({"weight": 1, "bias": 2}, BODY),
    "trailing bytes": build(entries(), BODY + b"\0"),
    "cut": build(entries(), BODY[:-1]),
    "NaN": build(entries(), np.float32([*range(7), np.nan]).tobytes()),
    "infinity": build(entries(), np.float32([*range(7), np.inf]).tobytes()),
    "list": build([1], BODY),
    "not JSON": build(b"{]", BODY),
    "deep": build(b"[" * 100_000, BODY),
    "empty": b"",
    "short": bytes(7),
    "header longer than the file": (10**6).to_bytes(8, "little") + b"{}",
    "huge header": (2**63).to_bytes(8, "little") + b"{}",
}  # fmt: skip


def test_the_unchanged_file_is_accepted() -> None:
    assert np.array_equal(from_safetensors(build(entries(), BODY), SPEC), VECTOR)


@pytest.mark.parametrize("fault", BAD)
def test_a_file_with_any_fault_is_refused(fault: str) -> None:
    with pytest.raises(BadModelFile):
        from_safetensors(BAD[fault], SPEC)


@given(st.data())
def test_no_damaged_file_is_read_as_anything_but_finite_numbers(data: st.DataObject) -> None:
    good = bytearray(to_safetensors(VECTOR, SPEC))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= data.draw(st.integers(1, 255))
    try:
        vector = from_safetensors(bytes(good), SPEC)
    except BadModelFile:
        return
    assert vector.shape == VECTOR.shape
    assert np.isfinite(vector).all()


def test_an_update_does_not_show_its_numbers() -> None:
    assert repr(Update(np.full(3, 0.123, np.float32))) == "Update(3 parameters)"


def test_a_vector_of_another_length_has_no_tensors() -> None:
    with pytest.raises(ValueError, match="8 entries"):
        unflatten(VECTOR[:7], SPEC)


@pytest.mark.parametrize("tensors", [[], [("a", (1,)), ("a", (2,))], [("", (1,))], [("a", (0,))]])
def test_a_spec_has_different_names_and_positive_shapes(tensors: list[Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.model_validate([{"name": n, "shape": s} for n, s in tensors])
