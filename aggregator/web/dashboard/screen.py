"""What a screen is: one file that says where it lies, what it shows and who may look.

A file in :mod:`aggregator.web.dashboard.screens` holds ``SCREENS``, a tuple of them, and the folder finds it.
Beside it lie its template (``templates/screens/KEY.html.j2``) and its texts (``KEY.`` in the catalogue
``medveil.catalogue.dashboard``). Page, JSON twin, live stream, roles and two-tenant test come with that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import get_type_hints

from aggregator.errors import NotFound
from aggregator.settings import Settings
from aggregator.storage.register import Role
from aggregator.storage.store import Store
from aggregator.watching.measures import Measures
from aggregator.watching.watch import Watching
from aggregator.web.dashboard.door import SEES
from medveil.values import Frozen


@dataclass(frozen=True)
class View:
    """What a screen's value is made from.

    Nothing in it names a person: whoever has the same role and may read the same plans sees the same.
    """

    watching: Watching
    store: Store
    measures: Measures
    settings: Settings
    role: Role
    plans: frozenset[str] | None
    """The plans that may be read; None stands for all."""
    path: Mapping[str, str] = field(default_factory=dict)
    """What stands in the address; a ``plan`` in it is one that may be read."""
    now: float = 0.0
    """Unix seconds."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """What stands behind the question mark, of those that the screen knows; empty ones are left out."""

    @property
    def plan(self) -> str:
        """The study that the screen is of."""
        return self.path["plan"]

    def sees(self, plan: str) -> bool:
        """Whether this study may be read."""
        return self.plans is None or plan in self.plans

    def number(self, name: str) -> int:
        """A number in the address or in a filter; 0 if it is not there. Raises: NotFound if it is none."""
        text = self.path.get(name) or self.filters.get(name, "")
        if not text:
            return 0
        if not (text.isascii() and text.isdecimal() and len(text) <= 9):
            raise NotFound()
        return int(text)


@dataclass(frozen=True)
class Screen:
    """One page of the dashboard."""

    key: str
    """Names its template and its texts: ``KEY.title`` is the least."""
    path: str
    """Where it lies: ``/hospitals``, ``/studies/{plan}/rounds/{number}``."""
    value: Callable[[View], Frozen]
    """What it shows: template and twin get this and nothing else. It runs on a thread of its own and reads a
    bounded number of rows. Raises: NotFound where there is nothing; Error."""
    command: str
    """The line for a terminal that tells the same; ``{plan}`` and the like are filled in."""
    place: int = 0
    """In the navigation (of the study, if it is of one), lowest first; 0 leaves it out."""
    under: str = ""
    """The screen whose place in the navigation it shares, if it has none of its own."""
    roles: tuple[Role, ...] = SEES
    filters: tuple[str, ...] = ()
    """Names behind the question mark."""
    options: tuple[str, ...] = ()
    """Those of them that are options of the command, too."""

    @property
    def of_a_study(self) -> bool:
        """Whether its address names one."""
        return "{plan}" in self.path

    @property
    def twin(self) -> str:
        """Where the same value lies as JSON."""
        return "/overview.json" if self.path == "/" else f"{self.path}.json"

    @property
    def gives(self) -> type[Frozen]:
        """The type of its value."""
        found: type[Frozen] = get_type_hints(self.value)["return"]
        return found
