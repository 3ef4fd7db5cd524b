"""Libraries that only some commands need, loaded where they are used and named where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from medveil.errors import Error


class MissingLibrary(Error):
    """A library of the extra ``research`` is not installed."""

    code = "missing-library"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"The library '{name}' is not installed.",
            meaning="What was asked for needs it; everything else works without it.",
            remedy='Install it with: pip install "medveil[research]"',
        )


def library(name: str) -> ModuleType:
    """A library of the extra ``research``, e.g. ``pandas``. Raises: MissingLibrary."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingLibrary(name=name.partition(".")[0]) from error
