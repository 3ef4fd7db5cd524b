"""Revisions of this repository, as folders of files."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rooms import ROOT


def export(revision: str, folder: Path) -> None:
    """Write a tag's or commit's files into a new folder."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
