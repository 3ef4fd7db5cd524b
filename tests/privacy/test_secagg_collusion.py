"""The aggregator with c colluding hospitals never holds t shares of both secrets of an honest one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from linked import Consortium, quorum
from medveil.identity import Identity, Secret
from medveil.rounds import Phase, RoundKind
from privacy.secagg import node, shamir
from privacy.secagg.keys import Context, Setting
from privacy.secagg.messages import Agree, Survivors
from privacy.secagg.node import Refused

CONTEXT = Context(b"p" * 32, 7, 1, RoundKind.TRAIN, b"m" * 32)
PAIRS = [(m, c) for m in range(3, 13) for c in range(m - 1)]


def _setting(colluders: int) -> Setting:
    return Setting(CONTEXT, {}, min_hospitals=max(3, colluders + 2), colluders=colluders)


@pytest.mark.parametrize(("m", "c"), PAIRS)
def test_no_way_to_share_out_the_honest_gives_both_kinds(m: int, c: int) -> None:
    """Even if agreement failed: honest hospitals give one kind each, colluders both."""
    t = _setting(c).threshold(m)
    for alive in range(m - c + 1):
        assert min(alive + c, (m - c - alive) + c) < t


@pytest.mark.parametrize(
    ("m", "c"),
    [pytest.param(m, c, marks=[pytest.mark.slow] * (m not in (4, 7))) for m, c in PAIRS if m > max(3, c + 2)],
)
def test_pooled_states_of_real_nodes_open_nobody(
    m: int, c: int, consortium: Callable[..., Consortium], identities: dict[int, Identity]
) -> None:
    """Colluders hand over all they hold and sign both sets; the honest are split as well as possible."""
    world = consortium(m, words=1, colluders=c, min_hospitals=max(3, c + 2), context=CONTEXT)
    world.play_until(Phase.AGREE)
    t, everybody, victim = world.server.setting.threshold(m), tuple(range(1, m + 1)), 1
    without = everybody[1:]
    honest, colluders = everybody[: m - c], everybody[m - c :]
    wanted = max(0, t - c)  # as few as possible see the victim alive, the others see it dropped
    for first in {wanted, max(1, wanted - 1)}:
        shown = {i: everybody if position < first else without for position, i in enumerate(honest)}
        pool: dict[str, dict[int, Secret]] = {"self": {}, "key": {}}
        for i in colluders:
            pool["self"][i], pool["key"][i] = world.hospitals[i].state.held[victim][:2]
        for i, answer in _split(world, identities, shown, colluders).items():
            kind, shares = (
                ("self", answer.self_shares) if victim in answer.self_shares else ("key", answer.key_shares)
            )
            pool[kind][i] = Secret(shares[victim])
        counts = {kind: len(shares) for kind, shares in pool.items()}
        assert min(counts.values()) < t
        less = min(pool, key=lambda kind: counts[kind])
        assert not _opens(pool[less], world, victim, less)


def _split(
    world: Consortium,
    identities: dict[int, Identity],
    shown: dict[int, tuple[int, ...]],
    colluders: tuple[int, ...],
) -> dict[int, node.Unmask]:
    states, agreements = {}, []
    for i, survivors in shown.items():
        try:
            states[i], agreement = node.agree(world.hospitals[i].state, Survivors(members=survivors))
        except Refused:
            continue
        agreements.append(agreement)
    for i in colluders:
        for survivors in set(shown.values()):
            both = Agree(
                sender=i, committed_hash=world.hospitals[i].state.committed_hash, survivors=survivors
            )
            agreements.append(both.signed_by(identities[i], CONTEXT, world.server.transcript))
    answers = {}
    for i, state in states.items():
        same = tuple(a for a in agreements if a.survivors == state.survivors)
        try:
            answers[i] = node.unmask(state, quorum(same))
        except Refused:
            continue
    return answers


def _opens(shares: dict[int, Secret], world: Consortium, victim: int, kind: str) -> bool:
    if not shares:
        return False
    try:
        rebuilt = shamir.combine(shares, shamir.lagrange_at_zero(shares))
    except shamir.BadShares:
        return False
    # The secret itself, from every share that was dealt.
    place = ("self", "key").index(kind)
    dealt = {i: h.state.held[victim][place] for i, h in world.hospitals.items()}
    return rebuilt == shamir.combine(dealt, shamir.lagrange_at_zero(dealt))
