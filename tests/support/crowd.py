"""Hundreds of hospitals in one process: the real machines, with the work of all of them done once.

In a real study every hospital checks every signature and agrees on every key for itself. One core that plays
a thousand hospitals would do each of these a thousand times, so :class:`SharedWork` remembers them:

* a signature that one hospital has checked counts for all (``Signed.check``);
* a pair secret that one side has computed counts for the other (``keys._exchange``);
* a key that is not of small order is that for everybody (``check_public_key``);
* the hash of the same list of signed keys is taken once (``transcript_of``).

All else runs as it is: sharing, sealing, opening, masks, unmasking, and every check on sets and contents.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from linked import STEPS, Consortium, Hospital
from medveil.identity import Identity, Secret
from medveil.rounds import Phase, RoundKind
from medveil.tensors import Update
from medveil.values import MaskGraph
from privacy.encoding import EncodingParams, Words
from privacy.secagg import keys, messages, node, server
from privacy.secagg.keys import Context, Setting
from unmasked import encode

NO_METRICS = np.zeros(0, np.uint64)


def crowd(hospitals: int, params: EncodingParams, *, graph: MaskGraph = "complete") -> Consortium:
    """That many hospitals with random updates, linked in memory."""
    identities = {i: Identity.generate(f"hospital-{i}") for i in range(1, hospitals + 1)}
    context = Context(b"p" * 32, 7, 1, RoundKind.TRAIN, b"m" * 32)
    roster = {i: one.public_key for i, one in identities.items()}
    setting = Setting(context, roster, min_hospitals=3, colluders=0, mask_graph=graph)
    members = {
        i: Hospital(node.Party(setting, i, one), encoded(random_update(params, i), params), params=params)
        for i, one in identities.items()
    }
    return Consortium(members, server.ServerState(setting))


def random_update(params: EncodingParams, number: int) -> Update:
    """Values all over the range that the encoding allows; the same for the same number."""
    draw = np.random.default_rng(number)
    return Update(draw.uniform(-params.clip, params.clip, params.parameters).astype(np.float32))


def encoded(update: Update, params: EncodingParams) -> Words:
    """With the largest weight, so that the finest step is the clip over L."""
    weight = params.max_weight
    return encode(update, params, weight=weight, metrics=NO_METRICS, random_bytes=secrets.token_bytes)


class SharedWork:
    """While entered, hospitals share what each would compute for itself; what is known outlasts leaving."""

    def __init__(self) -> None:
        transcript = _remembered(messages.transcript_of, lambda signed: tuple(map(id, signed)))
        key_checked = _remembered(keys.check_public_key, lambda key: key)
        self._shared: list[tuple[Any, str, Callable[..., Any]]] = [
            (keys, "_exchange", _remembered_exchange()),
            (messages.Signed, "check", _remembered_check()),
            *((room, "check_public_key", key_checked) for room in (node, server)),
            *((room, "transcript_of", transcript) for room in (node, server)),
        ]
        self._own = [getattr(owner, name) for owner, name, _ in self._shared]

    def __enter__(self) -> Self:
        for owner, name, function in self._shared:
            setattr(owner, name, function)
        return self

    def __exit__(self, *_: object) -> None:
        for (owner, name, _), function in zip(self._shared, self._own, strict=True):
            setattr(owner, name, function)


@dataclass
class Traffic:
    """What one hospital has sent, received and computed beside its vector."""

    up: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes both ways."""
        return sum(self.up.values()) + sum(self.down.values())


def watched_round(world: Consortium, watched: Collection[int]) -> dict[int, Traffic]:
    """One whole round, nobody dropping out; the watched hospitals share no work and read and write bytes."""
    traffic = {i: Traffic() for i in watched}
    shared = SharedWork()
    for phase in STEPS:
        for i, hospital in world.hospitals.items():
            if i in watched:
                answer = _watched(traffic[i], hospital, phase, server.view(world.server, i))
            with shared:
                if i not in watched:
                    answer = hospital.answer(phase, server.view(world.server, i))
                world.server = server.receive(world.server, answer)
        if phase is not Phase.UNMASK:
            with shared:
                world.server = server.close_phase(world.server)
    return traffic


def _watched(traffic: Traffic, hospital: Hospital, phase: Phase, view: Any) -> Any:
    data = b"" if view is None else view.to_bytes()
    start = time.thread_time()
    answer = hospital.answer(phase, None if view is None else type(view).from_bytes(data))
    sent = answer.to_bytes()
    traffic.cpu_s[phase] = time.thread_time() - start
    traffic.up[phase], traffic.down[phase] = len(sent), len(data)
    return answer


def _remembered(function: Callable[[Any], Any], key: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known: dict[Any, tuple[Any, Any]] = {}

    def remembered(argument: Any) -> Any:
        place = key(argument)
        if place not in known:  # the argument is kept too, so that no other object gets its id
            known[place] = (argument, function(argument))
        return known[place][1]

    return remembered


def _remembered_exchange() -> Callable[[Secret, bytes], bytes]:
    exchange, publics = keys._exchange, {}
    known: dict[bytes, bytes] = {}

    def remembered(private: X25519PrivateKey, peer: bytes) -> bytes:
        seed = private.private_bytes_raw()
        own = publics.get(seed)
        if own is None:
            own = publics[seed] = private.public_key().public_bytes_raw()
        pair = own + peer if own < peer else peer + own
        if pair not in known:
            known[pair] = exchange(private, peer)
        return known[pair]

    return remembered


def _remembered_check() -> Callable[..., None]:
    check = messages.Signed.check
    known: dict[tuple[object, ...], messages.Signed] = {}

    def remembered(message: messages.Signed, key: bytes, context: Context, transcript: bytes) -> None:
        # An Agree is made anew by everybody who checks its signature; the others are one object for all.
        same = message if isinstance(message, messages.Agree) else id(message)
        place = (same, key, context.bytes, transcript)
        if place not in known:
            check(message, key, context, transcript)
            known[place] = message

    return remembered
