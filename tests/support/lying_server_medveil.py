"""Our hospitals' machines, driven by a lying server."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from crowd import NO_METRICS, crowd
from linked import Consortium, quorum
from lying_server import KEY, SELF, Lists, Released, Values
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, Secret
from medveil.rounds import Phase
from medveil.tensors import Update
from privacy.encoding import EncodingParams, Words, decode
from privacy.secagg import server, shamir
from privacy.secagg.keys import new_key, pair_mask, pair_secret, public_bytes, self_mask
from privacy.secagg.masks import Mask, add_masks
from privacy.secagg.messages import Advertise, Advertised, Agree, Survivors
from privacy.secagg.node import AgreedState
from unmasked import encode

LENGTH = 8


class MedVeilRound:
    """Hospitals that run ``privacy.secagg.node``, and a server that shows each whatever it likes.

    No message says how large the threshold is: each hospital computes it from the keys it has checked. None
    says who has dropped out either: that follows from the survivor set a hospital has signed.
    """

    def __init__(self, size: int = 5) -> None:
        self.params = EncodingParams(LENGTH, 0, 21, clip=1.0, max_weight=100, cohort=size)
        draw = np.random.default_rng(1)
        self._updates = {i: draw.uniform(-1, 1, LENGTH) for i in range(1, size + 1)}
        self.world: Consortium = crowd(size, self.params)
        for i, hospital in self.world.hospitals.items():
            hospital.encoded = self._encoded(self._updates[i])
        self.size, self.threshold = size, self.world.server.setting.threshold(size)

    def update(self, index: int) -> Values:
        """See :class:`lying_server.Round`."""
        return self._updates[index]

    def play(self, *, threshold: int | None = None, impostor_for: int | None = None) -> bool:
        """See :class:`lying_server.Round`."""
        if impostor_for is not None:
            return self._shares_with_the_impostor(impostor_for)
        self.world.play_until(Phase.AGREE)
        return True

    def press(self, told: Mapping[int, Lists]) -> Released:
        """Show survivor sets until a hospital signs one, then every quorum that its signatures allow."""
        agreements: list[Agree] = []
        for i, (alive, dropped) in told.items():
            for members in (tuple(alive), tuple(j for j in alive if j not in dropped)):
                answer = self._answer(i, Phase.AGREE, Survivors(members=members))
                agreements += [answer] if answer is not None else []
        released: Released = {}
        for i in told:
            state = self.world.hospitals[i].state
            mine = [
                a for a in agreements if isinstance(state, AgreedState) and a.survivors == state.survivors
            ]
            for signed in (agreements, mine):
                answer = self._answer(i, Phase.UNMASK, quorum(signed))
                for kind, shares in ((SELF, "self_shares"), (KEY, "key_shares")):
                    for owner, share in getattr(answer, shares, {}).items():
                        released.setdefault((kind, owner), {})[i] = share
        return released

    def opened(self, victim: int, released: Released) -> Values | None:
        """See :class:`lying_server.Round`."""
        known = {}
        for owner, shares in released.items():
            if len(shares) >= self.threshold:
                holders = sorted(shares)[: self.threshold]
                chosen = {i: Secret(shares[i]) for i in holders}
                known[owner] = shamir.combine(chosen, shamir.lagrange_at_zero(holders))
        if (SELF, victim) not in known:
            return None
        context, transcript = self.world.server.setting.context, self.world.server.transcript
        masks = [self_mask(known[SELF, victim], context, transcript)]
        for other in self.world.hospitals:
            if other != victim:
                owner, peer = (victim, other) if (KEY, victim) in known else (other, victim)
                if (KEY, owner) not in known:
                    return None
                public = self.world.server.advertised[peer].mask_key
                pair = pair_secret(new_key(known[KEY, owner]), public)
                masks.append(pair_mask(pair, context, transcript, own=victim, other=other))
        masked = self.world.hospitals[victim].masked
        assert masked is not None  # play() has gone beyond the uploads
        words = masked.words.copy()
        add_masks(words, [Mask(m.seed, -m.sign) for m in masks])
        return self._values(words, 1)

    def opened_as_impostor(self, victim: int) -> Values | None:
        """It never comes to this: play() has ended with the victim's refusal."""
        raise AssertionError("the victim took unsigned keys")

    def uploaded_again(self, victim: int, update: Values) -> Values | None:
        """See :class:`lying_server.Round`."""
        hospital = self.world.hospitals[victim]
        assert hospital.masked is not None  # play() has gone beyond the uploads
        first, hospital.encoded = hospital.masked.words, self._encoded(update)
        again = self._answer(victim, Phase.UPLOAD, server.view(self.world.server, victim))
        return None if again is None else self._values(first - hospital.masked.words, 1)

    def honest_mean(self) -> Values:
        """See :class:`lying_server.Round`."""
        everybody = list(self.world.hospitals)
        released = self.press({i: (everybody, []) for i in everybody})
        total = np.zeros_like(self.world.hospitals[1].encoded)
        context, transcript = self.world.server.setting.context, self.world.server.transcript
        for i, hospital in self.world.hospitals.items():
            shares = {j: Secret(s) for j, s in released[SELF, i].items()}
            secret = shamir.combine(shares, shamir.lagrange_at_zero(shares))
            assert hospital.masked is not None  # play() has gone beyond the uploads
            total += hospital.masked.words
            add_masks(total, [Mask(self_mask(secret, context, transcript).seed, -1)])
        return self._values(total, self.size)

    def mask_seed(self) -> int:
        """The 256-bit key from which two hospitals expand their mask."""
        mine, theirs = (Secret(secrets.token_bytes(32)) for _ in range(2))
        context = self.world.server.setting.context
        pair = pair_secret(new_key(mine), public_bytes(theirs))
        seed = pair_mask(pair, context, b"t" * 32, own=1, other=2).seed
        return int.from_bytes(seed.reveal(), "big")

    def _answer(self, index: int, phase: Phase, view: Any) -> Any:
        """What a hospital sends; None if it refuses or holds no state from which this step could be taken."""
        try:
            return self.world.hospitals[index].answer(phase, view)
        except (RemoteProtocolError, AttributeError):
            return None

    def _shares_with_the_impostor(self, victim: int) -> bool:
        """The victim is shown keys of the server for everybody else: unsigned, or signed with other keys."""
        self.world.play_until(Phase.SHARE)
        for forger in (None, Identity.generate("server")):
            shown = [self.world.server.advertised[victim]]
            for other in self.world.hospitals:
                if other != victim:
                    shown.append(self._forged(other, forger))
            if self._answer(victim, Phase.SHARE, Advertised(messages=tuple(shown))) is not None:
                return True
        return False

    def _forged(self, other: int, forger: Identity | None) -> Advertise:
        channel, pair = (public_bytes(Secret(secrets.token_bytes(32))) for _ in range(2))
        message = Advertise(sender=other, channel_key=channel, mask_key=pair)
        if forger is None:
            return message
        return message.signed_by(forger, self.world.server.setting.context, b"")

    def _encoded(self, update: Values) -> Words:
        values = Update(update.astype(np.float32))
        return encode(values, self.params, weight=100, metrics=NO_METRICS, random_bytes=secrets.token_bytes)

    def _values(self, words: Any, hospitals: int) -> Values:
        study: Any = None  # it is asked for metrics only, and there are none
        return decode(words, self.params, hospitals=hospitals, study=study).mean.astype(np.float64)
