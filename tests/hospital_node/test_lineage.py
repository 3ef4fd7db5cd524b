"""A node makes every version of the model itself, from sums it has checked, and keeps it on its disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from chain import Chain
from follower import Hospital
from hospital_node.lineage import BrokenLineage, OwnVersion, keep_version, load_version
from medveil.errors import Error
from medveil.rounds import RoundKind
from medveil.strategies import COMMON
from privacy.encoding import params_for
from world import START, make_study

At = Callable[..., Hospital]


# ---- an honest aggregator ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "fedavg"},
        {"name": "fedavgm", "options": {"momentum": 0.5}},
        {"name": "fedadam"},
        {"name": "fedavgm", "average": 0.8},
    ],
)
def test_a_member_makes_every_version_itself_bit_for_bit(at: At, strategy: dict[str, Any]) -> None:
    chain = Chain(options={"strategy": strategy})
    hospital = at(chain)
    assert np.array_equal(hospital.reach(1), START)
    for number in range(1, 6):
        hospital.join(chain.grow(number))
        assert hospital.reach(number + 1).tobytes() == chain.newest.vector.tobytes()
    assert chain.asked == ["model", *(f"{kind} {v}" for v in range(1, 6) for kind in ("proof", "sum"))]


def test_a_member_makes_the_version_of_a_private_mean_itself(at: At) -> None:
    model = make_study().model.model_copy(update={"options": {"centred": True}})
    noise = {"clip_norm": 1.0, "noise_multiplier": 5.0, "evaluation_multiplier": 5.0, "epsilon": 9.0}
    options = {
        "model": model.model_dump(),
        "privacy": {"kind": "local"} | noise,
        "evaluation": {"every_round": False},
        "strategy": {"name": "fedavgm", "average": 0.8},
    }
    chain = Chain(options=options)
    hospital = at(chain)
    for number in range(1, 6):
        hospital.join(chain.grow(number))
        assert hospital.reach(number + 1).tobytes() == chain.newest.vector.tobytes()
        assert set(chain.newest.state) == ({"velocity", "average"} if number > 1 else set())
        hospital.restart()


def test_a_node_that_comes_back_goes_on_from_its_own_disk(at: At) -> None:
    chain = Chain(options={"strategy": {"name": "fedadam"}})
    hospital = at(chain)
    hospital.join(chain.grow(1))
    hospital.reach(2)
    chain.asked.clear()
    hospital.restart()
    hospital.reach(2)
    assert chain.asked == []
    hospital.join(chain.grow(2))
    assert hospital.reach(3).tobytes() == chain.newest.vector.tobytes()  # the optimiser's state came back too
    assert chain.asked == ["proof 2", "sum 2"]


def test_a_node_that_was_away_catches_up_version_by_version(at: At) -> None:
    chain = Chain(options={"strategy": {"name": "fedavgm"}})
    chain.grow(1)
    chain.grow(3, members=(1, 2, 3))  # round 2 failed
    chain.grow(4, attempt=2, survivors=(1, 3, 4))
    hospital = at(chain, index=2)
    assert hospital.reach(5).tobytes() == chain.newest.vector.tobytes()
    assert chain.asked[-1] == "sum 3"


def test_a_proof_that_came_with_the_attempt_is_not_asked_for_and_is_checked_like_any_other(at: At) -> None:
    chain = Chain()
    hospital, deceived = at(chain), at(chain, index=2)
    chain.grow(1)
    told = (1, chain.sums[1].published.to_bytes())
    assert hospital.reach(2, told=told).tobytes() == chain.newest.vector.tobytes()
    assert chain.asked == ["model", "sum 1"]
    chain.lie(1, attempt=2)
    forged = (1, chain.sums[1].published.to_bytes())
    with pytest.raises(BrokenLineage, match="a signature is not for these hospitals"):
        deceived.reach(2, told=forged)
    assert deceived.journal.alarm(chain.plan.id) is not None


def test_of_several_versions_that_are_missing_only_the_last_comes_with_the_attempt(at: At) -> None:
    chain = Chain()
    for number in (1, 2):
        chain.grow(number)
    hospital = at(chain)
    told = (2, chain.sums[2].published.to_bytes())
    assert hospital.reach(3, told=told).tobytes() == chain.newest.vector.tobytes()
    assert chain.asked == ["model", "proof 1", "sum 1", "sum 2"]


def test_a_crash_while_catching_up_loses_at_most_the_last_version(at: At) -> None:
    chain = Chain()
    for number in (1, 2, 3):
        chain.grow(number)
    hospital = at(chain)
    last = chain.sums.pop(3)
    with pytest.raises(Error, match="nothing leads"):
        hospital.reach(4)
    hospital.journal.clear_alarm(chain.plan.id)
    chain.sums[3] = last
    chain.asked.clear()
    hospital.restart()
    assert hospital.reach(4).tobytes() == chain.newest.vector.tobytes()
    assert chain.asked == ["proof 2", "sum 2", "proof 3", "sum 3"]


def test_a_member_goes_on_although_others_dropped_out(at: At) -> None:
    chain = Chain()
    survivor, late = at(chain, index=1), at(chain, index=2)
    made = chain.attempt(1, survivors=(1, 3, 4))
    survivor.join(made)
    late.join(made)
    chain.publish(made)
    for hospital in (survivor, late):
        assert hospital.reach(2).tobytes() == chain.newest.vector.tobytes()


def test_an_attempt_without_this_hospital_is_no_contradiction(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    hospital.join(chain.attempt(1))  # it failed afterwards, as attempts do
    chain.grow(1, attempt=2, members=(2, 3, 4))
    assert hospital.reach(2).tobytes() == chain.newest.vector.tobytes()


# ---- the own version on disk -------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_crash_between_sum_and_version_leaves_the_old_one(
    at: At, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(options={"strategy": {"name": "fedavgm"}})
    hospital = at(chain)
    hospital.join(chain.grow(1))
    hospital.reach(2)
    before = hospital.path.read_bytes()

    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    hospital.join(chain.grow(2))
    with monkeypatch.context() as patch:
        patch.setattr(f"medveil.files.os.{call}" if call != "open" else "builtins.open", crash)
        with pytest.raises(Crash):
            keep_version(hospital.path, chain.versions[2])
    assert hospital.path.read_bytes() == before
    hospital.restart()
    assert hospital.reach(3).tobytes() == chain.newest.vector.tobytes()
    assert kept_version(hospital) == 2


def kept_version(hospital: Hospital) -> int:
    found = load_version(hospital.path, hospital.chain.plan.study)
    assert found is not None
    return found.version


def test_a_full_disk_stops_nobody_and_is_made_good_later(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain()
    hospital = at(chain)
    hospital.join(chain.grow(1))
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        assert hospital.reach(2).tobytes() == chain.newest.vector.tobytes()
    assert kept_version(hospital) == 0
    hospital.reach(2)
    assert kept_version(hospital) == 1


def test_a_version_that_is_on_disk_already_is_not_written_again(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    hospital.join(chain.grow(1))
    hospital.reach(2)
    before = hospital.path.stat()
    hospital.reach(2)
    hospital.restart()
    hospital.reach(2)
    after = hospital.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_whole_version_of_another_size_is_not_taken(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    keep_version(hospital.path, OwnVersion(1, 1, START[:-1], {}, b""))
    assert load_version(hospital.path, chain.plan.study) is None


def test_a_damaged_version_is_thrown_away_and_made_again(at: At) -> None:
    chain = Chain(options={"strategy": {"name": "fedadam"}})
    hospital = at(chain)
    for number in (1, 2):
        hospital.join(chain.grow(number))
        hospital.reach(number + 1)
    whole = hospital.path.read_bytes()
    damages = [b"", whole[:31], whole[:32], whole[:-1], whole + b"x", bytes(len(whole))]
    damages += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(0, len(whole), 7)]
    for damaged in damages:
        hospital.path.write_bytes(damaged)
        assert load_version(hospital.path, chain.plan.study) is None
    chain.asked.clear()
    hospital.restart()
    assert hospital.reach(3).tobytes() == chain.newest.vector.tobytes()
    assert chain.asked == ["model", "proof 1", "sum 1", "proof 2", "sum 2"]
    assert hospital.path.read_bytes() == whole


def test_no_check_key_is_ever_on_disk_or_kept_longer_than_needed(at: At) -> None:
    chain = Chain()
    hospital = at(chain)
    made = chain.grow(1)
    hospital.join(made)
    key = made.checks[1].check_key.reveal()
    hospital.reach(2)
    hospital.journal.close()
    assert hospital.lineage._check is None
    for path in hospital.folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert key not in content
        assert key.hex().encode() not in content
    assert key.hex() not in repr(made.checks[1])
    assert repr(key)[2:-1] not in repr(made.checks[1])


def test_a_sum_is_smaller_than_the_model_it_replaces() -> None:
    """2.67 bytes per parameter and a few words more, instead of 4 (docs/protocol.md)."""
    chain = Chain(options={"model": large_model()})
    params = params_for(chain.plan.study, RoundKind.TRAIN, 4)
    assert 8 * params.words < 0.67 * 4 * params.parameters


def large_model() -> dict[str, Any]:
    from medveil.tensors import ModelSpec, TensorSpec

    tensors = ModelSpec((TensorSpec(name="weight", shape=(1000, 1000)),))
    return {"name": "wavelet_head", "tensors": tensors, "initial_model": "0" * 64}


def test_the_common_course_is_made_by_every_node_and_knows_whose_update_was_summed(at: At) -> None:
    masked = {"update_clip": 2.0, "max_weight": 100, "weights": "equal"}
    chain = Chain(options={"strategy": {"name": "scaffold"}, "secure_aggregation": masked})
    hospital = at(chain)
    assert hospital.reach(1) is not None
    assert hospital.lineage.course.summed == 0
    assert not hospital.lineage.course.values.any()
    sums = [(1, 2, 3, 4), (2, 3, 4), (1, 2, 4), (2, 3, 4)]
    for number, (survivors, summed) in enumerate(zip(sums, [1, 1, 3, 3], strict=True), 1):
        hospital.join(chain.grow(number, survivors=survivors))
        assert hospital.reach(number + 1).tobytes() == chain.newest.vector.tobytes()
        hospital.restart()
        hospital.reach(number + 1)
        course = hospital.lineage.course
        assert course.values.tobytes() == chain.newest.state[COMMON].tobytes()
        assert course.summed == summed
    hospital.path.unlink()  # all is made again from the sums
    hospital.restart()
    hospital.reach(5)
    assert hospital.lineage.course.summed == 3
