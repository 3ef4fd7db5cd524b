"""The node's one connection: outgoing HTTPS to its aggregator, every request signed, retried when lost."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import httpx2 as httpx

from hospital_node import live
from hospital_node.connecting import check_shown, lost_by
from hospital_node.limits import Pace
from hospital_node.line import AggregatorProblem, Message, Unreachable, decoded
from hospital_node.transmissions.record import Leaving, SentRecord
from medveil.answers import (
    PROBLEM_BYTES,
    AnswerTooLarge,
    Collected,
    EncodedAnswer,
    problem_in,
    time_for,
)
from medveil.errors import BadFile
from medveil.identity import Body, Identity, sign_request
from medveil.log import get_logger
from medveil.messages import (
    MAX_MESSAGE_BYTES,
    Approval,
    Enrol,
    PlanOffers,
    Refusal,
    Work,
    enrolment_path,
    seconds_to_wait,
)
from medveil.outgoing import FAILURES, closing_lines, open_client, pinned
from medveil.reachability import proxy_to
from medveil.relaying import Held, RelayIdentity
from medveil.rounds import AttemptKey
from privacy.oprf.messages import MAX_ANSWER_BYTES
from privacy.secagg.messages import Certificates, Published

GIVE_UP_S = 90.0
PLAN, REFUSAL = re.compile(r"/v1/plans/([0-9a-f]{64})/"), "/refusal"
BUSY = (429, 502, 503, 504)
CLIENT_PAIR = "client.pem"
"""Beside the pinned authority: the client certificate and its key, where the aggregator asks for them."""
log = get_logger()


class Transport:
    """Signed requests to one aggregator. A retry signs a new request around identical bytes.

    Args:
        authority: the only one that may have signed the aggregator's certificate (PEM).
        patience_s: how long a lost request is tried again.
        proxy: as :func:`medveil.reachability.proxy_to` takes it; the environment's if empty.
    Raises: BadProxy.
    """

    def __init__(
        self,
        address: str,
        authority: Path,
        identity: Identity,
        *,
        patience_s: float = GIVE_UP_S,
        proxy: str = "",
    ) -> None:
        self.proxy = proxy_to(address, proxy)
        context = pinned(authority)
        self._context, self._pair, self._loaded = context, authority.with_name(CLIENT_PAIR), 0
        self._identity, self._patience_s = identity, patience_s
        self.sent = SentRecord(authority.parent, identity, to=address, authority=authority)
        """What leaves is in it before the first byte does."""
        self.ledger_end: Callable[[], str] = str
        """Where this hospital's ledger ends, in the form of :class:`medveil.messages.LedgerEnd`; empty if
        there is nothing to tell. It goes with polls and messages whenever it has changed."""
        self.check_plan: Callable[[str], None] = lambda plan: None
        """Called with a plan before anything is sent for it, also again after a lost line; it may raise. Only
        the word that this hospital takes no part is sent without it."""
        self.word_known: Callable[[str], int] = lambda plan: 0
        """The time (ms) of the admin's word on a plan that this node knows: a later one comes along."""
        self.pace = Pace()
        """How fast large bodies go out."""
        self._end_told, self._lost = "", False
        self._address = address
        self._client = open_client(address, context, self.proxy)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
        self.sent.close()

    async def enrol(self, token: str) -> None:
        """Use a one-time token. Raises: AggregatorProblem, Unreachable."""
        path, body = enrolment_path(self._identity.public_key), Enrol(token=token).to_bytes()
        await self._send("POST", path, body, limit=PROBLEM_BYTES)

    async def certificate(self, request: bytes) -> bytes:
        """A client certificate (PEM) for a PKCS #10 request."""
        return await self._send("POST", "/v1/certificate", request, limit=PROBLEM_BYTES)

    async def offers(self) -> PlanOffers:
        """The plans whose roster names this hospital."""
        return await self._message(PlanOffers, "GET", "/v1/plans?words=1")

    async def approve(self, plan: str, signature: bytes) -> None:
        """Hand in this hospital's approval."""
        body = Approval(signature=signature).to_bytes()
        await self._send("POST", f"/v1/plans/{plan}/approval", body, limit=PROBLEM_BYTES)

    async def refuse(self, plan: str, told: Refusal) -> None:
        """Hand in this hospital's word that it takes no part."""
        await self._send("POST", f"/v1/plans/{plan}{REFUSAL}", told.to_bytes(), limit=PROBLEM_BYTES)

    async def work(
        self,
        plan: str,
        *,
        seen: str,
        wait_s: float,
        sitting_out: AttemptKey | None = None,
        away: bool = False,
    ) -> Work:
        """What to do next; waits for news at the aggregator."""
        path = f"/v1/plans/{plan}/work?seen={quote(seen, safe='')}&wait_s={wait_s:g}"
        if sitting_out is not None:
            path += f"&sitting_out={sitting_out.round}.{sitting_out.attempt}"
        path += "&away=1" if away else ""
        return await self._work("GET", path)

    async def _work(self, method: str, path: str, body: bytes = b"") -> Work:
        """What to do next, from an answer to a request that tells where the ledger ends."""
        if (about := PLAN.match(path)) is not None:
            path += f"&word={self.word_known(about[1])}"
        end = self.ledger_end()
        if end and end != self._end_told:
            path += f"&ledger={end}"
        answer = await self._message(Work, method, path, body)
        self._end_told = end or self._end_told
        return answer

    async def model(self, plan: str, model: str, *, limit: int) -> bytes:
        """A global model as safetensors, of at most ``limit`` bytes."""
        return await self._send("GET", f"/v1/plans/{plan}/models/{model}", limit=limit)

    async def proof(self, plan: str, version: int) -> Published:
        """Where a model version comes from. Raises: AggregatorProblem, BadMessage, Unreachable."""
        return await self._message(Published, "GET", f"/v1/plans/{plan}/versions/{version}/proof")

    async def certificates(self, plan: str, number: int) -> Certificates:
        """A round's abort certificates. Raises: AggregatorProblem, BadMessage, Unreachable."""
        return await self._message(Certificates, "GET", f"/v1/plans/{plan}/rounds/{number}/certificates")

    async def sum(self, plan: str, version: int, *, limit: int) -> bytes:
        """The sum a model version was made of: 64-bit words, little-endian, at most ``limit`` bytes."""
        return await self._send("GET", f"/v1/plans/{plan}/versions/{version}/sum", limit=limit)

    async def letter(self, keeper: str, body: bytes) -> bytes:
        """A keeper's answer. Raises: AggregatorProblem, Unreachable."""
        return await self._send("POST", f"/v1/keepers/{keeper}/letters", body, limit=MAX_ANSWER_BYTES)

    async def message(self, key: AttemptKey, kind: str, body: bytes, *, wait_s: float) -> Work:
        """Hand in a protocol message; what to do next, as :meth:`work` would tell it to its sender."""
        return await self._work("POST", f"{_path(key)}/{kind}?wait_s={wait_s:g}", body)

    async def segment(self, key: AttemptKey, segment: int, data: Body, *, digest: bytes) -> None:
        """One segment of a masked vector, and its SHA-256. It is not looked at once this has returned."""
        await self._send("PUT", f"{_path(key)}/segments/{segment}", data, limit=PROBLEM_BYTES, digest=digest)

    async def relay(self) -> RelayIdentity:
        """Who answers there, if it is a relay. Raises: AggregatorProblem, BadMessage, Unreachable."""
        return await self._message(RelayIdentity, "GET", "/v1/relay")

    async def hold(self, key: AttemptKey, body: bytes, *, wait_s: float) -> Held:
        """Hand a relay the word for a masked vector; whether the aggregator has it."""
        return await self._message(Held, "POST", f"{_path(key)}/upload?wait_s={wait_s:g}", body)

    async def _message(self, kind: type[Message], method: str, path: str, body: bytes = b"") -> Message:
        """An answer that is a message. Raises: BadMessage, what :meth:`_send` raises."""
        data = await self._send(method, path, body, limit=MAX_MESSAGE_BYTES)
        return await decoded(kind, data)

    async def _send(
        self, method: str, path: str, body: Body = b"", *, limit: int, digest: bytes | None = None
    ) -> bytes:
        """What the aggregator answers, at most ``limit`` bytes.

        Raises: AggregatorProblem, AnswerTooLarge, EncodedAnswer, Unreachable, ProxyRefused,
            WrongAuthority, CertificateRefused; NotRecorded, and then nothing has left.
        """
        self._check_plan(path)
        with self.sent.leaving(method, path, body, digest) as leaving:
            return await self._sent(leaving, method, path, body, digest, limit)

    async def _sent(
        self, leaving: Leaving, method: str, path: str, body: Body, digest: bytes | None, limit: int
    ) -> bytes:
        loop = asyncio.get_running_loop()
        started, pause = loop.time(), 0.25
        while True:
            if leaving.tries:
                self._check_plan(path)  # once more: a lost line may have taken a while
            leaving.tries += 1
            try:
                answer = await self._once(method, path, body, digest, limit)
                if self._lost:
                    log.info("aggregator.reached")
                self._lost = False
                live.note_connected(True)
                return answer
            except (*FAILURES, _Busy) as error:
                busy = error if isinstance(error, _Busy) else None
                lost = Unreachable(reason=str(busy)) if busy else lost_by(error, self.proxy)
                if loop.time() - started > self._patience_s:
                    await check_shown(error, self._address, self.proxy)
                    raise lost from error
                log.info("aggregator.unreachable", reason=lost.reason)
                self._lost = True
                live.note_connected(False)
                live.note_problem(lost)
                asked_s = busy.wait_s if busy else 0.0
            await asyncio.sleep(asked_s + pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 10.0)

    def _check_plan(self, path: str) -> None:
        if (about := PLAN.match(path)) is not None and not path.endswith(REFUSAL):
            self.check_plan(about[1])

    def _load_certificate(self) -> None:
        """Show the client certificate, if there is one, on every connection that opens from now on."""
        try:
            changed = self._pair.stat().st_mtime_ns
        except FileNotFoundError:
            return  # what was loaded before is shown until there is another one
        if changed != self._loaded:
            try:
                self._context.load_cert_chain(self._pair)
            except OSError as error:
                raise BadFile(name=CLIENT_PAIR, problem="it holds no certificate with its key") from error
            self._loaded = changed

    async def _once(self, method: str, path: str, body: Body, digest: bytes | None, limit: int) -> bytes:
        self._load_certificate()
        size = {"content-length": str(len(body))} if body else {}
        url = self._address.rstrip("/") + path  # whole: the library takes a part of one to pieces three times
        request = self._client.build_request(method, url, content=self.pace.body(body), headers=size)
        target = request.url.raw_path.decode("ascii")
        proof = sign_request(self._identity, method, target, body, digest=digest)
        request.headers.update(proof.headers())
        async with asyncio.timeout(time_for(body)), closing_lines(request):
            response = await self._client.send(request, stream=True)
        try:
            if response.is_success:
                return await _collected(response, limit)
            with suppress(AnswerTooLarge, EncodedAnswer):
                told = problem_in(await _collected(response, PROBLEM_BYTES))
                raise _refusal(response, told)  # also of a redirect: a log-in page is no acknowledgement
            raise _refusal(response, {})
        finally:
            await response.aclose()


class _Busy(Exception):
    """The aggregator (or a proxy before it) asks to come back later, not before ``wait_s``."""

    def __init__(self, status: int, wait_s: float) -> None:
        super().__init__(f"it asks to come back later ({status})")
        self.wait_s = wait_s


async def _collected(response: httpx.Response, limit: int) -> bytes:
    """The answer's body as it came over the line. Raises: AnswerTooLarge, EncodedAnswer, TimeoutError."""
    answer = Collected(response.headers, limit)
    async for piece in response.aiter_raw():
        answer.add(piece)
    return answer.data


def _path(key: AttemptKey) -> str:
    return f"/v1/plans/{key.plan}/rounds/{key.round}/attempts/{key.attempt}"


def _refusal(response: httpx.Response, told: dict[str, str]) -> Exception:
    status = response.status_code
    if status in BUSY:
        return _Busy(status, seconds_to_wait(response.headers.get("retry-after")))
    return AggregatorProblem(
        status=status,
        code=told.get("code", "aggregator-error"),
        title=told.get("title", f"The aggregator answered {status}."),
        detail=told.get("detail", ""),
        remedy=told.get("remedy", ""),
    )
