"""Audit: the log, searched by who, what and where, whether it is whole, and who holds its head."""

from __future__ import annotations

from aggregator.storage.past import Wanted
from aggregator.storage.register import Role
from aggregator.watching.audit import Audit
from aggregator.web.dashboard.screen import Screen, View

WHO = (Role.ADMIN, Role.AUDITOR)


def value(view: View) -> Audit:
    """A page of it. Raises: NotFound for a ``before`` that is no number."""
    asked = {name: view.filters.get(name, "").strip() for name in ("actor", "action", "text")}
    return view.measures.audit(Wanted(**asked), before=view.number("before"))


SCREENS = (
    Screen(
        "audit",
        "/audit",
        value,
        "medveil aggregator audit search",
        place=60,
        roles=WHO,
        filters=("actor", "action", "text", "before"),
        options=("actor", "action", "text", "before"),
    ),
)
