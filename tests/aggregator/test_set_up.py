"""``medveil aggregator init`` makes a whole aggregator or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator import admin
from aggregator.adminkey import KEY
from aggregator.cli import app
from aggregator.settings import Settings
from medveil.errors import Error


def test_a_database_that_cannot_be_reached_leaves_no_folder(tmp_path: Path) -> None:
    nowhere = f"postgresql:///medveil?host={tmp_path}/no-such-socket"
    with pytest.raises(Error):
        admin.set_up_aggregator(Settings(tmp_path / "made", database=nowhere))
    assert not (tmp_path / "made").exists()


def test_the_database_that_was_named_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(admin, "set_up_aggregator", lambda settings: seen.append(settings) or b"der")
    words = ["init", "--folder", str(tmp_path / "made"), "--database", "postgresql:///medveil"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    seen[0].save()
    kept = json.loads((tmp_path / "made" / "aggregator.json").read_text())
    assert kept["database"] == "postgresql:///medveil"
    assert not (tmp_path / "made" / KEY).exists()
