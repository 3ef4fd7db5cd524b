"""Waiting for what other threads and processes do: looked at again and again, and a failure in the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LIMIT_S = 60.0


async def until(true: Callable[[], bool]) -> None:
    """Let the event loop go on until this holds."""
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
