"""A finished model in a form that others can use: one file a format, found through :data:`EXPORTS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medveil.registry import Registry
from medveil_research.finished import Finished

Writer = Callable[[Finished, Path], list[Path]]
"""Writes a model into a folder that exists, and returns the files; equal models give equal files."""
EXPORTS: Registry[Writer] = Registry("export format", __name__)


def export(form: str, finished: Finished, folder: Path) -> list[Path]:
    """Write a model in the format ``form``; files of the same names are replaced.

    Returns: what was written.
    Raises:
        UnknownName: there is no such format.
    """
    write = EXPORTS[form]
    folder.mkdir(parents=True, exist_ok=True)
    return write(finished, folder)
