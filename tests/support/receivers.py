"""Receivers of notices: a web server and a mail server over TLS that keep what they are told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregator.access.tls import make_certificates


def tls_in(folder: Path, *names: str) -> ssl.SSLContext:
    """A server's side, with a certificate for localhost (and more); ``ca.pem`` beside it vouches."""
    if not folder.exists():
        make_certificates(folder, ("localhost", "127.0.0.1", *names))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """``serve`` takes one connection after the other; the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopping = threading.Event()

        def accept() -> None:
            while True:
                line, _ = server.accept()
                with line:
                    if stopping.is_set():
                        return
                    line.settimeout(20)
                    with contextlib.suppress(OSError, ValueError):
                        serve(line)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        port = int(server.getsockname()[1])
        try:
            yield port
        finally:
            stopping.set()
            socket.create_connection(("127.0.0.1", port), 10).close()
            thread.join(10)


@dataclass
class Hook:
    """A web server that takes POSTs."""

    tls: ssl.SSLContext | None = None
    """Without it in the clear."""
    answer: str = "204 No Content"
    more: str = ""
    """Further headers of its answers."""
    taken: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers by lower case name, body."""

    def serve(self, line: socket.socket) -> None:
        shown = line if self.tls is None else self.tls.wrap_socket(line, server_side=True)
        with shown as opened, opened.makefile("rb") as file:
            path = file.readline().decode().split(" ")[1]
            headers: dict[str, str] = {}
            while text := file.readline().decode().strip():
                name, _, value = text.partition(":")
                headers[name.lower()] = value.strip()
            body = file.read(int(headers["content-length"]))
            self.taken.append((path, headers, body))
            head = f"HTTP/1.1 {self.answer}\r\nContent-Length: 0\r\nConnection: close\r\n{self.more}\r\n"
            opened.sendall(head.encode())


@dataclass
class Post:
    """A mail server that takes e-mails after STARTTLS, or over TLS from the start."""

    tls: ssl.SSLContext
    offers: str = "STARTTLS"
    at_once: bool = False
    taken: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    """Commands that came in the clear."""

    def serve(self, line: socket.socket) -> None:
        opened: Any = self.tls.wrap_socket(line, server_side=True) if self.at_once else line
        secret = self.at_once
        file = opened.makefile("rb")
        opened.sendall(b"220 here\r\n")
        while text := file.readline():
            word = text[:4].upper()
            if not secret:
                self.heard.append(text)
            if word == b"EHLO":
                offers = "AUTH PLAIN" if secret else self.offers
                opened.sendall(f"250-here\r\n250 {offers}\r\n".encode() if offers else b"250 here\r\n")
            elif word == b"STAR":
                opened.sendall(b"220 go on\r\n")
                opened = self.tls.wrap_socket(opened, server_side=True)
                file, secret = opened.makefile("rb"), True
            elif word == b"AUTH":
                opened.sendall(b"235 welcome\r\n")
            elif word == b"DATA":
                opened.sendall(b"354 go on\r\n")
                lines = []
                while (one := file.readline()) != b".\r\n":
                    lines.append(one)
                self.taken.append(b"".join(lines))
                opened.sendall(b"250 taken\r\n")
            elif word == b"QUIT":
                opened.sendall(b"221 bye\r\n")
                break
            else:
                opened.sendall(b"250 yes\r\n")
        if isinstance(opened, ssl.SSLSocket):
            opened.close()
