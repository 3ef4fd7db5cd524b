"""Whatever the aggregator says, a node never sends more than the honest protocol would have it send."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from lines import HONEST, Line, Stuck, follow, make_agent, scene
from medveil.messages import Work
from medveil.rounds import RoundKind
from medveil.tensors import model_hash, to_safetensors
from privacy.secagg import node
from privacy.secagg.keys import setting_for
from privacy.secagg.messages import Advertised, Agree, Committed, Published, Quorum, Survivors
from world import SPEC, START, World

Build = Callable[..., World]
Change = Callable[[World, Work], dict[str, Any]]


def advertised(work: Work) -> list[Any]:
    return list(Advertised.from_bytes(work.payload).messages)


def with_keys(messages: list[Any]) -> dict[str, Any]:
    return {"payload": Advertised(messages=tuple(messages)).to_bytes()}


def own_key_left_out(world: World, work: Work) -> dict[str, Any]:
    return with_keys([m for m in advertised(work) if m.sender != 1])


def foreign_keys_signed_by_the_aggregator(world: World, work: Work) -> dict[str, Any]:
    context = setting_of(world, 1).context
    forged = [
        m if m.sender == 1 else m.model_copy(update={"mask_key": bytes([m.sender]) * 32})
        for m in advertised(work)
    ]
    signed = [m if m.sender == 1 else m.signed_by(world.admin, context, b"") for m in forged]
    return with_keys(signed)


def setting_of(world: World, attempt: int, model: bytes | None = None) -> Any:
    model = model or model_hash(START, SPEC)
    return setting_for(world.plan, number=1, attempt=attempt, kind=RoundKind.TRAIN, model=model)


def keys_of_another_attempt(world: World, work: Work) -> dict[str, Any]:
    party = node.Party(setting_of(world, 2), 2, world.identities[1])
    _, old = node.advertise(party, secrets.token_bytes)
    return with_keys([old if m.sender == 2 else m for m in advertised(work)])


def keys_for_another_model(world: World, work: Work) -> dict[str, Any]:
    party = node.Party(setting_of(world, 1, b"x" * 32), 2, world.identities[1])
    _, other = node.advertise(party, secrets.token_bytes)
    return with_keys([other if m.sender == 2 else m for m in advertised(work)])


def one_hospital_twice(world: World, work: Work) -> dict[str, Any]:
    return with_keys([*advertised(work), advertised(work)[1]])


def a_cohort_of_two(world: World, work: Work) -> dict[str, Any]:
    return with_keys(advertised(work)[:2])


def a_committed_set_without_me(world: World, work: Work) -> dict[str, Any]:
    return {"payload": Committed(members=(2, 3, 4), inbox={}, dealt={}).to_bytes()}


def a_committed_set_of_two(world: World, work: Work) -> dict[str, Any]:
    seen = Committed.from_bytes(work.payload)
    return {"payload": seen.model_copy(update={"members": (1, 2)}).to_bytes()}


def a_committed_stranger(world: World, work: Work) -> dict[str, Any]:
    seen = Committed.from_bytes(work.payload)
    return {"payload": seen.model_copy(update={"members": (1, 2, 3, 4, 9)}).to_bytes()}


def swapped_shares(world: World, work: Work) -> dict[str, Any]:
    seen = Committed.from_bytes(work.payload)
    inbox = {**seen.inbox, 2: seen.inbox[3]}
    return {"payload": seen.model_copy(update={"inbox": inbox}).to_bytes()}


def survivors(*members: int) -> Change:
    def change(world: World, work: Work) -> dict[str, Any]:
        return {"payload": Survivors(members=members).to_bytes()}

    return change


def signatures(work: Work) -> dict[int, bytes]:
    return dict(Quorum.from_bytes(work.payload).signatures)


def with_signatures(signed: dict[int, bytes]) -> dict[str, Any]:
    return {"payload": Quorum(signatures=signed).to_bytes()}


def too_few_signatures(world: World, work: Work) -> dict[str, Any]:
    return with_signatures(dict(list(signatures(work).items())[:2]))


def one_signature_for_all(world: World, work: Work) -> dict[str, Any]:
    first = next(iter(signatures(work).values()))
    return with_signatures(dict.fromkeys(signatures(work), first))


def signatures_under_another_set(world: World, work: Work) -> dict[str, Any]:
    other = Agree(sender=1, committed_hash=bytes(32), survivors=(1, 2, 3))
    context = setting_of(world, 1).context
    signers = enumerate(world.identities[:3], start=1)
    signed = {
        i: other.model_copy(update={"sender": i}).signed_by(one, context, b"").signature for i, one in signers
    }
    return with_signatures(signed)


def forged_signatures(world: World, work: Work) -> dict[str, Any]:
    return with_signatures(dict.fromkeys(signatures(work), bytes(64)))


def signatures_of_strangers(world: World, work: Work) -> dict[str, Any]:
    return with_signatures({i + 4: s for i, s in signatures(work).items()})


def no_message(world: World, work: Work) -> dict[str, Any]:
    return {"payload": b"\xff"}


def shown_as(phase: str) -> Change:
    return lambda world, work: {"phase": phase, "mark": f"{work.mark} as {phase}"}


def told(**changes: Any) -> Change:
    return lambda world, work: changes


LIES: list[tuple[str, Change, str]] = [
    ("advertise", told(round=99), "out-of-order"),
    ("advertise", told(round=0), "out-of-order"),
    ("advertise", told(round=2**70), "out-of-order"),
    ("advertise", told(attempt=0), "out-of-order"),
    ("advertise", told(attempt=2**70), "out-of-order"),
    ("advertise", told(kind="evaluate"), "out-of-order"),
    ("advertise", told(kind="inference"), "bad-message"),
    ("advertise", told(phase="confess"), "bad-message"),
    ("advertise", told(model=b"x" * 32), "wrong-model"),
    ("share", own_key_left_out, "secagg-refused"),
    ("share", foreign_keys_signed_by_the_aggregator, "secagg-refused"),
    ("share", keys_of_another_attempt, "secagg-refused"),
    ("share", keys_for_another_model, "secagg-refused"),
    ("share", one_hospital_twice, "secagg-refused"),
    ("share", a_cohort_of_two, "secagg-refused"),
    ("share", no_message, "bad-message"),
    ("share", shown_as("upload"), "out-of-order"),
    ("share", shown_as("unmask"), "out-of-order"),
    ("share", shown_as("done"), "out-of-order"),
    ("commit", shown_as("agree"), "out-of-order"),
    ("commit", shown_as("advertise"), "out-of-order"),
    ("upload", a_committed_set_without_me, "secagg-refused"),
    ("upload", a_committed_set_of_two, "secagg-refused"),
    ("upload", a_committed_stranger, "secagg-refused"),
    ("upload", swapped_shares, "secagg-refused"),
    ("upload", shown_as("share"), "out-of-order"),
    ("agree", survivors(1, 2), "secagg-refused"),
    ("agree", survivors(2, 3, 4), "secagg-refused"),
    ("agree", survivors(1, 2, 3, 9), "secagg-refused"),
    ("agree", survivors(1, 1, 2, 3), "secagg-refused"),
    ("agree", shown_as("unmask"), "out-of-order"),
    ("agree", shown_as("share"), "out-of-order"),
    ("unmask", too_few_signatures, "secagg-refused"),
    ("unmask", one_signature_for_all, "secagg-refused"),
    ("unmask", signatures_under_another_set, "secagg-refused"),
    ("unmask", forged_signatures, "secagg-refused"),
    ("unmask", signatures_of_strangers, "secagg-refused"),
    ("unmask", shown_as("commit"), "out-of-order"),
]


def telling(lies: list[tuple[str, Change, str]]) -> list[Any]:
    """The first of each phase and refusal; the others in `make test-all`."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for phase, change, code in lies:
        seen[phase, code] += 1
        marks = [pytest.mark.slow] * (seen[phase, code] > 1)
        found.append(pytest.param(phase, change, code, marks=marks))
    return found


@pytest.mark.parametrize(("phase", "change", "code"), telling(LIES))
def test_a_lie_makes_the_node_leave_and_it_sends_nothing_more(
    build: Build, phase: str, change: Change, code: str
) -> None:
    world = build(hospitals=4)

    def lie(work: Work) -> Work:
        if (work.round, work.attempt, work.phase) != (1, 1, phase):
            return work
        return work.model_copy(update=change(world, work))

    agent, line, journal = scene(world, lie)
    with capture_logs() as logs:
        assert not follow(agent)
    assert [kind for _, _, kind, _ in line.sent] == HONEST[: HONEST.index(kind_of(phase))]
    assert bool(line.segments) == (phase in ("agree", "unmask"))
    assert line.left[-1] == "1.1" or phase == "advertise"  # it says so, for nobody to wait
    refused = [e for e in logs if e["event"] == "attempt.refused"]
    assert [(e["code"], e["plan"]) for e in refused] == [(code, world.plan.id)]
    journal.close()
    # Neither the truth nor a restart brings it back into an attempt for which its keys are out.
    line.lie = lambda work: work
    again, journal = make_agent(world, line)
    for one in (agent, again):
        before = len(line.sent)
        follow(one)
        assert all((n, a) != (1, 1) for n, a, _, _ in line.sent[before:]) or phase == "advertise"
    journal.close()


def kind_of(phase: str) -> str:
    steps = ("advertise", "share", "commit", "upload", "agree", "unmask")
    return HONEST[steps.index(phase)]


def test_a_model_file_that_is_not_the_named_one_is_not_trained_on(build: Build) -> None:
    world = build()
    agent, line, _ = scene(world)
    line.file = lambda data: to_safetensors(START + np.float32(0.5), SPEC)
    with capture_logs() as logs:
        assert not follow(agent)
    assert line.sent == []
    assert agent._computation.prepared == []
    assert [e["code"] for e in logs if e["event"] == "attempt.refused"] == ["wrong-model"]


def test_a_damaged_model_file_is_refused(build: Build) -> None:
    world = build()
    agent, line, _ = scene(world)
    line.file = lambda data: data[:-1]
    with capture_logs() as logs:
        assert not follow(agent)
    assert line.sent == []
    assert [e["code"] for e in logs if e["event"] == "attempt.refused"] == ["bad-model-file"]


def another_model(world: World, line: Line) -> None:
    def lie(work: Work) -> Work:
        later = work.round > 1 and work.status == "running"
        return work.model_copy(update={"model": b"x" * 32}) if later else work

    line.lie = lie


def an_altered_sum(world: World, line: Line) -> None:
    """One step in one lane, with a proof that names the altered sum."""

    def alter(version: int, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:]

    def name_it(version: int, published: Published) -> Published:
        digest = hashlib.sha256(alter(version, world.sum(version))).digest()
        return published.model_copy(update={"sum_hash": digest})

    line.sum_lie, line.proof_lie = alter, name_it


def a_proof_without_signatures(world: World, line: Line) -> None:
    line.proof_lie = lambda version, published: published.model_copy(update={"signatures": {}})


@pytest.mark.parametrize(
    ("begin", "code"),
    [
        (another_model, "broken-lineage"),
        (an_altered_sum, "altered-sum"),
        (a_proof_without_signatures, "broken-lineage"),
    ],
)
def test_a_model_that_does_not_follow_ends_this_nodes_part_in_the_plan(
    build: Build, begin: Callable[[World, Line], None], code: str
) -> None:
    world = build(training={"rounds": 3, "local_steps": 1, "learning_rate": 1.0}, hospitals=4)
    agent, line, journal = scene(world)
    line.waits_for_nobody = True
    begin(world, line)
    with capture_logs() as logs:
        assert follow(agent)  # the others finish the study without it
    assert {number for number, _, _, _ in line.sent} == {1}
    assert {number for number, _, _ in agent._computation.prepared} == {1}
    refused = [(e["round"], e["code"]) for e in logs if e["event"] == "attempt.refused"]
    assert refused == [(2, code), (3, "broken-lineage"), (4, "broken-lineage")]
    assert [(e["version"], e["code"]) for e in logs if e["event"] == "lineage.refused"] == [
        (1 if begin is another_model else 0, code)
    ]
    alarm = journal.alarm(world.plan.id)
    assert alarm is not None
    assert alarm.code == code
    journal.close()
    assert world.status["attempts"][-1]["survivors"] == ["hospital-2", "hospital-3", "hospital-4"]


def test_an_old_model_is_not_trained_on_again(build: Build) -> None:
    world = build()
    agent, line, journal = scene(world)
    initial = bytes.fromhex(world.plan.study.model.initial_model)
    line.lie = lambda work: (
        work.model_copy(update={"model": initial}) if (work.round, work.phase) == (3, "advertise") else work
    )
    with capture_logs() as logs:
        follow(agent)
    assert [e["code"] for e in logs if e["event"] == "attempt.refused"] == ["broken-lineage"]
    assert {number for number, _, _, _ in line.sent} == {1, 2}
    journal.close()


def test_a_cleared_alarm_lets_a_running_node_take_part_again(build: Build) -> None:
    world = build(training={"rounds": 3, "local_steps": 1, "learning_rate": 1.0}, hospitals=4)
    agent, line, journal = scene(world)
    line.waits_for_nobody = True

    def lie(work: Work) -> Work:
        if work.round == 3 and work.phase == "advertise":
            journal.clear_alarm(world.plan.id)
        wrong = work.round == 2 and work.status == "running"
        return work.model_copy(update={"model": b"x" * 32}) if wrong else work

    line.lie = lie
    assert follow(agent)
    assert {number for number, _, _, _ in line.sent} == {1, 3, 4}
    journal.close()


@pytest.mark.parametrize("other", [(1, 2, 3), (1, 2, 4), (1, 3, 4)])
def test_no_second_survivor_set_is_ever_signed(build: Build, other: tuple[int, ...]) -> None:
    world = build(hospitals=4)
    seen = []

    def lie(work: Work) -> Work:
        if (work.round, work.phase) != (1, "agree"):
            return work
        seen.append(work.mark)
        if len(seen) == 1:
            return work
        changed = {"payload": Survivors(members=other).to_bytes(), "mark": f"again {len(seen)}"}
        if len(seen) > 5:
            raise Stuck
        return work.model_copy(update=changed)

    agent, line, journal = scene(world, lie)
    follow(agent)
    signed = [Agree.from_bytes(body) for _, _, kind, body in line.sent if kind == "agree"]
    assert [a.survivors for a in signed] == [(1, 2, 3, 4)]
    assert len(seen) > 2
    journal.close()


def test_after_unmasking_no_further_attempt_of_the_round_is_joined(build: Build) -> None:
    world = build()

    def lie(work: Work) -> Work:
        if work.round != 2 or work.phase != "advertise":
            return work
        initial = bytes.fromhex(world.plan.study.model.initial_model)
        return work.model_copy(update={"round": 1, "attempt": 2, "model": initial})

    agent, line, _ = scene(world, lie)
    with capture_logs() as logs:
        assert not follow(agent)
    assert [kind for _, _, kind, _ in line.sent] == HONEST
    assert [e["code"] for e in logs if e["event"] == "attempt.missed"] == ["model-in-use"]
