"""What a provider says of somebody, checked: OpenID Connect Core 1.0, sections 3.1.3.7 and 3.1.3.8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import KeySet

from aggregator.access.oidc.errors import Unproven
from aggregator.ways_in import Provider

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Signatures by a key that only the provider has: never ``none``, never a secret that we share with it."""
CLOCKS_S = 60
"""How far the provider's clock may be from ours."""
LONGEST = 65_536
_PROBLEMS = {
    "iss": "another issuer has signed it",
    "aud": "it was made for another application",
    "azp": "it was made for another application",
    "exp": "it has expired",
    "iat": "it comes from the future",
    "nbf": "it comes from the future",
    "nonce": "it answers another question than this browser's",
    "at_hash": "it does not belong to the access token beside it",
    "sub": "it names nobody",
}


class UnknownKey(Exception):
    """No key of the provider that is known here has made this signature: it may have a new one."""


@dataclass(frozen=True)
class Answer:
    """What a provider's token endpoint gave."""

    id_token: str
    access_token: str


def claims_of(
    answer: Answer, provider: Provider, keys: KeySet, *, nonce: str, now: float
) -> Mapping[str, Any]:
    """The claims of an ID token.

    Guarantees: signed by one of these keys with one of :data:`ALGORITHMS`, by this issuer, for this client,
        not expired, in answer to this nonce; ``at_hash``, where it is there, is that of the access token.
    Raises: UnknownKey; Unproven.
    """
    if len(answer.id_token) > LONGEST:
        raise Unproven(provider=provider.title, problem="it is too long")
    try:
        token = jwt.decode(answer.id_token, keys, algorithms=list(ALGORITHMS))
    except (JoseError, ValueError, TypeError) as error:
        if _kid_is_new(answer.id_token, keys):
            raise UnknownKey() from error
        raise Unproven(provider=provider.title, problem="its signature is not the service's") from error
    claims = CodeIDToken(
        token.claims,
        token.header,
        options={
            "iss": {"essential": True, "value": provider.issuer},
            "aud": {"essential": True, "value": provider.client_id},
            "sub": {"essential": True},
        },
        params={
            "nonce": nonce,
            "client_id": provider.client_id,
            "access_token": answer.access_token,
        },
    )
    try:
        claims.validate(now=int(now), leeway=CLOCKS_S)
    except (JoseError, ValueError, TypeError, AttributeError) as error:
        raise Unproven(provider=provider.title, problem=_problem(error)) from error
    if not isinstance(claims["sub"], str) or not claims["sub"]:
        raise Unproven(provider=provider.title, problem=_PROBLEMS["sub"])
    return dict(claims)


def _problem(error: Exception) -> str:
    if isinstance(error, ExpiredTokenError):
        return _PROBLEMS["exp"]
    claim = str(getattr(error, "claim", ""))
    return _PROBLEMS.get(claim, "a claim is missing or is not what it must be")


def _kid_is_new(id_token: str, keys: KeySet) -> bool:
    from joserfc.jws import extract_compact

    try:
        kid = extract_compact(id_token.encode()).headers().get("kid")
    except (JoseError, ValueError, TypeError):
        return False
    return kid is not None and kid not in {key.kid for key in keys.keys}
