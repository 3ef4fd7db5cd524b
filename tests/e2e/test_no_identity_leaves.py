"""A study on images that tell who their patients are: nothing that a node writes, logs or sends tells it.

Real processes over HTTPS; each hospital is killed once, at another point, and started again. What a node
sends is written down before it is encrypted.
"""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from canaries import found_in, found_under
from ends import played_out
from medveil.reports import PlanStatus
from medveil.study import Deadlines
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.processes import Event
from medveil_research.sites import find_sites
from medveil_research.studies import StudyOptions, new_study
from telling_sites import telling_site

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")
RECORDER = Path(__file__).resolve().parents[1] / "support" / "recorder"
KILLED_AT = {
    "hospital-1": ("images.read", None),
    "hospital-2": ("work.started", 1),
    "hospital-3": ("update.sent", 2),
}
"""The word in its log after which each hospital loses its power, and in which round."""
LIMIT_S = 400.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 200)]


@dataclass
class Played:
    """What is left once every process has ended."""

    folder: Path
    sent: bytes
    status: PlanStatus
    killed: list[str]


class Killing:
    """Hears the logs, and takes note of who is to be killed."""

    def __init__(self) -> None:
        self.due: list[str] = []
        self.done: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, who: str, event: Event) -> None:
        at, number = KILLED_AT.get(who, ("", None))
        with self._lock:
            if event.get("event") == at and number in (None, event.get("round")) and who not in self.done:
                self.due.append(who)
                self.done.append(who)

    def carried_out(self, consortium: LocalConsortium) -> None:
        with self._lock:
            due, self.due = self.due, []
        for who in due:
            consortium.kill(who)
            consortium.restart(who)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("consortium")
    for number in range(3):
        site = telling_site(folder / "sites" / f"hospital-{number + 1}", patients=18, first=18 * number)
        if (DATA / "dicom-files" / "phi").is_dir():
            _add_pack(site)
    study, initial = new_study(
        StudyOptions(
            name="telling",
            task="classification",
            profile="xray",
            hospitals=3,
            rounds=2,
            patients_hint=12,
            anyway=True,
            deadlines=Deadlines(**(DEADLINES | {"silence_s": 9.0})),
        )
    )
    killing, record = Killing(), folder / "sent"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(RECORDER), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("MEDVEIL_RECORD", str(record))
        with LocalConsortium(folder, find_sites(folder / "sites"), killing) as consortium:
            plan = consortium.open(study, initial)
            status = played_out(
                consortium, plan.id, meanwhile=lambda: killing.carried_out(consortium), limit_s=LIMIT_S
            )
    return Played(folder, record.read_bytes(), status, killing.done)


def _add_pack(site: Path) -> None:
    with (site / "manifest.csv").open("a", encoding="utf-8") as manifest:
        for path in sorted((DATA / "dicom-files" / "phi").iterdir()):
            shutil.copy(path, site / f"Quillfeather-{path.name}")
            manifest.write(f"Quillfeather-{path.name},MRN-7718204 {path.stem},train,1\n")


def test_the_study_finishes_and_every_hospital_was_killed_on_the_way(played: Played) -> None:
    assert sorted(played.killed) == sorted(KILLED_AT)
    assert [a.round for a in played.status.attempts if a.done] == [1, 2, 3]


def test_no_byte_that_a_node_keeps_tells_an_identity(played: Played) -> None:
    assert found_under(played.folder / "sites")  # they do tell
    assert found_under(played.folder / "nodes") == {}


def test_no_line_of_a_log_tells_an_identity(played: Played) -> None:
    assert found_under(played.folder / "logs") == {}


def test_no_request_tells_an_identity(played: Played) -> None:
    for word in (b"/upload", b"signature", b"POST "):
        assert word in played.sent
    assert len(played.sent) > 50_000
    assert found_in(played.sent) == set()


def test_the_aggregator_holds_no_identity(played: Played) -> None:
    assert found_under(played.folder / "aggregator") == {}
    assert found_under(played.folder / "researcher") == {}
