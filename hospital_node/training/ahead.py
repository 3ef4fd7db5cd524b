"""The next images are taken and changed while a step is computed with those before them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar, cast

T = TypeVar("T")


class Ahead:
    """A thread that is one step ahead; it ends with this object.

    Args:
        worth_it: whether taking images costs something; else nothing is made ahead, and there is no thread.
    """

    def __init__(self, *, worth_it: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "images ahead") if worth_it else None

    def __call__(self, items: Iterator[T]) -> Iterator[T]:
        """The same items in the same order, the next of them made meanwhile, and no more than that.

        What is drawn at random to make them is drawn in that thread, in order; no noise is made there.
        Raises: what making an item raises, when its turn comes.
        """
        if self._thread is None:
            yield from items
            return
        context, end = copy_context(), object()

        def one() -> object:
            return next(items, end)

        coming: Future[object] = self._thread.submit(context.run, one)
        try:
            while (item := coming.result()) is not end:
                coming = self._thread.submit(context.run, one)
                yield cast(T, item)
                del item
        finally:  # nobody else may go on with these items meanwhile
            coming.cancel() or coming.exception()
