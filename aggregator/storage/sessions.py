"""Who is signed in to the pages, and the ways in that are kept here: links that work once, local admins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from aggregator.storage.editions import Edition
from aggregator.storage.tables import (
    LOCAL_ADMINS,
    PARTIES,
    REVOCATIONS,
    SESSION_USES,
    SESSIONS,
    SIGN_IN_LINKS,
)
from aggregator.storage.transactions import AlreadyThere, Change, Transactions
from medveil.errors import Error


class PersonRevoked(Error):
    """A person who may not sign in any more."""

    code = "person-revoked"

    def __init__(self) -> None:
        super().__init__(
            what="This person's access to this consortium was ended.",
            meaning="Nobody was signed in, and nothing was shown.",
            remedy="Ask the consortium's admin. Who was revoked comes back under another name.",
        )


class UsedUp(Error):
    """A link or a code that was used before, or is too old."""

    code = "used-up"

    def __init__(self) -> None:
        super().__init__(
            what="This link or code opens nothing: it was used, is too old, or was never given out.",
            meaning="Each works once and for a short time. Nobody was signed in.",
            remedy="Take a new one. If somebody else used it: medveil aggregator people sessions.",
        )


class NoSuchSession(Error):
    """A session that is not open."""

    code = "no-such-session"

    def __init__(self) -> None:
        super().__init__(
            what="Nobody is signed in by that name or number.",
            meaning="Nothing was changed.",
            remedy="See who is with: medveil aggregator people sessions.",
        )


@dataclass(frozen=True)
class Session:
    """One browser that was signed in. What it shows as its cookie is kept as a hash."""

    hash: str
    name: str
    role: str
    shown: str
    """What to call the person on a page."""
    way: str
    """How they came in: ``link``, ``break-glass``, or a provider's name."""
    begun: float
    ends: float
    """Unix seconds; whatever is done, it is over then."""
    ended: float | None = None
    used: float = 0.0
    """When a person did something with it last, within a minute."""

    @property
    def id(self) -> str:
        """What to call it before people."""
        return self.hash[:12]

    def is_open(self, now: float, idle_s: float) -> bool:
        """Whether it opens anything at this moment."""
        return self.ended is None and now < self.ends and now - self.used < idle_s


@dataclass(frozen=True)
class LocalAdmin:
    """What is kept of an admin who needs no provider: never the password, nor the key of the codes."""

    name: str
    kept: str
    """The key of the codes, sealed with the password (:mod:`aggregator.access.breakglass`)."""
    step: int
    """The newest time step whose code was used."""
    made: float
    ended: float | None = None


_FOUND = sa.select(SESSIONS, SESSION_USES.c.used).join(SESSION_USES, SESSION_USES.c.hash == SESSIONS.c.hash)
_ONE = _FOUND.where(SESSIONS.c.hash == sa.bindparam("session"))
"""Made once: building a statement takes longer than running it."""
_OPEN = (SESSIONS, SESSION_USES)


class Sessions:
    """Sessions, links and local admins. Every change of them but the time of the last use is in the log."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def find_as_of(self, hashed: str) -> tuple[Session | None, Edition | None]:
        """The session of a cookie's hash, open or not; and the edition that says so, if that has a name."""
        with self._transactions.read() as tx:
            row = tx.execute(_ONE, {"session": hashed}).one_or_none()
            edition = self._transactions.edition_read(*_OPEN)
        return None if row is None else Session(**row._mapping), edition

    def edition(self) -> Edition | None:
        """The present edition of what is open; any thread may ask, and waits for nobody.

        What :meth:`find_as_of` has said of the same edition is still so. None where only a question tells.
        """
        return self._transactions.edition(*_OPEN)

    def all(self) -> list[Session]:
        """Every session there ever was, the newest first."""
        with self._transactions.read() as tx:
            return [Session(**row._mapping) for row in tx.execute(_FOUND.order_by(SESSIONS.c.begun.desc()))]

    def sign_in(
        self,
        session: Session,
        *,
        replaces: str = "",
        link: str = "",
        code: tuple[str, int] | None = None,
    ) -> None:
        """Open a session; whatever was used for it is used up in the same transaction.

        Args:
            replaces: the hash of what the same browser showed before; that session ends.
            link: the hash of a link.
            code: a local admin's name, and the time step of the code.
        Raises: UsedUp, PersonRevoked.
        """
        now = session.begun
        with self._transactions.change("sign_in", session.name) as change:
            revoked = sa.select(REVOCATIONS.c.name).where(REVOCATIONS.c.name == session.name)
            if link:  # whoever has the machine is the admin, and nobody can take that away here
                _use_link(change, link, now)
            elif change.select(revoked).first() is not None:
                raise PersonRevoked()
            if code is not None:
                _use_code(change, *code)
            if replaces:
                _end(change, [SESSIONS.c.hash == replaces], now)
            values = {name: value for name, value in asdict(session).items() if name != "used"}
            change.insert(
                SESSIONS, values, "session.begun", name=session.name, role=session.role, kind=session.way
            )
            change.keep(SESSION_USES, {"hash": session.hash}, {"used": now})

    def use(self, hashed: str, *, name: str, now: float) -> None:
        """A person has done something."""
        with self._transactions.change("use_session", name) as change:
            change.keep(SESSION_USES, {"hash": hashed}, {"used": now})

    def sign_out(self, hashed: str, *, name: str, now: float) -> None:
        """End one's own session, if it has not ended."""
        with self._transactions.change("end_session", name) as change:
            _end(change, [SESSIONS.c.hash == hashed], now)

    def end(self, which: str, *, now: float) -> int:
        """End the session of this id, or all of the person of this name. How many. Raises: NoSuchSession."""
        mine = [SESSIONS.c.name == which]
        if re.fullmatch("[0-9a-f]{12}", which):
            mine = [SESSIONS.c.hash.startswith(which)]
        with self._transactions.change("end_session", "admin") as change:
            ended = _end(change, mine, now)
            if not ended:
                raise NoSuchSession()
        return ended

    def end_all(self, *, now: float) -> int:
        """End every session. How many."""
        with self._transactions.change("end_session", "admin") as change:
            return _end(change, [], now)

    def add_link(self, hashed: str, *, name: str, expires: float) -> None:
        """Remember the hash of a link that signs an admin in, once."""
        values = {"hash": hashed, "name": name, "expires": expires, "used": None}
        with self._transactions.change("add_way_in", "admin") as change:
            change.insert(SIGN_IN_LINKS, values, "sign-in-link.made", name=name)

    def add_local_admin(self, admin: LocalAdmin) -> None:
        """Keep an admin who needs no provider. Raises: AlreadyThere: a name never comes back."""
        with self._transactions.change("add_way_in", "admin") as change:
            tables = (LOCAL_ADMINS, REVOCATIONS, PARTIES)
            known = sa.union(*(sa.select(t.c.name).where(t.c.name == admin.name) for t in tables))
            if change.select(known).first() is not None:
                raise AlreadyThere(thing=f"somebody called '{admin.name}', here now or revoked")
            change.insert(LOCAL_ADMINS, asdict(admin), "local-admin.made")

    def change_local_admin(self, admin: LocalAdmin, *, now: float) -> None:
        """Another password and another key for the codes; their sessions end. Raises: NoSuchSession."""
        with self._transactions.change("add_way_in", "admin") as change:
            known = sa.select(LOCAL_ADMINS.c.name).where(LOCAL_ADMINS.c.name == admin.name)
            if change.select(known).first() is None:
                raise NoSuchSession()
            fresh = {"kept": admin.kept, "step": admin.step}
            change.update(LOCAL_ADMINS, {"name": admin.name}, fresh, "local-admin.changed")
            end_sessions_of(change, admin.name, now)

    def local_admins(self) -> list[LocalAdmin]:
        """All of them, by name."""
        with self._transactions.read() as tx:
            rows = tx.execute(sa.select(LOCAL_ADMINS).order_by(LOCAL_ADMINS.c.name))
            return [LocalAdmin(**row._mapping) for row in rows]


def end_sessions_of(change: Change, name: str, now: float) -> int:
    """End every session of a person, as part of a change of what they may. How many."""
    return _end(change, [SESSIONS.c.name == name], now)


def end_local_admin(change: Change, name: str, now: float) -> bool:
    """Let a local admin of this name sign in no more; whether there was one."""
    mine = sa.select(LOCAL_ADMINS.c.name).where(LOCAL_ADMINS.c.name == name, LOCAL_ADMINS.c.ended.is_(None))
    if change.select(mine).first() is None:
        return False
    change.update(LOCAL_ADMINS, {"name": name}, {"ended": now}, "local-admin.ended")
    return True


def _end(change: Change, which: Sequence[sa.ColumnElement[bool]], now: float) -> int:
    wanted = sa.select(SESSIONS.c.hash).where(SESSIONS.c.ended.is_(None), SESSIONS.c.ends > now, *which)
    found = list(change.select(wanted).scalars())
    for hashed in found:
        change.update(SESSIONS, {"hash": hashed}, {"ended": now}, "session.ended")
    return len(found)


def _use_link(change: Change, hashed: str, now: float) -> None:
    row = change.select(sa.select(SIGN_IN_LINKS).where(SIGN_IN_LINKS.c.hash == hashed)).one_or_none()
    if row is None or row.used is not None or row.expires <= now:
        raise UsedUp()
    change.update(SIGN_IN_LINKS, {"hash": hashed}, {"used": now}, "sign-in-link.used")


def _use_code(change: Change, name: str, step: int) -> None:
    row = change.select(sa.select(LOCAL_ADMINS).where(LOCAL_ADMINS.c.name == name)).one_or_none()
    if row is None or row.ended is not None or row.step >= step:
        raise UsedUp()
    change.update(LOCAL_ADMINS, {"name": name}, {"step": step}, "local-admin.used")
