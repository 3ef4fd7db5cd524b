"""System: the machine and the process that answers."""

from __future__ import annotations

from aggregator.storage.register import Role
from aggregator.watching.system import System
from aggregator.web.dashboard.screen import Screen, View


def value(view: View) -> System:
    """As they are now."""
    return view.measures.system()


SCREENS = (Screen("system", "/system", value, "medveil aggregator system", place=70, roles=(Role.ADMIN,)),)
