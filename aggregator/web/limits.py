"""How much anybody may ask of the aggregator: size, number, speed. Nothing is buffered before it is allowed.

Three rings. :mod:`aggregator.web.connections` cuts slow and malformed connections. :class:`Gate` refuses what
its head already shows to be too much. :class:`Quotas` and :class:`aggregator.web.bodies.BodyMemory` count per
sender, once the sender's signature has been checked, so that nobody can use up somebody else's share.
:class:`Newcomers` counts per address.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aggregator.errors import TooManyRequests
from aggregator.settings import Limits
from aggregator.web.problems import (
    AmbiguousLength,
    EncodedBody,
    HeadTooLarge,
    TargetTooLong,
    known_method,
    problem,
)
from medveil.errors import Error
from medveil.log import get_logger

log = get_logger()
MOST_ADDRESSES = 4_096
"""Addresses whose refused tokens are remembered; the one that was quiet longest is forgotten first."""
LONG_TARGETS = b"/signin/back/"
LEASES = "medveil.leases"
"""Key of the ASGI scope under which a request keeps what it gives back at its end (an ``ExitStack``)."""


class Bucket:
    """It fills drop by drop at a rate, up to ``burst``; each request takes one drop."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst, self._level, self._time = rate, burst, burst, float("-inf")

    def take(self, now: float) -> float:
        """Take one if there is one: 0; otherwise the seconds until there will be."""
        if self._time > float("-inf"):
            self._level = min(self._burst, self._level + (now - self._time) * self._rate)
        self._time = now
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


@dataclass
class _Share:
    bucket: Bucket
    in_hand: int = 0


class Quotas:
    """Counts the requests of each sender. Senders are known names, so the table cannot grow without end."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._shares: dict[str, _Share] = {}

    def admit(self, name: str, leases: ExitStack) -> None:
        """Count a request of a sender that has proved to be ``name``, until the leases are given back.

        Raises: TooManyRequests.
        """
        limits = self._limits
        share = self._shares.setdefault(name, _Share(Bucket(limits.requests_per_s, limits.burst)))
        if share.in_hand >= limits.parallel:
            raise TooManyRequests(retry_after_s=1.0)
        wait = share.bucket.take(self._clock())
        if wait:
            raise TooManyRequests(retry_after_s=wait)
        share.in_hand += 1
        leases.callback(self._give_back, share)

    @property
    def in_hand(self) -> int:
        """Requests of known senders at this moment."""
        return sum(share.in_hand for share in self._shares.values())

    @staticmethod
    def _give_back(share: _Share) -> None:
        share.in_hand -= 1


class Newcomers:
    """Counts the refused enrolment tokens of each address. Who has a good token is never counted."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = limits.newcomers_per_s, clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def charge(self, address: str) -> None:
        """Count a refused token. Raises: TooManyRequests."""
        network = network_of(address)
        bucket = self._buckets.pop(network, None) or Bucket(self._rate, 4 * self._rate)
        self._buckets[network] = bucket
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        wait = bucket.take(self._clock())
        if wait:
            raise TooManyRequests(retry_after_s=wait)


def network_of(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 address: one subscriber has all of that."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)


def leases_of(request: Request) -> ExitStack:
    """What this request gives back at its end."""
    found: ExitStack = request.scope[LEASES]
    return found


Observer = Callable[[Scope, int, float], None]


class Gate:
    """ASGI middleware: refuses by the head alone, and gives back what a request held.

    Args:
        observe: called with (scope, status, seconds) at the end of each request; 0 if none was sent.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, observe: Observer) -> None:
        self._app, self._limits, self._observe = app, limits, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with ExitStack() as leases:
            scope[LEASES] = leases
            try:
                await self._handle(scope, receive, watched)
            finally:
                self._observe(scope, status, time.perf_counter() - started)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_head(scope, self._limits)
        except Error as error:
            log.info("request.refused", code=error.code, route="?", method=known_method(scope["method"]))
            await problem(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def check_head(scope: MutableMapping[str, Any], limits: Limits) -> None:
    """Look at a request's line and headers before anything of its body is read.

    Raises: TargetTooLong, HeadTooLarge, EncodedBody, AmbiguousLength.
    """
    headers = scope["headers"]
    long = scope["raw_path"].startswith(LONG_TARGETS)  # what a sign-in service sends a browser back with
    if len(scope["raw_path"]) + len(scope["query_string"]) > limits.target_bytes * (4 if long else 1):
        raise TargetTooLong(limit=limits.target_bytes)
    if len(headers) > limits.headers or sum(len(k) + len(v) + 4 for k, v in headers) > limits.header_bytes:
        raise HeadTooLarge(limit=limits.header_bytes)
    names = [k for k, _ in headers]
    encodings = {v.strip().lower() for k, v in headers if k == b"content-encoding"}
    if encodings - {b"identity"}:
        raise EncodedBody()
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        raise AmbiguousLength()
