"""Fixed blocks of patients, added up in a fixed order: the same bits, however many ranks share the work.

A piece of a step is cut into at most 16 blocks, by the number of its patients alone. Their sums are added
along a binary tree over the blocks. A rank has a run of neighbouring blocks and hands on the sums of the
largest whole branches of the tree in it, a few vectors in place of one for each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, Self, TypeVar

MOST_BLOCKS = 16
MOST_RANKS = MOST_BLOCKS
Branch = tuple[int, int]
"""Blocks first, …, last - 1."""
T = TypeVar("T")


class Addable(Protocol):
    """What can be added up."""

    def __add__(self, other: Self, /) -> Self: ...


A = TypeVar("A", bound=Addable)


def in_blocks(items: Sequence[T]) -> list[Sequence[T]]:
    """The items dealt out like cards: whatever order they have, each block has some of everything."""
    count = min(MOST_BLOCKS, len(items))
    return [items[first::count] for first in range(count)]


def run_of(rank: int, ranks: int, blocks: int) -> Branch:
    """The neighbouring blocks of one rank; maybe none."""
    return rank * blocks // ranks, (rank + 1) * blocks // ranks


def branches(run: Branch, blocks: int) -> Iterator[Branch]:
    """The largest branches of the tree over all blocks that lie in a run, in order."""

    def look(low: int, high: int) -> Iterator[Branch]:
        if run[0] <= low and high <= run[1]:
            yield low, high
        elif low < run[1] and run[0] < high:
            middle = (low + high) // 2
            yield from look(low, middle)
            yield from look(middle, high)

    if run[0] < run[1]:
        yield from look(0, blocks)


def branch_sum(branch: Branch, of_block: Callable[[int], A]) -> A:
    """The sum of a branch; its blocks are asked for once each, in order."""
    low, high = branch
    if high - low == 1:
        return of_block(low)
    middle = (low + high) // 2
    return branch_sum((low, middle), of_block) + branch_sum((middle, high), of_block)


def whole_sum(known: Mapping[Branch, A], blocks: int) -> A:
    """The sum of all blocks from those of branches that cover them. Raises: KeyError if they do not."""

    def of(low: int, high: int) -> A:
        if (low, high) in known:
            return known[low, high]
        if high - low <= 1:
            raise KeyError(low)
        middle = (low + high) // 2
        return of(low, middle) + of(middle, high)

    return of(0, blocks)
