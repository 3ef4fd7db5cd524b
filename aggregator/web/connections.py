"""The server's connections: uvicorn with deadlines for slow peers, which it does not have itself.

A peer that takes too long over its headers, its body or our answer is cut at an exact deadline. What is no
HTTP is answered with a problem document. Source: uvicorn 0.54.0, ``protocols/http/h11_impl.py``.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from aggregator.access.tls import ask_for_certificates, make_nodes_authority, names_in
from aggregator.errors import Overloaded
from aggregator.settings import Limits, Settings
from aggregator.web.callers import CERTIFICATE
from aggregator.web.problems import HeadTooLarge, MalformedRequest, TooSlow, problem
from medveil.errors import Error
from medveil.freed import BETWEEN_ROUNDS, keep_freed
from medveil.log import get_logger

log = get_logger()
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: a fresh key for each connection and encryption that authenticates itself, nothing older."""
COLLECT_AFTER = (20_000, 20, 50)
"""Python looks for unreachable cycles this seldom. A thousand connections are many objects and no garbage,
and at Python's own pace every few polls pay for looking through them all."""
SWITCH_S = 0.001
"""How long another thread may go on when the event loop has something to do; Python's own 5 ms pass with each
answer while one reads templates, messages or rows."""


class CannotListen(Error):
    """The address of the aggregator is taken, or is none of this machine's."""

    code = "cannot-listen"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator cannot listen on the address in aggregator.json: {reason}.",
            meaning="It was not started. Another program may have the port, perhaps a second aggregator.",
            remedy="Stop the other program, or correct 'host' and 'port' in aggregator.json.",
        )


class _WholeAnswers(h11.Connection):
    """The head of an answer waits for the first piece of its body: one write, not two, for a small answer."""

    _head = b""

    # h11 returns None for the end of a connection; that, too, is nothing to be sent.
    def send(self, event: h11.Event) -> bytes:  # type: ignore[override]
        data = super().send(event) or b""
        if isinstance(event, h11.Response):
            self._head = data
            return b""
        whole, self._head = self._head + data, b""
        return whole


class Connection(H11Protocol):
    """One connection with deadlines. ``limits`` and ``cut`` are set by :func:`connections_with`."""

    limits: Limits
    cut: Callable[[str], None]

    _timer: asyncio.TimerHandle | None = None
    _waits_for: tuple[str, Any] = ("", None)
    _since = 0.0
    _received = 0
    _reading: asyncio.TimerHandle | None = None
    _unread = 0
    _refused = False

    # ---- what asyncio calls --------------------------------------------------------------------------------

    def __init__(self, config: uvicorn.Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.conn = _WholeAnswers(h11.SERVER, self.conn._max_incomplete_event_size)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        names = names_in(transport.get_extra_info("peercert"))
        self.app_state = {**self.app_state, CERTIFICATE: names}  # uvicorn copies it into every scope
        if len(self.connections) > self.limits.connections:
            self._refuse(Overloaded(), "too-many")
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        self._received += len(data)
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._reading):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self.limits.stall_s, self._check_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()

    # ---- what uvicorn calls --------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self._end("slow-reader")
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        fault = sys.exc_info()[1]  # uvicorn calls this inside its except block
        large = getattr(fault, "error_status_hint", 400) == 431
        error = HeadTooLarge(limit=self.limits.header_bytes) if large else MalformedRequest()
        self._refuse(error, error.code)

    def _unsupported_upgrade_warning(self) -> None:
        """No line in the log for something that anybody can send."""

    # ---- deadlines -----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have one timer for what the peer owes us at the moment."""
        waits_for = self._owed()
        if waits_for == self._waits_for:
            return
        self._waits_for = waits_for
        self._since, self._received = self.loop.time(), 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        allowed = {"head": self.limits.head_s, "body": self.limits.stall_s, "rest": self.limits.linger_s}
        if waits_for[0] and not (self._refused or self.transport.is_closing()):
            self._timer = self.loop.call_later(allowed[waits_for[0]], self._overdue)

    def _owed(self) -> tuple[str, Any]:
        """What the peer is to send next, and in which request."""
        if self.conn.their_state is h11.SEND_BODY:
            answered = self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)
            return ("rest" if answered else "body", self.cycle)
        begun = self.cycle is None or bool(self.conn.trailing_data[0])
        return ("head", self.cycle) if self.conn.their_state is h11.IDLE and begun else ("", None)

    def _overdue(self) -> None:
        what, now = self._waits_for[0], self.loop.time()
        if what == "body":
            if self.flow.read_paused:  # it is we who do not read
                self._since, self._received = now, 0
            end = self._since + self.limits.stall_s + self._received / self.limits.bytes_per_s
            if now < end:
                self._timer = self.loop.call_at(end, self._overdue)
                return
        if what == "rest":
            self._end("unwanted-body")
        elif self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(TooSlow(), f"slow-{what}")
        else:
            self._end(f"slow-{what}")

    def _check_reader(self) -> None:
        """The reader of our answer must take ``bytes_per_s``, or half of what lies ready if that is less."""
        left = self.transport.get_write_buffer_size()
        if self._unread - left < min(self.limits.bytes_per_s * self.limits.stall_s, self._unread / 2):
            self._end("slow-reader")
            return
        self._unread = left
        self._reading = self.loop.call_later(self.limits.stall_s, self._check_reader)

    # ---- ends ----------------------------------------------------------------------------------------------

    def _refuse(self, error: Error, reason: str) -> None:
        """Answer with a problem document and close, whatever the peer is doing.

        What it still sends is thrown away for a moment: closing at once could take our answer from it.
        """
        type(self).cut(reason)
        self._refused = True
        answer = problem(error)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        status = answer.status_code
        try:
            head = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer is on its way already
            self.transport.abort()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self.limits.linger_s, self.transport.abort)

    def _end(self, reason: str) -> None:
        type(self).cut(reason)
        self.transport.abort()


def connections_with(limits: Limits, cut: Callable[[str], None]) -> type[Connection]:
    """The connection class that uvicorn is given.

    Args:
        cut: called with the reason whenever a connection is cut.
    """

    class Limited(Connection):
        pass

    Limited.limits = limits
    Limited.cut = staticmethod(cut)
    return Limited


class Server(uvicorn.Server):
    """Uvicorn's server that, told to stop, answers long polls at once and leaves nobody hanging."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, grace_s: float) -> None:
        super().__init__(config)
        self._app, self._grace_s = app, grace_s

    async def startup(self, sockets: Any = None) -> None:
        """See uvicorn. Raises: CannotListen."""
        try:
            await super().startup(sockets)
        except CannotListen:
            await self.lifespan.shutdown()
            raise

    async def shutdown(self, sockets: Any = None) -> None:
        """See uvicorn. Long polls are answered first; who is still sending after the grace is cut off."""
        if self._app.state.service is not None:
            self._app.state.service.stop_waiting()
        end = asyncio.get_running_loop().call_later(self._grace_s, self._cut_off)
        await super().shutdown(sockets)
        end.cancel()

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def loop_with(limits: Limits) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes event loops whose servers cut a slow TLS handshake; uvicorn has no setting for it."""

    class Loop(asyncio.SelectorEventLoop):
        async def create_server(self, *args: Any, **options: Any) -> Any:
            if options.get("ssl") is not None:
                options["ssl_handshake_timeout"] = limits.handshake_s
                options["ssl_shutdown_timeout"] = limits.linger_s
            try:
                return await super().create_server(*args, **options)
            except OSError as error:
                number = error.errno or 0  # below 0 where a name has no address
                reason = os.strerror(number) if number > 0 else error.strerror or "no such address"
                raise CannotListen(reason=reason) from error

    return Loop


def make_server(app: FastAPI, settings: Settings, tls: Path | None) -> Server:
    """A server for the application, ready to run.

    Args:
        tls: the folder of ``server.pem`` and ``server.key``; None for plain HTTP (tests only).
    """
    limits = settings.limits
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=connections_with(limits, app.state.metrics.cut),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.header_bytes + limits.target_bytes,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=math.ceil(limits.grace_s) + 1,
        ssl_certfile=str(tls / "server.pem") if tls else None,
        ssl_keyfile=str(tls / "server.key") if tls else None,
    )
    config.load()
    if isinstance(config.ssl, ssl.SSLContext):
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        config.ssl.set_ciphers(CIPHERS)
        if settings.client_certificates and tls is not None:
            make_nodes_authority(tls)
            ask_for_certificates(config.ssl, tls)
    return Server(config, app, limits.grace_s)


def settle_down() -> None:
    """Have this process serve many at once from now on: whatever it needs is imported."""
    keep_freed(BETWEEN_ROUNDS)
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    sys.setswitchinterval(SWITCH_S)


def run(app: FastAPI, settings: Settings, tls: Path | None) -> None:
    """Serve until SIGTERM or SIGINT. Raises: CannotListen."""
    server = make_server(app, settings, tls)
    settle_down()
    with asyncio.Runner(loop_factory=loop_with(settings.limits)) as runner:
        runner.run(server.serve())
