"""How people may sign in to the pages: ``sign_in`` in ``aggregator.json``."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from medveil.errors import BadFile
from medveil.handed import read_whole
from medveil.private_files import OTHERS
from medveil.shown import plain
from medveil.values import Frozen, Name

LINK, BREAK_GLASS = "link", "break-glass"
"""Ways in that need no provider; no provider may be called so."""
Text = Annotated[str, Field(min_length=1, max_length=200)]
SECRET_BYTES = 4_096


class Rule(Frozen):
    """Who may come in as what: the first rule that fits a person counts."""

    claim: Text
    """Which claim of the provider's answer; dots lead into it, as in ``realm_access.roles``."""
    value: Text
    """What it says, or holds among others."""
    role: Literal["admin", "researcher", "auditor"]
    name: str = ""
    """For a researcher: the name under which they are enrolled here; its grants count."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.role == "researcher") != bool(self.name):
            raise ValueError("a rule names somebody if its role is researcher, and nobody otherwise")
        return self

    def fits(self, claims: Mapping[str, Any]) -> bool:
        """Whether these claims are of such a person.

        An e-mail address that the provider has not verified says nothing: its owner may have typed it.
        """
        found: Any = claims.get(self.claim)
        if found is None:
            found = claims
            for part in self.claim.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
        if self.claim == "email" and claims.get("email_verified") is not True:
            return False
        return found == self.value or (isinstance(found, list) and self.value in found)


class Provider(Frozen):
    """One OpenID provider: a hospital's, a university's, the consortium's own."""

    name: Name
    """In addresses and in the log."""
    title: Annotated[str, Field(min_length=1, max_length=60)]
    """What its button says after "Sign in with"."""
    issuer: str
    """Its address, exactly as it calls itself."""
    client_id: Text
    secret_file: str = ""
    """File of mode 0600 with the client's secret, below the aggregator's folder unless it begins with ``/``;
    without one the client is public, and PKCE alone binds the code to us."""
    scopes: tuple[Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,100}$")], ...] = (
        "openid",
        "profile",
        "email",
    )
    claims_from: Literal["id-token", "userinfo"] = "id-token"
    """Where the claims of the rules stand; what ``userinfo`` tells adds to the token's and replaces none."""
    person: Text = "sub"
    """Claim that names the person in the log. One that people cannot change themselves."""
    authority: str = ""
    """File (PEM) of the authority that signs its TLS certificate; this machine's authorities without one."""
    proxy: str = ""
    """On the way to it; the environment says without one, and ``none`` is none."""
    rules: tuple[Rule, ...] = ()

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in (LINK, BREAK_GLASS):
            raise ValueError("that is the name of another way in")
        return name

    @field_validator("issuer")
    @classmethod
    def _secured(cls, issuer: str) -> str:
        parts = urlsplit(issuer)
        if (
            parts.scheme != "https"
            or not parts.hostname
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
        ):
            raise ValueError("an issuer is an address that begins with https://")
        return issuer

    @field_validator("scopes")
    @classmethod
    def _with_openid(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in scopes:
            raise ValueError("openid is missing")
        return scopes

    def secret(self, folder: Path) -> str:
        """The client's secret; empty if it has none. Raises: BadFile."""
        if not self.secret_file:
            return ""
        path, name = folder / self.secret_file, plain(Path(self.secret_file).name)
        try:
            if stat.S_IMODE(path.stat().st_mode) & OTHERS:
                raise BadFile(name=name, problem="others may read it; close it with chmod 600")
        except OSError as error:
            raise BadFile(name=name, problem=error.strerror or "it cannot be read") from error
        secret = read_whole(path, SECRET_BYTES).decode("utf-8", "replace").strip()
        if not re.fullmatch(r"[\x20-\x7e]+", secret):
            raise BadFile(name=name, problem="it holds no secret in one line")
        return secret


class SignIn(Frozen):
    """Sessions of people, and who vouches for them."""

    idle_minutes: Annotated[float, Field(gt=0, le=24 * 60)] = 30.0
    """A session ends so long after the last thing that its person did."""
    hours: Annotated[float, Field(gt=0, le=24 * 7)] = 12.0
    """And so long after its beginning."""
    providers: Annotated[tuple[Provider, ...], Field(max_length=20)] = ()

    @field_validator("providers")
    @classmethod
    def _told_apart(cls, providers: tuple[Provider, ...]) -> tuple[Provider, ...]:
        if len({one.name for one in providers}) < len(providers):
            raise ValueError("two of them have one name")
        return providers

    def provider(self, name: str) -> Provider | None:
        """The one of this name."""
        return next((one for one in self.providers if one.name == name), None)

    @property
    def idle_s(self) -> float:
        """Seconds."""
        return self.idle_minutes * 60

    @property
    def life_s(self) -> float:
        """Seconds."""
        return self.hours * 3600
