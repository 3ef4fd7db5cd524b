"""Which version of this software runs here, and the header by which a node says so."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HEADER = "MedVeil-Version"
"""Beside the five headers of a signed request: the sender's own word, unsigned, and for people only."""
HERE = Path(__file__).resolve()


@cache
def own_version() -> str:
    """The installed version; empty where it is not installed."""
    return version_of("medveil")


def version_of(package: str) -> str:
    """A package's installed version, with its build where it tells one (``2.13.0+cpu``); else empty.

    Nothing is imported.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def revision() -> str:
    """The revision of the sources: written into a release, or asked of git in a checkout; else empty.

    With ``-dirty`` behind it in a checkout that was changed.
    """
    written = HERE.with_name("revision.txt")
    if written.exists():
        return written.read_text(encoding="ascii").strip()
    root = HERE.parents[2]
    if not (root / ".git").exists():
        return ""
    ask = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(
            ask, cwd=root, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
