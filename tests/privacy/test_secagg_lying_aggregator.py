"""An aggregator that lies: the real node refuses, keeps its state and sends nothing."""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from linked import Consortium, Hospital, quorum
from medveil.identity import Identity, Secret
from medveil.rounds import Phase, RoundKind
from privacy.secagg import node, server
from privacy.secagg.keys import Context, dealt_hash, public_bytes
from privacy.secagg.masks import Mask, add_masks
from privacy.secagg.messages import (
    Advertise,
    Advertised,
    Agree,
    Committed,
    Shares,
    Survivors,
    Unmask,
)
from privacy.secagg.node import Refused

Build = Callable[..., Consortium]
CONTEXT = Context(b"p" * 32, 7, 1, RoundKind.TRAIN, b"m" * 32)
ELSEWHERE = {
    "another plan": replace(CONTEXT, plan=b"q" * 32),
    "another round": replace(CONTEXT, round=6),
    "another attempt": replace(CONTEXT, attempt=2),
    "another kind of round": replace(CONTEXT, kind=RoundKind.EVALUATE),
    "another model": replace(CONTEXT, model=b"x" * 32),
}


def _refuses(hospital: Hospital, phase: Phase, view: Any) -> None:
    before, masked = hospital.state, hospital.masked
    with pytest.raises(Refused):
        hospital.answer(phase, view)
    assert hospital.state is before
    assert hospital.masked is masked


def _fresh_keys() -> dict[str, bytes]:
    return {k: public_bytes(Secret(secrets.token_bytes(32))) for k in ("channel_key", "mask_key")}


def _with(messages: Iterable[Advertise], *changed: Advertise) -> Advertised:
    by_sender = {m.sender: m for m in messages} | {m.sender: m for m in changed}
    return Advertised(messages=tuple(by_sender.values()))


def _forged_u1(world: Consortium, identities: dict[int, Identity], name: str) -> Advertised:
    """U1 as hospital 1 is shown it; hospital 2 is the one that is lied about or colludes."""
    messages = world.server.advertised
    one, two, three, _ = (messages[i] for i in (1, 2, 3, 4))

    def colluding(**keys: bytes) -> Advertise:
        return two.model_copy(update=keys).signed_by(identities[2], CONTEXT, b"")

    forged = {
        "own keys left out": lambda: Advertised(messages=tuple(messages[i] for i in (2, 3, 4))),
        "own keys replaced": lambda: _with(messages.values(), one.model_copy(update=_fresh_keys())),
        "too few": lambda: Advertised(messages=(one, two)),
        "nobody": lambda: Advertised(messages=()),
        "one hospital twice": lambda: Advertised(messages=(one, two, two, three)),
        "keys of the aggregator": lambda: _with(messages.values(), two.model_copy(update=_fresh_keys())),
        "keys of two hospitals swapped": lambda: _with(
            messages.values(),
            two.model_copy(update={"mask_key": three.mask_key}),
            three.model_copy(update={"mask_key": two.mask_key}),
        ),
        "one message under another index": lambda: _with((one, three), two.model_copy(update={"sender": 4})),
        "an unknown index": lambda: _with(
            messages.values(), Advertise(sender=9, **_fresh_keys()).signed_by(identities[9], CONTEXT, b"")
        ),
        "a stranger under a known index": lambda: _with(
            messages.values(), Advertise(sender=2, **_fresh_keys()).signed_by(identities[9], CONTEXT, b"")
        ),
        "no signature": lambda: _with(messages.values(), two.model_copy(update={"signature": bytes(64)})),
        "a colluder copies keys": lambda: _with(messages.values(), colluding(mask_key=three.mask_key)),
        "a colluder has one key for both": lambda: _with(
            messages.values(), colluding(mask_key=two.channel_key)
        ),
        "a colluder's mask key is of small order": lambda: _with(
            messages.values(), colluding(mask_key=bytes(32))
        ),
        "a colluder's channel key is of small order": lambda: _with(
            messages.values(), colluding(channel_key=(1).to_bytes(32, "little"))
        ),
    }
    return forged[name]()


@pytest.mark.parametrize(
    "name",
    [
        "own keys left out",
        "own keys replaced",
        "too few",
        "nobody",
        "one hospital twice",
        "keys of the aggregator",
        "keys of two hospitals swapped",
        "one message under another index",
        "an unknown index",
        "a stranger under a known index",
        "no signature",
        "a colluder copies keys",
        "a colluder has one key for both",
        "a colluder's mask key is of small order",
        "a colluder's channel key is of small order",
    ],
)
def test_false_keys_are_refused(consortium: Build, identities: dict[int, Identity], name: str) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    _refuses(world.hospitals[1], Phase.SHARE, _forged_u1(world, identities, name))


@pytest.mark.parametrize("name", list(ELSEWHERE))
def test_keys_from_elsewhere_are_refused(consortium: Build, name: str) -> None:
    """A replayed Advertise; with another model it is the aggregator that gives one node another model."""
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    other = consortium(4, context=ELSEWHERE[name]).play_until(Phase.SHARE)
    view = _with(world.server.advertised.values(), other.server.advertised[3])
    for index in (1, 2, 4):
        _refuses(world.hospitals[index], Phase.SHARE, view)
    _refuses(world.hospitals[3], Phase.SHARE, view)  # and the one who is impersonated


def test_a_roster_shown_to_one_node_only_is_refused(
    consortium: Build, identities: dict[int, Identity]
) -> None:
    """The aggregator pretends to hospital 1 that it is hospital 2: its plan has another hash, so it fails."""
    world = consortium(4, context=CONTEXT).play_until(Phase.SHARE)
    mine = identities[12]
    roster = dict(world.server.setting.roster) | {2: mine.public_key}
    setting = replace(world.server.setting, roster=roster, context=replace(CONTEXT, plan=b"r" * 32))
    cheated = Hospital(node.Party(setting, 1, identities[1]), world.hospitals[1].encoded)
    advertised = cheated.answer(Phase.ADVERTISE, None)
    false = Advertise(sender=2, **_fresh_keys()).signed_by(mine, setting.context, b"")
    view = _with((world.server.advertised[3], world.server.advertised[4]), advertised, false)
    _refuses(cheated, Phase.SHARE, view)


def test_two_views_of_the_keys_end_when_shares_do_not_open(consortium: Build) -> None:
    world = consortium(5, context=CONTEXT).play_until(Phase.SHARE)
    messages = world.server.advertised
    shared = {}
    for index, hospital in world.hospitals.items():
        shown = [m for m in messages.values() if index not in (1, 2, 3) or m.sender != 5]
        if index != 5:
            shared[index] = hospital.answer(Phase.SHARE, Advertised(messages=tuple(shown)))
    for index in (1, 4):
        inbox = {j: m.sealed[index] for j, m in shared.items() if j != index}
        for transcript in (world.hospitals[1].state.transcript, world.hospitals[4].state.transcript):
            dealt = {j: _dealt(m, index, transcript) for j, m in shared.items() if j != index}
            view = Committed(members=(1, 2, 3, 4), inbox=inbox, dealt=dealt)
            _refuses(world.hospitals[index], Phase.UPLOAD, view)


def _dealt(message: Shares, holder: int, transcript: bytes) -> bytes:
    """What the aggregator says that a dealer signed of its box to one holder."""
    return dealt_hash(
        message.share_commitments[holder],
        message.check_commitment,
        CONTEXT,
        transcript,
        dealer=message.sender,
        holder=holder,
    )


def _flipped(data: bytes) -> bytes:
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


@pytest.mark.parametrize(
    "name",
    [
        "strangers",
        "repeats",
        "without me",
        "below the threshold",
        "below the minimum",
        "empty",
        "a share is missing",
        "all shares are missing",
        "what was signed of it is missing",
        "what was signed of it is changed",
        "what was signed of it is another's",
        "a share is changed",
        "shares of two senders are swapped",
        "a share for somebody else",
        "a share of another attempt",
    ],
)
def test_a_false_committed_set_is_refused(consortium: Build, name: str) -> None:
    size, colluders = (6, 2) if name == "below the threshold" else (5, 0)
    minimum = max(3, colluders + 2)
    world = consortium(size, context=CONTEXT, colluders=colluders, min_hospitals=minimum)
    world.play_until(Phase.UPLOAD)
    seen = server.view(world.server, 1)
    assert isinstance(seen, Committed)
    inbox, dealt = dict(seen.inbox), dict(seen.dealt)

    def of(*members: int, **changed: Any) -> Committed:
        kept = {j: inbox[j] for j in members if j in inbox} | changed.get("inbox", {})
        return Committed(members=members, inbox=kept, dealt=dealt | changed.get("dealt", {}))

    other = consortium(5, context=ELSEWHERE["another attempt"]).play_until(Phase.UPLOAD).server
    views = {
        "strangers": seen.model_copy(update={"members": (1, 2, 3, 9), "inbox": inbox | {9: inbox[2]}}),
        "repeats": of(1, 2, 2, 3),
        "without me": of(2, 3, 4),
        "below the threshold": of(1, 2, 3, 4),  # the minimum is 4 but t is 5
        "below the minimum": of(1, 2),
        "empty": of(),
        "a share is missing": seen.model_copy(update={"inbox": {j: inbox[j] for j in inbox if j != 3}}),
        "all shares are missing": seen.model_copy(update={"inbox": {}}),
        "what was signed of it is missing": seen.model_copy(update={"dealt": {}}),
        "what was signed of it is changed": of(*seen.members, dealt={2: _flipped(dealt[2])}),
        "what was signed of it is another's": of(*seen.members, dealt={2: dealt[3]}),
        "a share is changed": of(*seen.members, inbox={2: _flipped(inbox[2])}),
        "shares of two senders are swapped": of(*seen.members, inbox={2: inbox[3], 3: inbox[2]}),
        "a share for somebody else": of(*seen.members, inbox={2: world.server.shared[2].sealed[3]}),
        "a share of another attempt": of(*seen.members, inbox={2: other.shared[2].sealed[1]}),
    }
    _refuses(world.hospitals[1], Phase.UPLOAD, views[name])
    world.hospitals[1].answer(Phase.UPLOAD, seen)  # the honest view is taken


@pytest.mark.parametrize(
    "members", [(1, 2, 3, 9), (1, 2, 2, 3), (2, 3, 4), (1, 2), (1,), ()], ids=lambda m: str(m)
)
def test_a_false_survivor_set_is_refused(consortium: Build, members: tuple[int, ...]) -> None:
    world = consortium(5, context=CONTEXT).play_until(Phase.AGREE)
    _refuses(world.hospitals[1], Phase.AGREE, Survivors(members=members))


def test_a_survivor_outside_the_committed_set_is_refused(consortium: Build) -> None:
    world = consortium(5, context=CONTEXT).play_until(Phase.UPLOAD)
    seen = server.view(world.server, 1)
    assert isinstance(seen, Committed)
    four = seen.model_copy(update={"members": (1, 2, 3, 4)})
    world.hospitals[1].answer(Phase.UPLOAD, four)
    _refuses(world.hospitals[1], Phase.AGREE, Survivors(members=(1, 2, 3, 5)))


@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "one too few",
        "one signature under every name",
        "strangers",
        "a roster member outside the survivors",
        "signatures under another set",
        "signatures under another committed set",
        "signatures of another attempt",
        "empty signatures",
        "one bad among enough good",
        "a name on another's signature",
    ],
)
def test_a_forged_quorum_is_refused(consortium: Build, identities: dict[int, Identity], name: str) -> None:
    world = consortium(5, context=CONTEXT)
    assert world.server.setting.threshold(5) == 3
    world.play_until(Phase.AGREE)
    own = world.hospitals[1]
    good = own.answer(Phase.AGREE, Survivors(members=(1, 2, 3, 4)))
    transcript = world.server.transcript

    def signed(signer: int, as_index: int | None = None, context: Context = CONTEXT, **changed: Any) -> Agree:
        agreement = good.model_copy(update={"sender": as_index or signer, **changed})
        return agreement.signed_by(identities[signer], context, transcript)

    two, three = signed(2), signed(3)
    quorums = {
        "nobody": (),
        "one too few": (good, two),
        "one signature under every name": (
            good,
            *(good.model_copy(update={"sender": i}) for i in (2, 3)),
        ),
        "strangers": (good, two, signed(9)),
        "a roster member outside the survivors": (good, two, signed(5)),
        "signatures under another set": (good, *(signed(i, survivors=(1, 2, 3, 4, 5)) for i in (2, 3))),
        "signatures under another committed set": (
            good,
            *(signed(i, committed_hash=bytes(32)) for i in (2, 3)),
        ),
        "signatures of another attempt": (
            good,
            *(signed(i, context=ELSEWHERE["another attempt"]) for i in (2, 3)),
        ),
        "empty signatures": (good, *(m.model_copy(update={"signature": bytes(64)}) for m in (two, three))),
        "one bad among enough good": (good, two, three, signed(4, survivors=(1, 2, 3))),
        "a name on another's signature": (good, two, signed(2, as_index=3)),
    }
    _refuses(own, Phase.UNMASK, quorum(quorums[name]))
    assert own.answer(Phase.UNMASK, quorum((good, two, three))).sender == 1


def _play_split(world: Consortium, sets: dict[int, tuple[int, ...]]) -> list[Unmask]:
    """Show each node a survivor set of its own, collect every signature, then press for every share."""
    states, agreements = {}, []
    for index, survivors in sets.items():
        try:
            states[index], agreement = node.agree(world.hospitals[index].state, Survivors(members=survivors))
        except Refused:
            continue
        agreements.append(agreement)
    released = []
    for state in states.values():
        same = tuple(a for a in agreements if a.survivors == state.survivors)
        for shown in (agreements, same):
            try:
                released.append(node.unmask(state, quorum(shown)))
                break
            except Refused:
                continue
    return released


def _assert_no_hospital_is_opened(released: list[Unmask], members: Iterable[int], threshold: int) -> None:
    assert len({frozenset(m.self_shares) for m in released}) <= 1  # one survivor set, or nothing
    for message in released:
        assert not set(message.self_shares) & set(message.key_shares)
        assert set(message.self_shares) | set(message.key_shares) == set(members)
    for j in members:
        alive = sum(j in m.self_shares for m in released)
        dropped = sum(j in m.key_shares for m in released)
        assert min(alive, dropped) < threshold


def test_no_split_of_four_nodes_between_survivor_sets_opens_a_hospital(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.AGREE)
    members, outcomes = (1, 2, 3, 4), set()
    options = [s for size in (3, 4) for s in itertools.combinations(members, size)]
    for assignment in itertools.product(*([s for s in options if i in s] for i in members)):
        released = _play_split(world, dict(zip(members, assignment, strict=True)))
        _assert_no_hospital_is_opened(released, members, 3)
        outcomes.add(len(released))
    assert outcomes == {0, 3, 4}  # the honest assignments do succeed


def test_no_sampled_split_of_larger_rounds_opens_a_hospital(consortium: Build) -> None:
    draw = random.Random(4)
    for size, colluders in ((5, 0), (5, 1), (6, 1), (7, 2)):
        world = consortium(size, colluders=colluders, min_hospitals=max(3, colluders + 2), context=CONTEXT)
        world.play_until(Phase.AGREE)
        members = tuple(range(1, size + 1))
        options = [s for k in range(1, size + 1) for s in itertools.combinations(members, k)]
        few = [*draw.sample(options, 3), members]
        for _ in range(25):
            released = _play_split(world, {i: draw.choice(few) for i in members})
            _assert_no_hospital_is_opened(released, members, world.server.setting.threshold(size))


def test_two_committed_sets_never_reach_one_quorum(consortium: Build) -> None:
    """Hospitals 1 and 2 hold one U2, the others another: nobody gives a share."""
    world = consortium(5, context=CONTEXT).play_until(Phase.UPLOAD)
    for index, hospital in world.hospitals.items():
        seen = server.view(world.server, index)
        assert isinstance(seen, Committed)
        members = (1, 2, 3, 4) if index in (1, 2) else seen.members
        hospital.answer(Phase.UPLOAD, seen.model_copy(update={"members": members}))
    released = _play_split(world, dict.fromkeys((1, 2, 3, 4), (1, 2, 3, 4)))
    assert released == []


def test_an_upload_after_the_survivors_are_fixed_stays_hidden(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.AGREE)
    survivors = (1, 2, 3)  # hospital 4's upload arrived, but the aggregator says it did not
    released = _play_split(world, dict.fromkeys(survivors, survivors))
    assert len(released) == 3
    assert not any(4 in m.self_shares for m in released)
    late, masked = world.hospitals[4], world.hospitals[4].masked
    assert masked is not None
    # With the rebuilt mask key every pair mask comes off; the self mask still covers all of it.
    own, pairs = late.state.masks[0], late.state.masks[1:]
    peeled = masked.words.copy()
    add_masks(peeled, [Mask(mask.seed, -mask.sign) for mask in pairs])
    assert not np.array_equal(peeled, late.encoded)
    add_masks(peeled, [Mask(own.seed, -1)])
    assert np.array_equal(peeled, late.encoded)


def test_a_refusal_names_no_secret(consortium: Build) -> None:
    world = consortium(4, context=CONTEXT).play_until(Phase.AGREE)
    with pytest.raises(Refused) as refusal:
        world.hospitals[1].answer(Phase.AGREE, Survivors(members=(2, 3, 4)))
    assert "survivor set" in refusal.value.reason
    assert refusal.value.code == "secagg-refused"
