"""Hospitals linked in memory: the real machines of both sides, no transport, no clock."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medveil.rounds import Phase
from privacy.encoding import EncodingParams, Words
from privacy.secagg import node, server
from privacy.secagg.masks import add_masks
from privacy.secagg.messages import Agree, Quorum
from unmasked import MaskedWords, checked, mask

STEPS = (Phase.ADVERTISE, Phase.SHARE, Phase.COMMIT, Phase.UPLOAD, Phase.AGREE, Phase.UNMASK)
NEVER = len(STEPS)


def quorum(agreements: Iterable[Agree]) -> Quorum:
    """What the aggregator shows of these agreements."""
    return Quorum(signatures={a.sender: a.signature for a in agreements})


@dataclass
class Hospital:
    """One hospital's machine, driven step by step."""

    party: node.Party
    encoded: Words
    state: Any = None
    masked: MaskedWords | None = None
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    params: EncodingParams | None = None
    """Of the encoded update; without them it is any words, and they have no check word."""

    def answer(self, phase: Phase, view: Any) -> Any:
        """This hospital's message in a phase."""
        if phase is Phase.ADVERTISE:
            self.state, message = node.advertise(self.party, self.random_bytes)
        elif phase is Phase.SHARE:
            self.state, message = node.share(self.state, view, self.random_bytes)
        elif phase is Phase.COMMIT:
            message = node.ready(self.state)
        elif phase is Phase.UPLOAD:
            self.state = node.commit(self.state, view)
            if self.params is not None:
                key, index = self.state.check_key, self.party.index
                self.encoded = checked(self.encoded, key, self.params, index=index)
            self.masked = mask(self.encoded, self.state.masks)
            hashes = [hashlib.sha256(s).digest() for s in self.masked.segments()]
            message = node.upload(self.state, hashes)
        elif phase is Phase.AGREE:
            self.state, message = node.agree(self.state, view)
        else:
            message = node.unmask(self.state, view)
        return message


@dataclass
class Consortium:
    """A server and its hospitals; ``run`` plays one attempt."""

    hospitals: dict[int, Hospital]
    server: server.ServerState
    tamper: Callable[[Phase, int, Any], Any] = field(default=lambda phase, index, view: view)

    def run(self, silent_from: Mapping[int, int]) -> NDArray[np.uint64]:
        """Play all phases; hospital i falls silent from step ``silent_from[i]`` on (6: never)."""
        for step in range(NEVER):
            self.play(step, [i for i in self.hospitals if silent_from.get(i, NEVER) > step])
        return self.unmasked_sum()

    def play(self, step: int, answering: Iterable[int]) -> None:
        """One phase in which these hospitals answer, those of them that are invited; then it closes."""
        phase = STEPS[step]
        for index in answering:
            if index in self.server.invited:
                view = self.tamper(phase, index, server.view(self.server, index))
                self.server = server.receive(self.server, self.hospitals[index].answer(phase, view))
        if phase is not Phase.UNMASK:
            self.server = server.close_phase(self.server)

    def unmasked_sum(self) -> NDArray[np.uint64]:
        """What the aggregator finds after the last phase."""
        removal = server.masks_to_remove(self.server)
        total = np.zeros_like(next(iter(self.hospitals.values())).encoded)
        for index in self.server.survivors:
            masked = self.hospitals[index].masked
            assert masked is not None
            total += masked.words
        add_masks(total, removal)
        return total

    def copy(self) -> Consortium:
        """The same world, to be played on in another way: every state in it is immutable."""
        hospitals = {i: replace(h) for i, h in self.hospitals.items()}
        return replace(self, hospitals=hospitals)

    def play_until(self, last: Phase) -> Consortium:
        """Everybody answers honestly in every phase before ``last``; returns this world, now in ``last``."""
        for phase in STEPS[: STEPS.index(last)]:
            for index, hospital in self.hospitals.items():
                answer = hospital.answer(phase, server.view(self.server, index))
                self.server = server.receive(self.server, answer)
            self.server = server.close_phase(self.server)
        return self

    def plain_sum(self) -> NDArray[np.uint64]:
        """What the survivors' encoded updates add up to: the oracle."""
        return sum(  # type: ignore[return-value]
            (self.hospitals[i].encoded for i in self.server.survivors),
            start=np.zeros_like(self.hospitals[1].encoded),
        )
