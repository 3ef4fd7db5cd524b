"""The page on loopback: its socket, its server, its link in the terminal."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from hospital_node.page.app import Page, create_app
from hospital_node.page.errors import PageAddress, PagePort
from hospital_node.settings import Node

ADDRESS = "127.0.0.1"


def check_address(host: str) -> None:
    """Raises: PageAddress unless it is the one address that the page may have."""
    try:
        fine = host == "localhost" or ipaddress.ip_address(host) == ipaddress.ip_address(ADDRESS)
    except ValueError:
        fine = False
    if not fine:
        raise PageAddress()


def listen(port: int) -> socket.socket:
    """A socket on loopback; port 0 is a free one. Raises: PagePort."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen(64)
    except (OSError, OverflowError) as error:
        listener.close()
        raise PagePort(port=port, reason=getattr(error, "strerror", None) or "it is no port") from error
    return listener


def serve(node: Node, port: int, show: Callable[[str], None]) -> None:
    """Serve the page until it is told to stop (Ctrl-C, SIGTERM).

    Args:
        show: told the first link, and the next one whenever a link was used.
    """
    with listen(port) as listener:
        page = Page(node, listener.getsockname()[1], new_link=show)
        page.events.note("started", "/")
        page.painter.warm()
        page.reader.panels()
        page.show_link()
        server_of(page).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Lets browsers that watch go before it waits for what is in hand."""

    page: Page

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self.page.stop()
        await super().shutdown(sockets)


def server_of(page: Page) -> uvicorn.Server:
    """The server of a page; give it the socket."""
    config = uvicorn.Config(
        create_app(page),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
        limit_concurrency=100,
    )
    server = _Server(config)
    server.page = page
    return server
