"""The health panel: what a person at a hospital looks at when something is slow or silent.

Only what costs nothing to look at is looked at here; ``medveil node doctor`` asks the aggregator as well.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from cryptography import x509

from hospital_node.live import Live
from hospital_node.page.values import Finding, Mark, Trouble
from hospital_node.settings import Node
from hospital_node.transport import CLIENT_PAIR
from medveil.shown import plain

LITTLE_BYTES = 5e9
SOON_DAYS, RENEWED_DAYS = 21, 7
"""A certificate that ends sooner gets a look: of the aggregator's authority, and one that renews itself."""
PROBLEM_S = 86400.0
"""A problem of the node that is older than this is not told any more."""


def findings(
    node: Node, told: Live | Trouble | None, alarms: Mapping[str, int] | Trouble, refused: int
) -> Iterator[Finding]:
    """What is in order and what is not.

    Args:
        told: the running node's last word. alarms: kind → how many stand. refused: requests to this page.
    """
    yield from _process(told)
    if isinstance(alarms, Trouble):
        yield Finding("refused", "journal", {"what": alarms.what}, alarms.remedy)
    else:
        if alarms.get("alarm"):
            yield Finding("needs", "models", {"count": alarms["alarm"]}, "medveil node lineage")
        if alarms.get("audit"):
            yield Finding("needs", "audit", {}, "medveil node heads")
    yield _disk(node.folder)
    yield from _certificates(node)
    if refused:
        yield Finding("late", "refused", {"count": refused})


def _process(told: Live | Trouble | None) -> Iterator[Finding]:
    if not isinstance(told, Live) or not told.running:
        yield Finding("needs", "off", {}, "medveil node run")
        return
    if told.silent:
        yield Finding("needs", "silent", {"at": told.updated})
    elif told.connected:
        yield Finding("done", "connected", {"at": told.since})
    elif told.asks_nobody:
        yield Finding("done", "idle")
    else:
        yield Finding("late", "unreachable", {"at": told.since}, "medveil node doctor")
    problem = told.problem
    if problem is not None and time.time() - problem.at < PROBLEM_S:
        values = {"at": problem.at, "code": problem.code, "what": problem.what}
        yield Finding("late", "problem", values, problem.remedy)


def _disk(folder: Path) -> Finding:
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        return Finding("done" if free >= LITTLE_BYTES else "late", "disk", {"bytes": free})
    return Finding("refused", "no-disk")


def _certificates(node: Node) -> Iterator[Finding]:
    """Of the aggregator's authority, and the node's own where it has one."""
    for path, key in ((node.authority, "authority"), (node.folder / CLIENT_PAIR, "certificate")):
        with suppress(OSError, ValueError):
            end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
            days = (end - dt.datetime.now(dt.UTC)).days
            if days < 0:
                yield Finding("refused", f"{key}-over", {"count": -days})
            else:
                least = SOON_DAYS if key == "authority" else RENEWED_DAYS
                mark: Mark = "done" if days > least else "late"
                yield Finding(mark, key, {"count": days, "date": plain(f"{end:%Y-%m-%d}")})
