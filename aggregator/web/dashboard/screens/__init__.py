"""The screens of the dashboard, one file each; the folder finds them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from aggregator.web.dashboard.screen import Screen


@cache
def all_screens() -> tuple[Screen, ...]:
    """Every screen, in the order of the navigation."""
    found: list[Screen] = []
    for module in pkgutil.iter_modules(__path__):
        found += importlib.import_module(f"{__name__}.{module.name}").SCREENS
    return tuple(sorted(found, key=lambda one: (one.place == 0, one.place, one.key)))
