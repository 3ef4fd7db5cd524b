"""The aggregator's side of one simulated attempt: the protocol's own state machine, kept small.

It is :mod:`privacy.secagg.server` that takes messages, closes phases, shows views and finds the masks. Here
only what would grow with the square of the hospitals is put aside (:mod:`.spool`), and masked vectors are
added as they come instead of being stored. There is no database: what a crash loses is the round.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aggregator.work.unmasking import WrongLength, segment_lengths
from medveil.errors import RemoteProtocolError
from medveil.identity import BadSignature
from medveil.rounds import Phase
from medveil_research.simulation.hospital import Box
from medveil_research.simulation.spool import Spool, numbered, packed_unmask, spooled_shares
from privacy.encoding import EncodingParams, Words
from privacy.secagg import server
from privacy.secagg.keys import Setting
from privacy.secagg.masks import add_masks
from privacy.secagg.messages import MESSAGES, Shares, Unmask, Upload

SAME_FOR_ALL = (Phase.SHARE, Phase.AGREE, Phase.UNMASK)
"""Phases in which every hospital is shown the same bytes."""


class Gathering:
    """One attempt at a sum.

    Args:
        scratch: folder whose disk holds the sealed boxes until the attempt is over.
    """

    def __init__(self, setting: Setting, params: EncodingParams, scratch: Path) -> None:
        self.state, self.params = server.ServerState(setting), params
        self.up: Counter[str] = Counter()
        self.down: Counter[str] = Counter()
        self.total: Words = np.zeros(params.words, np.uint64)
        self.refused: Counter[str] = Counter()
        """Code → messages that were not taken."""
        self.masks_removed = 0
        self._spool = Spool(scratch)
        self._places: dict[int, int] = {}
        self._alive: dict[int, int] = {}
        self._dropped: dict[int, int] = {}

    def close(self) -> None:
        """Give the disk back."""
        self._spool.close()

    def shown(self, index: int) -> bytes:
        """What a hospital is shown in the present phase."""
        view = server.view(self.state, index)
        return b"" if view is None else view.to_bytes()

    def count_shown(self, length: int, hospitals: int = 1) -> None:
        """Bytes that went to hospitals in this phase."""
        self.down[self.state.phase.value] += length * hospitals

    def take(self, box: Box) -> None:
        """What a hospital has sent; a message that the protocol refuses is counted and changes nothing."""
        for kind, body in box.letters:
            try:
                message = MESSAGES[kind].from_bytes(body)
                if isinstance(message, Upload):
                    self._check_segments(message, box.segments)
                self.state = server.receive(self.state, message)
            except RemoteProtocolError as error:
                self.refused[error.code] += 1
                continue
            self.up[kind] += len(body)
            if isinstance(message, Shares):
                small = spooled_shares(message, self._spool, self._places)
                self.state = replace(self.state, shared={**self.state.shared, message.sender: small})
            elif isinstance(message, Unmask):
                packed = packed_unmask(message, self._alive, self._dropped)
                self.state = replace(self.state, unmasked={**self.state.unmasked, message.sender: packed})
            elif isinstance(message, Upload):
                self.up["vector"] += sum(map(len, box.segments))
                data = np.frombuffer(b"".join(box.segments), "<u8")
                np.add(self.total, data, out=self.total)

    def close_phase(self) -> None:
        """Go on. Raises: BelowThreshold."""
        self.state = server.close_phase(self.state)
        if self.state.phase is Phase.SHARE:
            self._places = numbered(sorted(self.state.advertised))
        if self.state.phase is Phase.AGREE:
            self._alive = numbered(self.state.survivors)
            alive = set(self.state.survivors)
            self._dropped = numbered([j for j in self.state.committed if j not in alive])

    def unmask(self) -> Words:
        """The sum of the encoded updates. Raises: WrongShares, Spoiled, BelowThreshold."""
        masks = server.masks_to_remove(self.state)
        self.masks_removed = len(masks)
        add_masks(self.total, masks)
        return self.total

    def give_up(self) -> bool:
        """Ask for vows after a failure; whether the attempt had come so far that they are needed."""
        if self.state.phase not in (Phase.UPLOAD, Phase.AGREE, Phase.UNMASK):
            return False
        self.state = server.give_up(self.state)
        return True

    def _check_segments(self, message: Upload, segments: Sequence[bytes]) -> None:
        if [len(data) for data in segments] != segment_lengths(self.params.words):
            raise WrongLength()
        if tuple(hashlib.sha256(data).digest() for data in segments) != message.segments:
            raise BadSignature(what="A segment is not the one that was signed.")
