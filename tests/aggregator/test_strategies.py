"""Strategies equal their formulas, and every one that ships keeps the contract."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aggregator.strategies import STRATEGIES
from medveil.errors import UnknownName

vectors = arrays(np.float32, 5, elements=st.floats(-8, 8, width=32))


@given(vectors, vectors)
def test_fedavg_adds_the_mean_update(model: np.ndarray, update: np.ndarray) -> None:  # type: ignore[type-arg]
    stepped, state = STRATEGIES["fedavg"]({}).step(model, update, {})
    assert np.array_equal(stepped, model + update)
    assert state == {}


@given(vectors, st.lists(vectors, min_size=1, max_size=5), st.sampled_from([0.0, 0.5, 0.9]))
def test_fedavgm_equals_its_closed_form(
    model: np.ndarray,  # type: ignore[type-arg]
    updates: list[np.ndarray],  # type: ignore[type-arg]
    momentum: float,
) -> None:
    strategy = STRATEGIES["fedavgm"]({"momentum": momentum})
    moved, state = model, {}
    for update in updates:
        moved, state = strategy.step(moved, update, state)
    # each update is applied once and then again, weakened, in every later round
    n = len(updates)
    expected = np.float64(model)
    for k, update in enumerate(updates):
        expected = expected + np.float64(update) * sum(momentum**i for i in range(n - k))
    assert np.allclose(moved, expected, rtol=1e-5, atol=1e-4)


@given(vectors, st.lists(vectors, min_size=1, max_size=5))
def test_fedadam_is_adam_with_the_mean_update_as_descent(
    model: np.ndarray,  # type: ignore[type-arg]
    updates: list[np.ndarray],  # type: ignore[type-arg]
) -> None:
    """Kingma and Ba's algorithm in float64, written out by sums instead of recursions."""
    strategy = STRATEGIES["fedadam"]({"rate": 0.1, "shift": 0.01})
    moved, state = model, {}
    for update in updates:
        moved, state = strategy.step(moved, update, state)
    expected, wide = np.float64(model), [np.float64(u) for u in updates]
    for t in range(1, len(wide) + 1):
        first = sum(0.1 * 0.9 ** (t - 1 - k) * wide[k] for k in range(t)) / (1 - 0.9**t)
        second = sum(0.01 * 0.99 ** (t - 1 - k) * wide[k] ** 2 for k in range(t)) / (1 - 0.99**t)
        expected = expected + 0.1 * first / (np.sqrt(second) + 0.01)
    assert np.allclose(moved, expected, rtol=1e-3, atol=1e-3)


def test_momentum_zero_is_fedavg() -> None:
    model, update = np.ones(3, np.float32), np.full(3, 0.25, np.float32)
    plain, _ = STRATEGIES["fedavg"]({}).step(model, update, {})
    still, _ = STRATEGIES["fedavgm"]({"momentum": 0.0}).step(model, update, {})
    assert np.array_equal(plain, still)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_is_deterministic_keeps_float32_and_leaves_its_input_alone(name: str) -> None:
    model, update = np.linspace(0, 1, 4, dtype=np.float32), np.full(4, 0.5, np.float32)
    results = []
    for _ in range(2):
        strategy, state = STRATEGIES[name]({}), {}
        moved = model
        for _ in range(3):
            moved, state = strategy.step(moved, update, state)
        results.append(moved)
    assert np.array_equal(*results)
    assert results[0].dtype == np.float32
    assert np.array_equal(model, np.linspace(0, 1, 4, dtype=np.float32))
    assert np.array_equal(update, np.full(4, 0.5, np.float32))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedavg", {"momentum": 0.5}),
        ("fedavgm", {"momentun": 0.5}),
        ("fedavgm", {"momentum": 1.0}),
        ("fedadam", {"rate": 0.0}),
        ("fedadam", {"beta": 0.9}),
    ],
)
def test_unknown_or_unsound_options_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=name):
        STRATEGIES[name](options)


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(UnknownName, match="krum"):
        STRATEGIES["krum"]
