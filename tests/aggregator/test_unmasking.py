"""Segments add up to the plain sum, blocks make the same model as a whole, and a damaged file is named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.storage.blobs import Blobs, DamagedBlob, StorageFailed
from aggregator.work import versions
from aggregator.work.unmasking import DamagedSegment, Summing, segment_lengths, sum_segment
from aggregator.work.versions import Making, NextVersion, Step, make
from medveil.identity import Secret
from medveil.rounds import RoundKind
from medveil.strategies import STRATEGIES, advance, spread
from medveil.study import Study
from medveil.tensors import ModelSpec, TensorSpec, Update, model_hash, to_safetensors, unflatten
from privacy.encoding import SpoiledSum, Words, decode, encode_metrics, params_for
from privacy.secagg.masks import SEGMENT_WORDS, Mask
from privacy.secagg.messages import Published
from tries import leading
from unmasked import encode, mask
from world import counts, make_study, model_in

WORDS = SEGMENT_WORDS + 5
FOLDER, TRY = "attempt", "1"


def summing(folder: Path, words: int = WORDS) -> tuple[Summing, Words]:
    """Two hospitals under a pair mask and masks of their own, stored; and the sum of what they hide."""
    draw, blobs = np.random.default_rng(0), Blobs(folder)
    plain = {i: draw.integers(0, 2**64, words, np.uint64) for i in (1, 2)}
    pair, own = Secret(bytes(range(32))), {i: Secret(bytes([i]) * 32) for i in (1, 2)}
    masks = {1: [Mask(own[1], 1), Mask(pair, 1)], 2: [Mask(own[2], 1), Mask(pair, -1)]}
    uploads = {}
    for i in (1, 2):
        segments = [bytes(s) for s in mask(plain[i], masks[i]).segments()]
        assert [len(s) for s in segments] == segment_lengths(words)
        assert not np.array_equal(np.frombuffer(segments[-1], "<u8"), plain[i][-(len(segments[-1]) // 8) :])
        for number, data in enumerate(segments):
            blobs.put_segment(FOLDER, i, number, data)
        uploads[i] = tuple(hashlib.sha256(s).digest() for s in segments)
    removal = (Mask(own[1], -1), Mask(own[2], -1))
    return Summing(blobs, FOLDER, TRY, words, uploads, removal), plain[1] + plain[2]


def test_a_vector_of_more_than_one_segment_is_unmasked_exactly_in_any_order_and_again(folder: Path) -> None:
    job, expected = summing(folder)
    for number in (1, 0, 1):
        sum_segment(job, number)
        assert (job.draft.stat().st_mode & 0o777) == 0o600
    assert job.draft.read_bytes() == expected.astype("<u8").tobytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "longer"])
def test_a_damaged_segment_names_itself_and_nothing_is_written(folder: Path, damage: str) -> None:
    job, _ = summing(folder)
    path = folder / "uploads" / FOLDER / "2-1"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    changed = {"flip": bytes(data), "cut": bytes(data[:-8]), "empty": b"", "longer": bytes(data) + bytes(8)}
    path.unlink()
    if damage != "gone":
        path.write_bytes(changed[damage])
    with pytest.raises(DamagedSegment, match="Segment 1 of hospital 2") as found:
        sum_segment(job, 1)
    assert (found.value.source, found.value.segment) == (2, 1)
    assert not job.draft.exists()
    sum_segment(job, 0)  # the others are as they were


def test_a_job_shows_no_seed(folder: Path) -> None:
    job, _ = summing(folder, 8)
    assert "removal" not in repr(job)
    for one in job.removal:
        assert one.seed.reveal().hex() not in repr(one)
        assert repr(one.seed.reveal()) not in repr(one)


def test_a_disk_that_takes_no_more_is_a_storage_fault(folder: Path) -> None:
    job, _ = summing(folder, 8)
    job.draft.mkdir()
    with pytest.raises(StorageFailed):
        sum_segment(job, 0)


PROOF = Published(
    round=1, attempt=1, transcript=bytes(32), members=(1, 2), survivors=(1, 2), signatures={},
    sum_hash=bytes(32),
)  # fmt: skip


def study_of(size: int, bits: int, strategy: str, average: float = 0.5, **changes: Any) -> Study:
    spec = ModelSpec((TensorSpec(name="z", shape=(size - 1,)), TensorSpec(name="a", shape=())))
    counted = getattr(STRATEGIES[strategy]({}), "weights", None) or "declared"
    return make_study(
        **{"model": {"name": "none", "tensors": spec, "initial_model": "0" * 64}} | changes,
        secure_aggregation={"update_clip": 2.0, "max_weight": 100, "lane_bits": bits, "weights": counted},
        strategy={"name": strategy, "average": average},
    )


def making(blobs: Blobs, study: Study, step: Step | None, seed: int = 0) -> tuple[Making, Words]:
    """Two encoded updates of a roster of four, summed into the draft of an attempt."""
    kind = RoundKind.EVALUATE if step is None else RoundKind.TRAIN
    p, draw = params_for(study, kind, 4), np.random.default_rng(seed)
    total: Words = np.zeros(p.words, np.uint64)
    for index in (1, 2):
        update = Update(draw.uniform(-2, 2, p.parameters).astype(np.float32))
        metrics = encode_metrics(study, counts(study, index))[: p.metrics]
        total += encode(update, p, weight=min(50, p.max_weight), metrics=metrics, random_bytes=draw.bytes)
    draft = blobs.draft(FOLDER, "sum", TRY)
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.write_bytes(total.astype("<u8").tobytes())
    return Making(blobs, FOLDER, TRY, study, p, 2, step), total


def first(blobs: Blobs, study: Study) -> str:
    """A start that is not zero."""
    start = np.linspace(-1, 1, study.model.tensors.size, dtype=np.float32)
    name = model_hash(start, study.model.tensors).hex()
    blobs.put_model(name, to_safetensors(start, study.model.tensors))
    return name


PLAIN, UNEVEN = next(iter(STRATEGIES)), (21, 257)
CASES = [(s, bits, n) for s in STRATEGIES for bits in (16, 21, 32) for n in (2, 3, 5, 64, 65, 67, 257)]
TELLING = [case for case in CASES if case[0] == PLAIN or case[1:] == UNEVEN]
"""Every length and width with one strategy; every strategy where the last lane is not full."""


@pytest.mark.parametrize(
    ("strategy", "bits", "size"), leading(sorted(CASES, key=lambda c: c not in TELLING), len(TELLING))
)
def test_a_model_made_in_blocks_is_the_model_made_in_one_piece(
    folder: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, bits: int, size: int
) -> None:
    monkeypatch.setattr(versions, "BLOCK_WORDS", 8)
    blobs, study = Blobs(folder), study_of(size, bits, strategy)
    spec = study.model.tensors
    parent, names = first(blobs, study), {}
    vector, state = np.linspace(-1, 1, size, dtype=np.float32), {}
    for number in (1, 2):
        proof = PROOF.model_copy(update={"round": number})
        job, total = making(blobs, study, Step(parent, names, number, proof), seed=number)
        aggregate = decode(total, job.params, hospitals=2, study=study)
        vector, state = advance(study, vector, aggregate.mean, state, number=number, present=0.5)
        made = make(job)
        assert made.model == model_hash(vector, spec).hex()
        assert model_in(blobs, made.model) == to_safetensors(vector, spec)
        assert made.state is not None
        assert made.state.keys() == state.keys()
        for name, values in state.items():
            assert model_in(blobs, made.state[name]) == values.tobytes()
            assert made.state[name] == hashlib.sha256(values.tobytes()).hexdigest()
        assert made.metrics.keys() == aggregate.metrics.keys()
        assert all(np.array_equal(made.metrics[k], aggregate.metrics[k]) for k in made.metrics)
        check_published(blobs, made, total, number)
        parent, names = made.model, dict(made.state)


@pytest.mark.parametrize("kept", [("z",), ("b",), ("z", "a"), ("a", "b")])
def test_no_strategy_and_no_average_changes_a_bit_of_personal_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[str, ...]
) -> None:
    monkeypatch.setattr(versions, "BLOCK_WORDS", 8)
    tensors = {"z": (3, 7), "a": (2, 5), "b": (9,)}
    spec = ModelSpec(tuple(TensorSpec(name=name, shape=shape) for name, shape in tensors.items()))
    model = {"name": "none", "tensors": spec, "initial_model": "0" * 64, "personal": kept}
    for strategy in sorted(set(STRATEGIES) - {"scaffold"}):
        study, blobs = study_of(2, 21, strategy, average=0.9, model=model), Blobs(folder / strategy)
        parent, names = first(blobs, study), {}
        start = vector = np.linspace(-1, 1, spec.size, dtype=np.float32)
        state = {}
        for number in range(1, study.training.rounds + 1):
            proof = PROOF.model_copy(update={"round": number})
            job, total = making(blobs, study, Step(parent, names, number, proof), seed=number)
            assert job.params.parameters == spec.size - sum(t.size for t in spec.root if t.name in kept)
            mean = decode(total, job.params, hospitals=2, study=study).mean
            vector, state = advance(study, vector, spread(study, mean, number=number), state, number=number)
            made = make(job)
            assert made.model == model_hash(vector, spec).hex()
            parent, names = made.model, dict(made.state or {})
        before, after = unflatten(start, spec), unflatten(vector, spec)
        assert {name for name in tensors if before[name].tobytes() == after[name].tobytes()} == set(kept)


@pytest.mark.parametrize(
    "section", [{"kind": "sparse", "share": 0.4}, {"kind": "low_rank", "rank": 3}], ids=str
)
def test_a_compressed_model_made_in_blocks_is_the_one_made_in_one_piece(
    folder: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any]
) -> None:
    monkeypatch.setattr(versions, "BLOCK_WORDS", 8)
    spec = ModelSpec((TensorSpec(name="z", shape=(5, 4, 3)), TensorSpec(name="a", shape=(7,))))
    model = {"name": "none", "tensors": spec, "initial_model": "0" * 64}
    training = {"rounds": 5, "local_steps": 1, "learning_rate": 1.0}
    study = study_of(2, 21, "fedadam", model=model, compression=section, training=training)
    blobs = Blobs(folder)
    parent, names = first(blobs, study), {}
    vector, state = np.linspace(-1, 1, spec.size, dtype=np.float32), {}
    for number in (1, 2):
        proof = PROOF.model_copy(update={"round": number})
        job, total = making(blobs, study, Step(parent, names, number, proof), seed=number)
        mean = decode(total, job.params, hospitals=2, study=study).mean
        vector, state = advance(study, vector, spread(study, mean, number=number), state, number=number)
        made = make(job)
        assert made.model == model_hash(vector, spec).hex()
        assert made.state is not None
        assert {k: model_in(blobs, v) for k, v in made.state.items()} == {
            k: v.tobytes() for k, v in state.items()
        }
        parent, names = made.model, dict(made.state)


def check_published(blobs: Blobs, made: NextVersion, total: Words, number: int) -> None:
    assert made.sum is not None
    assert made.proof is not None
    with blobs.open_sum(made.sum) as file:
        data = file.read()
    assert data == total.astype("<u8").tobytes()
    with blobs.open_sum(made.proof) as file:
        proof = Published.from_bytes(file.read())
    assert (proof.round, proof.sum_hash) == (number, hashlib.sha256(data).digest())
    assert made.sum == proof.sum_hash.hex()


def test_the_same_job_gives_the_same_files_again(folder: Path) -> None:
    blobs, study = Blobs(folder), study_of(40, 21, "fedavgm")
    step = Step(first(blobs, study), {}, 1, PROOF)
    results = []
    for _ in range(2):
        job, _ = making(blobs, study, step)
        results.append((repr(make(job)), {p: p.read_bytes() for p in sorted(folder.glob("[ms]*/*"))}))
    assert results[0] == results[1]


def test_an_evaluation_reveals_its_figures_and_keeps_no_sum(folder: Path) -> None:
    blobs = Blobs(folder)
    job, _ = making(blobs, study_of(40, 21, "fedavg"), None)
    made = make(job)
    assert made == NextVersion(made.metrics)
    assert made.metrics["patients"] == [2.0]
    assert list(folder.glob("[ms]*/*")) == []


@pytest.mark.parametrize("place", [0, 5, 13])
def test_a_lane_beyond_its_bound_in_any_block_publishes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(versions, "BLOCK_WORDS", 4)
    blobs, study = Blobs(folder), study_of(40, 21, "fedavg")
    job, total = making(blobs, study, Step(first(blobs, study), {}, 1, PROOF))
    total[place] |= np.uint64(2**21 - 1)
    job.blobs.draft(FOLDER, "sum", TRY).write_bytes(total.tobytes())
    with pytest.raises(SpoiledSum):
        make(job)
    assert list(folder.glob("sums/*")) == []


def test_a_model_before_that_is_not_what_it_was_is_never_built_upon(folder: Path) -> None:
    blobs, study = Blobs(folder), study_of(40, 21, "fedavgm")
    parent = first(blobs, study)
    job, _ = making(blobs, study, Step(parent, {}, 1, PROOF))
    made = make(job)
    assert made.model is not None
    assert made.state is not None
    job, total = making(blobs, study, Step(made.model, made.state, 2, PROOF))
    for name in (made.model, made.state["velocity"], made.state["average"]):
        path = folder / "models" / name
        good = path.read_bytes()
        for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-4], good + bytes(4), b""):
            path.write_bytes(bad)
            with pytest.raises(DamagedBlob):
                make(job)
        path.unlink()
        with pytest.raises(DamagedBlob):
            make(job)
        path.write_bytes(good)
    assert make(job).model is not None
    with pytest.raises(StorageFailed):  # the draft has become the sum's file
        make(replace(job, folder="another"))
    assert len(total) == job.params.words


def test_a_try_is_not_disturbed_by_another_one_that_is_still_running(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "BLOCK_WORDS", 4)
    blobs, study = Blobs(folder), study_of(40, 21, "fedavgm")
    job, total = making(blobs, study, Step(first(blobs, study), {}, 1, PROOF))
    blobs.draft(FOLDER, "sum", "2").write_bytes(total.tobytes())
    real, second = versions._blocks, []

    def interrupted(job: Making, *rest: Any) -> Iterator[Any]:
        for block in real(job, *rest):
            if job.draft_id == TRY and not second:
                second.append(make(replace(job, draft_id="2")))
            yield block

    monkeypatch.setattr(versions, "_blocks", interrupted)
    assert repr([make(job)]) == repr(second)


def test_what_earlier_tries_have_left_is_removed(folder: Path) -> None:
    job, _ = summing(folder, 8)
    sum_segment(job, 0)
    job.blobs.forget_drafts(FOLDER)
    assert not job.draft.exists()
    sum_segment(job, 0)  # the uploads are still there
