"""A line straight to a server: TCP and TLS by asyncio itself, below the HTTP library.

The library's own way, by another library on top of asyncio, hands a large answer on record by record (16 KiB)
at some 100 µs each: fetching a sum took more time than checking it. Here what has come is handed on together.
A line through a proxy goes the library's way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from select import POLLIN, poll
from typing import Any

import httpcore2 as httpcore
import httpx2 as httpx

MOST_READ = 2**18
"""Bytes that lie ready before the other side has to wait; as many again may be on their way."""
SECOND_ADDRESS_S = 0.25
"""Where a name stands for several addresses, the next is tried beside the first after so long (RFC 8305)."""
Option = Any
"""What ``socket.setsockopt`` takes, as a tuple."""


def straight(context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    """Connections that take nothing from the environment and know no proxy."""
    return _Straight(context)


class _Straight(httpx.AsyncHTTPTransport):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_Asyncio(),
        )


class _Asyncio(httpcore.AsyncNetworkBackend):
    """Opens lines."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Option] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises: ConnectTimeout, ConnectError."""
        local = None if local_address is None else (local_address, 0)
        with _named(httpcore.ConnectTimeout, httpcore.ConnectError):
            async with asyncio.timeout(timeout):
                transport, end = await asyncio.get_running_loop().create_connection(
                    _End, host, port, local_addr=local, happy_eyeballs_delay=SECOND_ADDRESS_S
                )
        for option in socket_options or ():
            transport.get_extra_info("socket").setsockopt(*option)
        return _Line(transport, end)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class _End(asyncio.Protocol):
    """This side's end of a line: what has come and was not read yet."""

    def __init__(self) -> None:
        self.ready: deque[bytes] = deque()
        self.size = 0
        self.over = False
        """Nothing more will come."""
        self.fault: Exception | None = None
        self.transport: asyncio.Transport | None = None
        self._stopped = False
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        """There while the other side does not take what is sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.ready.append(data)
        self.size += len(data)
        if self.size > MOST_READ and not self._stopped and self.transport is not None:
            self._stopped = True
            self.transport.pause_reading()
        _wake(self._news)

    def eof_received(self) -> None:
        self.over = True
        _wake(self._news)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over, self.fault = True, exc
        _wake(self._news)
        _wake(self._room)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._room)
        self._room = None

    async def news(self) -> None:
        """Until something has come, or nothing will."""
        while not self.ready and not self.over:
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    async def room(self) -> None:
        """Until the other side takes more. Raises: OSError if there is no other side any more."""
        if self._room is not None and not self.over:
            await self._room
        if self.over and self.fault is not None:
            raise self.fault

    def take(self, most: int) -> bytes:
        """What lies ready; empty if nothing does."""
        if not self.ready:
            return b""
        first = self.ready.popleft()
        if len(first) > most:
            self.ready.appendleft(first[most:])
            first = first[:most]
        self.size -= len(first)
        if self._stopped and self.size <= MOST_READ // 2 and not self.over and self.transport is not None:
            self._stopped = False
            self.transport.resume_reading()
        return first


class _Line(httpcore.AsyncNetworkStream):
    """A line to a server, with or without TLS; one reader and one writer at a time."""

    def __init__(self, transport: asyncio.Transport, end: _End) -> None:
        self._transport, self._end = transport, end

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come; empty at the end. Raises: ReadTimeout, ReadError."""
        end = self._end
        if not end.ready:
            with _named(httpcore.ReadTimeout, httpcore.ReadError):
                async with asyncio.timeout(timeout):
                    await end.news()
                if not end.ready and end.fault is not None:
                    raise end.fault
        return end.take(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Raises: WriteTimeout, WriteError."""
        if not buffer:
            return
        with _named(httpcore.WriteTimeout, httpcore.WriteError):
            if self._transport.is_closing():
                raise self._end.fault or ConnectionResetError("the line has ended")
            self._transport.write(buffer)
            async with asyncio.timeout(timeout):
                await self._end.room()

    async def aclose(self) -> None:
        """End the line at once: nobody waits for what is still on its way."""
        self._transport.abort()
        await asyncio.sleep(0)  # it is closed in the loop's next round

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Go on in TLS. Raises: ConnectTimeout, ConnectError; the line is closed then."""
        end = _End()
        try:
            with _named(httpcore.ConnectTimeout, httpcore.ConnectError):
                async with asyncio.timeout(timeout):
                    secure = await asyncio.get_running_loop().start_tls(
                        self._transport, end, ssl_context, server_hostname=server_hostname
                    )
        except BaseException:
            self._transport.abort()
            raise
        assert secure is not None
        end.transport = secure
        return _Line(secure, end)

    def get_extra_info(self, info: str) -> Any:
        """What the library asks for; None for anything else."""
        if info == "is_readable":  # something unasked for, or the end: such a line is used no more
            return bool(self._end.ready) or self._end.over or _is_readable(self._transport)
        names = {"client_addr": "sockname", "server_addr": "peername", "ssl_object": "ssl_object"}
        return self._transport.get_extra_info(names.get(info, info))


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _is_readable(transport: asyncio.Transport) -> bool:
    """Whether the loop has something still to read."""
    socket = transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return True
    look = poll()
    look.register(socket.fileno(), POLLIN)
    return bool(look.poll(0))


@contextmanager
def _named(late: type[Exception], broken: type[Exception]) -> Iterator[None]:
    """Whatever is wrong with the line, as the library calls it; TLS's errors are among the system's."""
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except OSError as error:
        raise broken(str(error)) from error
