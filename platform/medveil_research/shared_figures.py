"""Figures of a local study whose noise its hospitals share: how many share it, and at what price.

Training under local noise counts on nobody else. An evaluation is one masked sum of single releases, so its
noise adds up as joint noise does (docs/decisions/0063-figures-share-their-noise.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hospital_node.settings import Policy
from medveil.errors import BadFile
from privacy.dp import accounting
from privacy.dp.accounting import Event
from privacy.dp.policy import jointly

MOST_ALONE = Policy().epsilon_cap
"""Epsilon against everybody that hospitals allow if their operators say nothing else."""


@dataclass(frozen=True)
class FigurePrices:
    """What a patient of the final evaluation pays."""

    sharers: int
    jointly: float
    """As long as ``sharers`` hospitals add their noise and keep it to themselves."""
    one_curious: float
    """If one of them does not."""
    alone: float
    """Against everybody."""


def figure_prices(multiplier: float, delta: float, *, sharers: int) -> FigurePrices:
    """Prices of one evaluation.

    Args:
        multiplier: noise of ``sharers`` hospitals together, in units of the most that one patient adds.
    """
    own = Event(multiplier / math.sqrt(sharers), 1.0, 1)
    found = (accounting.epsilon([jointly(own, count)], delta) for count in (sharers, sharers - 1 or 1, 1))
    return FigurePrices(sharers, *found)


def most_sharers(hospitals: int, colluders: int) -> int:
    """Hospitals that are in every sum at least, without the curious ones.

    No sum is opened without a quorum of the roster (:meth:`privacy.secagg.keys.Setting.quorum`), so that
    many can be counted on and no round needs more hospitals than without it.
    """
    least = max(3, (hospitals + colluders) // 2 + 1)
    return min(least, hospitals) - colluders


def usual_sharers(epsilon: float, delta: float, *, hospitals: int, colluders: int) -> int | None:
    """Hospitals whose noise the figures of a new local study count on; None: on the own one only.

    As many as :func:`most_sharers` allows, but no more than keep the price against everybody within what
    hospitals allow by default.
    """
    if hospitals < 3 or not (math.isfinite(epsilon) and epsilon > 0 and 0 < delta < 1):
        return None
    if epsilon >= MOST_ALONE:
        return None
    wanted = accounting.calibrate(epsilon, delta, sample_rate=1.0, steps=1)
    allowed = accounting.calibrate(MOST_ALONE, delta, sample_rate=1.0, steps=1)
    count = min(most_sharers(hospitals, colluders), int((wanted / allowed) ** 2))
    return count if count > 1 else None


def asked_sharers(hospitals: int, colluders: int) -> int:
    """The same where the author insists, at whatever price against everybody.

    Raises:
        BadFile: too few hospitals take part.
    """
    count = most_sharers(hospitals, colluders)
    if hospitals < 3 or count < 2:
        raise BadFile(
            name="The study",
            problem=f"figures with shared noise and {colluders} curious members want more hospitals; "
            "leave out --share-figures",
        )
    return count


def sharing_lines(multiplier: float, delta: float, *, sharers: int, least: int) -> list[str]:
    """For a study's author; nothing where each hospital's own noise is enough."""
    if sharers == 1:
        return []
    found = figure_prices(multiplier, delta, sharers=sharers)
    return [
        f"the noise of the figures is shared: {sharers} hospitals of every sum of {least} or more add theirs",
        f"and keep it to themselves. Test patients pay {found.jointly:.3g} so, {found.one_curious:.3g} if "
        f"one of them does not, {found.alone:.3g} against everybody",
    ]
