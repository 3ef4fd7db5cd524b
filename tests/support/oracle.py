"""What must hold after any history: which sums an observer could open, and what their combinations show.

A sum counts as opened once a threshold of its hospitals has given shares, whether it is published or not. Its
row says of each honest hospital whether it is in it. What hospitals send from one model is taken to be the
same each time: that is worse than the truth, where each training draws its batches anew.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations


@dataclass(frozen=True)
class OpenedSum:
    """A sum that an observer has."""

    attempt: Hashable
    """Plan, round and attempt."""
    model: bytes
    """That its hospitals started from."""
    hospitals: frozenset[str]


def violations(sums: Sequence[OpenedSum], *, honest: Collection[str], least: int) -> set[str]:
    """What these sums show that they must not.

    Args:
        least: ``min_hospitals`` less the colluders.
    Returns: "few-hospitals": a linear combination of sums from one model has fewer honest hospitals in it.
        "two-sets": two survivor sets of one attempt were opened. "twice": an honest hospital is in two sums
        from one model, so that its noise, drawn once, is averaged with other hospitals' noise.
    """
    found = set()
    for model in {s.model for s in sums}:
        mine = sorted({s.hospitals & frozenset(honest) for s in sums if s.model == model}, key=sorted)
        if fewest(mine, honest) < least:
            found.add("few-hospitals")
        if any(a & b for a, b in combinations(mine, 2)):
            found.add("twice")
    for one, other in combinations(set(sums), 2):
        if one.attempt == other.attempt and one.hospitals != other.hospitals:
            found.add("two-sets")
    return found


def fewest(rows: Sequence[frozenset[str]], honest: Collection[str]) -> int:
    """Honest hospitals in the smallest combination of sums that is not zero for all of them.

    A combination that is zero outside of some hospitals exists if and only if the rows lose rank when those
    hospitals' columns are taken away. Exact arithmetic; all sets of hospitals up to the smallest are tried.
    """
    columns, whole = sorted(honest), rank(rows, sorted(honest))
    for size in range(1, len(columns) + 1):
        for few in combinations(columns, size):
            if rank(rows, [c for c in columns if c not in few]) < whole:
                return size
    return len(columns) + 1


def rank(rows: Sequence[frozenset[str]], columns: Sequence[str]) -> int:
    """Of the matrix of zeros and ones, over the rational numbers."""
    matrix = [[Fraction(c in row) for c in columns] for row in rows]
    found = 0
    for place in range(len(columns)):
        pivot = next((r for r in range(found, len(matrix)) if matrix[r][place]), None)
        if pivot is None:
            continue
        matrix[found], matrix[pivot] = matrix[pivot], matrix[found]
        for r in range(found + 1, len(matrix)):
            factor = matrix[r][place] / matrix[found][place]
            matrix[r] = [a - factor * b for a, b in zip(matrix[r], matrix[found], strict=True)]
        found += 1
    return found
