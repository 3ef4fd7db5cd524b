"""A small OpenID provider over TLS: it lets everybody in, and lies where a test tells it to.

It follows OpenID Connect Core in what it checks: the redirect address, PKCE, the client's secret, and that a
code is used once. The real thing (npm's oidc-provider) is in ``openid_npm.py``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from joserfc.jws import JWSRegistry

from aggregator.access.tls import make_certificates

CLIENT, SECRET = "medveil", "a secret with + and % and /"
Claims = dict[str, Any]
ANNA = {"sub": "u-1", "name": "Anna", "groups": ["medveil-admins"]}
RSA = RSAKey.generate_key(2048, {"kid": "first", "use": "sig"}, private=True)
"""Made once: it takes a while."""


def as_it_is(value: Any) -> Any:
    """No lie."""
    return value


@dataclass
class OpenId:
    """The provider. Fields may be changed while it runs."""

    folder: Path
    port: int = 0
    person: Claims = field(
        default_factory=lambda: {"sub": "u-1", "name": "Anna", "groups": ["medveil-admins"]}
    )
    keys: list[Any] = field(default_factory=lambda: [RSA])
    signer: Any = None
    """Another key than the first of those that it publishes."""
    algorithm: str = "RS256"
    alter: Callable[[Claims], Claims] = as_it_is
    """Of the ID token's claims."""
    header: Callable[[dict[str, Any]], dict[str, Any]] = as_it_is
    token: Callable[[str], str] = as_it_is
    metadata: Callable[[Claims], Claims] = as_it_is
    userinfo: Claims = field(default_factory=dict)
    status: int = 200
    """Of metadata, keys and tokens."""
    with_iss: bool = True
    asked: list[str] = field(default_factory=list)
    """Paths, in order."""
    codes: dict[str, Claims] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.port}/realm"

    @property
    def settings(self) -> dict[str, Any]:
        """As ``aggregator.json`` names it."""
        return {
            "name": "sso",
            "title": "Test Hospital",
            "issuer": self.issuer,
            "client_id": CLIENT,
            "secret_file": "sso.secret",
            "authority": str(self.folder / "ca.pem"),
            "rules": [
                {"claim": "groups", "value": "medveil-admins", "role": "admin"},
                {"claim": "groups", "value": "medveil-auditors", "role": "auditor"},
                {"claim": "realm_access.roles", "value": "reader", "role": "researcher", "name": "reader"},
                {"claim": "email", "value": "ben@example.org", "role": "auditor"},
            ],
        }

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        self.keys, self.algorithm = [new_key(f"key-{time.monotonic_ns()}")], "ES256"

    # ---- what it answers -----------------------------------------------------------------------------------

    def described(self) -> Claims:
        at = self.issuer
        return self.metadata(
            {
                "issuer": at,
                "authorization_endpoint": f"{at}/authorize",
                "token_endpoint": f"{at}/token",
                "jwks_uri": f"{at}/keys",
                "userinfo_endpoint": f"{at}/me",
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "id_token_signing_alg_values_supported": ["RS256", "ES256"],
                "authorization_response_iss_parameter_supported": self.with_iss,
            }
        )

    def authorize(self, query: Claims) -> str:
        """Where the browser is sent back to: this provider asks nobody anything."""
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert query["client_id"] == CLIENT
        code = secrets.token_urlsafe(24)
        self.codes[code] = dict(query)
        told = {"code": code, "state": query["state"]} | ({"iss": self.issuer} if self.with_iss else {})
        return f"{query['redirect_uri']}?{urlencode(told)}"

    def exchange(self, form: Claims, authorization: str) -> tuple[int, Claims]:
        """A code for tokens, once."""
        name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if (unquote(name), unquote(secret)) != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        asked = self.codes.get(form["code"])
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        fits = asked is not None and (
            _base64(challenge) == asked["code_challenge"] and form["redirect_uri"] == asked["redirect_uri"]
        )
        if asked is None or not fits or form["code"] in self.used:
            return 400, {"error": "invalid_grant"}
        self.used.add(form["code"])
        access, now = secrets.token_urlsafe(24), int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": asked["nonce"]}
        claims |= {"at_hash": half_hash(access)} | self.person
        return 200, {
            "access_token": access,
            "token_type": "Bearer",
            "id_token": self.signed(self.alter(claims)),
        }

    def signed(self, claims: Claims) -> str:
        """An ID token."""
        key = self.signer or self.keys[0]
        header = self.header({"alg": self.algorithm, "kid": key.kid})
        if header["alg"] in ("none", "HS256"):  # the libraries refuse to, so by hand
            parts = [json.dumps(one).encode() for one in (header, claims)]
            body = ".".join(_base64(part) for part in parts)
            shared = key.as_pem(private=False) if header.get("pem") else SECRET.encode()
            mac = hmac.digest(shared, body.encode(), "sha256") if header["alg"] == "HS256" else b""
            return self.token(f"{body}.{_base64(mac)}")
        return self.token(jwt.encode(header, claims, key, registry=JWSRegistry(algorithms=[self.algorithm])))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def new_key(name: str) -> Any:
    """A key of this id."""
    return ECKey.generate_key("P-256", {"kid": name}, private=True)


def half_hash(access: str) -> str:
    """``at_hash`` of a token, for signatures with SHA-256."""
    return _base64(hashlib.sha256(access.encode()).digest()[:16])


@contextmanager
def provider(folder: Path) -> Iterator[OpenId]:
    """One that runs until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    make_certificates(folder, ("localhost", "127.0.0.1"))
    told = OpenId(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(told))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    told.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(told: OpenId) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            told.asked.append(parts.path)
            path = parts.path.removeprefix("/realm")
            if path == "/.well-known/openid-configuration":
                self._say(told.status, told.described())
            elif path == "/keys":
                self._say(told.status, KeySet(told.keys).as_dict(private=False))
            elif path == "/me":
                self._say(200, told.userinfo)
            elif path == "/authorize":
                self.send_response(303)
                self.send_header("Location", told.authorize(dict(parse_qsl(parts.query))))
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._say(404, {})

        def do_POST(self) -> None:
            told.asked.append(self.path)
            form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            if told.status != 200:
                self._say(told.status, {})
                return
            self._say(*told.exchange(form, self.headers.get("Authorization", "Basic Og==")))

        def _say(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
