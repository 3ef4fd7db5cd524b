"""Sessions of people at a browser: what it keeps, what is kept here, and what a form carries.

A browser keeps 32 random bytes as its cookie, and the database their hash: whoever reads the database cannot
sign in with it. A form's seal is computed from the cookie: no other browser has it, and nobody keeps it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from aggregator.storage.sessions import Session
from aggregator.ways_in import LINK
from medveil.errors import RemoteProtocolError

COOKIE = "__Host-medveil"
"""A browser takes this name over TLS only, for the whole host, and from this very host."""
LINK_S = 60.0
"""How long a link of ``medveil aggregator page`` works."""
MACHINE = LINK
"""The way in of whoever has the aggregator's machine."""
ADMIN = "admin"
"""What they are called in the log."""


class SignInFirst(RemoteProtocolError):
    """Nobody is signed in."""

    code = "sign-in-first"

    def __init__(self) -> None:
        super().__init__(
            what="Nobody is signed in here, or it was too long ago, or the access was changed.",
            meaning="Nothing was shown.",
            remedy="Sign in at /signin, or show an API token where the address ends in .json.",
        )


class ForgedForm(RemoteProtocolError):
    """A form that was not given to this browser, or that another site sends."""

    code = "forged-form"

    def __init__(self) -> None:
        super().__init__(
            what="The form was not made here for this browser.",
            meaning="It is too old, or another site has made this browser send it. Nothing was done.",
            remedy="Open the page again and fill it in there.",
        )


def new_cookie() -> str:
    """What a browser keeps."""
    return secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """What is kept here of a cookie or of a link. They are random, so no slow hash is needed."""
    return hashlib.sha256(b"medveil sign-in\0" + secret.encode("utf-8", "surrogatepass")).hexdigest()


def seal(cookie: str, action: str) -> str:
    """What a form carries that is sent to ``action`` by this browser."""
    key = hashlib.sha256(b"medveil form\0" + cookie.encode("utf-8", "surrogatepass")).digest()
    return hmac.digest(key, action.encode(), "sha256").hex()


def check_seal(cookie: str, action: str, shown: str) -> None:
    """Raises: ForgedForm."""
    if not hmac.compare_digest(seal(cookie, action).encode(), shown.encode("utf-8", "surrogatepass")):
        raise ForgedForm()


def begun(cookie: str, *, name: str, role: str, shown: str, way: str, now: float, life_s: float) -> Session:
    """The session of a new cookie."""
    return Session(hashed(cookie), name, role, shown, way, now, now + life_s, used=now)
