"""Studies to begin with: files of options for ``medveil study new``, each choice with its reason beside it.

A template holds what an author types, not a study: weights and noise are made when the study is written, so
that no two studies start from one model, and the noise fits the budget that is asked for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from medveil.errors import BadOption
from medveil.shown import plain


@dataclass(frozen=True)
class Template:
    """One file of this folder."""

    name: str
    about: str
    """In one line, for people."""
    options: Mapping[str, Any]
    """Of ``medveil study new``, by the names of its options."""
    text: str
    """The file as it is, to be read."""


def templates() -> dict[str, Template]:
    """All that are shipped, by name."""
    found = {}
    for file in sorted(files(__name__).iterdir(), key=lambda one: one.name):
        name, dot, end = file.name.partition(".")
        if (dot, end) == (".", "toml"):
            text = file.read_text(encoding="utf-8")
            content = tomllib.loads(text)
            found[name] = Template(name, content["about"], content["study"], text)
    return found


def template(name: str) -> Template:
    """One of them. Raises: BadOption, naming all."""
    found = templates()
    if name not in found:
        known = ", ".join(found)
        raise BadOption(problem=f"--template: there is none called '{plain(name, 40)}'; there are {known}")
    return found[name]
