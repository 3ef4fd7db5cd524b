"""One script of a lying server, against our hospitals and against Flower's SecAgg+ clients.

Flower is an optional package for these tests (requirements/peers.txt); without it they are skipped by name.
"""

from __future__ import annotations

import numpy as np
import pytest

from lying_server import ATTACKS, KEY, SELF, alive_and_dropped, seed_bits
from lying_server_flower import FlowerRound
from lying_server_medveil import MedVeilRound
from peers import FLOWER, missing

VICTIM = 2
OPENS_FLOWER = {name: name != "one mask twice" for name in ATTACKS}
"""Flower's clients do keep the order of the steps; the other scripts go through its own checks."""
needs_flower = pytest.mark.skipif(bool(missing(*FLOWER)), reason=missing(*FLOWER))


@pytest.mark.parametrize("name", ATTACKS)
def test_no_script_of_the_lying_server_opens_a_hospital(name: str) -> None:
    assert ATTACKS[name](MedVeilRound, VICTIM) is None


def test_the_seed_of_a_mask_has_256_bits() -> None:
    assert seed_bits(MedVeilRound()) == 256


def test_an_honest_server_gets_the_mean() -> None:
    """So the scripts above fail because of what the server asks, not because nothing works."""
    world = MedVeilRound()
    assert world.play()
    expected = np.mean([world.update(i) for i in range(1, world.size + 1)], axis=0)
    assert np.allclose(world.honest_mean(), expected, atol=1e-4)


def test_both_kinds_of_shares_together_would_open_a_hospital() -> None:
    """What the refusals stand against: taken out of the hospitals' memory, the shares give its update."""
    world = MedVeilRound()
    assert world.play()
    held = {i: world.world.hospitals[i].state.held[VICTIM] for i in range(1, world.threshold + 1)}
    both = {
        (kind, VICTIM): {i: pair[place].reveal() for i, pair in held.items()}
        for place, kind in enumerate((SELF, KEY))
    }
    found = world.opened(VICTIM, both)
    assert found is not None
    assert np.allclose(found, world.update(VICTIM), atol=1e-4)
    for kind in (SELF, KEY):
        assert world.opened(VICTIM, {(kind, VICTIM): both[kind, VICTIM]}) is None


@needs_flower
@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_script_opens_a_client_of_flower(name: str) -> None:
    found = ATTACKS[name](FlowerRound, VICTIM)
    if OPENS_FLOWER[name]:
        assert found is not None
        assert np.allclose(found, FlowerRound().update(VICTIM), atol=1e-4)
    else:
        assert found is None


@needs_flower
def test_the_seed_of_a_mask_of_flower_has_28_bits() -> None:
    assert seed_bits(FlowerRound()) <= 28


@needs_flower
def test_an_honest_server_gets_the_mean_from_flower() -> None:
    world = FlowerRound()
    assert world.play()
    expected = np.mean([world.update(i) for i in range(1, world.size + 1)], axis=0)
    assert np.allclose(world.honest_mean(), expected, atol=1e-4)


@needs_flower
def test_what_is_opened_is_the_very_vector_that_was_masked() -> None:
    """Not an approximation: the integers are those of Flower's own quantised update, up to its rounding."""
    world = FlowerRound(length=1000)
    found = alive_and_dropped(lambda: world, VICTIM)
    assert found is not None
    assert np.abs(found - world.update(VICTIM)).max() <= world.step * 1.01
