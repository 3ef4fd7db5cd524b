"""The relay's one connection outward: signed requests to its aggregator, retried when lost."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import httpx2 as httpx

from medveil.answers import (
    ASK_PLAINLY,
    PROBLEM_BYTES,
    AnswerTooLarge,
    Collected,
    EncodedAnswer,
    no_cookies,
    problem_in,
    time_for,
)
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, sign_request
from medveil.messages import MAX_MESSAGE_BYTES, Enrol, enrolment_path, seconds_to_wait
from medveil.reachability import check_certificate, why
from medveil.relaying import RelayWork
from medveil.rounds import AttemptKey
from medveil.shown import plain

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
PATIENCE_S = 20.0
"""How long a lost request is sent again. The hospitals wait meanwhile, and send themselves after it."""
BUSY = (429, 502, 503, 504)


class AggregatorRefuses(RemoteProtocolError):
    """The aggregator did not take what a relay sent, or does not answer."""

    code = "aggregator-refuses"

    def __init__(self, *, reason: str, told: str = "") -> None:
        super().__init__(
            what=f"The aggregator did not take it: {plain(reason)}.",
            meaning="The relay's hospitals send their masked vectors themselves.",
            remedy="If it lasts, look at the relay's log, its token and its address.",
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
    """Signed requests to the aggregator. A retry signs a new request around identical bytes."""

    def __init__(
        self, address: str, authority: Path, identity: Identity, *, patience_s: float = PATIENCE_S
    ) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._identity, self._patience_s = identity, patience_s
        self._client = httpx.AsyncClient(
            base_url=address,
            verify=context,
            timeout=TIMEOUT,
            headers=ASK_PLAINLY,
            cookies=no_cookies(),
            follow_redirects=False,
        )

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
            except (httpx.TransportError, TimeoutError, AnswerTooLarge, EncodedAnswer) as error:
                check_certificate(error)
                refusal = AggregatorRefuses(reason=why(error))
                refusal.__cause__ = error
            if loop.time() - started > self._patience_s:
                raise refusal
            await asyncio.sleep(asked_s + pause)
            pause = min(2 * pause, 5.0)

    async def _once(self, method: str, path: str, body: bytes, limit: int) -> tuple[int, bytes, float]:
        """Status, body, and the seconds that the aggregator asks to wait."""
        request = self._client.build_request(method, path, content=body)
        target = request.url.raw_path.decode("ascii")
        request.headers.update(sign_request(self._identity, method, target, body).headers())
        async with asyncio.timeout(time_for(body)):
            response = await self._client.send(request, stream=True)
        try:
            answer = Collected(response.headers, limit if response.is_success else PROBLEM_BYTES)
            with suppress(httpx.StreamConsumed):
                async for piece in response.aiter_raw():
                    answer.add(piece)
            return response.status_code, answer.data, seconds_to_wait(response.headers.get("retry-after"))
        finally:
            await response.aclose()


def _path(key: AttemptKey) -> str:
    return f"/v1/plans/{key.plan}/rounds/{key.round}/attempts/{key.attempt}/relayed"
