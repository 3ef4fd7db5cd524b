"""What this node has seen of the aggregator's audit log: a witness that the aggregator cannot reach.

Every answer to a poll or a message carries the log's head, signed by the admin's key. The node pins that key
when it first meets it and keeps heads in its journal. A head that contradicts them raises an alarm that
stands until the operator takes it away; until then this node joins no attempt.
docs/decisions/0018-witnesses.md says what this finds at once and what only
``medveil aggregator audit verify --heads`` finds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from hospital_node.store import Journal, Seen
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import BadSignature
from medveil.ids import fingerprint
from medveil.log import get_logger
from medveil.messages import AuditHead

FORMAT = "medveil audit heads 1"
log = get_logger()


class AuditRolledBack(RemoteProtocolError):
    """The audit log is shorter than it was."""

    code = "audit-rolled-back"

    def __init__(self, *, number: int, held: int) -> None:
        super().__init__(
            what=f"The aggregator's audit log ends at entry {number}; this node has seen entry {held}.",
            meaning="Entries are gone: a backup was put back, or it was cut. This node joins no attempt.",
            remedy="Telephone the admin. After an honest restore: medveil node heads --accept NUMBER:HASH.",
        )


class AuditForked(RemoteProtocolError):
    """Two different entries of one number."""

    code = "audit-forked"

    def __init__(self, *, number: int) -> None:
        super().__init__(
            what=f"The aggregator shows another entry {number} of its audit log than before.",
            meaning="The log was written anew, or a backup was restored. This node joins no attempt.",
            remedy="Telephone the admin. After an honest restore: medveil node heads --accept NUMBER:HASH.",
        )


class AuditKeyChanged(RemoteProtocolError):
    """The log's head is not signed with the key that it was signed with before."""

    code = "audit-key-changed"

    def __init__(self) -> None:
        super().__init__(
            what="The aggregator's audit log is not signed with the admin key that this node has pinned.",
            meaning="It is another aggregator, or the log was signed anew. This node joins no attempt.",
            remedy="Telephone the admin. If right: medveil node heads --accept HEAD --new-key FINGERPRINT.",
        )


class AuditWithheld(RemoteProtocolError):
    """No head, or one that stands still while the aggregator goes on."""

    code = "audit-withheld"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator withholds the head of its audit log: {reason}.",
            meaning="What it does now could be left out of the log. This node joins no attempt.",
            remedy="Is it the same version? Tell the admin, then: medveil node heads --accept NUMBER:HASH.",
        )


class AuditAlarm(RemoteProtocolError):
    """An alarm about the audit log stands."""

    code = "audit-alarm"

    def __init__(self, *, alarm: str) -> None:
        super().__init__(
            what=f"An alarm about the aggregator's audit log stands ({alarm}), and nobody has looked yet.",
            meaning="What the aggregator wrote down may have been changed. This node joins no attempt.",
            remedy="Run 'medveil node heads', telephone the admin; --accept NUMBER:HASH ends the alarm.",
        )


class NotAccepted(Error):
    """What the operator typed is no head, or no fingerprint of the key in question."""

    code = "head-not-accepted"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The head was not accepted: {reason}.",
            meaning="Nothing was changed; an alarm stands as it did.",
            remedy="Have the admin read it to you: NUMBER:HASH, as 'medveil aggregator restore' printed it.",
        )


class Heads:
    """The heads in one journal.

    Args:
        clock: Unix seconds, noted with each head.
    """

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        self._journal, self._clock = journal, clock
        self._newest: Seen | None = None
        self._epoch, self._about = 0, ""

    def take(self, head: AuditHead | None, *, plan: str = "", attempt: tuple[int, int] | None = None) -> None:
        """Hold a head against those seen before, then keep it.

        A node asks one thing after the other, so an honest aggregator's heads never go backwards. The first
        head and each attempt's are on disk before this returns; those in between are in memory until
        :meth:`settle`, for every one of them is bound by the next attempt's head.

        Args:
            plan, attempt: the attempt that this node is asked to in the same answer. Its opening is an entry,
                so the head must be newer than any that an earlier attempt came with.
        Raises: AuditKeyChanged, AuditRolledBack, AuditForked, AuditWithheld: then an alarm stands, unless no
            head was known before. While an alarm stands, heads are not looked at.
        """
        about = "" if attempt is None else f"{plan} {attempt[0]}.{attempt[1]}"
        if head is not None and about == self._about and self._goes_on(head):
            self._newest = self._seen("newest", head, "")
            return
        if self._journal.head_alarm() is not None:
            return
        newest = self._known()
        last = self._journal.attempt_head(plan) if about else None
        opened = about != "" and (last is None or last.about != about)
        try:
            if head is None:
                raise AuditWithheld(reason="an answer came without it")
            self._check(head, newest)
            if opened and last is not None and head.number <= last.number:
                raise AuditWithheld(reason=f"a new attempt was opened, and it is still {head.number}")
        except RemoteProtocolError as error:
            self.settle()
            if newest is not None:  # else nothing is known that could be contradicted
                self._journal.keep_head(self._seen("refused", head, error.code))
            self._newest = None
            log.error("audit.refused", code=error.code, reason=error.what)
            raise
        if newest is None:
            self._journal.keep_head(self._seen("first", head, about))
        elif opened:
            self._journal.keep_head(self._seen("attempt", head, about))
        elif (head.number, head.hash) != (newest.number, newest.hash):
            self._journal.keep_head(self._seen("newest", head, ""))
        self._newest, self._about = self._seen("newest", head, ""), about
        self._epoch = self._journal.head_epoch()

    def settle(self) -> None:
        """Put the newest head on disk, if it is in memory only."""
        newest, stored = self._known(), self._journal.newest_head()
        if newest is not None and stored is not None and newest.number > stored.number:
            self._journal.keep_head(newest)

    def _known(self) -> Seen | None:
        """The newest head, on disk or in memory; what the operator has accepted since takes its place."""
        stored = self._journal.newest_head()
        if stored is None or self._newest is None or self._epoch != self._journal.head_epoch():
            return stored
        return max(stored, self._newest, key=lambda seen: seen.number)

    def _goes_on(self, head: AuditHead) -> bool:
        """Whether a head plainly follows from the one in memory. If not, the journal is asked as well."""
        newest = self._newest
        if newest is None or head.key != newest.key:
            return False
        if head.number == newest.number:
            return (head.hash, head.signature) == (newest.hash, newest.signature)
        try:
            head.check(newest.key)
        except BadSignature:
            return False
        return head.number > newest.number

    def _check(self, head: AuditHead, newest: Seen | None) -> None:
        try:
            head.check(head.key if newest is None else newest.key)
        except BadSignature as error:
            raise AuditKeyChanged() from error
        if newest is None:
            return
        if head.key != newest.key:
            raise AuditKeyChanged()
        known = [*self._journal.head_hashes(head.number), *[newest.hash] * (newest.number == head.number)]
        if any(hash_ != head.hash for hash_ in known):
            raise AuditForked(number=head.number)
        if head.number < newest.number:
            raise AuditRolledBack(number=head.number, held=newest.number)

    def check_alarm(self) -> None:
        """Raises: AuditAlarm if an alarm waits for the operator."""
        alarm = self._journal.head_alarm()
        if alarm is not None:
            raise AuditAlarm(alarm=alarm.about)

    @property
    def key(self) -> bytes | None:
        """The pinned key of the admin; None before the first head."""
        newest = self._journal.newest_head()
        return None if newest is None else newest.key

    def accept(self, text: str, *, new_key: str = "") -> None:
        """The operator's word: the log goes on from this head. Earlier heads are kept as evidence.

        Args:
            text: NUMBER:HASH, as the admin read it out.
            new_key: fingerprint of the key that the refused head was signed with, to pin that one.
        Raises: NotAccepted.
        """
        number, _, name = text.strip().partition(":")
        try:
            hash_ = bytes.fromhex(name)
        except ValueError:
            hash_ = b""
        if not number.isdecimal() or len(number) > 15 or len(hash_) != 32:
            raise NotAccepted(reason="it is not NUMBER:HASH with 64 hexadecimal digits")
        alarm, key = self._journal.head_alarm(), self.key or b""
        if alarm is not None and alarm.about == AuditKeyChanged.code:
            if not new_key or fingerprint(alarm.key) != new_key:
                raise NotAccepted(reason="it needs --new-key with the new admin key's fingerprint")
            key = alarm.key
        elif new_key:
            raise NotAccepted(reason="no other key has been seen")
        if not key:
            raise NotAccepted(reason="this node has seen no head yet, so it takes the first one as it comes")
        self._journal.keep_head(Seen("accepted", int(number), hash_, b"", key, self._clock(), ""))

    def export(self, node: str) -> str:
        """All that is kept, for ``medveil aggregator audit verify --heads``: JSON text."""
        rows: list[dict[str, Any]] = [
            {
                "kind": row.kind,
                "number": row.number,
                "hash": row.hash.hex(),
                "signature": row.signature.hex(),
                "key": row.key.hex(),
                "seen": round(row.seen),
                "about": row.about,
            }
            for row in self._journal.heads()
        ]
        return json.dumps({"format": FORMAT, "node": node, "heads": rows}, indent=1) + "\n"

    def _seen(self, kind: str, head: AuditHead | None, about: str) -> Seen:
        if head is None:
            return Seen(kind, 0, b"", b"", b"", self._clock(), about)
        return Seen(kind, head.number, head.hash, head.signature, head.key, self._clock(), about)
