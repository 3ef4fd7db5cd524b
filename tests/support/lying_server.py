"""What a lying server tries against the participants of one masked round; the same script for every protocol.

A script drives :class:`Round`, the honest participants, who run the real code under test. It returns the
update of one participant as the server has computed it, or None: the participants refused, or what they
released does not open anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
SELF, KEY = "self", "key"
"""Two kinds of shares: of the secret behind a participant's own mask, of the key behind its pair masks."""
Released = dict[tuple[str, int], dict[int, bytes]]
"""(kind, whose secret) → holder → the share of it that the server has got hold of."""
Lists = tuple[Sequence[int], Sequence[int]]
"""(alive, dropped), as one participant is told."""


class Round(Protocol):
    """Honest participants 1 … ``size`` of one masked round, and what their server can do."""

    size: int
    threshold: int

    def update(self, index: int) -> Values:
        """What this participant contributes: the secret."""

    def play(self, *, threshold: int | None = None, impostor_for: int | None = None) -> bool:
        """All steps up to the masked vectors; whether everybody sent one.

        Args:
            threshold: what the server wants it to be, where the protocol lets the server say so.
            impostor_for: show this participant keys of the server's own in the place of all others'.
        """

    def press(self, told: Mapping[int, Lists]) -> Released:
        """Tell each participant a pair of lists, and collect the shares of those who do not refuse."""

    def opened(self, victim: int, released: Released) -> Values | None:
        """The victim's update out of its masked vector, if these shares suffice to unmask it."""

    def opened_as_impostor(self, victim: int) -> Values | None:
        """The same with what the server knows of one that took the server's keys for the others'."""

    def uploaded_again(self, victim: int, update: Values) -> Values | None:
        """Ask for another masked vector in the same round: the difference of the two, without its masks."""

    def honest_mean(self) -> Values:
        """What the server makes of a round in which it does not lie: the mean of all updates."""

    def mask_seed(self) -> int:
        """All that a fresh pair mask depends on, as a number."""


Make = Callable[[], Round]


def alive_and_dropped(make: Make, victim: int) -> Values | None:
    """One participant stands in both lists: each of its two secrets may be asked for, but not both."""
    world = make()
    everybody = range(1, world.size + 1)
    if not world.play():
        return None
    return world.opened(victim, world.press({i: (list(everybody), [victim]) for i in everybody}))


def two_stories(make: Make, victim: int) -> Values | None:
    """Half of them are told that the victim is alive, the other half that it has dropped out."""
    world = make()
    everybody = list(range(1, world.size + 1))
    if not world.play(threshold=world.size // 2):
        return None
    others = [i for i in everybody if i != victim]
    half = len(everybody) // 2
    told: dict[int, Lists] = {i: (everybody, []) for i in everybody[:half]}
    told |= {i: (others, [victim]) for i in everybody[half:]}
    return world.opened(victim, world.press(told))


def alone_alive(make: Make, victim: int) -> Values | None:
    """Everybody else is said to have dropped out: a sum of one."""
    world = make()
    everybody = range(1, world.size + 1)
    others = [i for i in everybody if i != victim]
    if not world.play(threshold=1):
        return None
    return world.opened(victim, world.press({i: ([victim], others) for i in everybody}))


def keys_of_the_server(make: Make, victim: int) -> Values | None:
    """The server stands between the victim and everybody else, with keys of its own."""
    world = make()
    return world.opened_as_impostor(victim) if world.play(impostor_for=victim) else None


def one_mask_twice(make: Make, victim: int) -> Values | None:
    """A second vector under the masks of the first: the difference of the two is bare."""
    world = make()
    return world.uploaded_again(victim, np.zeros_like(world.update(victim))) if world.play() else None


ATTACKS: dict[str, Callable[[Make, int], Values | None]] = {
    "one participant alive and dropped": alive_and_dropped,
    "two stories about one participant": two_stories,
    "a survivor set of one": alone_alive,
    "keys of the server": keys_of_the_server,
    "one mask twice": one_mask_twice,
}


def seed_bits(world: Round, samples: int = 64) -> int:
    """How many bits of a mask's seed ever differ: an upper bound on what a guesser has to try.

    A bit that is free stays the same over 64 samples by chance once in 2^63.
    """
    seeds = [world.mask_seed() for _ in range(samples)]
    varying = 0
    for seed in seeds:
        varying |= seed ^ seeds[0]
    return varying.bit_count()
