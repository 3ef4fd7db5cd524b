"""A study followed to its end: asked again and again, also over a line that breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from medveil_research.client import NoAnswer
from medveil_research.results import RoundFacts
from medveil_research.shared_study import SharedStudy

EVERY_S = 2.0


@dataclass(frozen=True)
class Moment:
    """A study at one moment."""

    study: SharedStudy
    """As it was told last."""
    ended: tuple[RoundFacts, ...] = ()
    """Rounds that have ended since the moment before; at the first all that have."""
    lost: str = ""
    """Why nothing new is known; empty if it is."""


def moments(
    study: SharedStudy, *, every_s: float = EVERY_S, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Moment]:
    """The study at once and then every few seconds, until it ends; each round is told when it has ended.

    Raises: NoAnswer, where the aggregator refuses to answer. One that cannot be reached is asked on and on.
    """
    told, took_s = 0, 0.0
    while True:
        ended = _ended(study, after=told)
        told = max((one.round for one in ended), default=told)
        yield Moment(study, ended)
        if study.finished:
            return
        while True:
            sleep(max(every_s, 4 * took_s))  # a long history over a slow line is not asked for all the time
            asked = time.monotonic()
            try:
                study = study.again()
                took_s = time.monotonic() - asked
                break
            except NoAnswer as error:
                if not error.lost:
                    raise
                yield Moment(study, lost=error.reason)


def _ended(study: SharedStudy, *, after: int) -> tuple[RoundFacts, ...]:
    """Rounds that will not be tried again: those with a sum, and those that others have followed."""
    newest = study.status.open.round if study.status.open else max((r.round for r in study.rounds), default=0)
    return tuple(
        one
        for one in study.rounds
        if one.round > after and (one.outcome == "done" or one.round < newest or study.finished)
    )
