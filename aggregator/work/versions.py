"""From the sum of an attempt to the next immutable model version, block by block: a job for a worker."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aggregator.storage.blobs import Blobs, DamagedBlob, StorageFailed
from aggregator.work.unmasking import SUM, Summing, gather, segment_lengths, sum_segment
from medveil.errors import RemoteProtocolError
from medveil.plan import Plan
from medveil.reports import LARGEST
from medveil.rounds import ModelVersion
from medveil.small_cells import without_small
from medveil.strategies import advance
from medveil.study import Study
from medveil.tasks import Sums
from medveil.tensors import (
    Float32,
    from_safetensors,
    model_hash,
    model_hasher,
    safetensors_header,
    to_safetensors,
)
from privacy.encoding import LANES, Aggregate, EncodingParams, Words, decode
from privacy.secagg.messages import Published

BLOCK_WORDS = 2**17
"""1 MiB of a sum: fewest words that are decoded and stepped together."""
PIECE = 2**20
MODEL, _STATE = "model", "state-"
Spans = list[tuple[int, int]]
"""Coordinates, as (first, end) of contiguous runs."""


class WrongInitialModel(RemoteProtocolError):
    """The initial model is not the one that the study names."""

    code = "wrong-initial-model"

    def __init__(self) -> None:
        super().__init__(
            what="The initial model's hash is not the one in the study file.",
            meaning="The hospitals would approve one model and train another, so no study was created.",
            remedy="Use the initial.safetensors that was written together with the study file.",
        )


def first_version(plan: Plan, initial: bytes, blobs: Blobs, *, now: float) -> ModelVersion:
    """Check and keep the initial model.

    Args:
        now: Unix seconds.
    Raises: BadModelFile, WrongInitialModel.
    """
    study = plan.study
    vector = from_safetensors(initial, study.model.tensors)
    name = model_hash(vector, study.model.tensors).hex()
    if name != study.model.initial_model:
        raise WrongInitialModel()
    blobs.put_model(name, to_safetensors(vector, study.model.tensors))
    return ModelVersion(
        plan=plan.id,
        number=0,
        model=name,
        parent=None,
        round=0,
        survivors=(),
        epsilon=None,
        created=utc(now),
    )


@dataclass(frozen=True)
class Making:
    """What is made of a finished sum. The same values give the same files in any process.

    Args:
        folder, draft_id: as in :class:`Summing`; the finished sum is a draft there.
        params: of the whole vector. hospitals: how many are in the sum; ``params.cohort`` are in the plan.
        study: as this kind of round counts it (:func:`medveil.parts.in_round`).
        step: what the next model follows from; None for an evaluation, which makes no model.
        parts: SHA-256 of each segment of the sum, where a cluster's workers have stored them; else the draft
            is there.
    """

    blobs: Blobs
    folder: str
    draft_id: str
    study: Study
    params: EncodingParams
    hospitals: int
    step: Step | None
    parts: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Step:
    """The model and the optimiser's state before, by hash; what proves the sum, but for its hash."""

    parent: str
    state: Mapping[str, str]
    number: int
    """Of the version to be made."""
    proof: Published


@dataclass(frozen=True)
class NextVersion:
    """What a round reveals, and the names of the files that are now kept."""

    metrics: Sums
    """Without the groups that are too small: they leave this process no more."""
    model: str | None = None
    norm: float | None = None
    """Length of the mean update."""
    epsilon: float | None = None
    state: Mapping[str, str] | None = None
    sum: str | None = None
    proof: str | None = None
    proved: bytes = b""
    """What is kept under the name ``proof``: a ``Published`` message."""


def make(job: Making) -> NextVersion:
    """Decode the sum; for a train round step the strategy and keep sum, proof, model and optimiser state.

    Guarantees: memory stays at a few blocks, however long the vector, and of a compressed study at what one
        hospital sends. Everything kept is on the disk.
    Raises: SpoiledSum, Diverged, DamagedBlob if the model before or its state is not what it was,
        StorageFailed.
    """
    draft = job.blobs.draft(job.folder, SUM, job.draft_id)
    if job.parts:
        gather(job.blobs, job.folder, job.draft_id, job.parts)
    try:
        with open(draft, "rb") as total:
            tail = _words(total, job.params.packed_words, job.params.words)
            rest = decode(tail, replace(job.params, parameters=0), hospitals=job.hospitals, study=job.study)
            if job.step is None:
                return NextVersion(without_small(job.study, rest.metrics))
            model, state, norm = _next_model(job, job.step, total, tail)
            digest = _hash(total, hashlib.sha256())
        proof = job.step.proof.model_copy(update={"sum_hash": digest}).to_bytes()
    except OSError as error:
        raise StorageFailed() from error
    name = hashlib.sha256(proof).hexdigest()
    job.blobs.put_sum(name, proof)
    job.blobs.keep_sum(digest.hex(), draft)
    epsilon = _epsilon(job.study, job.step.number)
    return NextVersion(rest.metrics, model, norm, epsilon, state, sum=digest.hex(), proof=name, proved=proof)


def sum_and_make(summing: Summing, making: Making) -> NextVersion:
    """The sum of a short vector and what is made of it, in one job. Raises: what the two raise."""
    for number in range(len(segment_lengths(summing.words))):
        sum_segment(summing, number)
    return make(making)


def stand_by() -> None:
    """Nothing: the worker that has run it has started, and has loaded what the other jobs need."""


def _next_model(job: Making, step: Step, total: BinaryIO, tail: Words) -> tuple[str, dict[str, str], float]:
    """The next model and the optimiser's state, by hash, and the length of the mean update."""
    spec, squares = job.study.model.tensors, 0.0
    header = safetensors_header(spec)
    with ExitStack() as files:
        before = {name: files.enter_context(job.blobs.open_model(n)) for name, n in step.state.items()}
        if any(_hash(before[name], hashlib.sha256()).hex() != digest for name, digest in step.state.items()):
            raise DamagedBlob()
        parent = files.enter_context(job.blobs.open_model(step.parent))
        if (
            parent.read(len(header)) != header
            or _hash(parent, model_hasher(spec), start=len(header)).hex() != step.parent
        ):
            raise DamagedBlob()
        after = _Drafts(job, files)
        after.file(MODEL).write(header)
        for spans, update in _updates(job, step, total, tail):
            squares += float(np.sum(np.square(update, dtype=np.float64)))
            stepped, state = advance(
                job.study,
                _read(parent, spans, start=len(header)),
                update,
                {name: _state(file, spans, spec.size) for name, file in before.items()},
                number=step.proof.round,
                present=job.hospitals / job.params.cohort,
                first=spans[0][0],
            )
            _write(after.file(MODEL), spans, stepped, start=len(header))
            for name, values in state.items():
                whole = values.size != stepped.size  # the same in each block: a count or a bias
                _write(after.file(_STATE + name), [(0, values.size)] if whole else spans, values)
        model = _hash(after.file(MODEL), model_hasher(spec), start=len(header)).hex()
        digests = {name: _hash(after.file(_STATE + name), hashlib.sha256()).hex() for name in state}
    for name, digest in digests.items():
        job.blobs.keep_model(digest, after.path(_STATE + name))
    job.blobs.keep_model(model, after.path(MODEL))
    return model, digests, min(math.sqrt(squares), LARGEST)


class _Drafts:
    """The files of the next version while they grow."""

    def __init__(self, job: Making, files: ExitStack) -> None:
        self._job, self._files = job, files
        self._open: dict[str, BinaryIO] = {}

    def path(self, name: str) -> Path:
        return self._job.blobs.draft(self._job.folder, f"next-{name}", self._job.draft_id)

    def file(self, name: str) -> BinaryIO:
        if name not in self._open:
            file = open(self.path(name), "w+b")  # noqa: SIM115 (the stack closes it)
            self._open[name] = self._files.enter_context(file)
        return self._open[name]


def _updates(job: Making, step: Step, total: BinaryIO, tail: Words) -> Iterator[tuple[Spans, Float32]]:
    """The mean update in blocks: which coordinates, and their values; one run of them where a map shortens.

    Of a compressed study what was sent is in memory whole, 4 bytes a number; the update it stands for is not.
    """
    shortened, size = job.study.public_map(step.proof.round), job.study.model.tensors.size
    if shortened is None:
        yield from ((spans, block.mean) for spans, block in _blocks(job, total, tail))
        return
    sent = np.empty(job.params.parameters, np.float32)
    for spans, block in _blocks(job, total, tail):
        done = 0
        for first, end in spans:
            sent[first:end] = block.mean[done : done + end - first]
            done += end - first
    for first in range(0, size, BLOCK_WORDS):
        end = min(first + BLOCK_WORDS, size)
        yield [(first, end)], shortened.backward(sent, first, end)


def _blocks(job: Making, total: BinaryIO, tail: Words) -> Iterator[tuple[Spans, Aggregate]]:
    """The sum in blocks: which of the numbers that were sent, and their mean.

    Some words of a sum with the words behind all coordinates are themselves the sum of shorter vectors, whose
    lanes are runs of the whole vector's lanes; so each block is decoded, and checked, like a whole.
    """
    p, lanes = job.params, LANES[job.params.lane_bits]
    missing = lanes * p.packed_words - p.parameters  # coordinates that the last lane lacks at its end
    count = max(1, p.packed_words // BLOCK_WORDS)
    for block in range(count):
        first, end = (p.packed_words * k // count for k in (block, block + 1))
        lacks = missing if end == p.packed_words else 0
        words = np.concatenate([_words(total, first, end), tail])
        params = replace(p, parameters=lanes * (end - first) - lacks)
        starts = [lane * p.packed_words for lane in range(lanes)]
        spans = [(min(s + first, p.parameters), min(s + end, p.parameters)) for s in starts]
        yield spans, decode(words, params, hospitals=job.hospitals, study=job.study)


def _words(total: BinaryIO, first: int, end: int) -> Words:
    return np.frombuffer(_exactly(total, 8 * first, 8 * (end - first)), "<u8")


def _state(file: BinaryIO, spans: Spans, size: int) -> Float32:
    """This block's part of a vector of the optimiser, or all of something shorter."""
    length = file.seek(0, 2) // 4
    return _read(file, spans if length == size else [(0, length)])


def _read(file: BinaryIO, spans: Spans, *, start: int = 0) -> Float32:
    parts = [_exactly(file, start + 4 * first, 4 * (end - first)) for first, end in spans]
    return np.frombuffer(b"".join(parts), "<f4")


def _write(file: BinaryIO, spans: Spans, values: Float32, *, start: int = 0) -> None:
    data, done = np.ascontiguousarray(values, "<f4").data.cast("B"), 0
    for first, end in spans:
        file.seek(start + 4 * first)
        file.write(data[done : done + 4 * (end - first)])
        done += 4 * (end - first)


def _exactly(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise DamagedBlob()
    return data


def _hash(file: BinaryIO, hasher: hashlib._Hash, *, start: int = 0) -> bytes:
    file.seek(start)
    while piece := file.read(PIECE):
        hasher.update(piece)
    return hasher.digest()


def _epsilon(study: Study, rounds: int) -> float | None:
    if study.privacy.kind == "none":
        return None
    from privacy.dp.policy import cost  # the accountant takes 70 MB, which the server itself can do without

    return cost(study, rounds=rounds).epsilon_joint


def utc(seconds: float) -> str:
    """Unix seconds as UTC time, ISO 8601."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
