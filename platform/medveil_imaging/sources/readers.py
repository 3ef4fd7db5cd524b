"""Who opens the files: one after the other, in the order in which somebody wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from medveil.stopping import check_stopped
from medveil_imaging.sources.raw import Film, Unusable, Volume
from medveil_imaging.sources.read import Wanted, read_wanted

Item = TypeVar("Item")
Raw = Sequence[Film | Volume]


class Readers(Protocol):
    """Reads the files of many items."""

    def __call__(
        self, items: Iterable[Item], wanted: Callable[[Item], Sequence[Wanted]]
    ) -> Iterator[tuple[Item, Raw | Unusable]]:
        """Each item with what its files hold, in the order of ``items``; with the first refusal, if one is
        not usable.

        Raises: Stopped between two files; nothing else.
        """
        ...


def in_this_process(
    items: Iterable[Item], wanted: Callable[[Item], Sequence[Wanted]]
) -> Iterator[tuple[Item, Raw | Unusable]]:
    """A :class:`Readers` without any guard: for files that this program has written itself."""
    for item in items:
        read: list[Film | Volume] = []
        try:
            for one in wanted(item):
                check_stopped()
                read.append(read_wanted(one))
        except Unusable as error:
            yield item, error
        else:
            yield item, read
