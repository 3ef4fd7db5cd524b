"""The aggregator's database: the only place with SQL. Each method is one transaction.

SQLite keeps its rollback journal with ``synchronous=FULL``: what was acknowledged is on the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator.blobs import StorageFailed
from medveil.errors import Error
from medveil.ids import canonical
from medveil.plan import Plan
from medveil.rounds import ModelVersion

SCHEMA_VERSION = 1
META = sa.MetaData()
SETTINGS = sa.Table(
    "settings",
    META,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
TOKENS = sa.Table(
    "tokens",
    META,
    sa.Column("hash", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used", sa.Boolean, nullable=False, default=False),
)
PARTIES = sa.Table(
    "parties",
    META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("enrolled", sa.Float, nullable=False),
)
PLANS = sa.Table(
    "plans",
    META,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("admin_signature", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False, default=False),
)
APPROVALS = sa.Table(
    "approvals",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
ATTEMPTS = sa.Table(
    "attempts",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("outcome", sa.String),
    sa.Column("report", sa.JSON),
)
EVENTS = sa.Table(
    "events",
    META,
    sa.Column("plan", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
VERSIONS = sa.Table(
    "versions",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("version", sa.JSON, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
)


class UnknownSchema(Error):
    """The database was written by another version."""

    code = "unknown-schema"

    def __init__(self, *, found: str) -> None:
        super().__init__(
            what=f"The database has schema version {found}; this program knows {SCHEMA_VERSION}.",
            meaning="It was not opened, so nothing in it was changed.",
            remedy="Run the version of MedVeil that wrote it, or migrate it.",
        )


class TokenRefused(Error):
    """An enrolment token that cannot be used."""

    code = "token-refused"

    def __init__(self) -> None:
        super().__init__(
            what="The enrolment token is wrong, used, expired or made for another name.",
            meaning="Nobody was enrolled.",
            remedy="Ask the consortium's admin for a new token: medveil aggregator enroll-token NAME.",
        )


class AlreadyThere(Error):
    """A name or plan exists already."""

    code = "already-there"

    def __init__(self, *, thing: str) -> None:
        super().__init__(
            what=f"There is already {thing}.",
            meaning="The first one stands; nothing was changed.",
            remedy="Use another name, or go on with the one that is there.",
        )


@dataclass(frozen=True)
class Party:
    """Somebody enrolled: a hospital or a researcher."""

    name: str
    role: str
    public_key: bytes
    revoked: bool = False


@dataclass(frozen=True)
class AttemptKey:
    """Which attempt: plan (hexadecimal), round, attempt."""

    plan: str
    round: int
    attempt: int

    @property
    def where(self) -> dict[str, Any]:
        """As column values."""
        return {"plan": self.plan, "round": self.round, "attempt": self.attempt}

    @property
    def folder(self) -> str:
        """Name of the attempt's upload folder."""
        return f"{self.plan[:16]}-{self.round}-{self.attempt}"


class Store:
    """All durable state but the blobs; opening it creates or checks the schema.

    Raises: UnknownSchema; every method raises StorageFailed if the disk does not take or give what it should.
    """

    def __init__(self, path: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _durable)
        META.create_all(self._engine)
        with self._engine.begin() as tx:
            tx.execute(
                sa.text("INSERT OR IGNORE INTO settings VALUES ('schema', :v)"), {"v": str(SCHEMA_VERSION)}
            )
            found = tx.execute(sa.select(SETTINGS.c.value).where(SETTINGS.c.key == "schema")).scalar_one()
        if found != str(SCHEMA_VERSION):
            raise UnknownSchema(found=found)

    def close(self) -> None:
        """Give the database file back."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as tx:
                yield tx
        except sa.exc.OperationalError as error:  # disk full, locked for too long, I/O error
            raise StorageFailed() from error

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as tx:
                yield tx
        except sa.exc.OperationalError as error:
            raise StorageFailed() from error

    def add_token(self, token: str, *, name: str, role: str, expires: float) -> None:
        """Remember the hash of a one-time token."""
        with self._write() as tx:
            tx.execute(
                TOKENS.insert().values(hash=_hash(token), name=name, role=role, expires=expires, used=False)
            )

    def enrol(self, token: str, *, name: str, public_key: bytes, now: float) -> Party:
        """Use up a token and remember the newcomer. The same newcomer may repeat a lost request.

        Raises: TokenRefused, AlreadyThere.
        """
        with self._write() as tx:
            row = tx.execute(sa.select(TOKENS).where(TOKENS.c.hash == _hash(token))).one_or_none()
            if row is None or row.name != name:
                raise TokenRefused()
            present = tx.execute(
                sa.select(PARTIES).where((PARTIES.c.name == name) | (PARTIES.c.public_key == public_key))
            ).all()
            if row.used and [(p.name, p.public_key) for p in present] == [(name, public_key)]:
                return Party(name, row.role, public_key)
            if row.used or row.expires < now:
                raise TokenRefused()
            if present:
                raise AlreadyThere(thing=f"a party with the name '{name}' or this key")
            tx.execute(TOKENS.update().where(TOKENS.c.hash == row.hash).values(used=True))
            tx.execute(PARTIES.insert().values(name=name, role=row.role, public_key=public_key, enrolled=now))
            return Party(name, row.role, public_key)

    def parties(self) -> dict[str, Party]:
        """Everybody enrolled."""
        with self._read() as tx:
            rows = tx.execute(sa.select(PARTIES)).all()
        return {r.name: Party(r.name, r.role, r.public_key) for r in rows}

    def add_plan(self, plan: Plan, signature: bytes, first: ModelVersion, now: float) -> None:
        """Keep a plan with its initial model version. Raises: AlreadyThere."""
        with self._write() as tx:
            if tx.execute(sa.select(PLANS.c.id).where(PLANS.c.id == plan.id)).first():
                raise AlreadyThere(thing="this exact plan")
            tx.execute(
                PLANS.insert().values(
                    id=plan.id,
                    plan=plan.model_dump_json(),
                    admin_signature=signature,
                    created=now,
                    finished=False,
                )
            )
            tx.execute(
                VERSIONS.insert().values(
                    plan=plan.id, number=0, version=first.model_dump(mode="json"), state={}
                )
            )

    def plans(self, *, besides: Collection[str] = ()) -> list[tuple[Plan, bytes, bool]]:
        """Every plan but those named, oldest first, with the admin's signature and whether it is finished."""
        wanted = sa.select(PLANS).where(PLANS.c.id.not_in(besides)).order_by(PLANS.c.created)
        with self._read() as tx:
            rows = tx.execute(wanted).all()
        return [(Plan.model_validate_json(r.plan), r.admin_signature, r.finished) for r in rows]

    def finish_plan(self, plan: str) -> None:
        """No more rounds."""
        with self._write() as tx:
            tx.execute(PLANS.update().where(PLANS.c.id == plan).values(finished=True))

    def add_approval(self, plan: str, name: str, signature: bytes) -> None:
        """Keep a checked approval; Ed25519 is deterministic, so a repeat is the same row."""
        with self._write() as tx:
            tx.execute(
                sa.text("INSERT OR REPLACE INTO approvals VALUES (:plan, :name, :signature)"),
                {"plan": plan, "name": name, "signature": signature},
            )

    def approvals(self, plan: str) -> dict[str, bytes]:
        """Hospital → signature."""
        with self._read() as tx:
            rows = tx.execute(sa.select(APPROVALS).where(APPROVALS.c.plan == plan)).all()
        return {r.name: r.signature for r in rows}

    def open_attempt(self, key: AttemptKey, *, kind: str, model: str, now: float) -> None:
        """A new attempt at a round."""
        with self._write() as tx:
            tx.execute(ATTEMPTS.insert().values(**key.where, kind=kind, model=model, opened=now))

    def add_event(self, key: AttemptKey, number: int, kind: str, body: bytes) -> None:
        """One more message or closing of an attempt; the list of them is its state."""
        with self._write() as tx:
            tx.execute(EVENTS.insert().values(**key.where, number=number, kind=kind, body=body))

    def events(self, key: AttemptKey) -> list[tuple[str, bytes]]:
        """The messages and closings of an attempt, in order."""
        where = [EVENTS.c[k] == v for k, v in key.where.items()]
        with self._read() as tx:
            rows = tx.execute(sa.select(EVENTS).where(*where).order_by(EVENTS.c.number)).all()
        return [(r.kind, r.body) for r in rows]

    def end_attempt(
        self,
        key: AttemptKey,
        *,
        outcome: str,
        report: Mapping[str, Any],
        version: ModelVersion | None = None,
        state: Mapping[str, str] | None = None,
    ) -> None:
        """Close an attempt and, if it made one, publish the model version: both or neither.

        The events are dropped with it: they hold the shares of the last step.
        """
        where = [ATTEMPTS.c[k] == v for k, v in key.where.items()]
        with self._write() as tx:
            tx.execute(ATTEMPTS.update().where(*where).values(outcome=outcome, report=dict(report)))
            tx.execute(EVENTS.delete().where(*[EVENTS.c[k] == v for k, v in key.where.items()]))
            if version is not None:
                tx.execute(
                    VERSIONS.insert().values(
                        plan=key.plan,
                        number=version.number,
                        version=version.model_dump(mode="json"),
                        state=dict(state or {}),
                    )
                )

    def attempts(self, plan: str) -> list[dict[str, Any]]:
        """Every attempt of a plan in order, as plain values."""
        with self._read() as tx:
            rows = tx.execute(
                sa.select(ATTEMPTS)
                .where(ATTEMPTS.c.plan == plan)
                .order_by(ATTEMPTS.c.round, ATTEMPTS.c.attempt)
            ).all()
        return [dict(r._mapping) for r in rows]

    def versions(self, plan: str) -> list[tuple[ModelVersion, dict[str, str]]]:
        """The lineage of a plan's model, oldest first, with the hashes of the optimiser's state."""
        with self._read() as tx:
            rows = tx.execute(
                sa.select(VERSIONS).where(VERSIONS.c.plan == plan).order_by(VERSIONS.c.number)
            ).all()
        return [(ModelVersion.model_validate(r.version), dict(r.state)) for r in rows]


def _durable(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _hash(token: str) -> str:
    return hashlib.sha256(canonical(["enrol-token", token])).hexdigest()


# ---- who may ask: revocations, API tokens of people, and who may read which plan

REVOCATIONS = sa.Table(
    "revocations",
    META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("revoked", sa.Float, nullable=False),
)
API_TOKENS = sa.Table(
    "api_tokens",
    META,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float),
)
READERS = sa.Table(
    "readers",
    META,
    sa.Column("plan", sa.String, sa.ForeignKey("plans.id"), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
)


class Role(StrEnum):
    """What a person may read. Nobody changes anything over the network but hospitals."""

    ADMIN = "admin"
    RESEARCHER = "researcher"
    AUDITOR = "auditor"
    MONITOR = "monitor"


class UnknownPerson(Error):
    """Nobody of that name, or no such plan."""

    code = "unknown-person"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"Nobody called '{name}' and nothing of that kind is known here.",
            meaning="Nothing was changed.",
            remedy="See the names with 'medveil aggregator people list', the plans with 'study status'.",
        )


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


class Register:
    """Who may ask: enrolled keys that are not revoked, API tokens, and the plans each researcher may read.

    Every request reads it afresh, so that a revocation by another process counts at once.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def party(self, name: str) -> Party | None:
        """Somebody enrolled with a key, revoked or not."""
        wanted = (
            sa.select(PARTIES, REVOCATIONS.c.revoked)
            .outerjoin(REVOCATIONS, REVOCATIONS.c.name == PARTIES.c.name)
            .where(PARTIES.c.name == name)
        )
        with self._store._read() as tx:
            row = tx.execute(wanted).one_or_none()
        return None if row is None else Party(row.name, row.role, row.public_key, row.revoked is not None)

    def enrolled_keys(self) -> list[Party]:
        """Everybody enrolled with a key, by name."""
        wanted = sa.select(PARTIES, REVOCATIONS.c.revoked).outerjoin(
            REVOCATIONS, REVOCATIONS.c.name == PARTIES.c.name
        )
        with self._store._read() as tx:
            rows = tx.execute(wanted.order_by(PARTIES.c.name)).all()
        return [Party(r.name, r.role, r.public_key, r.revoked is not None) for r in rows]

    def revoke(self, name: str, *, now: float) -> None:
        """Refuse this name's key and API tokens from now on, for ever. Raises: UnknownPerson."""
        with self._store._write() as tx:
            known = tx.execute(sa.select(PARTIES.c.name).where(PARTIES.c.name == name)).first()
            tokens = tx.execute(
                API_TOKENS.update()
                .where(API_TOKENS.c.name == name, API_TOKENS.c.revoked.is_(None))
                .values(revoked=now)
            )
            if known is None and not tokens.rowcount:
                raise UnknownPerson(name=name)
            tx.execute(READERS.delete().where(READERS.c.name == name))
            done = tx.execute(sa.select(REVOCATIONS.c.name).where(REVOCATIONS.c.name == name)).first()
            if known is not None and done is None:
                tx.execute(REVOCATIONS.insert().values(name=name, revoked=now))

    def add_api_token(self, token: ApiToken) -> None:
        """Keep a new token's hash. Raises: AlreadyThere if the name has another role or is revoked."""
        with self._store._write() as tx:
            roles = set(tx.scalars(sa.select(PARTIES.c.role).where(PARTIES.c.name == token.name)))
            roles |= set(tx.scalars(sa.select(API_TOKENS.c.role).where(API_TOKENS.c.name == token.name)))
            gone = tx.execute(sa.select(REVOCATIONS.c.name).where(REVOCATIONS.c.name == token.name)).first()
            if roles - {token.role} or gone is not None:
                raise AlreadyThere(thing=f"somebody called '{token.name}' with another role, or revoked")
            tx.execute(API_TOKENS.insert().values(**vars(token)))

    def api_token(self, token_id: str) -> ApiToken | None:
        """A token by its id."""
        with self._store._read() as tx:
            row = tx.execute(sa.select(API_TOKENS).where(API_TOKENS.c.id == token_id)).one_or_none()
        return None if row is None else ApiToken(**row._mapping)

    def api_tokens(self) -> list[ApiToken]:
        """Every token, by name and age."""
        wanted = sa.select(API_TOKENS).order_by(API_TOKENS.c.name, API_TOKENS.c.created)
        with self._store._read() as tx:
            return [ApiToken(**r._mapping) for r in tx.execute(wanted)]

    def revoke_api_token(self, token_id: str, *, name: str, now: float) -> None:
        """End one token of a person. Raises: UnknownPerson."""
        where = (API_TOKENS.c.id == token_id) & (API_TOKENS.c.name == name)
        with self._store._write() as tx:
            changed = tx.execute(API_TOKENS.update().where(where).values(revoked=now))
            if not changed.rowcount:
                raise UnknownPerson(name=token_id)

    def researchers(self) -> list[str]:
        """Names with a key or a token of the role researcher that is not revoked."""
        found = {p.name for p in self.enrolled_keys() if p.role == "researcher" and not p.revoked}
        found |= {t.name for t in self.api_tokens() if t.role == "researcher" and t.revoked is None}
        return sorted(found)

    def grant(self, plan: str, name: str) -> None:
        """Let a researcher read a plan. Raises: UnknownPerson."""
        if name not in self.researchers():
            raise UnknownPerson(name=name)
        with self._store._write() as tx:
            if tx.execute(sa.select(PLANS.c.id).where(PLANS.c.id == plan)).first() is None:
                raise UnknownPerson(name=plan)
            where = (READERS.c.plan == plan) & (READERS.c.name == name)
            if tx.execute(sa.select(READERS).where(where)).first() is None:
                tx.execute(READERS.insert().values(plan=plan, name=name))

    def withdraw(self, plan: str, name: str) -> None:
        """The opposite of :meth:`grant`. Raises: UnknownPerson if there was nothing to withdraw."""
        with self._store._write() as tx:
            gone = tx.execute(READERS.delete().where(READERS.c.plan == plan, READERS.c.name == name))
            if not gone.rowcount:
                raise UnknownPerson(name=name)

    def plan_ids(self) -> list[str]:
        """Every plan."""
        with self._store._read() as tx:
            return list(tx.scalars(sa.select(PLANS.c.id)))

    def readable(self, name: str) -> set[str]:
        """The plans that this researcher may read."""
        with self._store._read() as tx:
            return set(tx.scalars(sa.select(READERS.c.plan).where(READERS.c.name == name)))

    def probe(self) -> None:
        """Try a durable write. Raises: StorageFailed."""
        with self._store._write() as tx:
            tx.execute(SETTINGS.delete().where(SETTINGS.c.key == "probe"))
            tx.execute(SETTINGS.insert().values(key="probe", value="ready"))
