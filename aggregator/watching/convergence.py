"""How a study converges: its figure, its updates, its time, its traffic and its drop-outs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import Field

from aggregator.rounds.status import PlanReader
from aggregator.storage.past import PastAttempt
from aggregator.storage.store import Store
from aggregator.watching.past import PastRounds, figures_of, lines_of, reading_of
from aggregator.watching.values import Short
from medveil.metrics import headline, read_headline
from medveil.plan import Plan
from medveil.readings import CHINESE, Reading, interval_words
from medveil.reports import Amount, Count, Finite, Text
from medveil.rounds import RoundKind
from medveil.shown import plain
from medveil.tasks import TASKS
from medveil.values import Frozen, Name, PrivacyKind, Sha256

MOST_COLUMNS = 120
"""Columns of a chart; with more rounds than that each stands for several."""
NEWEST = 20
"""Attempts that are listed."""
RECENT = 30
"""Attempts of each study that a comparison looks at."""
MOST_STUDIES = 20
"""Studies that are compared: the newest."""
PARTS: dict[str, tuple[str, ...]] = {
    "training": ("commit",),
    "sending": ("upload",),
    "rest": ("advertise", "share", "agree", "unmask", "aggregate", "abort", ""),
}
"""What a person tells apart of a round, and the phases it is made of."""


class Figure(Frozen):
    """A figure and how sure it is."""

    value: Finite | None
    """None where the noise drowns it."""
    low: Finite | None = None
    high: Finite | None = None
    """Ends of its 95 % interval; None where none is known."""
    words: Text
    """As people read it."""
    words_zh: Text = ""
    """The same in Chinese."""


class Span(Frozen):
    """The least and the largest of something."""

    least: Finite
    most: Finite


class Column(Frozen):
    """Some rounds that follow each other; of a short study each is one round."""

    first: Count
    last: Count
    attempts: Count
    failed: Count
    figure: Span | None = None
    """Of the best guesses in these rounds."""
    interval: Span | None = None
    """From the lowest to the highest end of their 95 % intervals; None if one of them has none."""
    drowned: Count = 0
    """Figures that the noise drowns."""
    norm: Span | None = None
    """Of the lengths of the mean updates."""
    seconds: dict[str, Amount] = Field(default_factory=dict)
    """Of a round on average, all its attempts together: training, sending, rest."""
    bytes: dict[str, Amount] = Field(default_factory=dict)
    """The same, both ways."""
    began: Count = 0
    """Hospitals that began an attempt with a sum, added over these rounds."""
    dropped: Count = 0
    """Those of them that are not in the sum."""


class Past(Frozen):
    """One attempt that has ended."""

    plan: Sha256
    """Of an amended study perhaps an earlier one."""
    round: Count
    attempt: Count
    kind: RoundKind
    done: bool
    opened: Amount
    seconds: Amount
    figure: Figure | None
    norm: Amount | None
    bytes_up: Count
    bytes_down: Count
    began: Count
    summed: Count


class Margin(Frozen):
    """A figure beside the gate that somebody has asked for."""

    gate: Finite
    margin: Finite | None
    """From the gate to the worse end of the interval; below 0 it is not surely passed. None without one."""
    verdict: str = Field(pattern="^(passed|open|missed|unknown)$")
    """``open``: the interval holds the gate."""


class Convergence(Frozen):
    """One study over its rounds."""

    plan: Sha256
    study: Name
    figure_name: Short
    unit: Short = ""
    higher_is_better: bool
    privacy: PrivacyKind
    every_round: bool
    """Whether training rounds have figures; else only the last evaluation has."""
    rounds: Count
    """Of training, as planned."""
    attempts: Count
    """That were read."""
    all_read: bool
    """Whether those are all: a long history is read a page at a time, and the next look reads on."""
    each: Count
    """Rounds that a column stands for."""
    columns: tuple[Column, ...]
    newest: tuple[Past, ...]
    """The newest first."""
    last: Figure | None
    """Of the newest round that has one."""
    last_round: Count = 0
    final: Figure | None = None
    """Of the finished model, on test patients."""
    margin: Margin | None = None
    as_of: Amount


def convergence(
    store: Store,
    reader: PlanReader,
    past_rounds: PastRounds,
    plan_id: str,
    *,
    now: float,
    gate: float | None = None,
) -> Convergence:
    """A study over its rounds.

    Args:
        gate: a value of the figure that the model is to reach.
    Raises: NotFound.
    """
    plan = reader.plan(plan_id)
    past, all_read = past_rounds.look(plan)
    study, task = plan.study, TASKS[plan.study.task]
    unit = task.unit(study, headline(study))
    trained = [one for one in past if one.kind is RoundKind.TRAIN]
    ends = [one for one in past if one.kind is RoundKind.EVALUATE and one.done]
    figures = [one for one in trained[-2 * NEWEST :] if one.done and reading_of(plan, one) is not None]
    final = _figure(store, plan, ends[-1], unit) if ends else None
    last = _figure(store, plan, figures[-1], unit) if figures else None
    each = max(1, math.ceil(max((one.round for one in trained), default=1) / MOST_COLUMNS))
    return Convergence(
        plan=plan.id,
        study=study.name,
        figure_name=plain(task.headline_name, 60),
        unit=plain(unit, 60),
        higher_is_better=task.higher_is_better,
        privacy=study.privacy.kind,
        every_round=study.evaluation.every_round,
        rounds=study.training.rounds,
        attempts=len(past),
        all_read=all_read,
        each=each,
        columns=columns(trained, lambda one: reading_of(plan, one), each=each),
        newest=tuple(_past(store, plan, one, unit) for one in reversed(past[-NEWEST:])),
        last=last,
        last_round=figures[-1].round if figures else 0,
        final=final,
        margin=None if gate is None else _margin(final or last, gate, task.higher_is_better),
        as_of=now,
    )


def columns(
    past: Sequence[PastAttempt], reading: Callable[[PastAttempt], Reading | None], *, each: int
) -> tuple[Column, ...]:
    """Attempts gathered by their rounds, ``each`` so many; nothing is left out: the extremes are kept."""
    gathered: dict[int, list[PastAttempt]] = {}
    for one in past:
        gathered.setdefault((one.round - 1) // each, []).append(one)
    return tuple(_column(some, reading) for _, some in sorted(gathered.items()))


def _column(past: Sequence[PastAttempt], reading: Callable[[PastAttempt], Reading | None]) -> Column:
    done = [one for one in past if one.done]
    read = [found for one in done if (found := reading(one)) is not None]
    known = [found for found in read if found.value is not None]
    intervals = [found.interval for found in known if found.interval is not None]
    ends = [end for interval in intervals for end in interval]
    rounds = len({one.round for one in past})
    return Column(
        first=past[0].round,
        last=past[-1].round,
        attempts=len(past),
        failed=len(past) - len(done),
        figure=_span(found.value for found in known if found.value is not None),
        interval=_span(ends) if len(intervals) == len(known) else None,
        drowned=len(read) - len(known),
        norm=_span([one.norm for one in done if one.norm is not None]),
        seconds={part: sum(_of(one.phases, part) for one in past) / rounds for part in PARTS},
        bytes={part: sum(_of(_both_ways(one), part) for one in past) / rounds for part in PARTS},
        began=sum(one.began for one in done),
        dropped=sum(max(0, one.began - one.summed) for one in done),
    )


def _of(phases: Mapping[str, float], part: str) -> float:
    return sum(phases.get(phase, 0.0) for phase in PARTS[part])


def _both_ways(past: PastAttempt) -> dict[str, float]:
    return {phase: float(up + down) for phase, (up, down) in past.moved.items()}


def _span(values: Iterable[float]) -> Span | None:
    some = list(values)
    return Span(least=min(some), most=max(some)) if some else None


def _past(store: Store, plan: Plan, past: PastAttempt, unit: str) -> Past:
    return Past(
        plan=past.plan,
        round=past.round,
        attempt=past.attempt,
        kind=past.kind,
        done=past.done,
        opened=past.opened,
        seconds=past.seconds,
        figure=_figure(store, plan, past, unit) if past.done else None,
        norm=past.norm,
        bytes_up=sum(up for up, _ in past.moved.values()),
        bytes_down=sum(down for _, down in past.moved.values()),
        began=past.began,
        summed=past.summed if past.done else 0,
    )


def _figure(store: Store, plan: Plan, past: PastAttempt, unit: str) -> Figure | None:
    """The figure of an attempt; of one that an earlier version has written, from its whole report."""
    found = reading_of(plan, past)
    if found is not None and found.value is not None and found.both is None:
        for report in store.plans.attempts(past.plan, round_number=past.round):
            if report.attempt == past.attempt:
                found = read_headline(plan.study, report)
    if found is None:
        return None
    low, high = found.interval or (None, None)
    words, chinese = interval_words(found, unit), interval_words(found, unit, CHINESE)
    return Figure(value=found.value, low=low, high=high, words=plain(words), words_zh=plain(chinese))


def _margin(figure: Figure | None, gate: float, higher_is_better: bool) -> Margin:
    if figure is None or figure.low is None or figure.high is None:
        return Margin(gate=gate, margin=None, verdict="unknown")
    near, far = figure.low - gate, figure.high - gate
    if not higher_is_better:
        near, far = -far, -near
    return Margin(gate=gate, margin=near, verdict="passed" if near > 0 else "missed" if far < 0 else "open")


# ---- several studies beside each other


class Compared(Frozen):
    """One study in a comparison, by its attempts of late."""

    plan: Sha256
    study: Name
    task: Short
    figure_name: Short
    unit: Short = ""
    higher_is_better: bool
    hospitals: Count
    rounds: Count
    """Of training, as planned."""
    round: Count
    """The newest that has ended."""
    finished: bool
    privacy: PrivacyKind
    epsilon: Amount | None
    """Spent so far by a patient of a hospital that took part in every round; None without noise."""
    stated: Amount | None
    """What the whole study states."""
    figure: Figure | None
    figure_round: Count = 0
    on_test_patients: bool = False
    recent: tuple[Column, ...]
    """The attempts of late that train, one round each."""
    seconds_per_round: Amount | None
    """Of late, in rounds that train."""
    bytes_per_round: Amount | None
    dropped: Count = 0
    began: Count = 0


class Comparison(Frozen):
    """Studies beside each other, the newest first."""

    studies: tuple[Compared, ...]
    left_out: Count
    """Older ones that are not shown."""
    as_of: Amount


def comparison(
    store: Store, reader: PlanReader, plans: frozenset[str] | None, *, now: float, task: str = ""
) -> Comparison:
    """The newest studies of those that may be read.

    Args:
        plans: None for all. task: only studies of this task.
    """
    lines = lines_of(store, reader, plans)
    if task:
        lines = [line for line in lines if reader.plan(line.plan).study.task == task]
    some = lines[:MOST_STUDIES]
    return Comparison(
        studies=tuple(_compared(store, reader.plan(line.plan), finished=line.finished) for line in some),
        left_out=len(lines) - len(some),
        as_of=now,
    )


def _compared(store: Store, plan: Plan, *, finished: bool) -> Compared:
    study, task = plan.study, TASKS[plan.study.task]
    unit = task.unit(study, headline(study))
    past = store.past.attempts(plan.id, figures_of(plan), most=RECENT)
    trained = [one for one in past if one.kind is RoundKind.TRAIN]
    done = [one for one in past if one.done]
    shown = next((one for one in reversed(done) if reading_of(plan, one) is not None), None)
    spent = next((one.epsilon for one in reversed(done) if one.epsilon is not None), None)
    stated = None if study.privacy.kind == "none" else study.privacy.epsilon
    cols = columns(trained, lambda one: reading_of(plan, one), each=1)
    ended = any(one.kind is RoundKind.EVALUATE for one in done)
    return Compared(
        plan=plan.id,
        study=study.name,
        task=study.task,
        figure_name=plain(task.headline_name, 60),
        unit=plain(unit, 60),
        higher_is_better=task.higher_is_better,
        hospitals=len(plan.roster),
        rounds=study.training.rounds,
        round=past[-1].round if past else 0,
        finished=finished,
        privacy=study.privacy.kind,
        epsilon=stated if ended else spent if spent is not None else None if stated is None else 0.0,
        stated=stated,
        figure=None if shown is None else _figure(store, plan, shown, unit),
        figure_round=0 if shown is None else shown.round,
        on_test_patients=shown is not None and shown.kind is RoundKind.EVALUATE,
        recent=cols,
        seconds_per_round=_mean(sum(one.seconds.values()) for one in cols),
        bytes_per_round=_mean(sum(one.bytes.values()) for one in cols),
        dropped=sum(one.dropped for one in cols),
        began=sum(one.began for one in cols),
    )


def _mean(values: Iterable[float]) -> float | None:
    some = list(values)
    return sum(some) / len(some) if some else None
