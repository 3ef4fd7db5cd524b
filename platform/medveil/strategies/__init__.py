"""How the mean update becomes the next global model, on the aggregator and again at every hospital.

A strategy sees the mean update only, by type: median, trimmed mean or Krum over single updates cannot be
written here, and that is what the masks promise.

Both sides must find the same bits, whatever their processors: a node refuses a model that differs in one. So
a step is made of float32 additions, subtractions, multiplications, divisions and square roots of single
entries alone. IEEE 754 rounds these five correctly, so every machine agrees; sums over entries, powers and
exponentials differ from library to library. The sign of an entry is read and not rounded, so it may be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from medveil.errors import Error, LocalProtocolError, RemoteProtocolError
from medveil.noise_policies import JointNoise
from medveil.registry import Registry
from medveil.study import Strategy, Study, Training
from medveil.tensors import Float32
from medveil.values import Weights

State = dict[str, Float32]
"""What a strategy remembers from round to round, e.g. a momentum vector of shape (d,)."""
STEPS = 20
"""Local steps where a strategy counts in steps and the training was in passes."""
SGD_RATE = 0.05
"""Of plain SGD in place of an adaptive optimiser, for networks with normalised layers."""
AVERAGE = "average"
"""Name in the state of the models' running average; no strategy uses it."""
COMMON = "common"
"""Name in the state of the common course of a :class:`Steered` strategy; its step does not see it."""


class BadStrategy(Error):
    """A study's strategy does not take the options it was given."""

    code = "bad-strategy"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"The study's strategy cannot be used: {problem}.",
            meaning="No model could be made from a sum, so nothing was started.",
            remedy="Correct the section [strategy] of the study; docs/researcher.md lists the options.",
        )


class Diverged(RemoteProtocolError):
    """A step led to values that are not finite numbers."""

    code = "diverged-model"

    def __init__(self) -> None:
        super().__init__(
            what="The next model would hold values that are not finite numbers.",
            meaning="The strategy's step is too long for these updates; no model was published.",
            remedy="Lower the learning rate, or the options rate and momentum of the strategy.",
        )


class InexactArithmetic(LocalProtocolError):
    """This process does not compute as IEEE 754 says."""

    code = "inexact-arithmetic"

    def __init__(self) -> None:
        super().__init__(
            what="In this process very small numbers are taken for zero.",
            meaning="Its models would differ in their last bits from everybody else's, so none was made.",
            remedy="Find the library that sets 'flush to zero' (often one built with -ffast-math).",
        )


class ServerStrategy(Protocol):
    """One step of the server's optimiser."""

    def step(self, model: Float32, mean_update: Float32, state: State) -> tuple[Float32, State]:
        """The next global model and the state to keep.

        Args:
            model: float32, shape (d,), the model the round started from.
            mean_update: float32, shape (d,), weighted mean of trained minus global weights.
            state: what the previous call returned; empty at first.
        Guarantees: pure, and the same bits on every machine (see the head of this module).
        """
        ...


class Arithmetic(Protocol):
    """float32 entries, in an array or a tensor: nothing is known of them but these four operations."""

    def __add__(self, other: Any, /) -> Self: ...
    def __sub__(self, other: Any, /) -> Self: ...
    def __mul__(self, other: Any, /) -> Self: ...
    def __truediv__(self, other: Any, /) -> Self: ...


Entries = TypeVar("Entries", bound=Arithmetic)


@runtime_checkable
class LocalHalf(Protocol):
    """What a strategy may have besides its step: a word in every optimiser step at a hospital.

    Under differential privacy such a step has already been clipped and noised, so what a rule makes of it is
    post-processing and costs nothing: a rule gets nothing else of the patients, neither a gradient nor an
    image (:mod:`hospital_node.training.local_rules` obeys it, the self-check before training looks on).
    """

    def local(self, weights: Entries, start: Entries, rate: float) -> Entries:
        """Where the weights go after an optimiser step.

        Args:
            weights: of one tensor after the step. start: the same in the global model of this round.
            rate: the step's learning rate.
        Guarantees: pure, entry by entry, with ``+ - * /`` only, so that it needs no library.
        """
        ...


@runtime_checkable
class Summing(Protocol):
    """What a strategy has besides its step if the model is a sum of all mean updates, each with a weight.

    Then it is known what a round counts for in the final model, and noise can be matched to it.
    """

    def response(self, rounds: int) -> tuple[float, ...]:
        """What of a mean update is in the model that it makes, and in those of the rounds after: ``rounds``
        numbers. The same for every round."""
        ...


@runtime_checkable
class Steered(Protocol):
    """What a strategy may have that steers local steps: a common course, and one of each hospital's own.

    The common one stands in the state under :data:`COMMON`, so every node makes it itself, as it makes the
    model. Its own one no hospital shows to anybody. A course is an update's worth: what a round's steps come
    to along it. Under noise an own course is made of updates that were noised and charged when they were
    made, so what it does to later steps is post-processing.
    """

    def common_after(self, common: Float32, mean_update: Float32, present: Float32) -> Float32:
        """The common course after a round.

        Args:
            common, mean_update: float32, shape (d,). present: the sum's share of all hospitals, in (0, 1].
        Guarantees: as of a step: pure, entry by entry, the same bits on every machine.
        """
        ...

    def own_after(self, own: Float32, common: Float32, update: Float32) -> Float32:
        """A hospital's own course after a round whose sum has its update.

        Args:
            own, common: those that steered the round. update: what was sent, float32, shape (d,).
        """
        ...

    def steered(self, weights: Entries, own: Entries, common: Entries, steps: int) -> Entries:
        """Where the weights go after an optimiser step.

        Args:
            weights, own, common: of one tensor. steps: in this round.
        Guarantees: as :meth:`LocalHalf.local`.
        """
        ...


@dataclass(frozen=True)
class Courses:
    """What steers a hospital's steps in one round, both float32, shape (d,)."""

    common: Float32
    own: Float32


@runtime_checkable
class Demanding(Protocol):
    """What a strategy has besides its step if it serves some studies only. The others are refused."""

    weights: Weights | None
    """What hospitals must count in the mean; None: whatever the study says."""

    def suited(self, training: Training) -> Training:
        """The nearest training that it can serve; the same if it can serve this one."""
        ...

    def problem(self, study: Study) -> str | None:
        """Why it cannot serve a study whose training and weights suit it; None if it can."""
        ...


@runtime_checkable
class OnEverybody(Protocol):
    """A strategy whose local step is on all images of a hospital, without privacy too."""

    on_everybody: bool


STRATEGIES: Registry[Callable[[Mapping[str, float]], ServerStrategy]] = Registry(
    "strategy", "medveil.strategies"
)


def make_strategy(chosen: Strategy) -> ServerStrategy:
    """A strategy with its options. Raises: UnknownName, BadStrategy."""
    try:
        return STRATEGIES[chosen.name](chosen.options)
    except ValueError as error:
        raise BadStrategy(problem=str(error)) from error


def strategy_of(study: Study) -> ServerStrategy:
    """The study's strategy with its options. Raises: UnknownName, BadStrategy."""
    strategy = make_strategy(study.strategy)
    if isinstance(strategy, LocalHalf) and isinstance(study.privacy, JointNoise):
        # A sum of what a rule makes of noisy steps is not what it makes of their sum.
        raise BadStrategy(problem=f"{study.strategy.name} changes local steps, which joint noise cannot bear")
    if isinstance(strategy, LocalHalf) and study.compression is not None:
        # Its steps would be drawn to what this hospital holds back as well, not to the global model alone.
        raise BadStrategy(problem=f"{study.strategy.name} changes local steps, which compression cannot bear")
    if isinstance(strategy, Steered) and study.model.personal:
        # Its courses are of whole updates, and a hospital's own weights have no common one.
        raise BadStrategy(problem=f"{study.strategy.name} steers whole updates, not shared parts of them")
    if isinstance(strategy, Demanding):
        problem = _unsuited(study, strategy) or strategy.problem(study)
        if problem is not None:
            raise BadStrategy(problem=problem)
    return strategy


def _unsuited(study: Study, strategy: Demanding) -> str | None:
    """What of a study's training and weights is not as its strategy wants it."""
    wanted, given = strategy.suited(study.training).model_dump(), study.training.model_dump()
    off = [f"training.{k} = {wanted[k]} and not {given[k]}" for k in wanted if wanted[k] != given[k]]
    counted = study.secure_aggregation.weights
    if strategy.weights is not None and strategy.weights != counted:
        off.append(f"secure_aggregation.weights = '{strategy.weights}' and not '{counted}'")
    return f"{study.strategy.name} wants {', '.join(off)}" if off else None


def plain_sgd(training: Training, *, steps: int | None = None) -> Training:
    """The same training by steps of plain SGD, as the algorithms of papers take them.

    Args:
        steps: in each round; None: as many as there are, or :data:`STEPS` in place of passes.
    Returns: what is plain already stays; an adaptive optimiser's rate says nothing to SGD, whose is
        :data:`SGD_RATE` then.
    """
    changes: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "local_epochs": None}
    changes["local_steps"] = steps or training.local_steps or STEPS
    if training.optimizer != "sgd":
        changes["learning_rate"] = SGD_RATE
    return training.model_copy(update=changes)


def spread(study: Study, mean: Float32, *, number: int) -> Float32:
    """The mean update of train round ``number``, shape (d,), from the mean of what the hospitals sent.

    Args:
        mean: float32, shape (``study.uploaded``,).
    Guarantees: the same bits on every machine.
    """
    shortened = study.public_map(number)
    return mean if shortened is None else shortened.backward(mean, 0, study.model.tensors.size)


def own_course(study: Study, courses: Courses, update: Float32) -> Float32:
    """A hospital's own course after a round that sums this update of it, float32, shape (d,).

    Raises: UnknownName, BadStrategy; TypeError: the strategy steers nobody.
    """
    strategy = strategy_of(study)
    if not isinstance(strategy, Steered):
        raise TypeError(f"{study.strategy.name} has no courses")
    return np.asarray(strategy.own_after(courses.own, courses.common, update), np.float32)


def is_steered(study: Study, number: int) -> bool:
    """Whether courses steer the local steps of a round: not where it releases a mean."""
    return number > study.mean_rounds and isinstance(strategy_of(study), Steered)


def advance(
    study: Study,
    model: Float32,
    mean_update: Float32,
    state: State,
    *,
    number: int,
    present: float = 1.0,
    first: int = 0,
) -> tuple[Float32, State]:
    """The model that follows from a train round: the only way in which a next model is made.

    The first rounds of a centred study make no strategy's step: the centre becomes the average of the means
    released so far, and no momentum is left behind. In the places of personal weights nothing changes.

    Args:
        model, mean_update, state: as in :meth:`ServerStrategy.step`, float32, shape (d,).
        number: the round, from 1. The last one publishes the running average, where the study asks for it.
        present: hospitals in the sum, by those of the roster.
        first: coordinate of the model that these vectors begin with, if they are one block of it.
    Returns: the next model, float32, shape (d,), and the state to hand in with it next time.
    Guarantees: the same bits on every machine.
    Raises: UnknownName, BadStrategy, Diverged, InexactArithmetic.
    """
    if not np.float32(2**-100) * np.float32(2**-40) > 0:
        raise InexactArithmetic()
    own = {name: values for name, values in state.items() if name not in (AVERAGE, COMMON)}
    mean_round = number <= study.mean_rounds
    with np.errstate(all="ignore"):  # what overflows is refused below
        if mean_round:
            stepped, kept = np.asarray(model + mean_update / np.float32(number), np.float32), State()
        else:
            strategy = strategy_of(study)
            stepped, kept = strategy.step(model, mean_update, own)
            if isinstance(strategy, Steered):
                common, share = state.get(COMMON, np.zeros_like(model)), np.ones(1, np.float32)
                moved = strategy.common_after(common, mean_update, share * np.float32(present))
                kept = {**kept, COMMON: moved}
        keep = np.float32(0 if mean_round else study.strategy.average)
        if keep:
            before = state.get(AVERAGE)
            mean = stepped if before is None else keep * before + (1 - keep) * stepped
            kept = {**kept, AVERAGE: mean}
            stepped = mean if number == study.training.rounds else stepped
    if study.shared is not None:  # an average would move them by its rounding
        stepped = np.where(study.shared.stays(first, first + len(model)), model, stepped)
    if not all(np.isfinite(values).all() for values in (stepped, *kept.values())):
        raise Diverged()
    return stepped, kept
