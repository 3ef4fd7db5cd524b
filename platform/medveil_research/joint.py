"""Joint noise: how many hospitals share it, and what is left of it when some of them are curious."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medveil.errors import BadFile
from privacy.dp import accounting
from privacy.dp.accounting import Event
from privacy.dp.policy import jointly

CURIOUS = 1
"""Members that a new joint study does without: whoever knows its own noise can take it off the sum."""
COLUMNS = ("none", "one", "two")


def least_in_sum(hospitals: int, colluders: int = CURIOUS) -> int:
    """Fewest hospitals in a sum of a new joint study: four of five, so that one in five may be missing.

    Raises:
        BadFile: with so many curious members nobody would be left to share the noise with.
    """
    least = max(3, colluders + 2, math.floor(0.8 * hospitals))
    if least > hospitals:
        raise BadFile(
            name="The study",
            problem=f"joint noise with {colluders} curious members wants {least} hospitals or more; "
            "take privacy 'local', whose noise needs nobody else",
        )
    return least


def default_honest(hospitals: int, colluders: int = CURIOUS) -> int:
    """Hospitals whose noise a new joint study counts on: those of the smallest sum without the curious."""
    return least_in_sum(hospitals, colluders) - colluders


def joint_prices(own: Sequence[Event], delta: float, *, in_sum: int) -> tuple[float, ...]:
    """Epsilon of a patient when none, one, two or all the others of a sum are curious.

    Args:
        own: what one hospital's own noise protects, over the whole study.
        in_sum: hospitals in every sum. A curious member takes its own noise off the sum, so only the noise
            of the others protects; against all of them together only the own hospital's does.
    """
    left = [max(1, in_sum - curious) for curious in range(len(COLUMNS))] + [1]
    return tuple(accounting.epsilon([jointly(one, others) for one in own], delta) for others in left)


def joint_lines(own: Sequence[Event], delta: float, *, least: int, hospitals: int) -> list[str]:
    """The table of :func:`joint_prices` for a study's author: one line for each number of survivors."""
    lines = [
        "epsilon of a patient by hospitals in the sum and curious members (who take their noise off):",
        "in the sum" + "".join(f"{name:>8}" for name in COLUMNS) + f"{'all others':>13}",
    ]
    for in_sum in sorted({least, (least + hospitals) // 2, hospitals}):
        prices = joint_prices(own, delta, in_sum=in_sum)
        cells = "".join(f"{price:8.2f}" for price in prices[:-1])
        lines.append(f"{in_sum:>10}{cells}{prices[-1]:13.2f}")
    return lines
