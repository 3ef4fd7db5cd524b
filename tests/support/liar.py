"""A TLS server that answers every request with the bytes that a test gives it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Answer = Callable[[], Iterable[bytes]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/cbor\r\n"


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Answer:
    """An answer with its length."""
    head = b"\r\n".join((b"HTTP/1.1 " + status, *headers, b"content-length: %d" % len(body)))
    return lambda: (head + b"\r\n\r\n" + body,)


def endless(
    head: bytes = HEAD + b"transfer-encoding: chunked\r\n\r\n", piece: bytes = bytes(65_536)
) -> Answer:
    """Chunks without end."""

    def answer() -> Iterator[bytes]:
        yield head
        while True:
            yield b"%x\r\n%s\r\n" % (len(piece), piece)

    return answer


class Liar:
    """Serves on loopback until it is closed; counts what was asked and how much was taken."""

    def __init__(self, tls: Path, answer: Answer) -> None:
        self._answer = answer
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(tls / "server.pem", tls / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.sent = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(line,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, line: socket.socket) -> None:
        line.settimeout(60)
        with contextlib.suppress(OSError), line, self._context.wrap_socket(line, server_side=True) as tls:
            while request := self._request(tls):
                self.requests.append(request)
                for piece in self._answer():
                    tls.sendall(piece)
                    self.sent += len(piece)

    @staticmethod
    def _request(tls: ssl.SSLSocket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = tls.recv(65_536)
            if not piece:
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(f.lower().split(b": ", 1) for f in head.split(b"\r\n")[1:])
        left = int(fields.get(b"content-length", b"0")) - len(body)
        while left > 0 and (piece := tls.recv(min(left, 65_536))):
            left -= len(piece)
        return head

    def close(self) -> None:
        """Listen no more and wait for what is in hand."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)


@contextlib.contextmanager
def liar(tls: Path, answer: Answer) -> Iterator[Liar]:
    """A liar that is gone at the end of the block."""
    server = Liar(tls, answer)
    try:
        yield server
    finally:
        server.close()
