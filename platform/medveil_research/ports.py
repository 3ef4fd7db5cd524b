"""Ports of this machine for servers that must be told theirs before they listen."""

from __future__ import annotations

import secrets
import socket

BELOW = range(20_000, 32_000)
"""The system gives nobody a port of these who asks for any, nor to a connection that goes out."""


def free_port() -> int:
    """A port at which nobody listens now, and that nobody has by chance before its server starts."""
    while True:
        port = secrets.choice(BELOW)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
