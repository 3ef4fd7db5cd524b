"""A rank stands by its job: it shows that it lives, ends when its node does, and says why it gives up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hospital_node.ranks.crews import TIED
from hospital_node.ranks.folder import NODE, ORDER, Beating, Damaged, JobFolder, Signs
from hospital_node.ranks.place import Place
from hospital_node.ranks.problems import NoJob, RankAnswer, RankLost, RankSilent
from medveil.errors import Error


@dataclass(frozen=True)
class Standing:
    """What the node has ordered, as a rank reads it."""

    study: str
    precision: str
    gpu: bool
    gpu_memory_share: float | None
    count: int
    interface: str | None
    step_s: float
    silent_s: float


@contextmanager
def standing(folder: JobFolder, place: Place) -> Iterator[Standing]:
    """The order; what goes wrong inside is told to the node.

    Raises: NoJob; whatever is raised inside.
    """
    order = _order(folder)
    if place.count != order.count:
        raise NoJob(problem=f"{place.count} ranks were started for a job of {order.count}")
    signs = Signs(folder, order.silent_s)

    def look() -> None:
        if not folder.is_there or signs.silent(NODE):
            os._exit(0)  # nobody waits for it

    if os.environ.get(TIED):
        threading.Thread(target=_end_with_input, name="end with the node", daemon=True).start()
    beating = Beating(folder, str(place.rank), look)
    try:
        yield order
    except BaseException as error:
        with suppress(OSError):
            folder.write(f"failed-{place.rank}", _said(error))
        raise
    finally:
        beating.close()


def _order(folder: JobFolder) -> Standing:
    try:
        found = folder.read(ORDER)
        return Standing(**(found or {}))
    except (Damaged, TypeError) as error:
        raise NoJob(problem="its order is missing, or was sealed for another job") from error


def _said(error: BaseException) -> Mapping[str, object]:
    """Of an error that is not ours only the kind: its words might show what was computed."""
    if isinstance(error, RankLost):
        return {"code": error.code, "what": error.how, "rank": error.rank}
    if isinstance(error, RankSilent):
        return {"code": error.code, "what": "", "rank": error.rank, "seconds": error.seconds}
    if isinstance(error, RankAnswer):
        return {"code": error.code, "what": error.problem, "rank": error.rank}
    if isinstance(error, Error):
        return {"code": error.code, "what": error.what}
    return {"code": type(error).__name__, "what": "an error of a library."}


def _end_with_input() -> None:
    """The node holds the other end; it closes when the node ends, however that happens."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(0)
