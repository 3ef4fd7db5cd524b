"""Guesses at a local admin's password: slow for whoever guesses, and no stranger can keep an admin out.

A browser that has signed in before keeps a mark, and has a share of its own ("device cookies", OWASP).
Everybody else shares by address, and all strangers together have one more share: behind a front all have one
address. A stranger who uses that up keeps other new browsers waiting, and no browser that is known. Whoever
has the machine needs no password (``medveil aggregator page``).
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aggregator.access import breakglass
from aggregator.errors import Overloaded, TooManyRequests
from aggregator.storage.sessions import LocalAdmin
from aggregator.web.limits import MOST_ADDRESSES, Bucket, network_of
from aggregator.work.threads import in_thread

MARK_COOKIE = "__Host-medveil-known"
MARK_S = 400 * 24 * 3600
OWN_RATE, OWN_BURST = 1 / 20, 5
"""Guesses of one known browser, or of one address, per second; so many at once."""
ALL_RATE, ALL_BURST = 1 / 2, 20
"""Guesses of all strangers together."""
QUEUE = 4
_MARK_BYTES = 16


class Guesses:
    """Counts and carries out guesses, one at a time.

    Args:
        key: for marks; the same in every process of the consortium.
        clock: Unix seconds, for codes. ticks: seconds, for shares.
    """

    def __init__(
        self,
        key: bytes,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key, self._clock, self._ticks = key, clock, ticks
        self._shares: OrderedDict[str, Bucket] = OrderedDict()
        self._strangers = Bucket(ALL_RATE, ALL_BURST)
        self._waiting = {True: 0, False: 0}
        self._threads = {known: ThreadPoolExecutor(1, "argon2") for known in (True, False)}
        """Strangers wait behind strangers only."""

    async def take(
        self, admin: LocalAdmin | None, password: str, code: str, *, mark: str, address: str
    ) -> int:
        """Look at a guess.

        Args:
            admin: of the name that was typed; None if there is none.
            mark: what the browser shows as known. address: where it is.
        Returns: the time step of the code. Raises: WrongPassword, TooManyRequests, Overloaded.
        """
        known = self.knows(mark)
        self._charge(f"mark {mark}" if known else f"at {network_of(address)}", known=known)
        if self._waiting[known] >= QUEUE:
            raise Overloaded()
        self._waiting[known] += 1
        kept = breakglass.of_nobody() if admin is None or admin.ended is not None else admin.kept
        try:
            key = await in_thread(self._threads[known], lambda: breakglass.opened(kept, password))
        finally:
            self._waiting[known] -= 1
        return breakglass.step_of(key, code, self._clock())

    def new_mark(self) -> str:
        """For a browser that has signed in."""
        name = secrets.token_hex(_MARK_BYTES)
        return f"{name}.{self._proof(name)}"

    def knows(self, mark: str) -> bool:
        """Whether it is one of ours."""
        name, _, proof = mark.partition(".")
        shown = proof.encode("utf-8", "replace")
        return len(mark) <= 200 and hmac.compare_digest(self._proof(name).encode(), shown)

    def close(self) -> None:
        """Finish the work in hand and stop."""
        for thread in self._threads.values():
            thread.shutdown()

    def _proof(self, name: str) -> str:
        return hmac.digest(self._key, name.encode("utf-8", "replace"), "sha256").hex()

    def _charge(self, whose: str, *, known: bool) -> None:
        """Count a guess before it is looked at: guesses at once cannot race past. Raises: TooManyRequests."""
        bucket = self._shares.pop(whose, None) or Bucket(OWN_RATE, OWN_BURST)
        self._shares[whose] = bucket
        if len(self._shares) > MOST_ADDRESSES:
            self._shares.popitem(last=False)
        now = self._ticks()
        wait = bucket.take(now) or (0.0 if known else self._strangers.take(now))
        if wait:
            raise TooManyRequests(retry_after_s=wait)
