"""The operator's page beside a node that really works: both commands in one folder, while rounds run."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ends import played_out
from medveil.study import Deadlines
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study

LIMIT_S = 400.0
MEDVEIL = "from medveil.cli import main; main()"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 200)]


@dataclass
class Watcher:
    """In a browser's place: signed in by the link that the command prints, it asks for all panels."""

    link: str
    seen: dict[str, Any] = field(default_factory=dict)
    cookie: str = ""

    def enter(self) -> None:
        parts = urlsplit(self.link)
        self.place = f"{parts.hostname}:{parts.port}"
        answer, _ = self._asked(parts.path)
        assert answer.status == 303
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]

    def look(self) -> dict[str, Any]:
        """All panels as the page has them now."""
        answer, text = self._asked("/all.json")
        assert answer.status == 200, text
        panels: dict[str, Any] = json.loads(text)
        for plan in panels["state"]["plans"]:
            self.seen.setdefault(plan["stand"], plan)
        going = panels["training"].get("now")
        if going is not None:
            self.seen.setdefault("going", going["going"])
        for _, words in panels["health"].get("log", []):
            self.seen.setdefault(words.partition(": ")[2] or words, True)
        return panels

    def _asked(self, path: str) -> tuple[http.client.HTTPResponse, str]:
        line = http.client.HTTPConnection(self.place, timeout=30)
        line.request("GET", path, headers={"Cookie": self.cookie} if self.cookie else {})
        answer = line.getresponse()
        text = answer.read().decode()
        line.close()
        return answer, text


def test_the_page_shows_a_real_round_as_it_goes_and_disturbs_nobody(tmp_path: Path) -> None:
    write_phantom_sites(tmp_path / "sites", profile="xray", hospitals=3, patients=24)
    options = {"task": "classification", "profile": "xray", "hospitals": 3, "rounds": 2, "anyway": True}
    options |= {"privacy": "none"}
    deadlines = Deadlines(**(DEADLINES | {"silence_s": 20.0}))
    study, initial = new_study(
        StudyOptions(name="watched", patients_hint=24, deadlines=deadlines, **options)  # type: ignore[arg-type]
    )
    longer = study.training.model_copy(update={"local_steps": 2000, "local_epochs": None})
    study = study.model_copy(update={"training": longer})  # so that somebody can see them go
    with LocalConsortium(tmp_path, find_sites(tmp_path / "sites"), lambda *_: None) as consortium:
        plan = consortium.open(study, initial)
        folder = str(tmp_path / "nodes" / "hospital-1")
        command = [sys.executable, "-c", MEDVEIL, "node", "page", "--folder", folder]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as page:
            assert page.stdout is not None
            try:
                watcher = Watcher(next(line.strip() for line in page.stdout if "/enter/" in line))
                watcher.enter()
                status = played_out(consortium, plan.id, meanwhile=watcher.look, limit_s=LIMIT_S)
            finally:
                page.terminate()
            assert page.wait(30) in (0, -signal.SIGTERM)
    assert [one.round for one in status.attempts if one.done] == [1, 2, 3]
    assert [one.attempt for one in status.attempts] == [1, 1, 1]  # the page held nothing up
    running = watcher.seen["running"]
    assert (running["study"], running["rounds"]) == ("watched", 3)
    assert watcher.seen["going"]["total"] > 0
    assert any(words.startswith("round ") and "computes" in words for words in watcher.seen)
