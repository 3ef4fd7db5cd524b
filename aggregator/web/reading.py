"""What any process of the consortium tells, from the store alone: plans, versions, and how they were made."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import BinaryIO, Protocol, TypeVar

from aggregator.rounds.status import PlanReader, certificates_of
from aggregator.storage.blobs import Blobs, DamagedBlob, StorageFailed
from aggregator.storage.register import Party, Role
from aggregator.storage.transactions import NotLeading
from aggregator.web.callers import Callers
from aggregator.work.threads import Lookups, in_thread
from medveil.reports import PlanLine, PlanStatus

T = TypeVar("T")


class Leader(Protocol):
    """What is known only where rounds are made."""

    async def live_status(self, plan: str) -> tuple[PlanStatus, int] | None:
        """See :func:`aggregator.rounds.status.live_status`."""

    def count_download(self, plan: str, name: str, size: int) -> None:
        """So many bytes were handed out to somebody."""


class Reading:
    """Answers everybody who may read a plan.

    Args:
        lookups: where the store is asked. slowly: where files are opened, for storage may be slow.
        leader: None in a process that stands by.
    """

    def __init__(
        self,
        callers: Callers,
        reader: PlanReader,
        blobs: Callable[[], Blobs],
        *,
        lookups: Lookups,
        slowly: Executor,
        leader: Leader | None,
    ) -> None:
        self.callers, self._reader, self._blobs = callers, reader, blobs
        self._lookups, self._slowly, self._leader = lookups, slowly, leader

    async def overview(self, party: Party) -> list[PlanLine]:
        """One line per plan that this person may read."""
        lines = await self._lookups.ask(self._reader.lines)
        if party.role == Role.RESEARCHER:
            readable = await self.callers.readable(party)
            return [line for line in lines if line.plan in readable]
        return lines

    async def plan(self, plan: str) -> bytes:
        """A plan as JSON. Raises: NotFound."""
        return await self._lookups.ask(lambda: self._reader.plan(plan).model_dump_json().encode())

    async def status(self, plan: str) -> bytes:
        """A plan's attempts, model versions, approvals and open phase as JSON. Raises: NotFound."""
        live = None if self._leader is None else await self._leader.live_status(plan)
        return await self._lookups.ask(lambda: self._reader.json(plan, live))

    async def model(self, plan: str, model: str) -> BinaryIO:
        """A model version's file. Raises: NotFound, DamagedBlob."""
        await self._lookups.ask(lambda: self._reader.check_model(plan, model))
        return await self._open(lambda blobs: blobs.open_model(model))

    async def sum(self, plan: str, version: int) -> BinaryIO:
        """The sum behind a version, from 1: little-endian words. Raises: NotFound, DamagedBlob."""
        name, _ = await self._lookups.ask(lambda: self._reader.behind(plan, version))
        return await self._open(lambda blobs: blobs.open_sum(name))

    async def proof(self, plan: str, version: int) -> BinaryIO:
        """What proves a version, from 1: a ``Published`` message. Raises: NotFound, DamagedBlob."""
        _, name = await self._lookups.ask(lambda: self._reader.behind(plan, version))
        return await self._open(lambda blobs: blobs.open_sum(name))

    async def certificates(self, plan: str, number: int) -> bytes:
        """A round's abort certificates: a ``Certificates`` message. Raises: NotFound, DamagedBlob."""
        names = await self._lookups.ask(lambda: self._reader.certificates(plan, number))
        return await self._open(lambda blobs: certificates_of(blobs, names))

    def count(self, plan: str, party: Party, size: int) -> None:
        """So many bytes were handed out."""
        if self._leader is not None:
            self._leader.count_download(plan, party.name, size)

    async def _open(self, action: Callable[[Blobs], T]) -> T:
        """Raises: NotLeading in place of anything else where this process stands by.

        Who leads has perhaps just written the file, and a file system that is shared may show it later here.
        """
        try:
            return await in_thread(self._slowly, lambda: action(self._blobs()))
        except (DamagedBlob, StorageFailed) as error:
            if self._leader is None:
                raise NotLeading() from error
            raise
