"""Another strategy or other uploads than the recipe's: from their words on the command line to settings, and
what the author is told of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from medveil.compression import Compression
from medveil.errors import BadOption
from medveil.shown import plain
from medveil.strategies import Demanding, make_strategy
from medveil.study import Strategy, Study
from medveil.values import Weights
from medveil_imaging.recipes import Recipe

COUNTED: dict[Weights, str] = {
    "declared": "by their patients",
    "equal": "alike",
    "squared": "by the square of their patients",
}


def options_of(pairs: list[str]) -> dict[str, float]:
    """A strategy's options as they stand on the command line, like ``rate=0.1``. Raises: BadOption."""
    found = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            found[name] = float(text if name else "")
        except ValueError as error:
            raise BadOption(problem=f"--strategy-option: '{plain(pair, 40)}' is not like rate=0.1") from error
    return found


def compression_of(text: str | None) -> Compression | None:
    """Shorter updates, written like ``sparse:0.125`` or ``low_rank:4``; None without. Raises: BadOption."""
    if text is None:
        return None
    kind, _, value = text.partition(":")
    try:
        if kind == "low_rank":
            return Compression(kind=kind, rank=int(value))
        return Compression(kind=kind, share=float(value))
    except ValueError as error:
        problem = f"--compression: '{plain(text, 40)}' is not like sparse:0.125 or low_rank:4"
        raise BadOption(problem=problem) from error


def with_strategy(found: Recipe, name: str | None, options: Mapping[str, float]) -> Recipe:
    """A recipe with this strategy in place of its own, and the nearest training that suits it.

    Args:
        name: None: the recipe's, whose options may be overridden alone.
    Raises: UnknownName, BadStrategy.
    """
    own = found.strategy
    merged = {**own.options, **options} if name in (None, own.name) else dict(options)
    strategy = own.model_copy(update={"name": name or own.name, "options": merged})
    server, training = make_strategy(strategy), found.training
    if isinstance(server, Demanding):
        training = server.suited(training)
    return replace(found, strategy=strategy, training=training)


def weights_for(strategy: Strategy, wanted: Weights | None) -> Weights:
    """What hospitals count in the mean where nobody has said it: as the strategy wants it, else declared."""
    server = make_strategy(strategy)
    return wanted or (isinstance(server, Demanding) and server.weights) or "declared"


def strategy_lines(study: Study) -> list[str]:
    """What a chosen strategy has made of the settings, for the study's author."""
    training, counted = study.training, study.secure_aggregation.weights
    steps, rate = training.local_steps, training.learning_rate
    count = COUNTED[counted]
    work = f"{training.local_epochs} pass(es)" if steps is None else f"{steps} step(s)"
    return [
        f"strategy {study.strategy.name}: {work} of {training.optimizer} a round, rate {rate:g}; "
        f"hospitals count {count}",
        "         no shipped recipe says how well that does: look at [training] of study.toml",
    ]
