"""Who may ask: keys, enrolment tokens, revocations, API tokens of people, and who reads which plan."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from aggregator.storage.editions import Edition
from aggregator.storage.sessions import end_local_admin, end_sessions_of
from aggregator.storage.tables import API_TOKENS, PARTIES, PLANS, READERS, REVOCATIONS, SESSIONS, TOKENS, at
from aggregator.storage.transactions import AlreadyThere, Change, Transactions
from medveil.errors import Error
from medveil.ids import canonical


class TokenRefused(Error):
    """An enrolment token that cannot be used."""

    code = "token-refused"

    def __init__(self) -> None:
        super().__init__(
            what="The enrolment token is wrong, used, expired or made for another name.",
            meaning="Nobody was enrolled.",
            remedy="Ask the consortium's admin for a new token: medveil aggregator enroll-token NAME.",
        )


class OpenToken(Error):
    """A newcomer has an enrolment token that works."""

    code = "open-token"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"'{name}' has an invitation, or a token, that is still open.",
            meaning="Two of them could enrol two different keys under one name. Nothing was made.",
            remedy="Use the one that is there, or take it back and make another one with --again.",
        )


class UnknownPerson(Error):
    """Nobody of that name, or no such plan."""

    code = "unknown-person"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"Nobody called '{name}' and nothing of that kind is known here.",
            meaning="Nothing was changed.",
            remedy="See the names with 'medveil aggregator people list', the plans with 'study status'.",
        )


class Role(StrEnum):
    """What a person may read. Nobody changes anything over the network but hospitals."""

    ADMIN = "admin"
    RESEARCHER = "researcher"
    AUDITOR = "auditor"
    MONITOR = "monitor"


@dataclass(frozen=True)
class Party:
    """Somebody enrolled: a hospital, a researcher or a relay."""

    name: str
    role: str
    public_key: bytes
    revoked: bool = False


@dataclass(frozen=True)
class EnrolToken:
    """What is kept of an enrolment token: never the token itself."""

    hash: str
    name: str
    role: str
    expires: float
    used: bool = False
    """Somebody has enrolled with it, or it was taken back."""


@dataclass(frozen=True)
class ApiToken:
    """What is kept of an API token: never the token itself."""

    id: str
    name: str
    role: str
    hash: str
    created: float
    expires: float
    revoked: float | None = None


_PARTY = (
    sa.select(PARTIES, REVOCATIONS.c.revoked)
    .outerjoin(REVOCATIONS, REVOCATIONS.c.name == PARTIES.c.name)
    .where(PARTIES.c.name == sa.bindparam("party"))
)
"""Made once: building a statement takes longer than running it."""
_WHO = (PARTIES, REVOCATIONS)


class Register:
    """Who may ask: enrolled keys that are not revoked, API tokens, and the plans each researcher may read.

    What is read of it is used again only as long as its :meth:`edition` lasts, so that a revocation by
    another process counts at once.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def party(self, name: str) -> Party | None:
        """Somebody enrolled with a key, revoked or not."""
        return self.party_as_of(name)[0]

    def party_as_of(self, name: str) -> tuple[Party | None, Edition | None]:
        """Somebody enrolled with a key, revoked or not; and the edition that says so, if that has a name."""
        with self._transactions.read() as tx:
            row = tx.execute(_PARTY, {"party": name}).one_or_none()
            edition = self._transactions.edition_read(*_WHO)
        if row is None:
            return None, edition
        return Party(row.name, row.role, row.public_key, row.revoked is not None), edition

    def edition(self) -> Edition | None:
        """The present edition of who is enrolled and revoked; any thread may ask, and waits for nobody.

        What :meth:`party_as_of` has said of the same edition is still so. None where only a question tells.
        """
        return self._transactions.edition(*_WHO)

    def opens(self, token: str, name: str) -> bool:
        """Whether there is such an enrolment token for this name; it may be used up or expired."""
        wanted = sa.select(TOKENS.c.name).where(TOKENS.c.hash == _hash(token))
        with self._transactions.read() as tx:
            return tx.scalars(wanted).one_or_none() == name

    def add_token(self, token: str, *, name: str, role: str, expires: float) -> None:
        """Remember the hash of a one-time token."""
        with self._transactions.change("add_token", "admin") as change:
            _add(change, EnrolToken(_hash(token), name, role, expires))

    def add_only_token(
        self, token: str, *, name: str, role: str, expires: float, now: float, again: bool
    ) -> None:
        """Remember the hash of the one token that a newcomer has.

        Args:
            again: take back another one that is open.
        Raises: AlreadyThere if the name is enrolled; OpenToken if it has one, and not ``again``.
        """
        with self._transactions.change("add_token", "admin") as change:
            if change.select(sa.select(PARTIES.c.name).where(PARTIES.c.name == name)).first() is not None:
                raise AlreadyThere(
                    thing=f"somebody called '{name}', enrolled (or revoked: a name never comes back)"
                )
            taken_back = _take_back(change, name, now) if again else 0
            if not taken_back and change.select(_open(name, now)).first() is not None:
                raise OpenToken(name=name)
            _add(change, EnrolToken(_hash(token), name, role, expires))

    def take_back_tokens(self, name: str, *, now: float) -> None:
        """Let nobody enrol with this name's open tokens any more. Raises: UnknownPerson if there is none."""
        with self._transactions.change("add_token", "admin") as change:
            if not _take_back(change, name, now):
                raise UnknownPerson(name=name)

    def enrol_tokens(self) -> list[EnrolToken]:
        """Every enrolment token there ever was, by name and expiry."""
        wanted = sa.select(TOKENS).order_by(TOKENS.c.name, TOKENS.c.expires)
        with self._transactions.read() as tx:
            return [EnrolToken(**r._mapping) for r in tx.execute(wanted)]

    def enrol(self, token: str, *, name: str, public_key: bytes, now: float) -> Party:
        """Use up a token and remember the newcomer. The same newcomer may repeat a lost request.

        Raises: TokenRefused, AlreadyThere.
        """
        with self._transactions.change("enrol", name) as change:
            row = change.select(sa.select(TOKENS).where(TOKENS.c.hash == _hash(token))).one_or_none()
            if row is None or row.name != name:
                raise TokenRefused()
            present = change.select(
                sa.select(PARTIES).where((PARTIES.c.name == name) | (PARTIES.c.public_key == public_key))
            ).all()
            if row.used and [(p.name, p.public_key) for p in present] == [(name, public_key)]:
                return Party(name, row.role, public_key)
            if row.used or row.expires < now:
                raise TokenRefused()
            if present:
                raise AlreadyThere(thing=f"a party with the name '{name}' or this key")
            values = {"name": name, "role": row.role, "public_key": public_key, "enrolled": now}
            change.update(TOKENS, {"hash": row.hash}, {"used": True}, "token.used")
            change.insert(PARTIES, values, "party.enrolled", role=row.role)
            return Party(name, row.role, public_key)

    def enrolled_keys(self) -> list[Party]:
        """Everybody enrolled with a key, by name."""
        wanted = sa.select(PARTIES, REVOCATIONS.c.revoked).outerjoin(
            REVOCATIONS, REVOCATIONS.c.name == PARTIES.c.name
        )
        with self._transactions.read() as tx:
            rows = tx.execute(wanted.order_by(PARTIES.c.name)).all()
        return [Party(r.name, r.role, r.public_key, r.revoked is not None) for r in rows]

    def revoke(self, name: str, *, now: float) -> None:
        """Refuse this name's key, API tokens and sign-in from now on, for ever. Raises: UnknownPerson."""
        mine = sa.select(API_TOKENS.c.id).where(API_TOKENS.c.name == name, API_TOKENS.c.revoked.is_(None))
        with self._transactions.change("revoke", "admin") as change:
            known = change.select(sa.select(PARTIES.c.name).where(PARTIES.c.name == name)).first()
            done = change.select(sa.select(REVOCATIONS.c.name).where(REVOCATIONS.c.name == name)).first()
            tokens = change.select(mine).scalars().all()
            local = end_local_admin(change, name, now)
            signed_in = change.select(sa.select(SESSIONS.c.hash).where(SESSIONS.c.name == name)).first()
            if known is None and not tokens and not local and signed_in is None:
                raise UnknownPerson(name=name)
            end_sessions_of(change, name, now)
            for token in tokens:
                change.update(API_TOKENS, {"id": token}, {"revoked": now}, "api-token.revoked")
            plans = change.select(sa.select(READERS.c.plan).where(READERS.c.name == name, READERS.c.may))
            for plan in plans.scalars().all():
                change.update(READERS, {"plan": plan, "name": name}, {"may": False}, "reader.withdrawn")
            if (known is not None or local or signed_in is not None) and done is None:
                change.insert(REVOCATIONS, {"name": name, "revoked": now}, "party.revoked")

    def add_api_token(self, token: ApiToken) -> None:
        """Keep a new token's hash. Raises: AlreadyThere if the name has another role or is revoked."""
        with self._transactions.change("add_api_token", "admin") as change:
            roles = set(
                change.select(sa.select(PARTIES.c.role).where(PARTIES.c.name == token.name)).scalars()
            )
            theirs = sa.select(API_TOKENS.c.role).where(API_TOKENS.c.name == token.name)
            roles |= set(change.select(theirs).scalars())
            gone = change.select(
                sa.select(REVOCATIONS.c.name).where(REVOCATIONS.c.name == token.name)
            ).first()
            if roles - {token.role} or gone is not None:
                raise AlreadyThere(thing=f"somebody called '{token.name}' with another role, or revoked")
            change.insert(API_TOKENS, asdict(token), "api-token.added", role=token.role)

    def api_token(self, token_id: str) -> ApiToken | None:
        """A token by its id."""
        with self._transactions.read() as tx:
            row = tx.execute(sa.select(API_TOKENS).where(API_TOKENS.c.id == token_id)).one_or_none()
        return None if row is None else ApiToken(**row._mapping)

    def api_tokens(self) -> list[ApiToken]:
        """Every token, by name and age."""
        wanted = sa.select(API_TOKENS).order_by(API_TOKENS.c.name, API_TOKENS.c.created)
        with self._transactions.read() as tx:
            return [ApiToken(**r._mapping) for r in tx.execute(wanted)]

    def revoke_api_token(self, token_id: str, *, name: str, now: float) -> None:
        """End one token of a person. Raises: UnknownPerson."""
        known = sa.select(API_TOKENS.c.id).where(API_TOKENS.c.id == token_id, API_TOKENS.c.name == name)
        with self._transactions.change("revoke_api_token", "admin") as change:
            if change.select(known).first() is None:
                raise UnknownPerson(name=token_id)
            change.update(API_TOKENS, {"id": token_id}, {"revoked": now}, "api-token.revoked")
            end_sessions_of(change, name, now)

    def researchers(self) -> list[str]:
        """Names with a key or a token of the role researcher that is not revoked."""
        found = {p.name for p in self.enrolled_keys() if p.role == "researcher" and not p.revoked}
        found |= {t.name for t in self.api_tokens() if t.role == "researcher" and t.revoked is None}
        return sorted(found)

    def grant(self, plan: str, name: str) -> None:
        """Let a researcher read a plan, or a relay add its vectors. Raises: UnknownPerson."""
        relays = {p.name for p in self.enrolled_keys() if p.role == "relay" and not p.revoked}
        if name not in relays and name not in self.researchers():
            raise UnknownPerson(name=name)
        key = {"plan": plan, "name": name}
        with self._transactions.change("grant", "admin") as change:
            if change.select(sa.select(PLANS.c.id).where(PLANS.c.id == plan)).first() is None:
                raise UnknownPerson(name=plan)
            row = change.select(sa.select(READERS).where(*at(READERS, key))).one_or_none()
            if row is None:
                change.insert(READERS, {**key, "may": True}, "reader.granted")
            elif not row.may:
                change.update(READERS, key, {"may": True}, "reader.granted")
            end_sessions_of(change, name, change.now)

    def withdraw(self, plan: str, name: str) -> None:
        """The opposite of :meth:`grant`. Raises: UnknownPerson if there was nothing to withdraw."""
        key = {"plan": plan, "name": name}
        with self._transactions.change("withdraw", "admin") as change:
            row = change.select(sa.select(READERS).where(*at(READERS, key))).one_or_none()
            if row is None or not row.may:
                raise UnknownPerson(name=name)
            change.update(READERS, key, {"may": False}, "reader.withdrawn")
            end_sessions_of(change, name, change.now)

    def plan_ids(self) -> list[str]:
        """Every plan."""
        with self._transactions.read() as tx:
            return list(tx.scalars(sa.select(PLANS.c.id)))

    def readable(self, name: str) -> set[str]:
        """The plans that this researcher may read, or whose vectors this relay may add."""
        with self._transactions.read() as tx:
            return set(tx.scalars(sa.select(READERS.c.plan).where(READERS.c.name == name, READERS.c.may)))


def _add(change: Change, token: EnrolToken) -> None:
    change.insert(TOKENS, asdict(token), "token.added", role=token.role, name=token.name)


def _open(name: str, now: float) -> sa.Select[Any]:
    mine = TOKENS.c.name == name
    return sa.select(TOKENS.c.hash).where(mine, TOKENS.c.used.is_(False), TOKENS.c.expires > now)


def _take_back(change: Change, name: str, now: float) -> int:
    """How many there were."""
    found = list(change.select(_open(name, now)).scalars())
    for one in found:
        change.update(TOKENS, {"hash": one}, {"used": True}, "token.taken-back", name=name)
    return len(found)


def _hash(token: str) -> str:
    return hashlib.sha256(canonical(["enrol-token", token])).hexdigest()
