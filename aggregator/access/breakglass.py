"""Admins who need no provider: a password and a code that changes every half minute.

For the day on which the provider is down. What is kept of such an admin is the key of the codes, sealed with
a key that argon2id makes of the password: it opens with the right password and with no other, so there is
nothing else to compare, and a stolen database holds neither. Sources: RFC 9106 (argon2), RFC 6238 (codes).
"""

from __future__ import annotations

import base64
import hmac
import secrets
import struct
from urllib.parse import quote

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from medveil.errors import Error, RemoteProtocolError
from medveil.passwords import LONGEST, SHORTEST, weakness
from medveil.spoken import word_list

STEP_S, DIGITS, AROUND = 30, 6, 1
"""A code lasts so many seconds; one before and one after count too, for clocks that differ."""
WORDS = 6
"""Of a password that is made here: 66 bits."""
_PASSES, _KIBIBYTES, _SALT, _NONCE = 3, 65_536, 16, 12
_FORM = "v1"


class WrongPassword(RemoteProtocolError):
    """Name, password or code is wrong; it is not said which."""

    code = "wrong-password"

    def __init__(self) -> None:
        super().__init__(
            what="The name, the password or the code is wrong.",
            meaning="Nothing was shown. A code works once, and for about a minute.",
            remedy="Wait for the next code and try again. On the machine: medveil aggregator page.",
        )


class WeakPassword(Error):
    """A password that is too short, too long, or not the same twice."""

    code = "weak-password-here"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"This password was not taken: {problem}.",
            meaning="Nothing was changed.",
            remedy=f"Take {SHORTEST} to {LONGEST} characters, for instance six words of no sentence; "
            "or let it be made: --generate.",
        )


def check_new(password: str, again: str) -> None:
    """Raises: WeakPassword."""
    if problem := weakness(password, again):
        raise WeakPassword(problem=problem)


def new_password() -> str:
    """Six words that nobody has chosen."""
    return " ".join(secrets.choice(word_list()) for _ in range(WORDS))


def new_key() -> bytes:
    """A key for codes: 160 bits, as the RFC asks for."""
    return secrets.token_bytes(20)


def sealed(key: bytes, password: str) -> str:
    """What is kept of an admin."""
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    body = AESGCM(_stretched(password, salt)).encrypt(nonce, key, _FORM.encode())
    return f"{_FORM}.{base64.b64encode(salt + nonce + body).decode()}"


def opened(kept: str, password: str) -> bytes:
    """The key of the codes. Takes about a tenth of a second. Raises: WrongPassword."""
    form, _, text = kept.partition(".")
    try:
        if form != _FORM or len(password) > LONGEST:
            raise ValueError
        data = base64.b64decode(text, validate=True)
        salt, nonce, body = data[:_SALT], data[_SALT : _SALT + _NONCE], data[_SALT + _NONCE :]
        return AESGCM(_stretched(password, salt)).decrypt(nonce, body, _FORM.encode())
    except (ValueError, InvalidTag) as error:
        raise WrongPassword() from error


def of_nobody() -> str:
    """What opens with no password: looked at for a name that is none, so that it takes as long."""
    return f"{_FORM}.{base64.b64encode(secrets.token_bytes(_SALT + _NONCE + 36)).decode()}"


def code_at(key: bytes, step: int, *, digits: int = DIGITS, digest: str = "sha1") -> str:
    """The code of a time step (RFC 6238; RFC 4226, section 5.3)."""
    mac = hmac.digest(key, struct.pack(">Q", step), digest)
    offset = mac[-1] & 0x0F
    number = struct.unpack(">I", mac[offset : offset + 4])[0] & 0x7FFFFFFF
    return f"{number % 10**digits:0{digits}d}"


def step_of(key: bytes, code: str, now: float) -> int:
    """The time step whose code this is, of those that count now. Raises: WrongPassword."""
    typed, present = code.replace(" ", "").encode("utf-8", "surrogatepass"), int(now // STEP_S)
    fits = [
        step
        for step in range(present - AROUND, present + AROUND + 1)
        if hmac.compare_digest(code_at(key, step).encode(), typed)
    ]
    if not fits:
        raise WrongPassword()
    return fits[0]


def address_of(key: bytes, name: str, consortium: str) -> str:
    """What an authenticator program takes in place of a typed key."""
    label = quote(f"{consortium}:{name}")
    return f"otpauth://totp/{label}?secret={typed_key(key)}&issuer={quote(consortium)}"


def typed_key(key: bytes) -> str:
    """The key as authenticator programs let people type it."""
    return base64.b32encode(key).decode().rstrip("=")


def _stretched(password: str, salt: bytes) -> bytes:
    return hash_secret_raw(
        password.encode("utf-8", "surrogatepass"),
        salt,
        time_cost=_PASSES,
        memory_cost=_KIBIBYTES,
        parallelism=1,
        hash_len=32,
        type=Type.ID,
    )
