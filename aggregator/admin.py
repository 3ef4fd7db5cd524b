"""What the consortium's admin does, as functions that return values; commands and pages show them.

Two verbs have a module of their own: a backup is made and restored in :mod:`aggregator.backup`, another admin
key takes the old one's place in :mod:`aggregator.adminkey`.
"""

from __future__ import annotations

import math
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from aggregator.access.tls import make_certificates, make_cluster_certificates
from aggregator.access.tokens import make_token
from aggregator.adminkey import KEY, Changed, new_admin_key, open_store
from aggregator.auditlog import Entry, Head, KeyChange
from aggregator.settings import Settings, load
from aggregator.storage.database import REVISIONS, Database, alone, copy_database, schema_of
from aggregator.storage.open import open_blobs
from aggregator.storage.register import Register, Role, UnknownPerson
from aggregator.storage.store import Store
from aggregator.storage.transactions import AlreadyThere
from aggregator.witnesses import Witness, binding_heads
from aggregator.work.open import FOLDER as CLUSTER
from aggregator.work.open import check_address, check_cluster
from medveil.errors import BadFile, BadOption, Error
from medveil.files import whole_folder
from medveil.handed import problem_of, read_whole
from medveil.identity import Identity
from medveil.ids import NAME
from medveil.invitation import ADDRESS, is_title
from medveil.plan import Member, Plan
from medveil.reports import PlanStatus
from medveil.shown import plain
from medveil.spoken import LEAST_DIGITS, means
from medveil.study import Study, read_study
from medveil.tensors import largest_file

TOKEN_HOURS = 72.0


class NoDatabase(Error):
    """The database that the settings name is not there."""

    code = "no-database"

    def __init__(self) -> None:
        super().__init__(
            what="There is no database, or an empty one, where the settings say.",
            meaning="An aggregator that began anew would know no hospital, so it was not started.",
            remedy="Check 'database' in aggregator.json, or restore a backup into a new folder.",
        )


class DumpFirst(Error):
    """A PostgreSQL database is migrated only when there is a dump of it."""

    code = "dump-first"

    def __init__(self) -> None:
        super().__init__(
            what="This database is to be migrated, and there is no way back but a dump of it.",
            meaning="Nothing was changed.",
            remedy="Dump it with pg_dump, then run: medveil aggregator migrate --dumped.",
        )


class NoHospitals(Error):
    """A plan needs enrolled hospitals."""

    code = "no-hospitals"

    def __init__(self, *, names: str) -> None:
        super().__init__(
            what=f"These hospitals are not enrolled: {names}.",
            meaning="A plan names exact keys, so every hospital must be enrolled before it is written.",
            remedy="Invite them with 'medveil aggregator invite NAME', and wait until they have joined.",
        )


class NoPlan(Error):
    """The admin named a plan that is not here."""

    code = "no-plan"

    def __init__(self, *, typed: str) -> None:
        super().__init__(
            what=f"No plan, or more than one, goes by '{plain(typed, 100)}'.",
            meaning="Nothing was changed.",
            remedy="Take its words or its hash from 'medveil aggregator study status'.",
        )


def set_up_aggregator(settings: Settings) -> bytes:
    """Make the aggregator's folder: admin key, settings, TLS certificate, database.

    Returns: the certificate of its authority (DER), which the hospitals pin.
    Raises: BadOption; KeyFileExists if the folder already holds an aggregator; UnusableDatabase,
        StorageFailed for one that cannot be reached. Nothing was made then.
    """
    if not re.fullmatch(ADDRESS, settings.url):
        raise BadOption(problem=f"'{plain(settings.url, 100)}' is no address as https://fl.example.org:8443")
    if not is_title(settings.title):
        raise BadOption(problem="a consortium's name is one line of 1 to 80 characters")
    schema_of(settings.where)  # a database that cannot be reached stops here, before anything is made
    Identity.generate("admin").save(settings.folder / KEY)
    settings.save()
    make_certificates(settings.folder / "tls", settings.names)
    open_store(settings).close()
    authority = x509.load_pem_x509_certificate((settings.folder / "tls" / "ca.pem").read_bytes())
    return authority.public_bytes(Encoding.DER)


def check_start(settings: Settings) -> None:
    """Say what is wrong before an aggregator is started.

    Raises: NoDatabase, WrongAdminKey, UnusableBlobs, UnusableCluster.
    """
    _check_database(settings)
    with opened(settings) as store:
        store.transactions.check_admin_key()
    open_blobs(settings.folder, settings.blobs)
    if settings.cluster:
        check_cluster(settings.folder, settings.cluster)


def set_up_cluster(settings: Settings, address: str) -> bool:
    """Have large sums computed by the workers of this scheduler; whether certificates were made for them.

    Those that are there stay: other machines have copies of them. Raises: UnusableCluster.
    """
    check_address(address)
    made = not (settings.folder / CLUSTER).exists()
    if made:
        make_cluster_certificates(settings.folder / CLUSTER)
    check_cluster(settings.folder, address)
    replace(settings, cluster=address).save()
    return made


def hand_out_cluster(settings: Settings, target: Path) -> None:
    """Write what scheduler and workers need into a new folder, whole or not at all.

    Guarantees: of the settings only where scheduler and uploads are; no key but the cluster's own.
    Raises: BadOption if there is something already, or it cannot be written.
    """
    try:
        with whole_folder(target, private=True) as folder:
            Settings(folder, cluster=settings.cluster, blobs=settings.blobs).save()
            shutil.copytree(settings.folder / CLUSTER, folder / CLUSTER)
    except OSError as error:
        raise BadOption(problem=f"--hand-out: {error.strerror or error}") from error


def _check_database(settings: Settings) -> None:
    if schema_of(settings.where) is None:
        raise NoDatabase()


@contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """The aggregator's store, closed at the end. Raises: what opening it raises."""
    store = open_store(settings)
    try:
        yield store
    finally:
        store.close()


def migrate_database(settings: Settings, *, dumped: bool) -> Path | None:
    """Bring the database of an earlier version up to this one.

    Args:
        dumped: there is a dump of it (PostgreSQL).
    Returns: the copy of the SQLite database as it was; None if nothing was to do, and with PostgreSQL.
    Raises: UnknownSchema, StillRunning, DumpFirst, StorageFailed.
    """
    found, where, copy = schema_of(settings.where), settings.where, None
    if found == REVISIONS[-1]:
        return None
    with alone(where):
        if isinstance(where, Path):
            copy = where.with_name(f"{where.name}.before-{REVISIONS[-1]}")
            copy_database(where, copy)
        elif found is not None and not dumped:
            raise DumpFirst()
    Database.migrated(where).close()
    open_store(settings).close()  # begins the audit log
    return copy


def next_certificate(folder: Path, names: Sequence[str] = ()) -> Path:
    """Make the next TLS certificate and its authority beside the present ones.

    Args:
        names: DNS names and addresses; those of the settings if left out.
    Returns: the new authority's file, for the hospitals.
    Raises: AlreadyThere.
    """
    target = folder / "tls" / "next"
    if target.exists():  # hospitals may have got it already
        raise AlreadyThere(thing="a next certificate in tls/next")
    make_certificates(target, tuple(names) or load(folder).names)
    return target / "ca.pem"


def replace_admin_key(settings: Settings, *, without_old: bool) -> Changed:
    """Give a stopped aggregator another admin key. Raises: NoDatabase, what :func:`new_admin_key` raises."""
    _check_database(settings)
    return new_admin_key(settings, without_old=without_old)


def check_newcomer(name: str) -> None:
    """Raises: BadOption unless a hospital or a researcher may be called so."""
    if not NAME.fullmatch(name):
        raise BadOption(
            problem=f"'{plain(name, 60)}' is no name; it takes lower case letters, digits and inner hyphens, "
            "48 at most, as in st-marys"
        )


def new_token(settings: Settings, name: str, role: str) -> str:
    """Make a one-time enrolment token and keep its hash. Raises: BadOption, AlreadyThere."""
    check_newcomer(name)
    token = secrets.token_hex(24)
    with opened(settings) as store:
        if store.register.party(name) is not None:
            raise AlreadyThere(thing=f"somebody called '{name}', enrolled with a key")
        store.register.add_token(token, name=name, role=role, expires=time.time() + TOKEN_HOURS * 3600)
    return token


def revoke(settings: Settings, name: str, *, token: str = "") -> None:
    """Refuse everything that this name signs from now on, and its API tokens, or one of these only.

    Raises: UnknownPerson.
    """
    with opened(settings) as store:
        if token:
            store.register.revoke_api_token(token, name=name, now=time.time())
        else:
            store.register.revoke(name, now=time.time())


def add_person(settings: Settings, name: str, role: Role, *, days: float, plans: Sequence[str] = ()) -> str:
    """A new API token, of which a hash is kept, and the plans that its researcher may read.

    Args:
        plans: as their names were typed.
    Raises: AlreadyThere, UnknownPerson, NotAFingerprint, NoPlan.
    """
    with opened(settings) as store:
        now = time.time()
        text, kept = make_token(name, role, now=now, expires=now + days * 86_400)
        store.register.add_api_token(kept)
        for plan in plans:
            store.register.grant(plan_meant(store, plan), name)
    return text


def grant(settings: Settings, name: str, typed: str, *, withdraw: bool = False) -> str:
    """Let a researcher read a plan, or no longer.

    Returns: the plan's id. Raises: NotAFingerprint, NoPlan, UnknownPerson.
    """
    with opened(settings) as store:
        plan = plan_meant(store, typed)
        change = store.register.withdraw if withdraw else store.register.grant
        change(plan, name)
    return plan


def plan_meant(store: Store, typed: str) -> str:
    """The one plan with this fingerprint, whose hash starts like this, or whose study is called so.

    Raises: NotAFingerprint, NoPlan.
    """
    start, known = typed.strip().lower(), store.register.plan_ids()
    named = [plan for plan, _, _ in store.plans.all() if plan.study.name == start]
    found = [plan.id for plan in _working(store, named)]
    if 8 <= len(start) < LEAST_DIGITS and re.fullmatch("[0-9a-f]+", start):
        found += [p for p in known if p.startswith(start)]
    elif not found:
        found = [p for p in known if means([typed], bytes.fromhex(p))] if known else []
    if len(found) != 1:
        raise NoPlan(typed=typed)
    return found[0]


def _working(store: Store, plans: list[Plan]) -> list[Plan]:
    """Of plans of one lineage the one whose roster works; others as they are."""
    if len(plans) < 2 or len({plan.lineage for plan in plans}) > 1:
        return plans
    begun = [plan for plan in plans if store.plans.newest_version(plan.id) is not None]
    return [max(begun, key=lambda plan: plan.epoch)] if begun else plans


@dataclass(frozen=True)
class Access:
    """One way in: an enrolled key, or an API token."""

    name: str
    role: str
    key: bytes | None
    """The public key; None for a token."""
    token: str
    """The token's id; empty for a key."""
    expires: float
    """Unix seconds; never for a key."""
    revoked: bool
    reads: tuple[str, ...]
    """Ids of the plans that the name may read as a researcher."""


def people(settings: Settings) -> list[Access]:
    """Everybody with a key, then everybody with a token, by name."""
    with opened(settings) as store:
        register = store.register

        def reads(name: str) -> tuple[str, ...]:
            return tuple(sorted(register.readable(name)))

        keys = [
            Access(p.name, p.role, p.public_key, "", math.inf, p.revoked, reads(p.name))
            for p in register.enrolled_keys()
        ]
        tokens = [
            Access(t.name, t.role, None, t.id, t.expires, t.revoked is not None, reads(t.name))
            for t in register.api_tokens()
        ]
    return [*keys, *tokens]


@dataclass(frozen=True)
class CheckedLog:
    """An audit log that is whole, and that holds what others have seen of it."""

    head: Head
    admin_key: bytes
    changes: tuple[KeyChange, ...]
    given_up: int
    """Heads of hospitals that a restore has lost, as the log and their operators say."""


def verify_log(settings: Settings, heads: Sequence[Head], witnesses: Sequence[Witness]) -> CheckedLog:
    """Check every audit entry, every row against the log, and the log against those who have seen it.

    Raises: BadEntry, naming the first bad entry; what opening the store raises.
    """
    with opened(settings) as store:
        changes, key = store.log.key_changes(), store.transactions.admin_key
        store.transactions.check_file()
        binding, given_up = binding_heads(witnesses, store.log.entries(), key, changes)
        newest = store.log.verify([*heads, *binding])
    return CheckedLog(newest, key, tuple(changes), given_up)


def newest_entries(settings: Settings, number: int) -> Iterator[Entry]:
    """The newest entries of the audit log, as they come."""
    with opened(settings) as store:
        yield from store.log.entries(max(0, store.transactions.head.number - number))


def create_plan(
    settings: Settings,
    file: Path,
    initial: Path,
    hospitals: Sequence[str],
    readers: Sequence[str] | None = (),
) -> Plan:
    """Turn a study file into a plan: study and roster, signed by the admin, waiting for approvals.

    Args:
        hospitals: the roster; every enrolled one if empty.
        readers: the researchers who may read it; None for every one there is.
    Raises: BadFile, BadStrategy, NoHospitals, WrongInitialModel, AlreadyThere, UnknownPerson.
    """
    from medveil.strategies import strategy_of  # with all that reckons; the other commands start without
    from privacy.dp.policy import check_policy

    study = read_study(file)
    check_policy(study)
    strategy_of(study)
    with opened(settings) as store:
        try:
            data = read_whole(initial, largest_file(study.model.tensors))
        except ValidationError as error:
            raise BadFile(name=plain(file.name), problem=problem_of(error)) from error
        return add_plan(settings, store, study, data, hospitals, readers)


def add_plan(
    settings: Settings,
    store: Store,
    study: Study,
    initial: bytes,
    hospitals: Sequence[str],
    readers: Sequence[str] | None,
) -> Plan:
    """The plan of a study: its roster, signed by the admin, and its first version.

    Args:
        initial: its initial model (safetensors). hospitals, readers: as :func:`create_plan` takes them.
    Raises: BadFile, NoHospitals, WrongInitialModel, AlreadyThere, UnknownPerson.
    """
    from aggregator.work.versions import first_version

    known = store.register.researchers()
    for name in set(readers or ()) - set(known):
        raise UnknownPerson(name=name)
    roster = _roster(store.register, hospitals)
    try:
        plan = Plan(study=study, roster=roster)
    except ValidationError as error:
        raise BadFile(name=f"study '{plain(study.name)}'", problem=problem_of(error)) from error
    now, signature = time.time(), store.transactions.signer.sign("create-plan", plan.hash)
    first = first_version(plan, initial, open_blobs(settings.folder, settings.blobs), now=now)
    store.plans.add(plan, signature, first, now)
    for name in known if readers is None else readers:
        store.register.grant(plan.id, name)
    return plan


def _roster(register: Register, hospitals: Sequence[str]) -> tuple[Member, ...]:
    """Raises: NoHospitals."""
    enrolled = {p.name: p for p in register.enrolled_keys() if p.role == "hospital" and not p.revoked}
    names = hospitals or sorted(enrolled)
    missing = sorted(set(names) - set(enrolled))
    if missing or not names:
        raise NoHospitals(names=", ".join(missing) or "none at all")
    return tuple(
        Member(index=i, name=n, public_key=enrolled[n].public_key.hex()) for i, n in enumerate(names, 1)
    )


def statuses(settings: Settings, typed: str = "") -> Iterator[tuple[Plan, PlanStatus]]:
    """Every plan and its progress as far as the database tells, oldest first.

    Args:
        typed: only this one then.
    Raises: NotAFingerprint, NoPlan.
    """
    from aggregator.rounds.status import PlanReader

    with opened(settings) as store:
        reader = PlanReader(store)
        for one in [plan_meant(store, typed)] if typed else [line.plan for line in reader.lines()]:
            yield reader.plan(one), reader.status(one)
