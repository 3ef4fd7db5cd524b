"""What the admin does about people who sign in to the pages, as functions that return values."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from aggregator.access.sessions import ADMIN, LINK_S, hashed
from aggregator.admin import opened
from aggregator.settings import Settings
from aggregator.storage.sessions import Session


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
