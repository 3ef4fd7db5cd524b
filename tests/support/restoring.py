"""Restoring a backup as somebody who wrote the fingerprint down when it was made."""

from __future__ import annotations

import json
from pathlib import Path

from aggregator.auditlog import Head
from aggregator.backup import MANIFEST, check, restore
from aggregator.settings import Settings
from medveil.ids import fingerprint


def noted(backup: Path) -> str:
    """The fingerprint that 'medveil aggregator backup' showed."""
    return fingerprint(bytes.fromhex(json.loads((backup / MANIFEST).read_text())["admin_key"]))


def put_back(backup: Path, settings: Settings) -> Head:
    """Restore with that fingerprint."""
    return restore(check(backup, admin_key=noted(backup)), settings)
