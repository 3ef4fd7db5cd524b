"""Who looks at a page. Every page and every JSON twin begins with one of the dependencies here.

``viewer`` is for what a person asks for, ``watcher`` for what a page loads by itself (its stream, its
parts): that keeps nobody signed in. Whoever is not signed in is sent to ``/signin`` if a browser asks for a
page, and answered 401 as a problem document otherwise. An API token or a signature opens what ends in
``.json``, and reads only (decision 15).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from starlette.requests import Request

from aggregator.access.sessions import COOKIE, SignInFirst, check_seal, seal
from aggregator.errors import NotAllowed
from aggregator.storage.register import Party, Role
from aggregator.storage.sessions import Session
from aggregator.web.entrance.guard import is_twin
from aggregator.web.limits import leases_of
from aggregator.web.standby import serving_of

SEES = (Role.ADMIN, Role.RESEARCHER, Role.AUDITOR)
"""Roles that have pages."""


@dataclass(frozen=True)
class Viewer:
    """Somebody who may look.

    A researcher sees the plans that are granted to ``name``; the others see all.
    """

    name: str
    role: Role
    """One of :data:`SEES`."""
    shown: str
    """What to call them on a page: text of others."""
    way: str
    """``link``, ``break-glass``, a provider's name; ``key`` or ``token`` for a program."""
    session: str = ""
    """The session's id before people; empty for a program."""
    ends: float = math.inf
    """When they are signed out whatever they do, Unix seconds."""
    _cookie: str = field(default="", repr=False)

    @property
    def party(self) -> Party:
        """As :class:`aggregator.web.callers.Callers` and :class:`aggregator.web.reading.Reading` take it."""
        return Party(self.name, self.role.value, b"")

    @property
    def is_program(self) -> bool:
        """Whether a token or a key was shown in place of a session."""
        return not self.session

    def check(self, *roles: Role) -> None:
        """Raises: NotAllowed unless the viewer has one of these roles."""
        if self.role not in roles:
            raise NotAllowed()

    def seal(self, action: str) -> str:
        """What a form carries as ``seal`` that this viewer's browser will send to the path ``action``."""
        return seal(self._cookie, action)

    def check_seal(self, action: str, shown: str) -> None:
        """Raises: ForgedForm."""
        if self.is_program:
            raise NotAllowed()  # programs read
        check_seal(self._cookie, action, shown)


async def viewer(request: Request) -> Viewer:
    """Who asks for this page or twin. A FastAPI dependency.

    Raises: SignInFirst; what :meth:`aggregator.web.callers.Callers.admit` raises for a program; NotLeading.
    """
    return await _looking(request, acts=True)


async def watcher(request: Request) -> Viewer:
    """The same for what a page loads by itself: nobody stays signed in by it. A FastAPI dependency."""
    return await _looking(request, acts=False)


async def _looking(request: Request, *, acts: bool) -> Viewer:
    serving = serving_of(request)
    if is_twin(request) and {"authorization", "medveil-signature"} & set(request.headers):
        sender = await serving.callers.admit(request, roles=SEES)
        way = "token" if sender.proof is None else "key"
        if sender.proof is not None:
            sender.proof.check_body(b"")
        return Viewer(sender.party.name, Role(sender.party.role), sender.party.name, way)
    session = await serving.visitors.session(request, acts=acts)
    serving.callers.quotas.admit(f"session {session.hash}", leases_of(request))
    return viewer_of(session, request.cookies.get(COOKIE, ""))


def viewer_of(session: Session, cookie: str) -> Viewer:
    """Who has this session. Raises: SignInFirst if their role has no page (any more)."""
    if session.role not in SEES:
        raise SignInFirst()
    return Viewer(
        session.name,
        Role(session.role),
        session.shown,
        session.way,
        session=session.id,
        ends=session.ends,
        _cookie=cookie,
    )
