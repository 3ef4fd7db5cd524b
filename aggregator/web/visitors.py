"""People at a browser: whose session a request shows, and how one begins and ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import Request

from aggregator.access.oidc.flow import LABEL
from aggregator.access.sessions import COOKIE, ForgedForm, SignInFirst, begun, hashed, new_cookie
from aggregator.settings import Settings
from aggregator.storage.editions import Remembered
from aggregator.storage.sessions import LocalAdmin, Session
from aggregator.storage.store import Store
from aggregator.web.guesses import Guesses
from aggregator.work.threads import Lookups
from medveil.log import get_logger

EVERY_S = 60.0
"""How seldom it is written down that somebody is still there."""
LONGEST_COOKIE = 200
log = get_logger()


class Visitors:
    """Everybody who has signed in, by the cookie of their browser.

    Args:
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        lookups: Lookups,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.sessions, self.clock, self.settings = store.sessions, clock, settings
        self._store, self._lookups = store, lookups
        self.flow_key = store.transactions.signer.secret_for(LABEL).reveal()
        """The same in every process of the consortium."""
        marks = store.transactions.signer.secret_for("known browsers").reveal()
        self.guesses = Guesses(marks, clock=lambda: self.clock())
        self._known = Remembered[Session](self.sessions.edition)
        self._origins = _origins_of(settings)

    async def session(self, request: Request, *, acts: bool = True) -> Session:
        """The open session of this browser.

        Args:
            acts: whether a person did something; what a page does by itself keeps nobody signed in.
        Raises: SignInFirst, StorageFailed.
        """
        cookie = request.cookies.get(COOKIE, "")
        if not cookie or len(cookie) > LONGEST_COOKIE:
            raise SignInFirst()
        found, now = await self._found(hashed(cookie)), self.clock()
        if found is None or not found.is_open(now, self.settings.sign_in.idle_s):
            raise SignInFirst()
        if acts and now - found.used >= min(EVERY_S, self.settings.sign_in.idle_s / 4):
            await self._lookups.ask(lambda: self.sessions.use(found.hash, name=found.name, now=now))
        return found

    async def begin(
        self,
        request: Request,
        *,
        name: str,
        role: str,
        shown: str,
        way: str,
        link: str = "",
        code: tuple[str, int] | None = None,
    ) -> tuple[str, Session]:
        """Sign somebody in; whatever this browser showed before ends.

        Args:
            link, code: as :meth:`Sessions.sign_in` takes them.
        Returns: the new cookie and its session. Raises: UsedUp, PersonRevoked, StorageFailed.
        """
        cookie, before = new_cookie(), request.cookies.get(COOKIE, "")
        session = begun(
            cookie,
            name=name,
            role=role,
            shown=shown,
            way=way,
            now=self.clock(),
            life_s=self.settings.sign_in.life_s,
        )
        replaces = hashed(before) if before and len(before) <= LONGEST_COOKIE else ""
        await self._lookups.ask(
            lambda: self.sessions.sign_in(session, replaces=replaces, link=link, code=code)
        )
        log.info("signed.in", kind=way)
        return cookie, session

    async def end(self, session: Session) -> None:
        """Sign somebody out."""
        await self._lookups.ask(
            lambda: self.sessions.sign_out(session.hash, name=session.name, now=self.clock())
        )
        log.info("signed.out", kind=session.way)

    async def local_admin(self, name: str) -> LocalAdmin | None:
        """An admin who needs no provider, and may sign in."""
        found = await self._lookups.ask(self.sessions.local_admins)
        return next((one for one in found if one.name == name and one.ended is None), None)

    async def has_local_admins(self) -> bool:
        """Whether there is one."""
        return any(one.ended is None for one in await self._lookups.ask(self.sessions.local_admins))

    async def is_researcher(self, name: str) -> bool:
        """Whether somebody of this name reads what is granted to them."""
        return name in await self._lookups.ask(self._store.register.researchers)

    def close(self) -> None:
        """Finish the work in hand and stop."""
        self.guesses.close()

    def check_origin(self, request: Request) -> None:
        """Whether a form was sent by a page of ours. Raises: ForgedForm.

        What the browser says of where a form comes from must be an address of this aggregator: the one that
        hospitals know, or a name in its certificate. The Host header is not asked: a front may change it.
        """
        origin, site = request.headers.get("origin", ""), request.headers.get("sec-fetch-site", "same-origin")
        if origin.lower() not in self._origins or site != "same-origin":
            raise ForgedForm()

    async def _found(self, name: str) -> Session | None:
        """As the database has it; what was read is used again as long as nothing of it can have changed."""
        remembered = self._known.get(name)
        if remembered is not None:
            return remembered
        found, edition = await self._lookups.ask(lambda: self.sessions.find_as_of(name))
        self._known.keep(name, found, edition)
        return found


def _origins_of(settings: Settings) -> frozenset[str]:
    """As a browser writes them: without the usual port."""
    addresses = [settings.url]
    addresses += [
        f"https://{f'[{name}]' if ':' in name else name}:{settings.port}" for name in settings.names
    ]
    found = set()
    for address in addresses:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port not in (None, 443) else ""
        host = parts.hostname or ""
        found.add(f"https://{f'[{host}]' if ':' in host else host}{port}".lower())
    return frozenset(found)
