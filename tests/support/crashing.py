"""An aggregator in a process of its own that kills itself at a crash point; the hospitals live on in ours."""

from __future__ import annotations

import functools
import multiprocessing
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aggregator.access.nonces import EarlyNonces
from aggregator.access.tokens import make_token
from aggregator.adminkey import change_key, open_store, settle_key
from aggregator.auditlog import Head
from aggregator.rounds.coordinator import Coordinator
from aggregator.rounds.intake import Received
from aggregator.rounds.status import PlanReader
from aggregator.storage import crashpoints
from aggregator.storage.blobs import Blobs
from aggregator.storage.register import Party, Role
from aggregator.storage.sessions import Session
from aggregator.storage.store import Store
from aggregator.work.versions import first_version
from amended import next_plan
from databases import takes_the_lead
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity, sign_request
from medveil.messages import Refusal, sign_ledger_end
from medveil.plan import Plan, sign_approval, sign_refusal
from medveil.tensors import to_safetensors
from world import SPEC, START, Site, make_plan, make_study, status_of

SERVERS = multiprocessing.get_context("forkserver")


class Killed(Exception):
    """The process died before it answered."""


class Refused(RemoteProtocolError):
    """What the aggregator said; ``code`` is its code."""

    def __init__(self, code: str) -> None:
        super().__init__(what=code, meaning="", remedy="")
        self.code = code


def prepare() -> None:
    """Start the process from which aggregators are copied: everything is imported once."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    SERVERS.set_forkserver_preload(["crashing"])
    process = SERVERS.Process(target=print, args=("",))
    process.start()
    process.join()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def serve(link: Connection, folder: Path, where: Path | str, crash: str) -> None:
    """In the child: carry out one call after the other on store and coordinator."""
    crashpoints.arm(crash)
    blobs = Blobs(folder)
    there: Any = SimpleNamespace(folder=folder, where=where)  # the file need not be in the folder
    store = open_store(there)
    assert takes_the_lead(store)
    settle_key(folder, store)
    blobs.sweep()
    coordinator = Coordinator(store, blobs)
    things: dict[str, Any] = {"store": store, "coordinator": coordinator}
    things |= {name: getattr(coordinator, name) for name in ("runs", "intake", "instructions")}
    things["status"] = _Status(coordinator)
    things["nonces"] = EarlyNonces(folder / "nonces")
    things["key"] = _Key(folder, store)
    things["together"] = _Together(coordinator)
    with suppress(EOFError):
        while True:
            thing, name, arguments, named = link.recv()
            try:
                link.send((None, attrgetter(name)(things[thing])(*arguments, **named)))
            except Error as error:
                link.send((error.code, None))


class _Status:
    def __init__(self, coordinator: Coordinator) -> None:
        self.of = functools.partial(status_of, coordinator, PlanReader(coordinator.runs.store))


@dataclass
class _Together:
    coordinator: Coordinator

    def receive(self, messages: list[Received]) -> list[str]:
        """What became of each message: empty if it was taken, or the code of its refusal."""
        outcomes, _ = self.coordinator.receive_together(messages)
        return [str(getattr(one, "code", "")) for one in outcomes]


@dataclass
class _Key:
    folder: Path
    store: Store

    def change(self) -> None:
        """What the admin's command does, in the process that keeps the others away."""
        change_key(self.folder, self.store, Identity.generate("admin"))


@dataclass
class Aggregator:
    """The child, started again when it dies.

    Args:
        crashes: where the first, the second, … process is to die, as in ``MEDVEIL_CRASH_AT``.
    """

    folder: Path
    where: Path | str
    crashes: list[str]
    deaths: int = 0
    _link: Connection = field(init=False)
    _process: Any = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        crash = self.crashes[self.deaths] if self.deaths < len(self.crashes) else ""
        self._link, theirs = SERVERS.Pipe()
        arguments = (theirs, self.folder, self.where, crash)
        self._process = SERVERS.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, thing: str, name: str, /, *arguments: Any, **named: Any) -> Any:
        """One call. Raises: Killed, after which a new process is there; Refused."""
        try:
            self._link.send((thing, name, arguments, named))
            code, answer = self._link.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            assert self._process.exitcode == -9, "it did not die by its own hand"
            self.deaths += 1
            self._link.close()
            self._start()
            raise Killed from None
        if code is not None:
            raise Refused(code)
        return answer

    def close(self) -> None:
        """End the child."""
        self._link.close()
        self._process.join()


class Line:
    """A hospital's view of the coordinator: a call that got no answer is made again, byte for byte."""

    def __init__(self, aggregator: Aggregator, thing: str = "coordinator") -> None:
        self._aggregator, self._thing = aggregator, thing

    def __getattr__(self, name: str) -> Any:
        if name in ("runs", "intake", "instructions", "status", "together"):
            return Line(self._aggregator, name)

        def call(*arguments: Any, **named: Any) -> Any:
            while True:
                with suppress(Killed):
                    return self._aggregator.ask(self._thing, name, *arguments, **named)

        return call


@dataclass
class Gathering(Site):
    """A site whose messages of the second round wait, to be handed in together with the others'."""

    outbox: list[Received] = field(kw_only=True)

    def send(self, kind: str, body: bytes) -> None:
        if self.key[0] == 1:
            super().send(kind, body)
            return
        party = Party(self.name, "hospital", self.identity.public_key)
        self.outbox.append(Received(self.whole_key, party, kind, body))


@dataclass
class Consortium:
    """What sites need of a world, over an aggregator that may die at any call."""

    aggregator: Aggregator
    plan: Plan
    identities: list[Identity]
    coordinator: Any

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.coordinator.status.of(self.plan.id)
        return status


def consortium(folder: Path, where: Path | str, crashes: list[str]) -> Consortium:
    """Enrol three hospitals and open a plan of one round, with an admin who repeats what was cut off.

    It amends a plan that nobody approved, of whose roster the fourth hospital never enrolled.
    """
    folder.mkdir(parents=True)
    admin = Identity.generate("admin")
    admin.save(folder / "admin.key")
    identities = [Identity.generate(f"hospital-{i}") for i in (1, 2, 3)]
    training = {"rounds": 1, "local_steps": 1, "learning_rate": 1.0}
    former = make_plan([*identities, Identity.generate("never-came")], make_study(training=training))
    plan = next_plan(former, identities)
    aggregator = Aggregator(folder, where, crashes)

    def repeat(name: str, /, *arguments: Any, done: str = "", of: str = "store", **named: Any) -> None:
        while True:
            try:
                return aggregator.ask(of, name, *arguments, **named)
            except Refused as refused:
                if refused.code == done:
                    return None
                raise
            except Killed:
                continue

    for one in identities:
        while True:
            token = secrets.token_urlsafe(24)  # a command that was cut off gave none, so it is run again
            with suppress(Killed):
                aggregator.ask(
                    "store", "register.add_token", token, name=one.name, role="hospital", expires=2.0
                )
                break
        repeat("register.enrol", token, name=one.name, public_key=one.public_key, now=1.0)
    first = first_version(former, to_safetensors(START, SPEC), Blobs(folder), now=1.0)
    repeat("plans.add", former, admin.sign("create-plan", former.hash), first, 1.0, done="already-there")
    repeat("plans.add_amended", plan, admin.sign("create-plan", plan.hash), 1.0, done="already-there")
    for one in identities:
        repeat("plans.add_approval", plan.id, one.name, sign_approval(plan, one))
    told = Refusal(
        kind="withdrawn", reason="not now", signature=sign_refusal(plan, one, "withdrawn", "not now")
    )
    repeat("plans.add_refusal", plan.id, one.name, told, 1.0)
    repeat("plans.add_approval", plan.id, one.name, sign_approval(plan, one))  # its operator's second thought
    for word in ("pause", "resume"):
        repeat("directives.say", plan.id, word, "not now", now=1.0, done="word-refused")
    repeat("transactions.probe")
    repeat("plans.restored", Head(1, bytes(32)))  # nothing is open yet
    early = sign_request(identities[0], "GET", "/v1/plans", b"")
    repeat("keep", early, now=1.0, of="nonces")
    assert (early.sender, early.nonce) in set(EarlyNonces(folder / "nonces").used(0))
    repeat("change", of="key")
    end = str(sign_ledger_end(identities[0], 0, 3, bytes(32)))
    repeat("ledger_ends.note", Party("hospital-1", "hospital", identities[0].public_key), end)
    link = way_in(aggregator)
    session = Session(link, "admin", "admin", "admin", "link", begun=1.0, ends=3.0)
    repeat("sessions.sign_in", session, link=link, done="used-up")
    repeat("sessions.use", link, name="admin", now=2.0)
    repeat("sessions.sign_out", link, name="admin", now=2.0)
    first_token = api_token(aggregator)
    repeat("register.grant", plan.id, "reader")
    repeat("register.withdraw", plan.id, "reader", done="unknown-person")
    repeat("register.revoke_api_token", first_token, name="reader", now=1.0)
    api_token(aggregator)
    repeat("register.revoke", "reader", now=1.0, done="unknown-person")
    return Consortium(aggregator, plan, identities, Line(aggregator))


def way_in(aggregator: Aggregator) -> str:
    """The hash of a link; a command that was cut off showed none, so it is run again."""
    while True:
        link = secrets.token_hex(32)
        with suppress(Killed):
            aggregator.ask("store", "sessions.add_link", link, name="admin", expires=2.0)
            return link


def api_token(aggregator: Aggregator) -> str:
    """The id of a token for a reader; a command that was cut off showed none, so it is run again."""
    while True:
        _, kept = make_token("reader", Role.RESEARCHER, now=1.0, expires=2.0)
        with suppress(Killed):
            aggregator.ask("store", "register.add_api_token", kept)
            return kept.id
