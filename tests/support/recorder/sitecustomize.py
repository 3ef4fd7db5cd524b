"""Imported by every Python process whose path holds this folder: writes down what a node sends.

Each request goes to the file that ``MEDVEIL_RECORD`` names: its line, headers and body, before TLS.
"""

import os
import sys

FILE = os.environ.get("MEDVEIL_RECORD")

if FILE and "node" in sys.orig_argv:
    import httpx2

    sent = httpx2.AsyncHTTPTransport.handle_async_request

    async def recorded(self: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
        """The ordinary request, with a pen beside it."""
        body = await request.aread()
        told = f"\n{request.method} {request.url}\n".encode()
        told += b"".join(name + b": " + value + b"\n" for name, value in request.headers.raw)
        with open(FILE, "ab") as file:
            file.write(told + b"\n" + body + b"\n")
        return await sent(self, request)

    httpx2.AsyncHTTPTransport.handle_async_request = recorded
