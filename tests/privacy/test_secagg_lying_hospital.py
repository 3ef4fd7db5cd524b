"""A hospital that lies can spoil a round at worst; it is found out, and nobody else's message is lost."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from linked import STEPS, Consortium
from medveil.errors import RemoteProtocolError
from medveil.identity import BadSignature, Identity, Secret
from medveil.rounds import Phase, RoundKind
from privacy.secagg import node, server, shamir
from privacy.secagg.keys import Context, WeakKey, channel_key, dealt_hash, new_key, public_bytes
from privacy.secagg.messages import Advertise, HospitalMessage, Unmask
from privacy.secagg.server import Conflict, NotAMember, OutOfPhase, RepeatedKey, Spoiled

Build = Callable[..., Consortium]
CONTEXT = Context(b"p" * 32, 7, 1, RoundKind.TRAIN, b"m" * 32)


def _resigned(world: Consortium, message: HospitalMessage, **changed: Any) -> Any:
    """What a dishonest hospital can make of its own message: any content under a good signature."""
    party = world.hospitals[message.sender].party
    transcript = world.server.transcript
    return message.model_copy(update=changed).signed_by(party.identity, party.setting.context, transcript)


def _rejects(world: Consortium, message: HospitalMessage, error: type[RemoteProtocolError]) -> None:
    before = world.server
    with pytest.raises(error):
        world.server = server.receive(world.server, message)
    assert world.server is before


def _answer(world: Consortium, index: int) -> Any:
    """A hospital's honest answer in the current phase, not sent; its state goes on."""
    return world.hospitals[index].answer(world.server.phase, server.view(world.server, index))


def _finish(world: Consortium) -> np.ndarray:
    """Everybody who has not answered does so honestly, to the end of the round."""
    while True:
        for index in sorted(world.server.invited - set(world.server.answers)):
            world.server = server.receive(world.server, _answer(world, index))
        if world.server.phase is Phase.UNMASK:
            break
        world.server = server.close_phase(world.server)
    return world.unmasked_sum()


# Messages with a false content, each under the sender's own good signature.


def test_a_false_set_under_a_good_signature_changes_nothing(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    shares = _answer(world, 1)
    box, pair = shares.sealed[2], shares.share_commitments[2]
    for sealed in ({}, {2: box}, shares.sealed | {1: box}, shares.sealed | {9: box}):
        _rejects(world, _resigned(world, shares, sealed=sealed), BadSignature)
    for commitments in ({}, {2: pair}, shares.share_commitments | {9: pair}):
        _rejects(world, _resigned(world, shares, share_commitments=commitments), BadSignature)
    world.server = server.receive(world.server, shares)

    _go_to(world, Phase.UPLOAD)
    upload = _answer(world, 1)
    _rejects(world, _resigned(world, upload, committed_hash=secrets.token_bytes(32)), BadSignature)
    world.server = server.receive(world.server, upload)

    _go_to(world, Phase.AGREE)
    agree = _answer(world, 1)
    for survivors in ((1, 2, 3), (1, 2, 3, 4, 5), (4, 3, 2, 1), ()):
        _rejects(world, _resigned(world, agree, survivors=survivors), BadSignature)
    _rejects(world, _resigned(world, agree, committed_hash=bytes(32)), BadSignature)
    world.server = server.receive(world.server, agree)

    _go_to(world, Phase.UNMASK)
    unmask = _answer(world, 1)
    share = unmask.self_shares[2]
    for changed in (
        {"self_shares": {}},
        {"self_shares": {1: share, 2: share, 3: share}},
        {"key_shares": {2: share}},  # both kinds for one hospital
        {"self_shares": unmask.self_shares | {9: share}},
    ):
        _rejects(world, _resigned(world, unmask, **changed), BadSignature)
    world.server = server.receive(world.server, unmask)
    assert np.array_equal(_finish(world), world.plain_sum())


def _go_to(world: Consortium, phase: Phase) -> None:
    while world.server.phase is not phase:
        for index in sorted(world.server.invited - set(world.server.answers)):
            world.server = server.receive(world.server, _answer(world, index))
        world.server = server.close_phase(world.server)


def test_bad_keys_are_stopped_at_the_door(consortium: Build, identities: dict[int, Identity]) -> None:
    world = consortium(4, context=CONTEXT)
    first = _answer(world, 1)
    world.server = server.receive(world.server, first)
    good = {k: public_bytes(Secret(secrets.token_bytes(32))) for k in ("channel_key", "mask_key")}
    for keys, error in (
        (good | {"mask_key": first.mask_key}, RepeatedKey),
        (good | {"channel_key": first.mask_key}, RepeatedKey),
        (good | {"mask_key": good["channel_key"]}, RepeatedKey),
        (good | {"mask_key": bytes(32)}, WeakKey),
        (good | {"channel_key": (1).to_bytes(32, "little")}, WeakKey),
    ):
        false = Advertise(sender=2, **keys).signed_by(identities[2], CONTEXT, b"")
        _rejects(world, false, error)
    assert np.array_equal(_finish(world), world.plain_sum())


# Messages of somebody else, from elsewhere, at another time.


@pytest.mark.parametrize("phase", STEPS)
def test_nobody_speaks_for_another(consortium: Build, identities: dict[int, Identity], phase: Phase) -> None:
    world = consortium(4, context=CONTEXT).play_until(phase)
    answer = _answer(world, 1)
    transcript = world.server.transcript
    _rejects(world, answer.signed_by(identities[2], CONTEXT, transcript), BadSignature)
    _rejects(world, answer.model_copy(update={"sender": 2}), BadSignature)
    stranger = answer.model_copy(update={"sender": 9}).signed_by(identities[9], CONTEXT, transcript)
    _rejects(world, stranger, NotAMember)
    for context in (
        replace(CONTEXT, round=6),
        replace(CONTEXT, attempt=2),
        replace(CONTEXT, plan=b"q" * 32),
        replace(CONTEXT, model=b"x" * 32),
        replace(CONTEXT, kind=RoundKind.EVALUATE),
    ):
        _rejects(world, answer.signed_by(identities[1], context, transcript), BadSignature)
    _rejects(world, answer.signed_by(identities[1], CONTEXT, b"another transcript"), BadSignature)


@pytest.mark.parametrize("phase", STEPS)
def test_an_exact_repeat_changes_nothing_and_a_second_answer_is_a_conflict(
    consortium: Build, phase: Phase
) -> None:
    world = consortium(4, context=CONTEXT).play_until(phase)
    answer = _answer(world, 1)
    world.server = server.receive(world.server, answer)
    assert server.receive(world.server, answer) is world.server
    changes = {
        Phase.ADVERTISE: {"mask_key": secrets.token_bytes(32)},
        Phase.SHARE: {"commitment": secrets.token_bytes(32)},
        Phase.UPLOAD: {"segments": (secrets.token_bytes(32),)},
        Phase.UNMASK: {"self_shares": {i: bytes(33) for i in (1, 2, 3, 4)}},
    }
    if phase in changes:  # the other phases have one possible content
        _rejects(world, _resigned(world, answer, **changes[phase]), Conflict)


def test_a_message_out_of_phase_is_refused(consortium: Build) -> None:
    answers = {phase: _answer(consortium(4, context=CONTEXT).play_until(phase), 1) for phase in STEPS}
    for now, then in itertools.permutations(STEPS, 2):
        _rejects(consortium(4, context=CONTEXT).play_until(now), answers[then], OutOfPhase)
    ended = consortium(4, context=CONTEXT)
    ended.server = replace(ended.server, phase=Phase.DONE)
    for answer in answers.values():
        _rejects(ended, answer, OutOfPhase)


def test_a_hospital_that_missed_a_phase_is_not_heard_again(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    for index in (1, 2, 3):
        world.server = server.receive(world.server, _answer(world, index))
    late = _answer(world, 4)
    world.server = server.close_phase(world.server)
    _rejects(world, late, OutOfPhase)
    _rejects(world, node.ready(world.hospitals[4].state), NotAMember)
    assert np.array_equal(_finish(world), world.plain_sum())


# Wrong secrets: the dealer is named. Wrong shares: whoever returned them is, and the round goes on.


def _dealing(world: Consortium, dealer: int, *, self_secret: bool) -> None:
    """Hospital ``dealer`` deals shares of something else than it commits to."""
    honest = shamir.split

    def dishonest(secret: Secret, *rest: Any) -> dict[int, Secret]:
        dishonest.calls += 1
        wrong = (dishonest.calls == 1) is self_secret  # the self-mask secret is dealt first
        return honest(Secret(secrets.token_bytes(32)) if wrong else secret, *rest)

    dishonest.calls = 0  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shamir, "split", dishonest)
        message = _answer(world, dealer)
    world.server = server.receive(world.server, message)


def test_a_dealer_of_wrong_self_mask_shares_is_named(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    _dealing(world, 3, self_secret=True)
    with pytest.raises(Spoiled) as spoiled:
        _finish(world)
    assert spoiled.value.index == 3


@pytest.mark.parametrize("share", [b"\xff" * 33, (shamir.PRIME - 1).to_bytes(33, "big")])
def test_a_dealer_of_shares_that_rebuild_no_secret_at_all_is_named(consortium: Build, share: bytes) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shamir, "split", lambda secret, t, holders, draw: {i: Secret(share) for i in holders})
        message = _answer(world, 2)
    world.server = server.receive(world.server, message)
    with pytest.raises(Spoiled) as spoiled:
        _finish(world)
    assert spoiled.value.index == 2
    assert "hospital 2" in str(spoiled.value)


def test_a_dealer_of_wrong_key_shares_is_named_when_it_drops_out(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    _dealing(world, 3, self_secret=False)
    _go_to(world, Phase.UPLOAD)
    for index in (1, 2, 4):
        world.server = server.receive(world.server, _answer(world, index))
    world.server = server.close_phase(world.server)
    with pytest.raises(Spoiled) as spoiled:
        _finish(world)
    assert spoiled.value.index == 3


def test_a_wrong_commitment_is_named(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    false = _resigned(world, _answer(world, 2), commitment=secrets.token_bytes(32))
    world.server = server.receive(world.server, false)
    with pytest.raises(Spoiled) as spoiled:
        _finish(world)
    assert spoiled.value.index == 2


WRONG = pytest.mark.parametrize(
    "share", [bytes(33), b"\xff" * 33, (5).to_bytes(33, "big")], ids=["zero", "huge", "five"]
)


def _return(world: Consortium, holder: int, dealers: tuple[int, ...], share: bytes) -> None:
    """Hospital ``holder`` returns something else than it was dealt by these hospitals."""
    honest: Unmask = _answer(world, holder)
    changed = {
        name: {j: share if j in dealers else s for j, s in getattr(honest, name).items()}
        for name in ("self_shares", "key_shares")
    }
    world.server = server.receive(world.server, _resigned(world, honest, **changed))


@WRONG
def test_a_wrong_returned_share_is_set_aside_and_its_holder_named(consortium: Build, share: bytes) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.UNMASK)
    _return(world, 1, (3,), share)
    assert np.array_equal(_finish(world), world.plain_sum())
    assert server.wrong_returns(world.server) == {1: (3,)}


@WRONG
def test_a_wrong_share_of_a_dropped_hospitals_key_is_set_aside_too(consortium: Build, share: bytes) -> None:
    world = consortium(5, context=CONTEXT).play_until(Phase.UPLOAD)
    for index in (1, 2, 4, 5):
        world.server = server.receive(world.server, _answer(world, index))
    world.server = server.close_phase(world.server)
    _go_to(world, Phase.UNMASK)
    _return(world, 2, (3,), share)
    assert np.array_equal(_finish(world), world.plain_sum())
    assert server.wrong_returns(world.server) == {2: (3,)}


def test_shares_that_a_holder_exchanges_are_wrong_shares(consortium: Build) -> None:
    """Every commitment is bound to one dealer, one holder and one kind."""
    world = consortium(4, context=CONTEXT).play_until(Phase.UNMASK)
    honest: Unmask = _answer(world, 1)
    swapped = honest.self_shares | {2: honest.self_shares[3], 3: honest.self_shares[2]}
    world.server = server.receive(world.server, _resigned(world, honest, self_shares=swapped))
    key_share = world.hospitals[2].state.committed.held[3].key_share.reveal()
    other_kind: Unmask = _answer(world, 2)
    changed = other_kind.self_shares | {3: key_share}
    world.server = server.receive(world.server, _resigned(world, other_kind, self_shares=changed))
    third: Unmask = _answer(world, 3)
    borrowed = world.hospitals[4].state.committed.held[3].self_share.reveal()
    changed = third.self_shares | {3: borrowed}
    world.server = server.receive(world.server, _resigned(world, third, self_shares=changed))
    world.server = server.receive(world.server, _answer(world, 4))
    assert server.wrong_returns(world.server) == {1: (2, 3), 2: (3,), 3: (3,)}


def test_any_threshold_of_right_shares_is_enough(consortium: Build) -> None:
    """Different holders lie about different hospitals; each secret still has t right shares."""
    world = consortium(6, context=CONTEXT).play_until(Phase.UNMASK)
    for holder, dealer in ((1, 4), (2, 4), (3, 5), (6, 1)):
        _return(world, holder, (dealer,), bytes(33))
    assert np.array_equal(_finish(world), world.plain_sum())
    assert server.wrong_returns(world.server) == {1: (4,), 2: (4,), 3: (5,), 6: (1,)}


def test_too_few_right_shares_end_the_round_and_name_all_who_lied(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.UNMASK)
    for holder in (1, 4):
        _return(world, holder, (3,), bytes(33))
    with pytest.raises(server.WrongShares) as wrong:
        _finish(world)
    assert wrong.value.returned_by == (1, 4)
    assert "1, 4" in str(wrong.value)


def test_an_honest_round_names_nobody(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT)
    _finish(world)
    assert server.wrong_returns(world.server) == {}


# A box whose content is not what its dealer signed: the receiver refuses and knows whose doing it is.


def _dealing_two_ways(world: Consortium, dealer: int, victim: int, **changed: bytes) -> None:
    """The dealer seals something else for the victim, under the commitments it signed for everybody."""
    message = _answer(world, dealer)
    party, state = world.hospitals[dealer].party, world.hospitals[dealer].state
    context, transcript = party.setting.context, state.transcript
    peer = state.peers[victim]
    ends = {"sender": dealer, "receiver": victim}
    key = channel_key(new_key(state.channel_secret), peer.channel_key, context, transcript, **ends)
    signed = dealt_hash(
        message.share_commitments[victim],
        message.check_commitment,
        context,
        transcript,
        dealer=dealer,
        holder=victim,
    )
    associated = node._sealing(party, transcript, signed)
    plain = ChaCha20Poly1305(key).decrypt(bytes(12), message.sealed[victim], associated)
    parts = {"self_share": plain[:33], "key_share": plain[33:66], "contribution": plain[66:]} | changed
    box = ChaCha20Poly1305(key).encrypt(bytes(12), b"".join(parts.values()), associated)
    false = _resigned(world, message, sealed=message.sealed | {victim: box})
    world.server = server.receive(world.server, false)


@pytest.mark.parametrize(
    "changed",
    [
        {"self_share": bytes(33)},
        {"key_share": bytes(33)},
        {"contribution": bytes(32)},
        {"self_share": bytes(32), "contribution": bytes(33)},
    ],
    ids=["self-mask share", "mask-key share", "part of the check key", "parts of another length"],
)
def test_a_box_that_is_not_what_was_signed_names_its_dealer(
    consortium: Build, changed: dict[str, bytes]
) -> None:
    """The victim leaves, and the others still get their exact sum: nothing is equivocated unseen."""
    world = consortium(5, context=CONTEXT).play_until(Phase.SHARE)
    _dealing_two_ways(world, 2, 1, **changed)
    _go_to(world, Phase.UPLOAD)
    with pytest.raises(node.Refused) as refused:
        _answer(world, 1)
    assert refused.value.dealer == 2
    assert "committed to" in refused.value.reason
    assert "hospital 2" in str(refused.value)
    for index in (2, 3, 4, 5):
        world.server = server.receive(world.server, _answer(world, index))
    world.server = server.close_phase(world.server)
    assert np.array_equal(_finish(world), world.plain_sum())


def test_sealed_garbage_costs_the_dealer_and_its_victims_only(consortium: Build) -> None:
    """The victim refuses the committed set and drops out; the others still get their exact sum."""
    world = consortium(5, context=CONTEXT).play_until(Phase.SHARE)
    message = _answer(world, 2)
    false = _resigned(world, message, sealed=message.sealed | {1: bytes(114)})
    world.server = server.receive(world.server, false)
    _go_to(world, Phase.UPLOAD)
    with pytest.raises(node.Refused):
        _answer(world, 1)
    for index in (2, 3, 4, 5):
        world.server = server.receive(world.server, _answer(world, index))
    world.server = server.close_phase(world.server)
    assert np.array_equal(_finish(world), world.plain_sum())
    assert world.server.survivors == (2, 3, 4, 5)
