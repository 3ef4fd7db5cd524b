"""Personal weights: trained with the others, kept here, never sent, and settled by the sums."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from chain import Chain
from follower import Hospital
from hospital_node import computation as module
from hospital_node.computation import Computation
from hospital_node.contribution import CommonCourse, Contribution
from hospital_node.personal import PersonalWeights
from hospital_node.training import TrainingRound
from hospital_node.training.run import train_unchecked
from hospital_node.training.unbooked import unbooked_charge
from hospital_node.unsent import Unsent
from hospitals import LOCAL, PEOPLE, make_hospital
from hospitals import Hospital as Folder
from medveil.identity import Secret
from medveil.plan import Plan
from medveil.rounds import AttemptKey, RoundKind
from medveil.strategies import advance, spread
from medveil.study import Study
from medveil.tensors import Float32, Update, model_hash
from medveil_imaging.models import ModelShape, build, spec_of, vector_of
from medveil_imaging.patients import PatientImages
from medveil_imaging.personal import personal_tensors
from medveil_imaging.sources.site import read_site
from privacy.dp.ledger import State, charges
from privacy.dp.noise import NoiseSource
from privacy.dp.policy import Split
from tries import leading
from world import SPEC, START, make_plan

KEY = Secret(bytes(32))
TRAINING = {"rounds": 9, "local_steps": 1, "learning_rate": 1.0}
OWN_BIAS = {
    "name": "wavelet_head",
    "tensors": SPEC,
    "initial_model": model_hash(START, SPEC).hex(),
    "personal": ["bias"],
}
BIAS = np.arange(12) >= 10
NOISED = LOCAL | {"noise_multiplier": 9.0}


def chain_of(**options: Any) -> Chain:
    return Chain(options={"model": OWN_BIAS, "training": TRAINING} | options)


def test_three_rounds_come_to_what_was_worked_out_by_hand(tmp_path: Path) -> None:
    """Hospital i has the loss (p s - t_i)^2 / 2 for a shared s and its own p, with t = 3 and -1.

    Both begin at 1, and the rate is 1/4. Round 1: errors -2 and 2, so s goes to 3/2 and 1/2, and so does p;
    the mean s is 1. Round 2: errors 1.5 - 3 and 0.5 + 1; s changes by 1.5 * 1.5 / 4 and -0.5 * 1.5 / 4, p by
    1.5 / 4 and -1.5 / 4: s = 1 + 0.1875, p = 1.875 and 0.125. Round 3 is without the second hospital.
    """
    plan, aims = chain_of().plan, (3.0, -1.0)
    sites = [PersonalWeights(tmp_path / str(i), plan, KEY) for i in range(2)]
    model, summed = np.ones(12, np.float32), [0, 0]

    def learned(whole: Float32, aim: float) -> Update:
        s, p = whole[0], whole[-1]
        error = p * s - aim
        return Update(np.where(BIAS, -s * error / 4, -p * error / 4).astype(np.float32))

    for number, present in ((1, (0, 1)), (2, (0, 1)), (3, (0,))):
        sent = []
        for i, site in enumerate(sites):
            start = site.whole(model, summed[i])
            sent.append(site.part(number, start, learned(start, aims[i]), summed=summed[i]).values)
        mean = np.mean([sent[i] for i in present], axis=0).astype(np.float32)
        model, _ = advance(plan.study, model, spread(plan.study, mean, number=number), {}, number=number)
        for i in present:
            summed[i] = number
        if number == 2:
            assert model[:10] == pytest.approx(1.1875)
            assert [site.whole(model, summed[i])[-1] for i, site in enumerate(sites)] == [1.875, 0.125]
    error = 1.875 * 1.1875 - 3
    assert model[:10] == pytest.approx(1.1875 - 1.875 * error / 4)
    assert (model[10:] == 1).all()
    assert sites[0].whole(model, 3)[-1] == pytest.approx(1.875 - 1.1875 * error / 4)
    assert sites[1].whole(model, summed[1])[-1] == 0.125


@pytest.mark.parametrize("seed", leading(range(2), 1))
def test_dropouts_failed_rounds_and_restarts_leave_each_hospital_what_the_sums_say(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, draw = chain_of(strategy={"name": "fedavgm"}), random.Random(seed)
    monkeypatch.setattr(chain, "sent", lambda number, values: Update(values))
    nodes = [Hospital(chain, tmp_path / str(i), i) for i in (1, 2, 3, 4)]
    own = dict.fromkeys((1, 2, 3, 4), START[BIAS])
    for number in range(1, 7):
        sent, after = {}, {}
        for node in nodes:
            if draw.random() < 0.3:
                node.restart()
            assert node.personal is not None
            model = node.reach(number)
            summed = node.lineage.course.summed
            start = node.personal.whole(model, summed)
            assert np.array_equal(start[BIAS], own[node.index])
            assert np.array_equal(start[~BIAS], model[~BIAS])
            for attempt in range(draw.choice((1, 1, 2))):  # a crash before it is sent, and again
                update = np.random.default_rng(100 * number + 10 * attempt + node.index).uniform(-1, 1, 12)
                learned = Update(update.astype(np.float32))
                sent[node.index] = node.personal.part(number, start, learned, summed=summed).values
                after[node.index] = start[BIAS] + learned.values[BIAS]
            assert np.array_equal(sent[node.index], learned.values[~BIAS])
        if draw.random() < 0.25:
            continue  # the round fails
        there = draw.choice([(1, 2, 3, 4), (1, 2, 3), (2, 3, 4), (1, 3, 4)])
        made = chain.attempt(number, updates=sent, survivors=there)
        for node in nodes:
            node.join(made)
        chain.publish(made)
        own |= {i: after[i] for i in there}
        assert chain.newest.vector[BIAS].tobytes() == START[BIAS].tobytes()
    for node in nodes:
        assert node.reach(7).tobytes() == chain.newest.vector.tobytes()
        assert node.personal is not None
        whole = node.personal.whole(chain.newest.vector, node.lineage.course.summed)
        assert np.array_equal(whole[BIAS], own[node.index])


def test_a_lost_or_damaged_file_begins_with_the_plans_initial_values_and_says_so(tmp_path: Path) -> None:
    plan = chain_of().plan
    kept = PersonalWeights(tmp_path, plan, KEY)
    kept.part(1, START, Update(np.ones_like(START)), summed=0)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert (START[BIAS] + 1).tobytes() not in whole
    for damaged in (whole[:-1], b"", whole[:20] + bytes([whole[20] ^ 1]) + whole[21:], None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with capture_logs() as logs:
            assert np.array_equal(kept.whole(START, 1), START)
        assert [(one["event"], one["round"]) for one in logs] == [("personal.lost", 1)]
    path.write_bytes(whole)
    with capture_logs() as logs:
        assert np.array_equal(PersonalWeights(tmp_path, plan, Secret(b"1" * 32)).whole(START, 1), START)
        assert np.array_equal(kept.whole(START, 1)[BIAS], START[BIAS] + 1)
        assert np.array_equal(kept.whole(START, 0), START)
    assert len(logs) == 1


def real_study(*kept: str, **changes: Any) -> tuple[Plan, Float32]:
    network = build("small_cnn", ModelShape((16, 16), 1), {"width": 4}, seed=1)
    spec, vector = spec_of(network), vector_of(network)
    model = {
        "name": "small_cnn",
        "options": {"width": 4},
        "tensors": spec,
        "initial_model": "0" * 64,
        "personal": personal_tensors(network, kept),
    }
    content: dict[str, Any] = {
        "name": "own",
        "task": "classification",
        "classes": ("a", "b"),
        "model": model,
        "transforms": {"profile": "xray", "size": (16, 16)},
        "training": TRAINING,
        "privacy": NOISED,
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
        "evaluation": {"every_round": False},
    }
    return make_plan(PEOPLE, Study.model_validate(content | changes)), vector


def in_a_process(
    hospital: Folder, plan: Plan, vector: Float32, kind: RoundKind, number: int, summed: int
) -> tuple[Contribution, dict[Split, list[State]]]:
    """One round in a process of its own."""
    folder = hospital.node.folder
    with hospital.works() as records:
        records.register(plan)
        computation = Computation(
            plan,
            lambda plan: read_site(hospital.images, plan.study),
            records,
            unsent=Unsent(folder / "unsent.sealed", KEY),
            personal=PersonalWeights(folder / "models", plan, KEY),
        )
        course = CommonCourse(np.zeros_like(vector), summed)

        async def prepared() -> Contribution:
            return await computation.prepare(
                AttemptKey(plan.id, number, 1), kind, b"model %d" % number, vector, course
            )

        try:
            found = asyncio.run(prepared())
        finally:
            computation.close()
        states: dict[Split, list[State]] = {}
        for one in charges(records.ledger.rows()):
            if one.round == number:
                states.setdefault(one.split, []).append(one.state)
        return found, states


@pytest.mark.parametrize("noised", leading([True, False], 1))
def test_a_restarted_node_pays_once_and_goes_on_from_the_weights_that_the_sums_name(
    noised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, vector = real_study("norm", privacy=NOISED if noised else {"kind": "none"})
    hospital = make_hospital(tmp_path, epsilon_cap=20.0, allow_no_privacy=True)
    hospital.take(plan)
    starts: list[Float32] = []
    train, release = module.train, module.release

    def watched(given: TrainingRound) -> Update:
        starts.append(given.start)
        return train(given)

    def judged(study: Study, vector: Float32, *rest: Any, **more: Any) -> Any:
        starts.append(vector)
        return release(study, vector, *rest, **more)

    monkeypatch.setattr(module, "train", watched)
    monkeypatch.setattr(module, "release", judged)
    shared = plan.study.shared
    assert shared is not None
    own = shared.stays(0, len(vector))

    def holds(number: int) -> Float32:
        return PersonalWeights(hospital.node.folder / "models", plan, KEY).whole(vector, number)

    first, states = in_a_process(hospital, plan, vector, RoundKind.TRAIN, 1, 0)
    assert len(first.update.values) == plan.study.uploaded == np.count_nonzero(~own)
    one = holds(1)
    assert (one[own] != vector[own]).all()
    again, after = in_a_process(hospital, plan, vector, RoundKind.TRAIN, 1, 0)
    if noised:  # the noised numbers of before, and nothing is paid twice
        assert np.array_equal(again.update.values, first.update.values)
        assert np.array_equal(holds(1), one)
        assert states == after == {Split.TRAIN: [State.RELEASED]}
    one = holds(1)
    in_a_process(hospital, plan, vector, RoundKind.TRAIN, 2, 1)
    assert np.array_equal(starts[-1], one)
    assert np.array_equal(holds(1), one)  # until the sums say that round 2 holds
    in_a_process(hospital, plan, vector, RoundKind.EVALUATE, 10, 2)
    assert np.array_equal(starts[-1], holds(2))
    assert not np.array_equal(holds(2), one)


def test_the_noised_step_is_one_clip_and_one_noise_over_all_weights() -> None:
    """With the same noise, training a study with personal weights is training it without, to the bit."""
    draw = torch.Generator().manual_seed(3)
    people = [
        PatientImages(str(i), 50 * torch.randn(2, 1, 16, 16, generator=draw), torch.tensor([0, 1]))
        for i in range(4)
    ]
    found = []
    for kept in (("norm",), ("head",), ()):
        plan, vector = real_study(*kept, training=TRAINING | {"local_steps": 3})
        given = TrainingRound(
            plan.study,
            vector,
            people,
            number=1,
            declared_patients=10,
            noise=NoiseSource(bytes(range(32))),
            charge=unbooked_charge(plan.study, round_number=1, split=Split.TRAIN),
            device=torch.device("cpu"),
        )
        found.append(train_unchecked(given).values)
    assert found[0].all()
    assert np.array_equal(found[0], found[-1])
    assert np.array_equal(found[1], found[-1])
