"""Smaller uploads that still add up under masks: a public linear map shortens every hospital's update alike.

A map A of round r takes an update of shape (d,) to the k numbers that are sent. It is the same for all
hospitals and made of public values alone, and it is linear: the masked sum of what they send is what it
makes of the sum of their updates. Its transpose B brings the mean that was sent back to shape (d,). The
columns of A are orthonormal, so B A is a projection: sending what is left of an update after it (v - B A v)
in later rounds loses nothing.

Both sides make the next model from B's values and must find the same bits (:mod:`medveil.strategies`): the
draws are integers out of SHAKE-256, and each value that B gives is one number that was sent, or one float32
product of it.

Sources: Konečný, McMahan, Yu, Richtárik, Suresh, Bacon, "Federated learning: strategies for improving
communication efficiency", 2016 (maps from a shared seed); Stich, Cordonnier, Jaggi, NeurIPS 2018 and
Karimireddy, Rebjock, Stich, Jaggi, ICML 2019 (what is not sent is kept).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field

from medveil.registry import Registry
from medveil.shown import plain
from medveil.tensors import Float32, ModelSpec
from medveil.values import Frozen

LEAST_SENT = 4
"""Fewest numbers that a round may send: as many as one word of the vector holds."""


def _known(kind: str) -> str:
    if kind not in MAPS:
        raise ValueError(f"there is no '{plain(kind, 48)}' here, it must be one of {', '.join(MAPS)}")
    return kind


class Compression(Frozen):
    """How an update is shortened before it is encoded and masked; each kind has one option."""

    kind: Annotated[str, AfterValidator(_known)]
    share: Annotated[float | None, Field(exclude_if=lambda given: given is None)] = None
    """Of ``sparse``: numbers sent of all that are trained, in each round."""
    rank: Annotated[int | None, Field(exclude_if=lambda given: given is None)] = None
    """Of ``low_rank``: numbers sent of each row of a tensor."""

    def check(self, spec: ModelSpec, *, rounds: int, joint: bool, centred: bool) -> None:
        """Raises: ValueError, in words, if a study of so many rounds cannot be compressed so."""
        if joint:
            # A hospital's next step depends on what it holds back, which has only its own share of the noise.
            raise ValueError("compression is not for joint noise, whose proof wants every update whole")
        if centred:
            raise ValueError(
                "compression is not for a centred model, whose first rounds release a whole mean"
            )
        cycle = map_of(self, spec, seed=b"", number=1).cycle
        if rounds < cycle:
            raise ValueError(f"compression sends an update's length in {cycle} rounds, there are {rounds}")


class PublicMap(Protocol):
    """The map of one round.

    Guarantees: linear; backward is forward's transpose, and forward of backward gives what went in (for
        ``low_rank`` within float32 rounding); backward's bits are the same on every machine, in whatever
        pieces it is asked for.
    """

    @property
    def length(self) -> int:
        """k: numbers that are sent, the same in every round."""
        ...

    @property
    def cycle(self) -> int:
        """Rounds in which about as many numbers are sent as an update has."""
        ...

    def forward(self, update: Float32) -> Float32:
        """What is sent of an update: float32, shape (d,) to (k,)."""
        ...

    def backward(self, sent: Float32, first: int, end: int) -> Float32:
        """Coordinates ``first`` to ``end`` of the update that ``sent``, shape (k,), stands for."""
        ...

    def still(self, rest: Float32, last: int) -> Float32:
        """What later rounds up to ``last`` may still send of the rest of an update, shape (d,)."""
        ...


MAPS: Registry[Callable[[Compression, ModelSpec, bytes, int], PublicMap]] = Registry(
    "compression", "medveil.compression"
)
"""Makers of maps. They are handed the study's choice, its tensors, a public seed and the round; they raise
ValueError, in words, for a choice that does not suit the tensors, and draw nothing before they are used."""


def map_of(chosen: Compression, spec: ModelSpec, *, seed: bytes, number: int) -> PublicMap:
    """The map of round ``number``. Raises: ValueError if the choice does not suit the tensors."""
    made = MAPS[chosen.kind](chosen, spec, seed, number)
    if made.length < LEAST_SENT:
        raise ValueError(f"compression: a round sends {LEAST_SENT} numbers or more, not {made.length}")
    return made


def option(chosen: Compression, name: str, *, low: float, high: float) -> Any:
    """The value of a kind's own option. Raises: ValueError if it is missing or out of range, or another is
    given."""
    given = {key: value for key, value in chosen.model_dump().items() if key != "kind" and value is not None}
    if set(given) != {name}:
        raise ValueError(f"'{chosen.kind}' wants the option '{name}' and no other")
    if not low <= given[name] <= high:
        raise ValueError(f"'{name}' must lie between {low:g} and {high:g}")
    return given[name]


def draw(label: bytes, size: int) -> bytes:
    """Public bytes that a label stands for, the same everywhere (SHAKE-256, FIPS 202); never a secret."""
    return hashlib.shake_256(label).digest(size)
