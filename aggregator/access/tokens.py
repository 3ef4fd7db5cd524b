"""API tokens of people: made once, kept as an argon2id hash, checked without becoming a burden.

A token is 32 random bytes, so no cost of hashing makes it safer; argon2id is there for the day when the
database is stolen together with a weak random generator. What matters more is that nobody can make the
aggregator spend its time on it: a token is looked up by its id, a good one is remembered for a minute as a
keyed hash, wrong guesses at one id are counted, and one thread with a short queue does the hashing.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import argon2

from aggregator.errors import Overloaded, TooManyRequests
from aggregator.storage.register import ApiToken, Role
from aggregator.work.threads import in_thread
from medveil.errors import RemoteProtocolError

HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
"""OWASP's least cost for argon2id: 19 MiB, two passes."""
FORM = re.compile(r"mvp_([0-9a-f]{16})_([0-9a-f]{64})")
REMEMBER_S, WRONG_S = 60.0, 60.0
WRONG, QUEUE = 10, 8


class BadToken(RemoteProtocolError):
    """An API token that opens nothing; it does not say why."""

    code = "bad-token"

    def __init__(self) -> None:
        super().__init__(
            what="The API token is wrong, expired or revoked.",
            meaning="The request was not looked at.",
            remedy="Ask the consortium's admin for a new one: medveil aggregator people add NAME.",
        )


def make_token(name: str, role: Role, *, now: float, expires: float) -> tuple[str, ApiToken]:
    """A new token: the text to hand over, which is kept nowhere, and what to store."""
    token_id, secret = secrets.token_hex(8), secrets.token_bytes(32)
    kept = ApiToken(token_id, name, role.value, HASHER.hash(secret), now, expires)
    return f"mvp_{token_id}_{secret.hex()}", kept


class TokenCheck:
    """Checks tokens against the register.

    Args:
        find: the stored token of an id, read afresh, so that a revocation counts at once.
    """

    def __init__(
        self, find: Callable[[str], Awaitable[ApiToken | None]], clock: Callable[[], float] = time.time
    ) -> None:
        self._find, self._clock = find, clock
        self._key = secrets.token_bytes(32)
        self._good: dict[str, tuple[bytes, float]] = {}
        self._wrong: dict[str, tuple[int, float]] = {}
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "argon2")

    async def check(self, authorization: str) -> ApiToken:
        """The token that an ``Authorization`` header holds.

        Raises: BadToken; TooManyRequests after many wrong guesses at one token; Overloaded.
        """
        kind, _, text = authorization.partition(" ")
        parts = FORM.fullmatch(text) if kind.lower() == "bearer" else None
        if parts is None:
            raise BadToken()
        token, now = await self._find(parts[1]), self._clock()
        if token is None or token.revoked is not None or token.expires <= now:
            raise BadToken()
        hashed = hmac.digest(self._key, text.encode(), "sha256")
        known, until = self._good.get(token.id, (b"", 0.0))
        if not (hmac.compare_digest(hashed, known) and now < until):
            await self._hash(token, bytes.fromhex(parts[2]), now)
            self._good[token.id] = (hashed, now + REMEMBER_S)
        return token

    async def _hash(self, token: ApiToken, secret: bytes, now: float) -> None:
        wrong, since = self._wrong.get(token.id, (0, now))
        if now - since >= WRONG_S:
            wrong, since = 0, now
        if wrong >= WRONG:
            raise TooManyRequests(retry_after_s=since + WRONG_S - now)
        if self._waiting >= QUEUE:
            raise Overloaded()
        self._wrong[token.id] = (wrong + 1, since)  # counted before the work, so guesses cannot race past it
        self._waiting += 1
        try:
            await in_thread(self._thread, lambda: HASHER.verify(token.hash, secret))
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError) as error:
            raise BadToken() from error
        finally:
            self._waiting -= 1
        self._wrong[token.id] = (wrong, since)

    def close(self) -> None:
        """Finish the work in hand and stop."""
        self._thread.shutdown()
