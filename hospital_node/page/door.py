"""Who may see the page: one-time links, the password, sessions, and seals on forms.

Everything is in this process's memory: whoever stops the page has signed everybody out.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hospital_node.page.errors import ForgedForm, SignedOut, TooManyTries, UsedLink, WrongPassword
from medveil.errors import Error

IDLE_S, LIFE_S = 15 * 60.0, 8 * 3600.0
"""A session ends so long after the last thing that its person did, and so long after its beginning."""
MOST_SESSIONS = 20
TRIES, WITHIN_S = 5, 60.0
"""So many wrong passwords within this time, from wherever: then none is looked at until the time is over."""


def boot_clock() -> float:
    """Seconds that also pass while the machine sleeps, whatever is done to the time of day."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@dataclass
class Session:
    """One browser that is signed in."""

    secret: bytes = field(repr=False)
    born: float
    used: float
    notices: list[str] = field(default_factory=list)
    """What was just done, to be shown once: keys of the catalogue."""
    refused: Error | None = None
    """What was just refused, to be shown once."""

    def seal(self, action: str) -> str:
        """What a form of this session carries that is sent to ``action``."""
        return hmac.digest(self.secret, action.encode(), "sha256").hex()

    def check_seal(self, action: str, shown: str) -> None:
        """Raises: ForgedForm."""
        if not hmac.compare_digest(self.seal(action).encode(), shown.encode()):
            raise ForgedForm()


class Door:
    """Lets people in.

    Args:
        is_right: whether a text is the password.
        clock: seconds; only differences count.
    """

    def __init__(self, is_right: Callable[[str], bool], clock: Callable[[], float] = boot_clock) -> None:
        self._is_right, self._clock = is_right, clock
        self._links: set[bytes] = set()
        self._sessions: dict[bytes, Session] = {}
        self._wrong: deque[float] = deque(maxlen=TRIES)

    def new_link(self) -> str:
        """A key that opens once; the one before opens nothing any more."""
        key = secrets.token_urlsafe(32)
        self._links = {_hashed(key)}
        return key

    def enter(self, key: str) -> str:
        """Use a link. Returns: what the browser keeps as its cookie. Raises: UsedLink."""
        if _hashed(key) not in self._links:
            raise UsedLink()
        self._links.clear()
        return self._begin()

    def sign_in(self, typed: str) -> str:
        """Take a password. Returns: as :meth:`enter`. Raises: TooManyTries, WrongPassword."""
        now = self._clock()
        if len(self._wrong) == TRIES and now - self._wrong[0] < WITHIN_S:
            raise TooManyTries(wait_s=round(WITHIN_S - (now - self._wrong[0])) or 1)
        self._wrong.append(now)  # before the work, so that guesses at once cannot race past it
        if not self._is_right(typed):
            raise WrongPassword()
        self._wrong.clear()
        return self._begin()

    def session(self, cookie: str, *, acts: bool = True) -> Session:
        """Whose browser this is.

        Args:
            acts: whether a person did something; what a page does by itself keeps nobody signed in.
        Raises: SignedOut.
        """
        name, now = _hashed(cookie), self._clock()
        found = self._sessions.get(name)
        if found is None:
            raise SignedOut()
        if now - found.used >= IDLE_S or now - found.born >= LIFE_S:
            del self._sessions[name]
            raise SignedOut()
        if acts:
            found.used = now
        return found

    def sign_out(self, cookie: str) -> None:
        """Forget a browser."""
        self._sessions.pop(_hashed(cookie), None)

    def _begin(self) -> str:
        now, cookie = self._clock(), secrets.token_urlsafe(32)
        while len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda one: self._sessions[one].used)]
        self._sessions[_hashed(cookie)] = Session(secrets.token_bytes(32), now, now)
        return cookie


def _hashed(text: str) -> bytes:
    """Keys are looked up by their hash: how long that takes tells nothing of a key."""
    return hashlib.sha256(text.encode()).digest()
