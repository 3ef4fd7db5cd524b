"""What every route needs: the coordinator's thread, the gatekeeper, and the signal for long polls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import BinaryIO, TypeVar

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from aggregator.auth import Gatekeeper, read_body, signed_target
from aggregator.coordinator import Coordinator
from aggregator.problems import NotAllowed
from aggregator.store import Party, Store
from medveil.identity import RequestProof

T = TypeVar("T")
MESSAGE_LIMIT = 4 * 2**20
SEGMENT_LIMIT = 16 * 2**20
POLL_LIMIT_S = 30.0
PIECE = 2**20


class Desk:
    """Ties the routes to one coordinator. All its calls run on one thread, one after the other."""

    def __init__(self, store: Store, coordinator: Coordinator, gatekeeper: Gatekeeper) -> None:
        self.store, self.coordinator, self.gatekeeper = store, coordinator, gatekeeper
        self._thread = ThreadPoolExecutor(1, "coordinator")
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._parties: dict[str, Party] = {}

    async def run(self, action: Callable[[], T]) -> T:
        """Run on the coordinator's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)

    def announce(self) -> None:
        """Wake every long poll."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def next_change(self, timeout_s: float) -> None:
        """Wait until something changes, at most ``timeout_s``."""
        changed = self._changed
        try:
            await asyncio.wait_for(changed.wait(), timeout_s)
        except TimeoutError:
            return

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than until :meth:`hurry` is called."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for would lose a cancellation that comes with a hurry
                await self._hurry.wait()
        self._hurry.clear()

    def hurry(self) -> None:
        """There is something for the clock to do."""
        self._hurry.set()

    async def authenticate(
        self, request: Request, *, roles: tuple[str, ...], limit: int = MESSAGE_LIMIT
    ) -> tuple[Party, bytes]:
        """The sender and the body of a signed request.

        Raises: TooLarge, EncodedBody, BadSignature, StaleRequest, UnknownSender, Replayed, NotAllowed.
        """
        proof = RequestProof.from_headers(request.headers)
        body = await read_body(request, limit)
        if proof.sender not in self._parties:
            self._parties = await self.run(self.store.parties)
        party = self.gatekeeper.admit(
            self._parties.get(proof.sender), proof, request.method, signed_target(request), body
        )
        if party.role not in roles:
            raise NotAllowed()
        if party.role == "hospital":
            self.coordinator.touch(party.name)
        return party, body

    async def admit_reader(self, request: Request, plan: str) -> Party:
        """A hospital of the plan or a researcher. Raises: NotFound, what :meth:`authenticate` raises."""
        party, _ = await self.authenticate(request, roles=("hospital", "researcher"))
        await self.run(lambda: self.coordinator.may_see(plan, party.name, party.role))
        return party

    def stream(self, plan: str, party: Party, file: BinaryIO) -> Response:
        """A file piece by piece: many may fetch a large one at the same time."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.coordinator.count_bytes(plan, party.name, up=0, down=size)
        headers = {"content-length": str(size)}
        return StreamingResponse(_pieces(file), media_type="application/octet-stream", headers=headers)

    def close(self) -> None:
        """Finish the work in hand and stop."""
        self._thread.shutdown()
        self.store.close()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


def desk(request: Request) -> Desk:
    """The application's desk."""
    found: Desk = request.app.state.desk
    return found
