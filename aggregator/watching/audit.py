"""The audit log for people: searched a window at a time, checked on request, and who holds which head."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from aggregator.adminkey import open_store
from aggregator.auditlog import BadEntry, Entry
from aggregator.settings import Settings
from aggregator.storage.past import Wanted
from aggregator.storage.store import Store
from medveil.errors import Error
from medveil.reports import Amount, Count, Text
from medveil.shown import plain
from medveil.values import Frozen

PAGE = 50
"""Entries on a page."""
WINDOW = 20_000
"""Entries that one search looks at; an older window is asked for by its number."""


_HASH = re.compile(r"[0-9a-f]{64}")


class EntrySeen(Frozen):
    """One change."""

    number: Count
    at: Amount
    actor: Text
    action: Text
    subject: Text
    details: dict[str, Text] = Field(default_factory=dict)
    hash: str

    @property
    def short(self) -> str:
        """The subject with the beginning of each hash in it."""
        return _HASH.sub(lambda found: f"{found[0][:12]}…", self.subject)


class Holder(Frozen):
    """A hospital, and which head it must hold.

    Before a node joins an attempt it keeps the head that came with the invitation, on its disk, and takes no
    part if that contradicts what it has kept (decision 18). So whoever has sent a message of an attempt holds
    a head from before that message. Its own file (``medveil node heads --export``) is the proof.
    """

    hospital: Text
    entry: Count
    """Of its newest message; 0 if there is none among the newest entries."""
    at: Amount | None = None
    since: Count = 0
    """Entries that were written after that."""


class Checked(Frozen):
    """What the last check of the whole log has found."""

    outcome: Literal["running", "whole", "broken", "failed"]
    began: Amount
    seconds: Amount | None = None
    number: Count = 0
    """Of the head, or of the first bad entry."""
    code: str = ""
    what: Text = ""
    """Of a check that failed: what happened."""


class Head(Frozen):
    """The newest entry of the log."""

    number: Count
    hash: str
    checked: Checked | None = None
    """None if nobody has asked for a check since this process started."""


class Audit(Frozen):
    """A page of the log, the newest first."""

    head: Count
    """Number of the newest entry."""
    hash: str
    entries: tuple[EntrySeen, ...]
    actor: Text = ""
    action: Text = ""
    text: Text = ""
    first: Count
    """The search has looked from this entry …"""
    last: Count
    """… to this one."""
    older: Count = 0
    """Where the next page begins (``before``); 0 if there is none."""
    holders: tuple[Holder, ...]
    checked: Checked | None = None
    """None if nobody has asked for a check since this process started."""
    as_of: Amount


def audit(store: Store, wanted: Wanted, *, before: int = 0, checked: Checked | None, now: float) -> Audit:
    """One page.

    Args:
        before: only entries with smaller numbers; 0 begins with the newest.
    """
    head = store.past.head()
    start = min(before, head.number + 1) if before else head.number + 1
    found = store.past.entries(wanted, before=start, window=WINDOW, most=PAGE)
    full = len(found) == PAGE
    first = found[-1].number if full else max(1, start - WINDOW)
    return Audit(
        head=head.number,
        hash=head.hash.hex(),
        entries=tuple(_seen(entry) for entry in found),
        actor=plain(wanted.actor),
        action=plain(wanted.action),
        text=plain(wanted.text),
        first=first,
        last=start - 1,
        older=first if first > 1 else 0,
        holders=_holders(store, head.number),
        checked=checked,
        as_of=now,
    )


def _seen(entry: Entry) -> EntrySeen:
    return EntrySeen(
        number=entry.number,
        at=entry.time_ms / 1000,
        actor=plain(entry.actor),
        action=plain(entry.action),
        subject=plain(entry.subject, 300),
        details={key: plain(str(value)) for key, value in entry.details.items() if value is not None},
        hash=entry.hash.hex(),
    )


def _holders(store: Store, head: int) -> tuple[Holder, ...]:
    last = store.past.last_messages(before=head + 1, window=WINDOW)
    names = sorted(p.name for p in store.register.enrolled_keys() if p.role == "hospital" and not p.revoked)
    return tuple(_holder(name, last, head) for name in names)


def _holder(name: str, last: Mapping[str, tuple[int, int]], head: int) -> Holder:
    if name not in last:
        return Holder(hospital=plain(name), entry=0)
    entry, at = last[name]
    return Holder(hospital=plain(name), entry=entry, at=at / 1000, since=head - entry)


def check_log(settings: Settings) -> Checked:
    """Check every entry, and every row against the log: what ``medveil aggregator audit verify`` does.

    Guarantees: raises nothing that is known; whatever comes of it is the answer.
    """
    began, clock = time.time(), time.monotonic()
    try:
        store = open_store(settings)
        try:
            store.transactions.check_file()
            head = store.log.verify()
        finally:
            store.close()
    except BadEntry as error:
        took, number = time.monotonic() - clock, max(0, error.number)
        return Checked(
            outcome="broken", began=began, seconds=took, number=number, code=error.code, what=_words(error)
        )
    except Error as error:
        took = time.monotonic() - clock
        return Checked(outcome="failed", began=began, seconds=took, code=error.code, what=_words(error))
    return Checked(outcome="whole", began=began, seconds=time.monotonic() - clock, number=head.number)


def _words(error: Error) -> str:
    return plain(error.what, 500)
