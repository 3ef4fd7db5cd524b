"""Who came to the operator's page, for the audit archive: its sign-ins, sign-outs and refused tries.

The page is a process of its own and writes a line for each into ``page-events.jsonl``; the node reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hospital_node.transmissions.entries import Entry
from medveil.shown import plain

FILES = ("page-events.old.jsonl", "page-events.jsonl")
"""The older one first."""
KIND = "page"
WAYS_IN = ("/sign-in", "/enter")
AT_ONCE = 200


def page_users(folder: Path, after: int) -> list[Entry]:
    """Entries for what happened at the page after a moment (Unix milliseconds), the oldest first; they are in
    no record, and their number is the moment."""
    found: list[Entry] = []
    for name in FILES:
        with suppress(OSError, UnicodeDecodeError):
            for line in (folder / name).read_text("utf-8").splitlines():
                found += _entries(line, after)
    return sorted(found, key=lambda one: one.time_ms)[:AT_ONCE]


def _entries(line: str, after: int) -> Iterator[Entry]:
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        told = json.loads(line)
        at, event, route = round(1000 * float(told["at"])), str(told["event"]), str(told["route"])
        refused = event == "refused" and route in WAYS_IN
        if at <= after or not (refused or event in ("signed-in", "signed-out")):
            return
        who = plain(told.get("user") or "unknown", 120)
        words = {"event": "logout" if event == "signed-out" else "login", "approved_by": who}
        if refused:
            words |= {"answer": "refused", "code": plain(told.get("code", ""), 60)}
        hashed = hashlib.sha256(line.encode()).digest()
        yield Entry(at, at, KIND, words, b"", hashed, b"")
