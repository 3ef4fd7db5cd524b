"""The code in the pages runs as it is printed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from error_pages import ROOT
from medveil.strategies import STRATEGIES
from medveil.tasks import TASKS
from medveil_imaging.models import MODELS, ModelShape, build
from medveil_imaging.sources.raw import Unusable


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


@pytest.fixture
def example() -> Iterator[Any]:
    """Runs the block of docs/extending.md that holds a word; what it registers is forgotten afterwards."""
    for registry in (MODELS, TASKS, STRATEGIES):
        assert list(registry)  # the shipped entries are found before, so that they stay
    before = [(r, dict(r._entries)) for r in (MODELS, TASKS, STRATEGIES)]

    def run(word: str) -> dict[str, Any]:
        (source,) = [block for block in blocks("docs/extending.md") if word in block]
        names: dict[str, Any] = {"__name__": "example_of_the_docs"}
        exec(compile(source, "docs/extending.md", "exec"), names)
        return names

    yield run
    for registry, entries in before:
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.mark.parametrize("size", [(64, 64), (16, 24, 16)])
def test_the_example_model_is_accepted_and_gives_logits(example: Any, size: tuple[int, ...]) -> None:
    example("grid_head")
    model = build("grid_head", ModelShape(size=size, outputs=3), {"grid": 4})
    assert model(torch.zeros(2, 1, *size)).shape == (2, 3)


def test_the_example_strategy_moves_half_the_way(example: Any) -> None:
    example("damped")
    model, state = STRATEGIES["damped"]({}).step(np.ones(3, np.float32), np.full(3, 2, np.float32), {})
    assert model.tolist() == [2, 2, 2]
    assert not state
    with pytest.raises(ValueError, match="factor"):
        STRATEGIES["damped"]({"factor": 0.0})


def test_the_example_task_has_one_loss_per_image_from_that_image_alone(example: Any) -> None:
    example("soft_classification")
    logits, labels = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([1, 0, 1])
    together = TASKS["soft_classification"].loss(logits, labels)
    assert together.shape == (3,)
    for i in range(3):
        alone = TASKS["soft_classification"].loss(logits[i : i + 1], labels[i : i + 1])
        assert torch.allclose(alone, together[i : i + 1])


def test_the_example_reader_gives_a_film_or_refuses(example: Any) -> None:
    read = example("read_array_film")["read_array_film"]

    def saved(values: Any) -> bytes:
        stream = io.BytesIO()
        np.save(stream, values)
        return stream.getvalue()

    assert read(saved(np.eye(4))).pixels.dtype == np.float32
    with pytest.raises(Unusable):
        read(saved(np.zeros((2, 2, 2))))


def test_the_researchers_script_uses_what_the_client_has() -> None:
    (script,) = blocks("docs/researcher.md")
    from medveil_research.client import Client

    compile(script, "docs/researcher.md", "exec")
    used = set(re.findall(r"client\.(\w+)\(", script))
    assert used == {"enrol", "plans", "status", "model"}
    assert all(callable(getattr(Client, name)) for name in used)
