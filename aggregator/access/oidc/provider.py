"""Speaks with one OpenID provider: its metadata, its keys, its tokens."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from aggregator.access.oidc.answers import Answer, UnknownKey, claims_of
from aggregator.access.oidc.errors import Denied, ProviderAway, Unproven
from aggregator.access.oidc.flow import Flow
from aggregator.ways_in import Provider
from medveil.errors import Error
from medveil.outgoing import FAILURES, closing_lines, open_client, pinned
from medveil.reachability import proxy_to, refused_certificate, why
from medveil.shown import plain

KNOWN_S = 3_600.0
"""How long metadata and keys are used before they are fetched again."""
AGAIN_S = 30.0
"""Keys are fetched again for a signature of an unknown key, at most this often."""
REST_S = 5.0
"""So long a provider that is away is not asked again: whoever knocks meanwhile need not wait for it."""
PATIENCE_S = 15.0
"""For one request with its answer."""
MOST_BYTES = 262_144
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
WELL_KNOWN = "/.well-known/openid-configuration"


def redirect_of(address: str, provider: Provider) -> str:
    """Where a provider sends browsers back to: an address for each, so no answer passes for another's."""
    return f"{address.rstrip('/')}/signin/back/{provider.name}"


class ProviderLine:
    """One provider, as this process knows it.

    Args:
        folder: of the aggregator, for the files that the settings name.
        redirect: where the provider sends browsers back to.
        clock: Unix seconds.
    """

    def __init__(
        self, provider: Provider, folder: Path, redirect: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.provider, self.redirect = provider, redirect
        self._folder, self._clock = folder, clock
        self._metadata: tuple[float, Mapping[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._away: tuple[float, str] | None = None
        self._one = asyncio.Lock()

    async def question(self, flow: Flow) -> str:
        """The address to which a browser goes to sign in. Raises: ProviderAway, Unproven."""
        metadata = await self.metadata()
        address: str = prepare_grant_uri(
            metadata["authorization_endpoint"],
            self.provider.client_id,
            "code",
            redirect_uri=self.redirect,
            scope=" ".join(self.provider.scopes),
            state=flow.state,
            nonce=flow.nonce,
            code_challenge=create_s256_code_challenge(flow.verifier),
            code_challenge_method="S256",
        )
        return address

    async def answer(self, flow: Flow, told: Mapping[str, str]) -> Mapping[str, Any]:
        """The claims of whoever the provider has sent back with this query.

        Raises: Denied, ProviderAway, Unproven, BadFile.
        """
        metadata = await self.metadata()
        named = told.get("iss")
        if named != self.provider.issuer and (
            named is not None or metadata.get("authorization_response_iss_parameter_supported") is True
        ):
            raise Unproven(provider=self.provider.title, problem="another service has answered")  # RFC 9207
        if "error" in told or not told.get("code"):
            reason = plain(told.get("error", "no code"), 40)
            raise Denied(provider=self.provider.title, reason=reason)
        answer = await self._tokens(metadata, flow, told["code"])
        claims = await self._checked(answer, flow)
        if self.provider.claims_from == "userinfo":
            more = await self._userinfo(metadata, answer)
            if more.get("sub") != claims["sub"]:
                raise Unproven(provider=self.provider.title, problem="it tells of somebody else")
            claims = {**more, **claims}
        return claims

    async def leaving(self, back: str) -> str | None:
        """Where a browser goes to sign out at the provider as well; None if it names no page for that.

        No ID token goes with it, for none is kept: the provider asks the person whether that is meant.

        Args:
            back: where the provider sends the browser then, if that is registered there.
        Raises: ProviderAway, Unproven.
        Source: OpenID Connect RP-Initiated Logout 1.0.
        """
        address = (await self.metadata()).get("end_session_endpoint")
        if not isinstance(address, str) or urlsplit(address).scheme != "https":
            return None
        asked = urlencode({"client_id": self.provider.client_id, "post_logout_redirect_uri": back})
        return f"{address}{'&' if urlsplit(address).query else '?'}{asked}"

    async def look(self) -> None:
        """Whether it could be signed in with. Raises: ProviderAway, Unproven."""
        await self._key_set()

    async def metadata(self) -> Mapping[str, Any]:
        """What the provider says of itself. Raises: ProviderAway, Unproven."""
        async with self._one:
            if self._metadata is None or self._clock() - self._metadata[0] >= KNOWN_S:
                if self._away is not None and 0 <= self._clock() - self._away[0] < REST_S:
                    raise ProviderAway(provider=self.provider.title, reason=self._away[1])
                try:
                    found = await self._json(self.provider.issuer.rstrip("/") + WELL_KNOWN)
                except ProviderAway as error:
                    self._away = (self._clock(), error.values["reason"])
                    raise
                self._check(found)
                self._metadata = (self._clock(), found)
            return self._metadata[1]

    def _check(self, metadata: Mapping[str, Any]) -> None:
        if metadata.get("issuer") != self.provider.issuer:
            raise Unproven(
                provider=self.provider.title,
                problem="it calls itself by another address than 'issuer' in aggregator.json",
            )
        wanted = ENDPOINTS + (("userinfo_endpoint",) if self.provider.claims_from == "userinfo" else ())
        for name in wanted:
            address = metadata.get(name)
            if not isinstance(address, str) or urlsplit(address).scheme != "https":
                raise Unproven(provider=self.provider.title, problem=f"its {name} is no https address")

    async def _checked(self, answer: Answer, flow: Flow) -> Mapping[str, Any]:
        now = self._clock()
        try:
            return claims_of(answer, self.provider, await self._key_set(), nonce=flow.nonce, now=now)
        except UnknownKey:
            pass
        try:
            keys = await self._key_set(again=True)
            return claims_of(answer, self.provider, keys, nonce=flow.nonce, now=now)
        except UnknownKey as error:
            raise Unproven(
                provider=self.provider.title, problem="its signature is not the service's"
            ) from error

    async def _key_set(self, *, again: bool = False) -> KeySet:
        metadata = await self.metadata()
        async with self._one:
            age = self._clock() - self._keys[0] if self._keys else KNOWN_S
            if self._keys is None or age >= KNOWN_S or (again and age >= AGAIN_S):
                found = await self._json(metadata["jwks_uri"])
                try:
                    keys = KeySet.import_key_set(
                        {"keys": [one for one in found["keys"] if one.get("use", "sig") == "sig"]}
                    )
                except (JoseError, KeyError, TypeError, ValueError, AttributeError) as error:
                    raise Unproven(provider=self.provider.title, problem="its keys are none") from error
                self._keys = (self._clock(), keys)
            return self._keys[1]

    async def _tokens(self, metadata: Mapping[str, Any], flow: Flow, code: str) -> Answer:
        provider, secret = self.provider, self.provider.secret(self._folder)
        body = {"code": code, "code_verifier": flow.verifier}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        ways = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if not secret:
            body["client_id"] = provider.client_id
        elif "client_secret_basic" in ways or "client_secret_post" not in ways:
            both = f"{quote(provider.client_id, safe='')}:{quote(secret, safe='')}"  # RFC 6749, 2.3.1
            headers["Authorization"] = "Basic " + base64.b64encode(both.encode()).decode()
        else:
            body |= {"client_id": provider.client_id, "client_secret": secret}
        form = prepare_token_request("authorization_code", redirect_uri=self.redirect, **body)
        found = await self._json(metadata["token_endpoint"], form=form, headers=headers)
        if "error" in found:
            raise Denied(provider=provider.title, reason=plain(found["error"], 40))
        tokens = found.get("id_token"), found.get("access_token", "")
        if not all(isinstance(one, str) for one in tokens):
            raise Unproven(provider=provider.title, problem="it holds no ID token")
        return Answer(*tokens)  # type: ignore[arg-type]

    async def _userinfo(self, metadata: Mapping[str, Any], answer: Answer) -> Mapping[str, Any]:
        headers = {"Authorization": f"Bearer {answer.access_token}"}
        return await self._json(metadata["userinfo_endpoint"], headers=headers)

    async def _json(
        self, address: str, *, form: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, Any]:
        """One request to the provider, over TLS, without redirects; never more than so many bytes.

        Raises: ProviderAway, Unproven.
        """
        proxy = None
        try:
            proxy = proxy_to(address, self.provider.proxy, file="aggregator.json")
            async with (
                asyncio.timeout(PATIENCE_S),
                open_client(address, self._tls(), proxy) as client,
            ):
                request = client.build_request(
                    "GET" if form is None else "POST",
                    address,
                    content=form,
                    headers={"Accept": "application/json", **(headers or {})},
                )
                data = b""
                async with closing_lines(request):
                    answer = await client.send(request, stream=True)
                    async for piece in answer.aiter_raw():
                        data += piece
                        if len(data) > MOST_BYTES:
                            raise Unproven(provider=self.provider.title, problem="it is too long")
        except FAILURES as error:
            reason = why(error, proxy.shown if proxy else "")
            if proxy is not None and type(error).__name__ == "ProxyError":
                reason = f"the proxy '{proxy.shown}' does not let it through ({plain(error, 60)})"
            if (refused := refused_certificate(error)) is not None:
                reason = f"its certificate is not accepted ({refused.verify_message})"
            raise ProviderAway(provider=self.provider.title, reason=reason) from error
        if answer.status_code >= 500 or (form is None and answer.status_code != 200):
            reason = f"it answers with status {answer.status_code}"
            raise ProviderAway(provider=self.provider.title, reason=reason)
        try:
            found = json.loads(data)
            if not isinstance(found, dict):
                raise ValueError
        except (ValueError, RecursionError) as error:
            raise Unproven(provider=self.provider.title, problem="it is no JSON object") from error
        return found

    def _tls(self) -> ssl.SSLContext:
        """Raises: ProviderAway if the authority's file cannot be used."""
        try:
            if self.provider.authority:
                return pinned(self._folder / self.provider.authority)
        except Error as error:
            raise ProviderAway(provider=self.provider.title, reason=error.what.rstrip(".")) from error
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context
