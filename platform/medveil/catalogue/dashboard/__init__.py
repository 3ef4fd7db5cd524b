"""What the aggregator's dashboard says: a file of texts for the frame, and one for each screen.

Each file holds ``TEXTS``, and the folder finds it.
"""

from __future__ import annotations

import importlib
import pkgutil

from medveil.catalogue import Text, Texts
from medveil.catalogue.common import COMMON


def _found() -> Texts:
    texts: dict[str, Text] = dict(COMMON)
    for module in pkgutil.iter_modules(__path__):
        own: Texts = importlib.import_module(f"{__name__}.{module.name}").TEXTS
        twice = texts.keys() & own.keys()
        if twice:
            raise ValueError(f"{module.name} says again: {', '.join(sorted(twice))}")
        texts |= own
    return texts


DASHBOARD: Texts = _found()
"""Every text of the dashboard."""
