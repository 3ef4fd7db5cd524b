"""What this node has seen of the aggregator's audit log: a witness that the aggregator cannot reach.

Every answer to a poll or a message carries the log's head, signed by the admin's key. The node pins that key
when it first meets it and keeps heads in its journal. A head that contradicts them raises an alarm that
stands until the operator takes it away; until then this node joins no attempt.
docs/decisions/0018-witnesses.md says what this finds at once and what only
``medveil aggregator audit verify --heads`` finds.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from hospital_node.journal import Journal
from hospital_node.seen_heads import SeenHead
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import BadSignature
from medveil.ids import fingerprint, is_fingerprint
from medveil.log import get_logger
from medveil.messages import AuditHead, HandOver
from medveil.rounds import AttemptKey

FORMAT = "medveil audit heads 1"
FINGERPRINT = re.compile(r"[0-9A-F]{4}(-[0-9A-F]{4}){7}")
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

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator's audit log is not signed with the admin key pinned here: {reason}.",
            meaning="The key was replaced, or it is another aggregator. This node joins no attempt.",
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
            remedy="Have the admin read the line to you that 'restore' or 'new-admin-key' printed there.",
        )


class AuditWitness:
    """The heads of the audit log in one journal.

    The pinned key moves forward by itself where the log shows that it handed over to the next one, and
    otherwise only by the operator's word (docs/decisions/0019-a-new-admin-key.md).

    Args:
        clock: Unix seconds, noted with each head.
    """

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        self._heads, self._clock = journal.heads, clock
        self._newest: SeenHead | None = None
        self._epoch, self._about = 0, ""

    def asked(self) -> SeenHead | None:
        """The newest head that is known before a question: no answer to it may come with an older one."""
        return self._known()

    def take(
        self, head: AuditHead | None, attempt: AttemptKey | None = None, *, asked: SeenHead | None = None
    ) -> None:
        """Hold a head against those seen before, then keep it.

        Whoever asks one thing after the other gets heads from an honest aggregator that never go backwards. A
        node that follows several plans has several questions out, and their answers may overtake each other:
        then a head is at least what was known when its own question was asked. The first
        head and each attempt's are on disk before this returns; those in between are in memory until
        :meth:`settle`, for every one of them is bound by the next attempt's head.

        Args:
            attempt: that this node is asked to in the same answer. Its opening is an entry, so the head must
                be newer than any that an earlier attempt of the plan came with.
            asked: what :meth:`asked` said before the question; without it no answer has overtaken this one.
        Raises: AuditKeyChanged, AuditRolledBack, AuditForked, AuditWithheld: then an alarm stands, unless no
            head was known before. While an alarm stands, heads are not looked at.
        """
        about = "" if attempt is None else f"{attempt.plan} {attempt.round}.{attempt.attempt}"
        if head is not None and about == self._about and self._plainly_follows(head):
            self._newest = self._seen("newest", head, "")
            return
        if self._heads.alarm() is not None:
            return
        known = self._known()
        last = None if attempt is None else self._heads.of_attempt(attempt.plan)
        opened = attempt is not None and (last is None or last.about != about)
        floor = asked if asked and known and asked.number < known.number else known
        try:
            if head is None:
                raise AuditWithheld(reason="an answer came without it")
            steps = [] if known is None else self._hand_overs_to(head, known)
            self._check(head, floor, steps)
            if opened and last is not None and head.number <= last.number:
                raise AuditWithheld(reason=f"a new attempt was opened, and it is still {head.number}")
        except RemoteProtocolError as error:
            self._refuse(head, known, error)
            raise
        newest = self._follow(steps) or known
        older = newest is not None and head.number < newest.number
        if newest is None:
            self._heads.keep(self._seen("first", head, about))
        elif opened:
            self._heads.keep(self._seen("attempt", head, about))
        elif not older and (head.number, head.hash, head.key) != (newest.number, newest.hash, newest.key):
            self._heads.keep(self._seen("newest", head, ""))
        self._newest, self._about = newest if older else self._seen("newest", head, ""), about
        self._epoch = self._heads.epoch()

    def _refuse(self, head: AuditHead | None, known: SeenHead | None, error: RemoteProtocolError) -> None:
        """Raise the alarm, unless nothing is known that could be contradicted."""
        self.settle()
        if known is not None:
            self._heads.keep(self._seen("refused", head, error.code))
        self._newest = None
        log.error("audit.refused", code=error.code, reason=error.what)

    def _follow(self, steps: list[HandOver]) -> SeenHead | None:
        """Keep every hand-over; the last one as a head, None if there is none."""
        if not steps:
            return None
        self.settle()
        for step in steps:
            self._heads.keep(self._handed_over(step))
            old, new = fingerprint(step.old_key), fingerprint(step.new_key)
            log.warning("admin-key.followed", reason=f"entry {step.number}: {old} handed over to {new}")
        return self._handed_over(steps[-1])

    def settle(self) -> None:
        """Put the newest head on disk, if it is in memory only."""
        newest, stored = self._known(), self._heads.newest()
        if newest is not None and stored is not None and newest.number > stored.number:
            self._heads.keep(newest)

    def _known(self) -> SeenHead | None:
        """The newest head, on disk or in memory; what the operator has accepted since takes its place."""
        stored, epoch = self._heads.newest_since()
        if stored is None or self._newest is None or self._epoch != epoch:
            return stored
        return max(stored, self._newest, key=lambda seen: seen.number)

    def _plainly_follows(self, head: AuditHead) -> bool:
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

    def _hand_overs_to(self, head: AuditHead, known: SeenHead) -> list[HandOver]:
        """The hand-overs from the pinned key to the one that signs this head; none if it is the same.

        Only forward: each is signed by the key before it, comes after every entry that this node has seen
        under that key, and leads to a key that was never pinned here.
        Raises: AuditKeyChanged, AuditForked.
        """
        unseen = (step.old_key for step in head.succession if is_fingerprint(known.about, step.old_key))
        key = known.key or next(unseen, head.key)
        # An accepted head is the operator's word: it does not say which key had signed it.
        number = 0 if known.kind == "accepted" else known.number
        steps: list[HandOver] = []
        used = self._heads.keys()
        for step in head.succession if head.key != key else ():
            if not steps and step.old_key != key:
                continue  # from before this node pinned its key
            if step.old_key != key:
                raise AuditKeyChanged(reason=f"a hand-over before entry {step.number} is missing")
            try:
                step.check()
            except BadSignature as error:
                reason = f"the hand-over at entry {step.number} is not signed by the old key and the new one"
                raise AuditKeyChanged(reason=reason) from error
            if step.new_key in used:
                raise AuditKeyChanged(reason=f"entry {step.number} goes back to a key from before")
            if step.number <= number:
                raise AuditForked(number=number)
            for at, hash_ in ((step.number - 1, step.previous), (step.number, step.hash)):
                self._check_hash(at, hash_, known)
            key, number = step.new_key, step.number
            used.add(key)
            steps.append(step)
        if key != head.key:
            raise AuditKeyChanged(reason="no hand-over leads from it to the key that signs now")
        return steps

    def _handed_over(self, step: HandOver) -> SeenHead:
        """A hand-over as a head: it is itself an entry of the log, signed by the new key."""
        told, now = step.to_bytes().hex(), self._clock()
        return SeenHead("handed-over", step.number, step.hash, step.signature, step.new_key, now, told)

    def _check_hash(self, number: int, hash_: bytes, known: SeenHead) -> None:
        """Raises: AuditForked if another hash of this entry is known."""
        hashes = [*self._heads.hashes(number), *[known.hash] * (known.number == number)]
        if any(other != hash_ for other in hashes):
            raise AuditForked(number=number)

    def _check(self, head: AuditHead, known: SeenHead | None, steps: list[HandOver]) -> None:
        pinned = head.key
        if known is not None and not steps:
            pinned = known.key or pinned
            if not known.key and not is_fingerprint(known.about, pinned):
                raise AuditKeyChanged(reason=f"it is not the key of fingerprint {known.about}")
        try:
            head.check(pinned)
        except BadSignature as error:
            raise AuditKeyChanged(reason="the signature under its head is not that key's") from error
        if known is None:
            return
        for seen in (known, *map(self._handed_over, steps)):
            self._check_hash(head.number, head.hash, seen)
        held = max(known.number, *(step.number for step in steps), 0)
        if head.number < held:
            raise AuditRolledBack(number=head.number, held=held)

    def check_alarm(self) -> None:
        """Raises: AuditAlarm if an alarm waits for the operator."""
        alarm = self._heads.alarm()
        if alarm is not None:
            raise AuditAlarm(alarm=alarm.about)

    @property
    def key(self) -> bytes | None:
        """The pinned key of the admin; None before the first head.

        Empty bytes, which are no key, while the one that the operator accepted by its fingerprint is unseen.
        """
        newest = self._heads.newest()
        return None if newest is None else newest.key

    def key_after(self, head: AuditHead | None) -> bytes | None:
        """The pinned key, or the one that has followed it by this head. Nothing is kept.

        For a command that asks between the polls of the running node, whose heads must not go backwards.
        Raises: AuditKeyChanged, AuditForked.
        """
        newest = self._heads.newest()
        if newest is None or head is None:
            return self.key
        if self._hand_overs_to(head, newest) or is_fingerprint(newest.about, head.key):
            return head.key
        return newest.key

    def key_history(self) -> list[tuple[float, str]]:
        """How the pinned key came about: Unix seconds and words, in the order it happened."""
        told = []
        for row in self._heads.all():
            key = fingerprint(row.key) if row.key else row.about
            if row.kind == "first":
                told.append((row.seen, f"{key} pinned with the first answer"))
            elif row.kind == "handed-over":
                old = fingerprint(HandOver.from_bytes(bytes.fromhex(row.about)).old_key)
                told.append((row.seen, f"{old} handed over to {key} at entry {row.number}"))
            elif row.kind == "accepted":
                told.append((row.seen, f"{key} from entry {row.number} on, by the operator's word"))
        return told

    def accept(self, text: str, *, new_key: str = "") -> None:
        """The operator's word: the log goes on from this head. Earlier heads are kept as evidence.

        Args:
            text: NUMBER:HASH, as the admin read it out.
            new_key: fingerprint of the admin key to pin; it need not have been seen yet.
        Raises: NotAccepted.
        """
        number, _, name = text.strip().partition(":")
        try:
            hash_ = bytes.fromhex(name)
        except ValueError:
            hash_ = b""
        if not number.isdecimal() or len(number) > 15 or len(hash_) != 32:
            raise NotAccepted(reason="it is not NUMBER:HASH with 64 hexadecimal digits")
        alarm, newest = self._heads.alarm(), self._heads.newest()
        key, about = (b"", "") if newest is None else (newest.key, newest.about if not newest.key else "")
        shown = b"" if alarm is None else alarm.key
        if new_key:
            wanted = new_key.strip().upper()
            if not FINGERPRINT.fullmatch(wanted):
                raise NotAccepted(reason="--new-key takes a fingerprint, 32 digits of the form 1A2B-3C4D-…")
            key = next((k for k in (shown, key) if k and fingerprint(k) == wanted), b"")
            about = "" if key else wanted
        elif alarm is not None and (alarm.about == AuditKeyChanged.code or shown not in (b"", key)):
            raise NotAccepted(reason="it needs --new-key with the fingerprint of the admin key that is right")
        if not key and not about:
            raise NotAccepted(reason="this node has seen no head yet, so it takes the first one as it comes")
        self._heads.keep(SeenHead("accepted", int(number), hash_, b"", key, self._clock(), about))

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
            for row in self._heads.all()
        ]
        return json.dumps({"format": FORMAT, "node": node, "heads": rows}, indent=1) + "\n"

    def _seen(self, kind: str, head: AuditHead | None, about: str) -> SeenHead:
        if head is None:
            return SeenHead(kind, 0, b"", b"", b"", self._clock(), about)
        return SeenHead(kind, head.number, head.hash, head.signature, head.key, self._clock(), about)
