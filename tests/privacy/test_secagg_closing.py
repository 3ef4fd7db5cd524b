"""An abort certificate shows that a sum stays shut, and nothing else passes for one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from linked import Consortium
from medveil.errors import RemoteProtocolError
from medveil.rounds import Phase, RoundKind
from privacy.secagg import closing, server
from privacy.secagg.closing import NotClosed, check_certificate, check_given_up
from privacy.secagg.keys import Setting
from privacy.secagg.messages import Abort, Certificate

Build = Callable[..., Consortium]


def vows(world: Consortium, *indices: int, setting: Setting | None = None) -> dict[int, Abort]:
    """What these hospitals sign when they give up the attempt, or another one."""
    parties = {i: world.hospitals[i].party for i in indices}
    if setting is not None:
        parties = {i: replace(p, setting=setting) for i, p in parties.items()}
    return {i: closing.vow(p) for i, p in parties.items()}


def made(world: Consortium, *indices: int) -> Certificate:
    return closing.certificate(world.server.setting.context, vows(world, *indices))


@pytest.mark.parametrize(("size", "colluders"), [(3, 0), (4, 0), (5, 0), (5, 1), (6, 1), (7, 2)])
def test_a_certificate_leaves_fewer_than_a_threshold_of_possible_shareholders(
    consortium: Build, size: int, colluders: int
) -> None:
    world = consortium(size, min_hospitals=max(3, colluders + 2), colluders=colluders)
    setting, everybody = world.server.setting, range(1, size + 1)
    for count in range(size + 1):
        signers = tuple(everybody)[:count]
        may_give = size - (count - colluders)  # all but the honest ones who have vowed
        if may_give < setting.threshold(size):
            check_certificate(made(world, *signers), setting, everybody)
        else:
            with pytest.raises(NotClosed):
                check_certificate(made(world, *signers), setting, everybody)


def test_only_hospitals_of_the_own_set_of_keys_count(consortium: Build) -> None:
    world = consortium(6)
    setting = world.server.setting
    check_certificate(made(world, 1, 2, 3), setting, (1, 2, 3, 4))
    with pytest.raises(NotClosed):
        check_certificate(made(world, 1, 5, 6), setting, (1, 2, 3, 4))
    with pytest.raises(NotClosed):
        check_certificate(made(world, 5, 6), setting, (5, 6, 1, 2, 3))


@pytest.mark.parametrize(
    "change",
    [
        {"plan": b"x" * 32},
        {"round": 8},
        {"attempt": 2},
        {"kind": RoundKind.EVALUATE},
        {"model": b"x" * 32},
        {"protocol": b"medveil-secagg-v1"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_vows_of_another_context_are_refused(consortium: Build, change: dict[str, object]) -> None:
    world = consortium(4)
    setting = world.server.setting
    other = replace(setting, context=replace(setting.context, **change))  # type: ignore[arg-type]
    signatures = {i: v.signature for i, v in vows(world, 1, 2, 3, setting=other).items()}
    found = made(world, 1).model_copy(update={"signatures": signatures})
    with pytest.raises(NotClosed):
        check_certificate(found, setting, (1, 2, 3, 4))
    with pytest.raises(NotClosed):
        check_given_up(found, setting)


def test_forged_renamed_and_foreign_vows_are_refused(consortium: Build) -> None:
    world = consortium(4)
    setting, good = world.server.setting, made(world, 1, 2, 3)
    one = good.signatures[1]
    for signatures in ({1: one, 2: one, 3: one}, {1: one, 2: bytes(64), 3: bytes(64)}, {1: one, 9: one}):
        found = good.model_copy(update={"signatures": signatures})
        with pytest.raises(NotClosed):
            check_certificate(found, setting, (1, 2, 3, 4))
    with pytest.raises(NotClosed):
        check_certificate(good.model_copy(update={"attempt": 2}), setting, (1, 2, 3, 4))


def given_up(world: Consortium, after: Phase) -> server.ServerState:
    """The attempt fails in a phase, before anybody has answered it."""
    world.play_until(after)
    return server.give_up(world.server)


@pytest.mark.parametrize("phase", [Phase.UPLOAD, Phase.AGREE, Phase.UNMASK])
def test_an_attempt_that_failed_ends_when_enough_have_given_it_up(consortium: Build, phase: Phase) -> None:
    world = consortium(4)
    state = given_up(world, phase)
    assert (state.phase, state.failed_in) == (Phase.ABORT, phase)
    for i, vow in vows(world, 1, 2).items():
        with pytest.raises(server.BelowThreshold):
            server.close_phase(state)
        state = server.receive(state, vow)
        assert server.receive(state, vow) == state
        assert i in state.aborted
    assert server.close_phase(state).phase is Phase.FAILED
    check_certificate(closing.certificate(state.setting.context, state.aborted), state.setting, (1, 2, 3, 4))


def test_nobody_unmasks_and_gives_up_in_either_order(consortium: Build) -> None:
    world = consortium(4).play_until(Phase.UNMASK)
    shares = {i: h.answer(Phase.UNMASK, server.view(world.server, i)) for i, h in world.hospitals.items()}
    state = server.give_up(server.receive(world.server, shares[1]))
    with pytest.raises(server.NotAMember):
        server.receive(state, vows(world, 1)[1])
    state = server.receive(state, vows(world, 2)[2])
    with pytest.raises(server.NotAMember):
        server.receive(state, shares[2])


def test_whoever_can_is_asked_to_unmask_as_long_as_that_may_open_the_sum(consortium: Build) -> None:
    world = consortium(5).play_until(Phase.UNMASK)
    shares = {i: h.answer(Phase.UNMASK, server.view(world.server, i)) for i, h in world.hospitals.items()}
    state = server.give_up(server.receive(world.server, shares[1]))
    assert {server.asked(state, i) for i in (2, 3, 4, 5)} == {Phase.UNMASK}
    assert server.asked(state, 2, away={2, 3}) is Phase.ABORT
    assert server.asked(state, 4, away={2, 3}) is Phase.UNMASK
    assert server.asked(state, 4, away={2, 3, 5}) is Phase.ABORT  # two of three at most
    late = server.receive(server.receive(state, shares[4]), shares[5])
    done = server.close_phase(late)
    assert done.phase is Phase.DONE
    world.server = replace(done, phase=Phase.UNMASK)
    assert (world.unmasked_sum() == world.plain_sum()).all()


def test_without_a_quorum_everybody_is_asked_to_give_up_and_no_share_is_taken(consortium: Build) -> None:
    world = consortium(4).play_until(Phase.UNMASK)
    share = world.hospitals[1].answer(Phase.UNMASK, server.view(world.server, 1))
    state = replace(world.server, phase=Phase.AGREE, agreed={})
    state = server.give_up(state)
    assert {server.asked(state, i) for i in range(1, 5)} == {Phase.ABORT}
    with pytest.raises(server.OutOfPhase):
        server.receive(state, share)


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_without_colluders_every_split_of_answers_ends_in_a_sum_or_a_certificate(
    consortium: Build, size: int
) -> None:
    world = consortium(size).play_until(Phase.UNMASK)
    shares = {i: h.answer(Phase.UNMASK, server.view(world.server, i)) for i, h in world.hospitals.items()}
    everybody = range(1, size + 1)
    for count in range(size + 1):
        for unmasking in itertools.combinations(everybody, count):
            state = server.give_up(world.server)
            for i in everybody:
                answer = shares[i] if i in unmasking else vows(world, i)[i]
                state = server.receive(state, answer)
            opened = count >= state.setting.threshold(size)
            assert server.close_phase(state).phase is (Phase.DONE if opened else Phase.FAILED)


def test_a_message_of_an_attempt_that_goes_on_is_no_vow(consortium: Build) -> None:
    world = consortium(4)
    for phase in (Phase.ADVERTISE, Phase.SHARE, Phase.UPLOAD, Phase.UNMASK):
        state = consortium(4).play_until(phase).server if phase is not Phase.ADVERTISE else world.server
        with pytest.raises(RemoteProtocolError):
            server.receive(state, vows(world, 1)[1])
    with pytest.raises(server.OutOfPhase):
        server.give_up(world.server)  # nothing masked was sent: there is nothing to give up


def test_a_failed_attempt_is_known_by_whoever_was_not_in_it(consortium: Build) -> None:
    world = consortium(5)
    check_given_up(made(world, 2, 4), world.server.setting)
    with pytest.raises(NotClosed):
        check_given_up(made(world, 2), world.server.setting)
