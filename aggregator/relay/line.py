"""The relay's one connection outward: signed requests to its aggregator, retried when lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import httpx2 as httpx
from socksio import SOCKSError

from medveil.answers import (
    PROBLEM_BYTES,
    AnswerTooLarge,
    Collected,
    EncodedAnswer,
    problem_in,
    time_for,
)
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, sign_request
from medveil.messages import MAX_MESSAGE_BYTES, Enrol, enrolment_path, seconds_to_wait
from medveil.outgoing import FAILURES, closing_lines, open_client, pinned
from medveil.reachability import check_certificate, proxy_to, proxy_trouble, why
from medveil.relaying import RelayWork
from medveil.rounds import AttemptKey
from medveil.shown import plain

PATIENCE_S = 20.0
"""How long a lost request is sent again. The hospitals wait meanwhile, and send themselves after it."""
ENROL_S = 5.0
"""The same, of a command that a person waits for."""
BUSY = (429, 502, 503, 504)


class AggregatorRefuses(RemoteProtocolError):
    """The aggregator did not take what a relay sent, or does not answer."""

    code = "aggregator-refuses"

    def __init__(self, *, reason: str, told: str = "", remedy: str = "") -> None:
        super().__init__(
            what=f"The aggregator did not take it: {plain(reason)}.",
            meaning="Nothing was handed in. A relay's hospitals send their vectors themselves; whoever "
            "waits for a keeper asks again.",
            remedy=remedy or "If it lasts, look at this process's log, its token and its address.",
        )
        self.told = told
        """The aggregator's code, if it gave one."""


class Upstream(Protocol):
    """What a relay needs of its aggregator. Every call raises AggregatorRefuses."""

    async def work(self, key: AttemptKey) -> RelayWork:
        """Whose masked vectors an attempt waits for."""
        ...

    async def segment(self, key: AttemptKey, number: int, data: bytes) -> None:
        """One segment of the region's sum."""
        ...

    async def uploads(self, key: AttemptKey, body: bytes) -> None:
        """Who is in the sum."""
        ...


class UpstreamLine:
    """Signed requests to the aggregator. A retry signs a new request around identical bytes.

    Args:
        proxy: as :func:`medveil.reachability.proxy_to` takes it; the environment's if empty.
        file: where a proxy can be set, for people.
    Raises: BadProxy, BadFile.
    """

    def __init__(
        self,
        address: str,
        authority: Path,
        identity: Identity,
        *,
        patience_s: float = PATIENCE_S,
        proxy: str = "",
        file: str = "relay.json",
    ) -> None:
        self._proxy = proxy_to(address, proxy, file=file)
        self._identity, self._patience_s = identity, patience_s
        self._client = open_client(address, pinned(authority), self._proxy)

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    async def enrol(self, token: str) -> None:
        """Use a one-time token. Raises: AggregatorRefuses."""
        await self._send("POST", enrolment_path(self._identity.public_key), Enrol(token=token).to_bytes())

    async def work(self, key: AttemptKey) -> RelayWork:
        """See :class:`Upstream`. Raises: BadMessage too."""
        return RelayWork.from_bytes(await self._send("GET", _path(key), limit=MAX_MESSAGE_BYTES))

    async def segment(self, key: AttemptKey, number: int, data: bytes) -> None:
        """See :class:`Upstream`."""
        await self._send("PUT", f"{_path(key)}/segments/{number}", data)

    async def uploads(self, key: AttemptKey, body: bytes) -> None:
        """See :class:`Upstream`."""
        await self._send("POST", _path(key), body)

    async def _send(self, method: str, path: str, body: bytes = b"", *, limit: int = PROBLEM_BYTES) -> bytes:
        loop = asyncio.get_running_loop()
        started, pause = loop.time(), 0.25
        while True:
            asked_s = 0.0
            try:
                status, data, asked_s = await self._once(method, path, body, limit)
                if 200 <= status < 300:
                    return data
                told = problem_in(data)
                refusal = AggregatorRefuses(
                    reason=told.get("title", f"it answered {status}"), told=told.get("code", "")
                )
                if status not in BUSY:
                    raise refusal
            except (*FAILURES, AnswerTooLarge, EncodedAnswer) as error:
                refusal = self._lost_by(error)
                refusal.__cause__ = error
            if loop.time() - started > self._patience_s:
                raise refusal
            await asyncio.sleep(asked_s + pause)
            pause = min(2 * pause, 5.0)

    def _lost_by(self, error: BaseException) -> AggregatorRefuses:
        """What a request's failure is, in words. Raises: WrongAuthority, CertificateRefused."""
        shown = self._proxy.shown if self._proxy else ""
        if self._proxy is not None and isinstance(error, httpx.ProxyError | SOCKSError):
            words = str(error) if isinstance(error, httpx.ProxyError) else "it does not speak SOCKS 5"
            reason, remedy = proxy_trouble(words, shown)
            return AggregatorRefuses(reason=reason, remedy=remedy)
        check_certificate(error, proxy=shown)
        return AggregatorRefuses(reason=why(error, shown))

    async def _once(self, method: str, path: str, body: bytes, limit: int) -> tuple[int, bytes, float]:
        """Status, body, and the seconds that the aggregator asks to wait."""
        request = self._client.build_request(method, path, content=body)
        target = request.url.raw_path.decode("ascii")
        request.headers.update(sign_request(self._identity, method, target, body).headers())
        async with asyncio.timeout(time_for(body)), closing_lines(request):
            response = await self._client.send(request, stream=True)
        try:
            answer = Collected(response.headers, limit if response.is_success else PROBLEM_BYTES)
            with suppress(httpx.StreamConsumed):
                async for piece in response.aiter_raw():
                    answer.add(piece)
            return response.status_code, answer.data, seconds_to_wait(response.headers.get("retry-after"))
        finally:
            await response.aclose()


def enrol_once(
    address: str, authority: Path, identity: Identity, token: str, *, proxy: str, file: str
) -> None:
    """Use a one-time token, from a command. Args: as of :class:`UpstreamLine`. Raises: AggregatorRefuses."""

    async def show() -> None:
        line = UpstreamLine(address, authority, identity, patience_s=ENROL_S, proxy=proxy, file=file)
        try:
            await line.enrol(token)
        finally:
            await line.close()

    asyncio.run(show())


def _path(key: AttemptKey) -> str:
    return f"/v1/plans/{key.plan}/rounds/{key.round}/attempts/{key.attempt}/relayed"
