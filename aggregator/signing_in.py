"""What the admin does about people who sign in to the pages, as functions that return values."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field

from aggregator.access import breakglass
from aggregator.access.oidc.provider import ProviderLine, redirect_of
from aggregator.access.sessions import ADMIN, LINK_S, hashed
from aggregator.admin import check_newcomer, opened
from aggregator.settings import Settings
from aggregator.storage.sessions import LocalAdmin, Session
from aggregator.ways_in import Provider
from medveil.errors import Error


@dataclass(frozen=True)
class Link:
    """An address that signs the admin in, once."""

    address: str = field(repr=False)
    seconds: float


def new_link(settings: Settings) -> Link:
    """Make one. Of its secret a hash is kept. Raises: what opening the store raises."""
    key = secrets.token_urlsafe(32)
    with opened(settings) as store:
        store.sessions.add_link(hashed(key), name=ADMIN, expires=time.time() + LINK_S)
    return Link(f"{settings.url}/signin/link/{key}", LINK_S)


def open_sessions(settings: Settings) -> list[Session]:
    """Who is signed in now, the newest first."""
    with opened(settings) as store:
        now = time.time()
        return [one for one in store.sessions.all() if one.is_open(now, settings.sign_in.idle_s)]


def end_sessions(settings: Settings, which: str) -> int:
    """Sign out one session, or a person, or everybody if nothing is named.

    Args:
        which: a session's id or a person's name.
    Returns: how many have ended. Raises: NoSuchSession.
    """
    with opened(settings) as store:
        now = time.time()
        return store.sessions.end(which, now=now) if which else store.sessions.end_all(now=now)


@dataclass(frozen=True)
class NewAdmin:
    """An admin who needs no provider, before it is kept."""

    name: str
    password: str = field(repr=False)
    key: bytes = field(repr=False)
    address: str = field(repr=False)
    """What an authenticator program takes."""

    @property
    def typed_key(self) -> str:
        """The key of the codes in groups of four, as people type it."""
        text = breakglass.typed_key(self.key)
        return " ".join(text[i : i + 4] for i in range(0, len(text), 4))

    def shows(self, code: str) -> bool:
        """Whether this is a code of its key at this moment."""
        try:
            breakglass.step_of(self.key, code, time.time())
        except breakglass.WrongPassword:
            return False
        return True


def new_admin(settings: Settings, name: str, password: str = "") -> NewAdmin:
    """Password and key of an admin to be.

    Args:
        password: one is made if left out.
    Raises: BadOption.
    """
    check_newcomer(name)
    key = breakglass.new_key()
    address = breakglass.address_of(key, name, settings.title)
    return NewAdmin(name, password or breakglass.new_password(), key, address)


def keep_admin(settings: Settings, admin: NewAdmin, *, code: str = "", again: bool = False) -> None:
    """Let somebody sign in from now on.

    Args:
        code: of their program, which proves that it has the key; it counts as used. Not looked at if empty.
        again: there is such an admin; the password and key so far open nothing any more.
    Raises: WrongPassword for a wrong code; AlreadyThere; NoSuchSession if there is none to be made again.
    """
    now = time.time()
    step = breakglass.step_of(admin.key, code, now) if code else 0
    kept = LocalAdmin(admin.name, breakglass.sealed(admin.key, admin.password), step, now)
    with opened(settings) as store:
        if again:
            store.sessions.change_local_admin(kept, now=now)
        else:
            store.sessions.add_local_admin(kept)


@dataclass(frozen=True)
class ProviderLook:
    """A provider as it answers now."""

    provider: Provider
    redirect: str
    """What is to be registered there."""
    problem: Error | None


def look_at_providers(settings: Settings) -> list[ProviderLook]:
    """Ask every provider of the settings what it says of itself, and read the secret files."""
    found = []
    for one in settings.sign_in.providers:
        redirect, problem = redirect_of(settings.url, one), None
        try:
            one.secret(settings.folder)
            asyncio.run(ProviderLine(one, settings.folder, redirect).look())
        except Error as error:
            problem = error
        found.append(ProviderLook(one, redirect, problem))
    return found
