"""What the admin has said of a plan, checked: that it is paused, resumed, stopped or withdrawn, and why.

The word is signed with the admin key that this node pins, bound to the plan and to a time, and only a later
one replaces it. While it says so this node joins no attempt, whatever the aggregator asks; the part that it
has in an open attempt goes to its end. Who runs the aggregator can still withhold a word: then the study goes
on as if nothing was said (docs/decisions/0050-the-admin-says-stop.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from hospital_node import live
from hospital_node.journal import Journal
from medveil.errors import RemoteProtocolError
from medveil.identity import BadSignature
from medveil.log import get_logger
from medveil.messages import SignedDirective

_META = sa.MetaData()
_WORDS = sa.Table(
    "admins_words",
    _META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("word", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("heard", sa.Float, nullable=False),
)
"""One row a plan: the last word."""
_OF = sa.select(_WORDS).where(_WORDS.c.plan == sa.bindparam("of"))
"""Made once: it is asked with every request, and building a statement takes longer than running it."""
DONE = {"pause": "paused", "resume": "resumed", "stop": "stopped", "withdraw": "withdrawn"}
log = get_logger()


class BadDirective(RemoteProtocolError):
    """A word on a plan that the admin has not signed."""

    code = "bad-directive"

    def __init__(self) -> None:
        super().__init__(
            what="The aggregator shows a word of the admin on a study that the admin key has not signed.",
            meaning="It was not obeyed. Somebody on the way, or at the aggregator, has made it up.",
            remedy="Telephone the admin. Whether rounds open is the aggregator's to say, with or without it.",
        )


@dataclass(frozen=True)
class AdminsWord:
    """What the admin has said of a plan."""

    plan: str
    word: str
    reason: str
    time_ms: int
    heard: float
    """When this node first saw it, Unix seconds."""

    @property
    def halts(self) -> bool:
        """Whether this node joins no attempt as long as it stands."""
        return self.word != "resume"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self.word in ("stop", "withdraw")

    def __str__(self) -> str:
        return f"{DONE.get(self.word, self.word)} by the admin: {self.reason}"


class AdminsWords:
    """The admin's last word on each plan, in the node's journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._engine = journal, journal.engine
        _META.create_all(self._engine)

    def take(self, told: SignedDirective, plan: str, key: bytes | None) -> bool:
        """Check a word and keep it; whether it is news.

        Args:
            plan: that it came with the answer for; empty if it may be of any.
            key: the admin's, as this node pins it.
        Raises: BadDirective, and nothing has changed.
        """
        about = told.plan.hex()
        known = self.of(about)
        if known is not None and told.time_ms <= known.time_ms:
            return False  # an older one, repeated
        try:
            if not key or (plan and about != plan):
                raise BadSignature
            told.check(key)
        except BadSignature as error:
            raise BadDirective() from error
        values = {
            "plan": about,
            "word": told.order,
            "reason": told.reason,
            "time_ms": told.time_ms,
            "signature": told.signature,
            "heard": time.time(),
        }
        with self._engine.begin() as tx:
            tx.execute(_WORDS.insert().prefix_with("OR REPLACE").values(**values))
        if told.order == "withdraw":  # it has not begun, and is offered no more
            self._journal.finish(about)
            live.note_gone(about)
        log.info("directive.heard", plan=about, kind=told.order, reason=told.reason)
        return True

    def of(self, plan: str) -> AdminsWord | None:
        """The last word on a plan."""
        return self._journal.unchanged(("admin's word", plan), lambda: self._of(plan))

    def _of(self, plan: str) -> AdminsWord | None:
        with self._engine.connect() as tx:
            row = tx.execute(_OF, {"of": plan}).first()
        return None if row is None else _word(row)

    def all(self) -> tuple[AdminsWord, ...]:
        """The last words on all plans, the newest first."""
        with self._engine.connect() as tx:
            rows = tx.execute(sa.select(_WORDS).order_by(_WORDS.c.time_ms.desc())).all()
        return tuple(_word(row) for row in rows)

    def known(self, plan: str) -> int:
        """The time (ms) of the last word on a plan; 0 if there is none."""
        word = self.of(plan)
        return 0 if word is None else word.time_ms

    def halted(self, plan: str) -> str:
        """Why this node joins no attempt of a plan, in words; empty if the admin has said nothing like it."""
        word = self.of(plan)
        return str(word) if word is not None and word.halts else ""


def hear(words: AdminsWords, told: Iterable[SignedDirective], key: bytes | None, *, plan: str = "") -> None:
    """Take what is the admin's word; what is not changes nothing, and whoever looks at the node is told."""
    for one in told:
        try:
            words.take(one, plan, key)
        except BadDirective as error:
            log.warning("directive.refused", plan=one.plan.hex(), code=error.code)
            live.note_problem(error)


def _word(row: sa.Row[tuple[str, str, str, int, bytes, float]]) -> AdminsWord:
    return AdminsWord(row.plan, row.word, row.reason, row.time_ms, row.heard)
