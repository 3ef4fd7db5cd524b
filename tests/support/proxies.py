"""Small real proxies: HTTP CONNECT and SOCKS 5, with or without a password, honest or opening TLS."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

TIMEOUT_S = 30.0
NAMES: Mapping[str, str] = {"fl.example.org": "127.0.0.1"}
"""Names that only the proxy knows: who gets through to them has gone through it."""


@dataclass
class SmallProxy:
    """A proxy on a port of this machine, one thread for each connection."""

    kind: str
    """``http``, ``https`` or ``socks5``."""
    password: str = ""
    """``USER:PASSWORD``; everybody may pass if empty."""
    refuses: str = ""
    """What it answers to every CONNECT, e.g. ``403 Forbidden``; of SOCKS the reply's number."""
    opens_as: ssl.SSLContext | None = None
    """TLS is ended here, under this certificate."""
    shows: ssl.SSLContext | None = None
    """Its own certificate, for ``https``."""
    asked: list[str] = field(default_factory=list)
    """HOST:PORT of every connection that was asked for."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"{self.kind}://127.0.0.1:{self.port}"

    @property
    def with_password(self) -> str:
        return f"{self.kind}://{self.password}@127.0.0.1:{self.port}"

    def serve(self, line: socket.socket) -> None:
        with line:
            line.settimeout(TIMEOUT_S)
            if self.shows is not None:
                with self.shows.wrap_socket(line, server_side=True) as opened:
                    self._http(opened)
                return
            target = self._http(line) if self.kind == "http" else self._socks(line)
            if target is None:
                return
            if self.opens_as is not None:
                with self.opens_as.wrap_socket(line, server_side=True) as opened:
                    opened.recv(65_536)
                    opened.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.create_connection(target, TIMEOUT_S) as further:
                there = threading.Thread(target=_pump, args=(line, further), daemon=True)
                there.start()
                _pump(further, line)
                there.join(TIMEOUT_S)

    def _target(self, host: str, port: int) -> tuple[str, int]:
        self.asked.append(f"{host}:{port}")
        return NAMES.get(host, host), port

    def _http(self, line: socket.socket) -> tuple[str, int] | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = line.recv(1)
            if not piece:
                return None
            head += piece
            if not head.isascii() or not head[:1].isalpha():
                line.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                return None
        _, place, _ = head.split(b"\r\n")[0].decode().split(" ")
        allowed = base64.b64encode(self.password.encode())
        if self.password and b"proxy-authorization: basic " + allowed.lower() not in head.lower():
            answer = "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=hospital"
        else:
            answer = self.refuses or "200 Connection established"
        line.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode())
        host, _, port = place.rpartition(":")
        target = self._target(host, int(port))
        return target if answer.startswith("200") else None

    def _socks(self, line: socket.socket) -> tuple[str, int] | None:
        if _exactly(line, 1) != b"\x05":
            return None
        methods = _exactly(line, _exactly(line, 1)[0])
        wanted = b"\x02" if self.password else b"\x00"
        if wanted not in methods:
            line.sendall(b"\x05\xff")
            return None
        line.sendall(b"\x05" + wanted)
        if self.password:
            _exactly(line, 1)
            user, secret = (_exactly(line, _exactly(line, 1)[0]).decode() for _ in range(2))
            good = f"{user}:{secret}" == self.password
            line.sendall(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                return None
        kind = _exactly(line, 4)[3]
        host = (
            _exactly(line, _exactly(line, 1)[0]).decode()
            if kind == 3
            else socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, _exactly(line, 4 * kind))
        )
        target = self._target(host, int.from_bytes(_exactly(line, 2), "big"))
        reply = bytes([int(self.refuses or "0")])
        line.sendall(b"\x05" + reply + b"\x00\x01" + bytes(6))
        return None if self.refuses else target


def _exactly(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = line.recv(size - len(data))
        if not piece:
            raise ConnectionError("ended early")
        data += piece
    return data


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def running(proxy: SmallProxy) -> Iterator[SmallProxy]:
    """The proxy, listening until the end of the block."""
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.port = int(listener.getsockname()[1])

        def serve(line: socket.socket) -> None:
            with contextlib.suppress(OSError):  # a client that goes away is no fault of the proxy
                proxy.serve(line)

        def listen() -> None:
            while True:
                line, _ = listener.accept()
                if stopping.is_set():
                    line.close()
                    return
                threads.append(threading.Thread(target=serve, args=(line,), daemon=True))
                threads[-1].start()

        stopping = threading.Event()
        listening = threading.Thread(target=listen, daemon=True)
        listening.start()
        try:
            yield proxy
        finally:
            stopping.set()
            socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT_S).close()
            listening.join(TIMEOUT_S)
            for thread in threads:
                thread.join(TIMEOUT_S)
