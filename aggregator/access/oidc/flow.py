"""What a browser carries from the question to the answer: sealed, so that nothing of it is kept here.

State, nonce and PKCE verifier are bound to this browser by its cookie, and unreadable in it. The key is
derived from the admin key, so that any process of the consortium can take the answer; strangers who begin
sign-ins cost no memory.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
from dataclasses import asdict, dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aggregator.access.oidc.errors import Strayed

COOKIE = "__Host-medveil-flow"
LABEL = "sign-in flow"
"""Of the key, as :meth:`medveil.identity.Identity.secret_for` takes it."""
TAKES_S = 600.0
"""How long signing in at a provider may take."""
LONGEST = 2_000
_NONCE = 12


@dataclass(frozen=True)
class Flow:
    """One sign-in that has begun."""

    provider: str
    back: str
    ends: float
    state: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)

    def sealed(self, key: bytes) -> str:
        """As the cookie holds it."""
        nonce = secrets.token_bytes(_NONCE)
        body = AESGCM(key).encrypt(nonce, json.dumps(asdict(self)).encode(), LABEL.encode())
        return base64.urlsafe_b64encode(nonce + body).decode()

    def check(self, *, provider: str, state: str, now: float) -> None:
        """Whether an answer belongs to it. Raises: Strayed."""
        ours = hmac.compare_digest(self.state.encode(), state.encode("utf-8", "surrogatepass"))
        if not ours or provider != self.provider or now >= self.ends:
            raise Strayed()


def opened(cookie: str, key: bytes) -> Flow:
    """What a cookie holds. Raises: Strayed."""
    try:
        if len(cookie) > LONGEST:
            raise ValueError
        sealed = base64.urlsafe_b64decode(cookie.encode("ascii"))
        return Flow(**json.loads(AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], LABEL.encode())))
    except (InvalidTag, ValueError, TypeError, binascii.Error) as error:
        raise Strayed() from error
