"""Strategies equal their formulas, bit for bit, and every one that ships keeps the contract."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medveil.errors import UnknownName
from medveil.strategies import STRATEGIES, BadStrategy, Diverged, InexactArithmetic, advance
from medveil.study import Study
from tries import tries
from world import SPEC, START, make_study

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
        ("fedyogi", {"rate": -0.1}),
        ("fedyogi", {"shift": 0.0}),
        ("fedyogi", {"second_momentum": 1.0}),
        ("fedyogi", {"tau": 1e-3}),
        ("fedadagrad", {"rate": float("inf")}),
        ("fedadagrad", {"momentum": -0.1}),
        ("fedadagrad", {"second_momentum": 0.9}),
        ("fedsgd", {"rate": 0.1}),
        ("scaffold", {"rate": 0.0}),
        ("scaffold", {"momentum": 0.5}),
        ("reptile", {"rate": 1.5}),
        ("reptile", {"decay": 0.0}),
        ("reptile", {"epsilon": 0.5}),
    ],
)
def test_unknown_or_unsound_options_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=name):
        STRATEGIES[name](options)


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(UnknownName, match="krum"):
        STRATEGIES["krum"]


def study_with(name: str = "fedavg", *, rounds: int = 3, average: float = 0.0, **options: float) -> Study:
    return make_study(
        training={"rounds": rounds, "local_steps": 1, "learning_rate": 1.0},
        strategy={"name": name, "options": options, "average": average},
    )


def single(value: float) -> float:
    """Rounded to float32. A double operation on singles, rounded again, is the single operation."""
    return float(np.float32(value))


def squared(value: float) -> float:
    return single(value * value)


def formula(name: str, options: Mapping[str, float], updates: list[list[float]]) -> Iterator[list[float]]:
    """Each strategy's models from zero, one number at a time in Python's doubles, rounded after each step."""
    size = len(updates[0])
    o = {k: single(v) for k, v in options.items()}
    model, first, second, bias, second_bias = [0.0] * size, [0.0] * size, [0.0] * size, 1.0, 1.0
    rate = 0.0
    for update in updates:
        if name in ("fedavg", "fedsgd"):
            moves = update
        elif name == "scaffold":
            moves = [single(o["rate"] * u) for u in update]
        elif name == "reptile":
            rate = single(o["decay"] * rate) if rate else o["rate"]
            moves = [single(rate * u) for u in update]
        elif name in ("fedyogi", "fedadagrad"):
            tau = o["shift"]
            before = second if any(second) else [single(tau * tau)] * size
            if name == "fedyogi":
                pull = single(1 - o["second_momentum"])
                signs = [(v > s) - (v < s) for v, s in zip(before, map(squared, update), strict=True)]
                steps = [
                    single(single(pull * squared(u)) * -sign) for u, sign in zip(update, signs, strict=True)
                ]
            else:
                steps = [squared(u) for u in update]
            second = [single(v + step) for v, step in zip(before, steps, strict=True)]
            m = o["momentum"]
            first = [
                single(single(m * v) + single(single(1 - m) * u)) for v, u in zip(first, update, strict=True)
            ]
            moves = [
                single(single(o["rate"] * f) / single(single(math.sqrt(v)) + tau))
                for f, v in zip(first, second, strict=True)
            ]
        elif name == "fedavgm":
            first = [single(single(o["momentum"] * v) + u) for v, u in zip(first, update, strict=True)]
            moves = first
        else:
            m, s = o["momentum"], o["second_momentum"]
            bias, second_bias = single(m * bias), single(s * second_bias)
            moves = []
            for i, u in enumerate(update):
                first[i] = single(single(m * first[i]) + single(single(1 - m) * u))
                second[i] = single(single(s * second[i]) + single(single(1 - s) * single(u * u)))
                spread = single(math.sqrt(single(second[i] / single(1 - second_bias))))
                level = single(o["rate"] * single(first[i] / single(1 - bias)))
                moves.append(single(level / single(spread + o["shift"])))
        model = [single(w + x) for w, x in zip(model, moves, strict=True)]
        yield model


OPTIONS = {
    "fedavg": {},
    "fedavgm": {"momentum": 0.9},
    "fedadam": {"rate": 0.1, "shift": 0.01, "momentum": 0.9, "second_momentum": 0.99},
    "fedyogi": {"rate": 0.1, "shift": 0.01, "momentum": 0.9, "second_momentum": 0.99},
    "fedadagrad": {"rate": 0.1, "shift": 0.01, "momentum": 0.5},
    "fedsgd": {},
    "reptile": {"rate": 0.7, "decay": 0.9},
    "scaffold": {"rate": 0.7},
}
tiny_and_large = arrays(np.float32, 19, elements=st.floats(-(2.0**10), 2.0**10, width=32))


@pytest.mark.parametrize("name", list(OPTIONS))
@settings(max_examples=tries(25))  # of up to six times nineteen numbers
@given(st.lists(tiny_and_large, min_size=1, max_size=6))
def test_a_strategy_gives_the_bits_that_ieee_754_prescribes(
    name: str,
    updates: list[np.ndarray],  # type: ignore[type-arg]
) -> None:
    strategy = STRATEGIES[name](OPTIONS[name])
    model, state = np.zeros(19, np.float32), {}
    expected = formula(name, OPTIONS[name], [u.tolist() for u in updates])
    for update, right in zip(updates, expected, strict=True):
        model, state = strategy.step(model, update, state)
        assert model.dtype == np.float32
        assert model.tolist() == right


EXACT = {"add", "subtract", "multiply", "divide", "sqrt", "sign"}
"""Rounded as IEEE 754 prescribes; a sign is read, not rounded."""
MAKERS = {"float32", "zeros_like", "ones", "inf"}


class Watched(np.ndarray):  # type: ignore[type-arg]
    """An array that notes each operation on it and on what comes of it."""

    seen: ClassVar[set[tuple[str, str]]] = set()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Watched) else x for x in inputs]
        result = getattr(ufunc, method)(*plain, **options)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        Watched.seen.add((name, str(result.dtype)))
        return np.asarray(result).view(Watched)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_strategy_computes_with_correctly_rounded_operations_only(name: str) -> None:
    Watched.seen = set()
    strategy, state = STRATEGIES[name]({}), {}
    model = np.linspace(-1, 1, 9, dtype=np.float32).view(Watched)
    for _ in range(3):
        model, state = strategy.step(model, np.full(9, 0.1, np.float32).view(Watched), state)
    assert Watched.seen
    assert Watched.seen <= {(operation, "float32") for operation in EXACT}


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_strategys_source_names_no_other_arithmetic(name: str) -> None:
    """What the watched arrays cannot see: powers of plain numbers, other libraries."""
    module = importlib.import_module(f"medveil.strategies.{name}")
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp):
            assert isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.BitOr)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
            assert node.attr in EXACT | MAKERS
        if isinstance(node, ast.Import):
            assert [alias.name for alias in node.names] == ["numpy"]


updates_of_a_study = st.lists(
    arrays(np.float32, SPEC.size, elements=st.floats(-8, 8, width=32)), min_size=1, max_size=5
)


@given(updates_of_a_study, st.floats(0.125, 0.875, width=32))
def test_the_last_round_publishes_the_running_average_of_the_models(
    updates: list[np.ndarray],  # type: ignore[type-arg]
    average: float,
) -> None:
    plain = study_with("fedavgm", rounds=len(updates))
    averaging = study_with("fedavgm", rounds=len(updates), average=average)
    models, state, other_state = [START], {}, {}
    published = START
    for number, update in enumerate(updates, 1):
        model, state = advance(plain, models[-1], update, state, number=number)
        models.append(model)
        published, other_state = advance(averaging, published, update, other_state, number=number)
        if number < len(updates):
            assert np.array_equal(published, model)  # training itself goes on as without an average
    mean, keep = np.float64(models[1]), float(np.float32(average))
    for model in models[2:]:
        mean = keep * mean + (1 - keep) * np.float64(model)
    assert np.allclose(published, mean, rtol=1e-5, atol=1e-4)
    assert "average" not in state


def test_without_an_average_a_step_is_the_strategys() -> None:
    update = np.full(SPEC.size, 0.25, np.float32)
    stepped, state = advance(study_with("fedavgm", momentum=0.5), START, update, {}, number=3)
    expected, kept = STRATEGIES["fedavgm"]({"momentum": 0.5}).step(START, update, {})
    assert np.array_equal(stepped, expected)
    assert state.keys() == kept.keys()


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_a_model_that_is_not_finite_is_never_made(average: float) -> None:
    study = study_with("fedadam", rate=3e38, average=average)
    update = np.full(SPEC.size, 3e38, np.float32)
    with pytest.raises(Diverged):
        advance(study, START, update, {}, number=1)


def test_options_that_the_strategy_does_not_take_are_named() -> None:
    with pytest.raises(BadStrategy, match="'momentum' only"):
        advance(study_with("fedavgm", momentun=0.5), START, START, {}, number=1)


def test_a_process_that_takes_tiny_numbers_for_zero_makes_no_model() -> None:
    def with_flush_to_zero() -> bool:
        if not torch.set_flush_denormal(True):
            return False
        try:
            with pytest.raises(InexactArithmetic):
                advance(study_with(), START, START, {}, number=1)
        finally:
            torch.set_flush_denormal(False)
        return True

    with ThreadPoolExecutor(1) as thread:  # the setting is a thread's own
        if not thread.submit(with_flush_to_zero).result():
            pytest.skip("this processor cannot flush to zero")
