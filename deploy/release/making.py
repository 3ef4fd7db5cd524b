"""What release and bundle share: a command that must work, a file's hash, and why there is nothing."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class NotMade(Exception):
    """Why there is no release or bundle, or why one is not to be used; nothing half-made stays."""


def run(*command: str | Path, cwd: Path = ROOT, given: bytes | None = None) -> bytes:
    """Its output; raises NotMade with the end of what it said if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, input=given, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise NotMade(f"{' '.join(words[:5])} …: {said[-2000:]}")
    return done.stdout


def digest(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
