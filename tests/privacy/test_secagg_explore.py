"""Every move an aggregator can make against real nodes, to the full depth of an attempt.

The aggregator controls all traffic: it may show any node, in any order and differently to each, any set of a
finite alphabet, any signatures and shares it holds, replays and forgeries. A refusal leaves a node where it
was, so the aggregator may try again without limit: more than it gets in truth, where a node that has refused
leaves. Each step below is a call of the real machine with real cryptography (remembered by its input, since
nodes are deterministic functions); the search runs over the joint states of all nodes.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from linked import Hospital, quorum
from medveil.identity import Identity
from medveil.messages import Wire
from medveil.rounds import Phase, RoundKind
from privacy.secagg import node
from privacy.secagg.keys import Context, Setting, dealt_hash
from privacy.secagg.messages import Advertise, Advertised, Committed, Shares, Survivors
from secagg_vectors import fixed_bytes

CONTEXT = Context(b"p" * 32, 7, 1, RoundKind.TRAIN, b"m" * 32)
STRANGER = 9
DEPTH = (Phase.ADVERTISE, Phase.SHARE, Phase.UPLOAD, Phase.AGREE, Phase.UNMASK)

Members = tuple[int, ...]
Path = tuple[Members, ...]
"""What one node has accepted so far: its U1, U2, U3 and, after unmasking, U3 once more."""
Joint = tuple[Path, ...]
Move = tuple[Any, Wire, Members]
"""A name that determines the view, the view, and the set it speaks of."""


def _subsets(members: Members) -> list[Members]:
    return [s for k in range(len(members) + 1) for s in itertools.combinations(members, k)]


@dataclass
class Explorer:
    """The real nodes, and a memory of what each did with each view."""

    size: int
    identities: dict[int, Identity]
    states: dict[tuple[int, Path], tuple[Any, Any]] = field(default_factory=dict)
    outcome: dict[Any, Path | None] = field(default_factory=dict)
    refused: Counter[Phase] = field(default_factory=Counter)
    menu: dict[Any, list[Move]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members = tuple(range(1, self.size + 1))
        roster = {i: self.identities[i].public_key for i in self.members}
        self.setting = Setting(CONTEXT, roster, min_hospitals=3, colluders=0)
        self.replayed = self._advertise(replace(self.setting, context=replace(CONTEXT, attempt=2)), "old")
        for i, (state, message) in self._advertise(self.setting, "now").items():
            self.states[i, ()] = (state, message)

    def _advertise(self, setting: Setting, label: str) -> dict[int, Any]:
        parties = {i: node.Party(setting, i, self.identities[i]) for i in self.members}
        return {i: node.advertise(p, fixed_bytes(f"{label}-{i}")) for i, p in parties.items()}

    def moves(self, joint: Joint, i: int) -> list[Move]:
        """What the aggregator can show node i next; remembered by all that it depends on."""
        path = joint[i - 1]
        if len(path) == 4:
            return []
        others = tuple(p[: len(path)] if len(p) >= len(path) else () for p in joint)
        key = (i, path, others if len(path) in (1, 3) else ())
        if key not in self.menu:
            self.menu[key] = list(self._moves(joint, i, path))
        return self.menu[key]

    def _moves(self, joint: Joint, i: int, path: Path) -> Iterator[Move]:
        if len(path) == 0:
            yield from self._key_sets(i)
        elif len(path) == 1:
            yield from self._committed_sets(joint, i)
        elif len(path) == 2:
            for members in _subsets((*self.members, STRANGER)):
                yield members, Survivors(members=members), members
            yield "twice", Survivors(members=(*self.members, i)), self.members
        else:
            yield from self._quorums(joint, path[2])

    def _key_sets(self, i: int) -> Iterator[Move]:
        own = {j: self.states[j, ()][1] for j in self.members}
        for members in _subsets(self.members):
            messages = tuple(own[j] for j in members)
            yield members, Advertised(messages=messages), members
            for j in members:
                other = 1 + j % self.size
                for name, false in {
                    "replayed": self.replayed[j][1],
                    "renamed": own[other].model_copy(update={"sender": j}),
                    "forged": self._forged(j),
                }.items():
                    changed = tuple(false if m.sender == j else m for m in messages)
                    yield (members, name, j), Advertised(messages=changed), members
        yield "twice", Advertised(messages=(*own.values(), own[i])), self.members
        yield "stranger", Advertised(messages=(*own.values(), self._forged(STRANGER))), self.members

    def _forged(self, j: int) -> Advertise:
        keys = self.replayed[1 + j % self.size][1]
        false = Advertise(sender=j, channel_key=keys.channel_key, mask_key=keys.mask_key)
        return false.signed_by(self.identities[12], CONTEXT, b"")

    def _committed_sets(self, joint: Joint, i: int) -> Iterator[Move]:
        dealt = {j: (p[0], self.states[j, p[:1]]) for j, p in enumerate(joint, start=1) if p and j != i}
        for members in _subsets((*self.members, STRANGER)):
            boxes = {j: dealt[j] for j in members if j in dealt}
            inbox = {j: m.sealed[i] for j, (_, (_, m)) in boxes.items() if i in m.sealed}
            signed = {j: self._dealt(*boxes[j][1], i) for j in inbox}
            key = (members, tuple((j, u1) for j, (u1, _) in boxes.items()))
            yield key, Committed(members=members, inbox=inbox, dealt=signed), members
            for j in inbox:
                less = {k: v for k, v in inbox.items() if k != j}
                yield (key, "missing", j), Committed(members=members, inbox=less, dealt=signed), members
                unsigned = {k: v for k, v in signed.items() if k != j}
                view = Committed(members=members, inbox=inbox, dealt=unsigned)
                yield (key, "not signed", j), view, members
                for k, box in boxes[j][1][1].sealed.items():
                    if k != i:
                        theirs = signed | {j: self._dealt(*boxes[j][1], k)}
                        wrong = Committed(members=members, inbox=inbox | {j: box}, dealt=theirs)
                        yield (key, "misdirected", j, k), wrong, members

    @staticmethod
    def _dealt(state: node.SharedState, message: Shares, holder: int) -> bytes:
        return dealt_hash(
            message.share_commitments[holder],
            message.check_commitment,
            CONTEXT,
            state.transcript,
            dealer=message.sender,
            holder=holder,
        )

    def _quorums(self, joint: Joint, survivors: Members) -> Iterator[Move]:
        held = [(j, p[:3]) for j, p in enumerate(joint, start=1) if len(p) >= 3]
        for some in (s for k in range(len(held) + 1) for s in itertools.combinations(held, k)):
            signed = tuple(self.states[j, p][1] for j, p in some)
            yield some, quorum(signed), survivors
            if signed:
                everybody = (signed[0].model_copy(update={"sender": j}) for j in self.members)
                yield (some, "one for all"), quorum(everybody), survivors
                renamed = signed[0].model_copy(update={"sender": 1 + signed[0].sender % self.size})
                yield (some, "renamed"), quorum((*signed, renamed)), survivors

    def step(self, i: int, path: Path, name: Any, view: Wire, members: Members) -> Path | None:
        """Node i's next path, or None if it refused; the machine is called once for each input."""
        key = (i, path, name)
        if key not in self.outcome:
            phase = DEPTH[len(path) + 1]
            hospital = Hospital(self.states[i, path][0].party if not path else None, None)  # type: ignore[arg-type]
            hospital.state, hospital.random_bytes = self.states[i, path][0], fixed_bytes(f"{i}-{path}")
            try:
                answer = self._answer(hospital, phase, view)
            except node.Refused:
                self.refused[phase] += 1
                self.outcome[key] = None
            else:
                after = (*path, members)
                self.states.setdefault((i, after), (hospital.state, answer))
                self.outcome[key] = after
        return self.outcome[key]

    def _answer(self, hospital: Hospital, phase: Phase, view: Any) -> Any:
        if phase is Phase.UPLOAD:
            hospital.state = node.commit(hospital.state, view)
            return node.upload(hospital.state, [bytes(32)])
        return hospital.answer(phase, view)

    def check(self, joint: Joint) -> None:
        """The invariants, in one joint state."""
        ended = {i: p for i, p in enumerate(joint, start=1) if len(p) == 4}
        assert len(set(ended.values())) <= 1  # one U1, U2 and U3 is opened, or none
        for i, path in ended.items():
            threshold = self.setting.threshold(len(path[0]))
            assert len(path[2]) >= max(3, threshold)
            assert i in path[2]
            assert set(path[2]) <= set(path[1]) <= set(path[0])
            assert sum(p[:3] == path[:3] for p in joint) >= threshold  # so many did sign this set
            released = self.states[i, path][1]
            assert set(released.self_shares) == set(path[2])
            assert set(released.key_shares) == set(path[1]) - set(path[2])
        for victim in self.members:
            alive = sum(victim in self.states[i, p][1].self_shares for i, p in ended.items())
            dropped = sum(victim in self.states[i, p][1].key_shares for i, p in ended.items())
            assert alive == 0 or dropped == 0
            # A share that was not given out is not given out later either: those who ended take no view.
        assert not any(self.moves(joint, i) for i in ended)

    def explore(self) -> tuple[int, int]:
        """Every reachable joint state is checked; returns their number and that of complete rounds."""
        start: Joint = ((),) * self.size
        seen, waiting, complete = {start}, [start], 0
        while waiting:
            joint = waiting.pop()
            self.check(joint)
            complete += all(len(p) == 4 for p in joint)
            for i, path in enumerate(joint, start=1):
                for name, view, members in self.moves(joint, i):
                    after = self.step(i, path, name, view, members)
                    if after is not None:
                        following = (*joint[: i - 1], after, *joint[i:])
                        if following not in seen:
                            seen.add(following)
                            waiting.append(following)
        return len(seen), complete


def _explore(
    size: int, identities: dict[int, Identity], capsys: pytest.CaptureFixture[str]
) -> tuple[int, int]:
    explorer = Explorer(size, identities)
    states, complete = explorer.explore()
    with capsys.disabled():
        tried = len(explorer.outcome)
        refused = sum(explorer.refused.values())
        sys.stdout.write(f"\nn={size}: {states} joint states, {tried} different moves, {refused} refused\n")
    assert {phase for phase, n in explorer.refused.items() if n} == set(DEPTH[1:])
    return states, complete


def test_every_move_against_three_real_nodes(
    identities: dict[int, Identity], capsys: pytest.CaptureFixture[str]
) -> None:
    _, complete = _explore(3, identities, capsys)
    assert complete == 1  # three hospitals are the least: the honest outcome is the only one


@pytest.mark.slow
def test_every_move_against_four_real_nodes(
    identities: dict[int, Identity], capsys: pytest.CaptureFixture[str]
) -> None:
    states, _ = _explore(4, identities, capsys)
    assert states > 1000
