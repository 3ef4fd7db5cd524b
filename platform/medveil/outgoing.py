"""How a line out is opened: through which proxy, under which authority. Who sends goes this way.

Nothing is taken from the environment here: :func:`medveil.reachability.proxy_to` has chosen the proxy before.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from socksio import SOCKSError

from medveil.answers import ASK_PLAINLY, no_cookies
from medveil.errors import BadFile
from medveil.reachability import Proxy
from medveil.software import HEADER, own_version
from medveil.straight import straight

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
AT_PROXY = "at the proxy"
FAILURES = (httpx.TransportError, TimeoutError, SOCKSError)
"""What ends a request that did not get its answer."""


def pinned(authority: Path) -> ssl.SSLContext:
    """TLS that trusts this authority and no other. Raises: BadFile."""
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except OSError as error:  # ssl.SSLError too
        problem = "it holds no certificate (PEM)" if isinstance(error, ssl.SSLError) else error.strerror
        raise BadFile(name=authority.name, problem=problem or "it cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def open_client(address: str, context: ssl.SSLContext, proxy: Proxy | None) -> httpx.AsyncClient:
    """A client that takes nothing from the environment: the proxy was chosen before."""
    through, transport = None, straight(context) if proxy is None else None
    if proxy is not None:
        # The proxy itself, if it speaks TLS, is judged by this machine's authorities; the aggregator is not.
        own = None
        if proxy.url.startswith("https:"):
            own = ssl.create_default_context()
            own.sslobject_class = _OfTheProxy
        through = httpx.Proxy(proxy.url, ssl_context=own)
    return httpx.AsyncClient(
        base_url=address,
        verify=context,
        proxy=through,
        transport=transport,
        trust_env=False,
        timeout=TIMEOUT,
        headers=ASK_PLAINLY | {HEADER: own_version()},
        cookies=no_cookies(),
        follow_redirects=False,
    )


class _OfTheProxy(ssl.SSLObject):
    """Says of a refused certificate that it was the proxy's; the error itself does not."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            error.add_note(AT_PROXY)
            raise


async def go_straight(request: httpx.Request, *, private: bool) -> bool:
    """Let a request without a proxy go to an address that was looked at, and to no other that its name may
    stand for a moment later; TLS still asks for a certificate of the name.

    Args:
        private: whether an address of this machine or of a private network will do.
    Returns: whether it may go. Raises: TimeoutError, httpx.ConnectError if nobody knows the name.
    """
    host, addresses = request.url.host, await _addresses(request)
    if not private and not _all_public(addresses):
        return False
    request.url = request.url.copy_with(host=addresses[0])
    request.extensions = {**request.extensions, "sni_hostname": host}
    return True


async def is_public(request: httpx.Request) -> bool | None:
    """Whether the name to which a request goes stands for public addresses only; None if this machine cannot
    look it up. For a request that a proxy takes on, which looks the name up itself."""
    try:
        return _all_public(await _addresses(request))
    except httpx.ConnectError:
        return None


async def _addresses(request: httpx.Request) -> list[str]:
    """Raises: httpx.ConnectError if nobody knows the name."""
    host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpx.ConnectError(str(error), request=request) from error
    return [str(one[4][0]).partition("%")[0] for one in found]


def _all_public(addresses: Iterable[str]) -> bool:
    return all(ipaddress.ip_address(address).is_global for address in addresses)


@asynccontextmanager
async def closing_lines(request: httpx.Request) -> AsyncIterator[None]:
    """Close what a request has opened if it fails: the library leaves the line to a SOCKS proxy open."""
    opened: list[Any] = []

    async def seen(event: str, told: Any) -> None:
        if event == "socks.connect_tcp.complete":
            opened.append(told["return_value"])

    request.extensions["trace"] = seen
    try:
        yield
    except BaseException:
        for line in opened:
            await line.aclose()
        raise
