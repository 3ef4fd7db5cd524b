"""A browser at the aggregator's pages: it keeps cookies and says where its forms come from."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlencode

import httpx2 as httpx

from aggregator.access.sessions import COOKIE, hashed
from door import Door

ORIGIN = "https://127.0.0.1:8443"
PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}


class Visitor:
    """One browser before the application of a :class:`Door`."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.cookies: dict[str, str] = {}

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Go to a page."""
        return self._send("GET", path, b"", PAGE | headers)

    def part(self, path: str) -> httpx.Response:
        """What a page's script asks for."""
        return self._send(
            "GET", path, b"", {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
        )

    def post(self, path: str, form: dict[str, str], **headers: str) -> httpx.Response:
        """Send a form of ours."""
        own = {"Content-Type": "application/x-www-form-urlencoded", "Origin": ORIGIN}
        own |= {"Sec-Fetch-Site": "same-origin"}
        return self._send("POST", path, urlencode(form).encode(), PAGE | own | headers)

    def enter(self, name: str = "admin", **seconds: float) -> httpx.Response:
        """Come in by a link of the machine."""
        key = f"key-{name}-{len(self.door.service.visitors.sessions.all())}"
        now = self.door.service.visitors.clock()
        expires = now + seconds.get("works_s", 60)
        self.door.service.visitors.sessions.add_link(hashed(key), name="admin", expires=expires)
        return self.get(f"/signin/link/{key}")

    @property
    def cookie(self) -> str:
        """What the browser keeps of its session; empty if nothing."""
        return self.cookies.get(COOKIE, "")

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        if self.cookies:
            headers = headers | {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        answer = self.door.raw(method, path, body, headers)
        for line in answer.headers.get_list("set-cookie"):
            name, value = re.match(r"([^=]+)=([^;]*)", line).groups()  # type: ignore[union-attr]
            if not value.strip('"') or "Max-Age=0" in line:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer


def ask(what: Any) -> Any:
    """Wait for a coroutine."""
    return asyncio.run(what)
