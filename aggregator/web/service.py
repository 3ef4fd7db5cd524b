"""One aggregator that leads: the coordinator, the thread it works on, and what every route shares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TypeVar

from prometheus_client.core import Metric
from starlette.requests import Request

from aggregator.access.signatures import Gatekeeper
from aggregator.access.tls import NODE_DAYS, sign_node_certificate
from aggregator.auditlog import Entry
from aggregator.errors import NotFound
from aggregator.rounds import taking
from aggregator.rounds.coordinator import Coordinator
from aggregator.rounds.status import PlanReader, live_status
from aggregator.settings import Settings
from aggregator.storage.blobs import StorageFailed
from aggregator.storage.register import Party, TokenRefused
from aggregator.storage.store import Store
from aggregator.storage.transactions import NotLeading
from aggregator.telling.audit_export import Unsent, unsent
from aggregator.watching import live
from aggregator.watching.live import HeardBook
from aggregator.watching.values import Live
from aggregator.watching.watch import Watching
from aggregator.web.callers import Callers, Sender
from aggregator.web.gauges import StudyGauges, archive_gauges, audit_families, by_state
from aggregator.web.letters import Letters
from aggregator.web.longpolls import LongPolls
from aggregator.web.readiness import Readiness
from aggregator.web.reading import Reading
from aggregator.web.together import Messages
from aggregator.web.visitors import Visitors
from aggregator.work.threads import Lookups, Pulse, breaking_off, in_thread
from medveil.log import get_logger
from medveil.reports import PlanStatus

T = TypeVar("T")
LEAD_CHECK_S = 1.0
HEAR_S = 3.0
"""How often the store is asked for segments that other processes have taken, while any are awaited."""
MOST_ENTRIES = 100
"""Entries of the audit log in one answer."""
log = get_logger()


class Service:
    """Ties the routes to one coordinator. All its calls run on one thread, one after the other."""

    def __init__(
        self, store: Store, coordinator: Coordinator, gatekeeper: Gatekeeper, settings: Settings
    ) -> None:
        self.store, self.coordinator = store, coordinator
        self._folder, self._started = settings.folder, time.time()
        self._archive = settings.monitoring.audit
        self._heard = HeardBook(live.read(settings.folder))
        self.register = store.register
        reader = PlanReader(store)
        self.lookups = Lookups(2, "register", store.transactions.break_off)
        self.callers = Callers(
            self.register,
            self.lookups,
            gatekeeper,
            settings,
            reader,
            heard_from=self._heard_from,
        )
        self.visitors = Visitors(store, self.lookups, settings)
        self.readiness = Readiness({"database": store.transactions.probe, "blobs": coordinator.probe_blobs})
        self._studies = StudyGauges(
            coordinator.runs, coordinator.workers.submit, hospitals=settings.monitoring.hospitals
        )
        coordinator.runs.on_end.append(self._studies.count)
        store.transactions.on_written = self._studies.writes.observe
        self.polls, self.letters = LongPolls(coordinator.instructions.mark), Letters()
        self.messages = Messages(coordinator, self.run, self.announce)
        self.stopping = False
        self._tls = settings.folder / "tls" if settings.client_certificates else None
        self._thread = ThreadPoolExecutor(1, "coordinator")
        self._strangers = Lookups(1, "newcomers", store.transactions.break_off)
        self._segments = ThreadPoolExecutor(4, "segments")
        self.reading = Reading(
            self.callers,
            reader,
            lambda: coordinator.runs.blobs,
            lookups=self.lookups,
            slowly=self._segments,
            leader=self,
        )
        self.watching = Watching(store, live=self.live, reader=reader)
        self._woken = asyncio.Event()
        self._lead_seen = time.monotonic()
        self._pulse = Pulse()

    # ---- threads -------------------------------------------------------------------------------------------

    async def run(self, action: Callable[[], T]) -> T:
        """Run on the coordinator's thread; what the coordinator remembers is then what the store holds.

        Raises: NotLeading at the latest a second after another process has taken the lead; NotReady if the
        thread hangs.
        """
        self._pulse.check()
        return await self._on_thread(action)

    def _on_thread(self, action: Callable[[], T]) -> asyncio.Future[T]:
        def safely() -> T:
            if time.monotonic() - self._lead_seen > LEAD_CHECK_S:
                self.store.transactions.check_lead()
                self._lead_seen = time.monotonic()
            if self.store.transactions.in_doubt:
                self.coordinator.start_over()
            return action()

        return in_thread(self._thread, safely)

    @property
    def surely_leads(self) -> bool:
        """Whether nothing but memory need be asked for an answer that is no more than a second old."""
        return time.monotonic() - self._lead_seen <= LEAD_CHECK_S

    async def with_segments(self, action: Callable[[], T]) -> T:
        """Run something that reads or writes whole segments, a few at a time."""
        return await in_thread(self._segments, action)

    # ---- the clock, and long polls -------------------------------------------------------------------------

    async def tick(self) -> bool:
        """One tick of the clock; whether anything changed. Raises: what :meth:`Coordinator.tick` raises."""
        try:
            return await breaking_off(
                self._on_thread(self.coordinator.tick), self.store.transactions.break_off
            )
        finally:
            self._pulse.beat()

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until :meth:`wake` is called."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for would lose a cancellation that comes with a wake
                await self._woken.wait()
        self._woken.clear()

    def wake(self) -> None:
        """There is something for the clock to do."""
        self._woken.set()

    def announce(self) -> None:
        """Wake the long polls of every plan that has gone on."""
        self.polls.announce()

    def stop_waiting(self) -> None:
        """Answer every long poll now, and every later one at once: the process is about to end."""
        self.stopping = True
        self.polls.stop()
        self.letters.stop()

    async def check_ready(self) -> None:
        """Raises: NotReady with the parts that do not work."""
        self._pulse.check()
        await self.readiness.check()

    # ---- who comes in --------------------------------------------------------------------------------------

    async def enrol(self, token: str, newcomer: Party, *, address: str) -> None:
        """Let a newcomer in. The coordinator's thread hears only of tokens that are there for this name.

        Raises: TokenRefused, AlreadyThere; TooManyRequests in place of TokenRefused for an address that has
        drawn many.
        """
        name, key = newcomer.name, newcomer.public_key
        try:
            if not await self._strangers.ask(lambda: self.register.opens(token, name)):
                raise TokenRefused()
            await self.run(lambda: self.register.enrol(token, name=name, public_key=key, now=time.time()))
        except TokenRefused:
            self.callers.newcomers.charge(address)
            raise

    def issue_certificate(self, party: Party, request: bytes) -> bytes:
        """A client certificate as PEM. Raises: NotFound where none are asked for; BadCertificateRequest."""
        if self._tls is None:
            raise NotFound()
        signed = sign_node_certificate(self._tls, request, party.name)
        now = time.time()
        self._heard.certified(party.name, now=now, until=now + NODE_DAYS * 86_400)
        log.info("certificate.issued", node=party.name)
        return signed

    # ---- what is known here alone ------------------------------------------------------------------------

    def live(self) -> Live:
        """What this process knows beyond the store; any thread may ask."""
        return live.live_of(self.coordinator.runs, self._heard.all(), started=self._started)

    async def keep_told(self) -> None:
        """Tell it to other processes, again and again until cancelled; a slow disk holds up nobody."""
        while True:
            await asyncio.to_thread(lambda: live.write(self._folder, self.live()))
            await asyncio.sleep(live.EVERY_S)

    async def keep_hearing(self) -> None:
        """Hear of the segments that other processes take, again and again until cancelled."""
        runs = self.coordinator.runs
        while True:
            await asyncio.sleep(HEAR_S)
            for run, attempt in taking.open_uploads(runs):
                folder = attempt.key.folder
                with suppress(StorageFailed):  # it is said elsewhere, and asked again
                    aside = await self.with_segments(partial(runs.blobs.aside, folder))
                    taking.hear(runs, run, attempt, aside)

    def tell_end(self) -> None:
        """Tell other processes that this one ends as it was asked to."""
        live.write(self._folder, self.live().model_copy(update={"stopped": True}))

    def _heard_from(self, sender: Sender) -> None:
        name, proof = sender.party.name, sender.proof
        self.coordinator.runs.touch(name)
        if proof is not None:
            self._heard.note(name, now=time.time(), signed_at=proof.time, version=sender.version)

    # ---- what people read ----------------------------------------------------------------------------------

    async def live_status(self, plan: str) -> tuple[PlanStatus, int] | None:
        """See :func:`aggregator.rounds.status.live_status`."""
        runs = self.coordinator.runs
        if runs.get(plan) is None:
            await self.run(runs.reload)  # it may have been created a moment ago, by another process
        return live_status(runs, plan)

    def count_download(self, plan: str, name: str, size: int) -> None:
        """So many bytes were handed out to somebody; a hospital's count for the open attempt."""
        self.coordinator.runs.count_bytes(plan, name, up=0, down=size)

    async def audit_entries(self, after: int) -> list[Entry]:
        """The audit log from number ``after`` + 1 on, at most ``MOST_ENTRIES``."""
        return await self.lookups.ask(lambda: list(islice(self.store.log.entries(after), MOST_ENTRIES)))

    def gauges(self) -> Iterator[Metric]:
        """The present state in numbers, for the metrics. On the coordinator's thread."""
        plans = self.coordinator.runs.all()
        finished = sum(run.finished for run in plans)
        yield by_state("plans", "Studies.", {"finished": finished, "open": len(plans) - finished})
        in_hand = {"now": self.callers.quotas.in_hand}
        yield by_state("requests_in_hand", "Requests that are being answered.", in_hand)
        reserved = {"reserved": self.callers.memory.used}
        yield by_state("body_bytes", "Memory for large bodies.", reserved)
        newest = self.store.transactions.head.number
        yield from audit_families(newest, self.coordinator.instructions.witnessed)
        yield from self._studies.collect()
        yield from self.letters.collect()
        lacks = self.archive_lacks()
        if lacks is not None:
            yield from archive_gauges(lacks)

    def archive_lacks(self) -> Unsent | None:
        """What the archive of the audit log lacks, if there is one; any thread may ask."""
        return unsent(self.store, self._archive, self._folder)

    def close(self) -> None:
        """Finish the work in hand and stop; what hangs at the database is broken off."""
        if self._pulse.silent:
            self.store.transactions.break_off()
        self.readiness.close()
        self.callers.tokens.close()
        self.visitors.close()
        self.lookups.close()
        self._strangers.close()
        self._segments.shutdown()
        self._thread.shutdown()
        self.store.close()


def service_of(request: Request) -> Service:
    """The application's service. Raises: NotLeading while another process leads."""
    found: Service | None = request.app.state.service
    if found is None:
        raise NotLeading()
    return found
