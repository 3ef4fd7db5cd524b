"""The audit log: who changed what and when, each entry chained to the one before and signed by the admin.

The store writes an entry in the transaction of every change, so there is no change without its entry and
none when the entry cannot be written. An entry names the changed row and holds the row's digest, so a change
behind the log's back is found as well. Whoever has seen a head (number and hash) can later show that the log
was cut, rolled back or written anew; that is what the hospitals' copies are for.

The admin key may change. The entry of the change is the first that the new key signs; it holds the old key's
word (a hand-over), or names the old key without it (a replacement, for a key that is lost or stolen).
docs/decisions/0019-a-new-admin-key.md says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from medveil.errors import Error
from medveil.identity import BadSignature, Identity
from medveil.ids import canonical, digest
from medveil.messages import HANDED_OVER, HandOver, audit_entry_hash, check_audit_head, check_hand_over

START = bytes(32)
REPLACED = "admin-key.replaced"
"""The action of the entry by which a new admin key takes the place of one that was not asked."""
KEY_CHANGES = (HANDED_OVER, REPLACED)
DETAILS = frozenset(
    "row role name kind outcome reason model bytes rows schema lead head old new word amends by".split()
)
"""What an entry may tell besides actor, action and subject: codes, counts, digests, plans, for whom a token
is, the admin's public keys.

No secret key, no share.
"""
LONGEST, LONGEST_WORD = 80, 128
Detail = str | int | None


class BadEntry(Error):
    """The audit log is not what was written."""

    code = "audit-broken"

    def __init__(self, *, number: int, problem: str) -> None:
        super().__init__(
            what=f"Audit entry {number} is bad: {problem}.",
            meaning="Something other than MedVeil changed the database, or the file that was checked; "
            "entries before it are as written.",
            remedy="Keep a copy, and find out who had access. Restore a backup that verifies; export a file "
            "anew.",
        )
        self.number = number


class BadHead(Error):
    """Text that is no head of an audit log."""

    code = "bad-audit-head"

    def __init__(self) -> None:
        super().__init__(
            what="This is not a head of an audit log.",
            meaning="It cannot be compared with the log.",
            remedy="Give it as it was printed: NUMBER:HASH, the hash as 64 hexadecimal digits.",
        )


@dataclass(frozen=True)
class Head:
    """The newest entry's number and hash; everything before it follows from them."""

    number: int
    hash: bytes
    signature: bytes = b""
    holder: str = field(default="", compare=False)
    """Who has seen it, for the words of a contradiction."""

    def __str__(self) -> str:
        return f"{self.number}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read ``str(head)`` back. Raises: BadHead."""
        number, _, name = text.strip().partition(":")
        try:
            head = cls(int(number), bytes.fromhex(name))
        except ValueError as error:
            raise BadHead() from error
        if head.number < 1 or len(head.hash) != 32:
            raise BadHead()
        return head

    def check(self, admin_key: bytes) -> None:
        """Raises: BadSignature unless the aggregator's admin key has signed this head."""
        check_audit_head(admin_key, self.number, self.hash, self.signature)

    def seen_by(self) -> str:
        """Whose word it is."""
        return f"a head that {self.holder} holds" if self.holder else "a known head"


NOTHING = Head(0, START)


@dataclass(frozen=True)
class Entry:
    """One change."""

    number: int
    time_ms: int
    actor: str
    action: str
    subject: str
    details: Mapping[str, Detail]
    previous: bytes
    hash: bytes
    signature: bytes

    @property
    def head(self) -> Head:
        """The log's head when this entry was the newest."""
        return Head(self.number, self.hash, self.signature)

    def computed_hash(self) -> bytes:
        """What the hash must be."""
        told = (self.number, self.time_ms, self.actor, self.action, self.subject, self.details)
        return audit_entry_hash(told, self.previous)


def seal(
    signer: Identity,
    before: Head,
    *,
    time_ms: int,
    actor: str,
    action: str,
    subject: str,
    details: Mapping[str, Detail],
) -> Entry:
    """The next entry. Raises: ValueError for a detail that is not on the list."""
    for key, value in details.items():
        fits = len(str(value)) <= (LONGEST_WORD if key == "word" else LONGEST)
        if key not in DETAILS or not (value is None or isinstance(value, str | int)) or not fits:
            raise ValueError(f"the audit log takes no detail {key}")
    blank = Entry(before.number + 1, time_ms, actor, action, subject, details, before.hash, b"", b"")
    name = blank.computed_hash()
    signature = signer.sign("audit-entry", blank.number.to_bytes(8, "big"), name)
    return Entry(blank.number, time_ms, actor, action, subject, details, before.hash, name, signature)


@dataclass(frozen=True)
class KeyChange:
    """Another admin key signs from this entry on."""

    entry: Entry
    old: bytes
    new: bytes
    word: bytes
    """The old key's signature; empty if it was not asked, being lost or stolen."""

    @classmethod
    def read(cls, entry: Entry) -> KeyChange:
        """What such an entry tells, unchecked. Raises: BadEntry if it tells no keys."""
        try:
            old, new, word = (bytes.fromhex(str(entry.details.get(k, ""))) for k in ("old", "new", "word"))
        except ValueError:
            old = new = word = b""
        if (len(old), len(new)) != (32, 32):
            raise BadEntry(number=entry.number, problem="it changes the admin key and names none")
        return cls(entry, old, new, word)

    @property
    def number(self) -> int:
        """The first entry that the new key signs."""
        return self.entry.number

    def shown(self) -> HandOver:
        """As a hospital is shown it: only for a hand-over."""
        return HandOver(
            number=self.number,
            time_ms=self.entry.time_ms,
            previous=self.entry.previous,
            old_key=self.old,
            new_key=self.new,
            word=self.word,
            signature=self.entry.signature,
        )


def first_key_told(first: Entry) -> bytes | None:
    """The key that entry 1 names as its own; None in a log that was begun before it did."""
    try:
        key = bytes.fromhex(str(first.details["new"]))
    except (KeyError, ValueError):
        return None
    return key if len(key) == 32 else None


@dataclass(frozen=True)
class Keys:
    """Which admin key signs which entry, by what the entries tell."""

    first: bytes
    changes: tuple[KeyChange, ...] = ()

    @classmethod
    def of(cls, changes: Iterable[KeyChange], present: bytes) -> Keys:
        """From all changes of a log, and the key that signs it now."""
        told = tuple(changes)
        return cls(told[0].old if told else present, told)

    def at(self, number: int) -> bytes:
        """The key that signs this entry."""
        return next((c.new for c in reversed(self.changes) if c.number <= number), self.first)

    def retired_at(self, key: bytes) -> int | None:
        """The entry at which this key was followed by another."""
        return next((c.number for c in self.changes if c.old == key), None)


class Signers:
    """The admin key in force as the log goes on; each change of it is checked.

    Args:
        first: the key that signs entry 1.
    """

    def __init__(self, first: bytes) -> None:
        self.present, self.since = first, 1
        self._retired: set[bytes] = set()

    def check(self, entry: Entry) -> None:
        """Raises: BadEntry unless the key in force has signed, or a new one that may take its place."""
        changes = entry.action in KEY_CHANGES
        key = self._follow(KeyChange.read(entry)) if changes else self.present
        try:
            entry.head.check(key)
        except BadSignature as error:
            problem = f"it is not signed by the {'new ' if changes else ''}admin key"
            raise BadEntry(number=entry.number, problem=problem) from error
        if changes:
            self._retired.add(self.present)
            self.present, self.since = key, entry.number

    def _follow(self, change: KeyChange) -> bytes:
        entry = change.entry
        if change.old != self.present:
            problem = "it takes over from another admin key than the one that signs before it"
            raise BadEntry(number=entry.number, problem=problem)
        if change.new in {*self._retired, self.present}:
            raise BadEntry(number=entry.number, problem="it goes back to an admin key that was in use before")
        if entry.action == HANDED_OVER:
            try:
                check_hand_over(change.old, change.word, entry.number, entry.previous, change.new)
            except BadSignature as error:
                problem = "the old admin key has not signed this hand-over"
                raise BadEntry(number=entry.number, problem=problem) from error
        return change.new


def checked(
    entries: Iterable[Entry], signers: Signers, *, heads: Iterable[Head] = (), before: Head = NOTHING
) -> Iterator[Entry]:
    """The same entries, each one checked: number, chain, hash, signature, and the heads that others saw.

    Args:
        signers: the key in force after ``before``; it follows the entries.
    Raises: BadEntry at the first that is not what was written, or if the log ends before a known head.
    """
    seen: dict[int, Head] = {}
    for head in heads:
        other = seen.setdefault(head.number, head)
        if other.hash != head.hash:
            whose = f"{other.seen_by()} and {head.seen_by()}"
            raise BadEntry(number=head.number, problem=f"{whose} differ: the log was forked")
    for entry in entries:
        number = before.number + 1
        if entry.number != number:
            raise BadEntry(number=number, problem=f"it is missing; number {entry.number} comes in its place")
        if entry.previous != before.hash:
            raise BadEntry(number=number, problem="it does not follow the entry before it")
        if entry.hash != entry.computed_hash():
            raise BadEntry(number=number, problem="its content is not what its hash says")
        signers.check(entry)
        known = seen.pop(number, None)
        if known is not None and known.hash != entry.hash:
            problem = f"{known.seen_by()} says otherwise, so the log was rolled back or written anew"
            raise BadEntry(number=number, problem=problem)
        before = entry.head
        yield entry
    if seen:
        first = seen[min(seen)]
        problem = f"{first.seen_by()} says that there was one, but the log ends at {before.number}"
        raise BadEntry(number=first.number, problem=problem)


class Reckoning:
    """What the tables must hold according to the log: subject → number and digest of its newest entry."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, str]] = {}
        self._events: dict[str, list[str]] = {}
        self._last = 0

    def take(self, entry: Entry) -> None:
        """Book one entry."""
        self._last = entry.number
        row = entry.details.get("row")
        if row is not None:
            self._rows[entry.subject] = (entry.number, str(row))
        table, _, key = entry.subject.partition("/")
        if table == "events":
            self._events.setdefault(key.rpartition("/")[0], []).append(entry.subject)
        if entry.action == "attempt.ended":  # its messages are removed with it
            for subject in self._events.pop(key, ()):
                self._rows.pop(subject, None)

    def compare(self, rows: Iterable[tuple[str, str]]) -> None:
        """Hold the tables against it. Raises: BadEntry, with the number of the entry that is contradicted."""
        left = dict(self._rows)
        for subject, found in rows:
            number, expected = left.pop(subject, (self._last + 1, ""))
            if not expected:
                raise BadEntry(number=number, problem=f"it is missing, but there is {subject}")
            if found != expected:
                raise BadEntry(number=number, problem=f"{subject} is not what it says")
        if left:
            subject, (number, _) = min(left.items(), key=lambda item: item[1])
            raise BadEntry(number=number, problem=f"{subject} is gone")


def row_digest(values: Iterable[Any]) -> str:
    """The digest of a row's values, as entries hold it."""
    return digest("audit-row", canonical(list(values))).hex()
