"""A study by real processes, in which two ranks share one hospital's steps and one of them is killed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from ends import played_out
from hospital_node.ledger import Ledger
from hospital_node.ranks.settings import RanksSettings
from hospital_node.settings import Node
from medveil.study import Deadlines, Study
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.processes import Event
from medveil_research.sites import Site, find_sites
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.ledger import State, charges
from privacy.dp.policy import Split

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SHARED = "hospital-1"


class WithRanks(LocalConsortium):
    """One of its hospitals has written ``ranks`` into its ``node.json``."""

    def _enrolled(self, site: Site, study: Study) -> Node:
        node = super()._enrolled(site, study)
        if site.name == SHARED:
            ranks = RanksSettings(count=2)
            node = Node(node.folder, node.settings.model_copy(update={"ranks": ranks}))
            node.save()
        return node


def kill_rank_1(folder: Path) -> None:
    """End the second rank of the node's job, as the system does when memory is short."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            here = b"train-job" in words and any(str(folder).encode() in word for word in words)
            if here and b"RANK=1" in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def test_a_killed_rank_costs_an_attempt_and_the_study_finishes_under_one_charge(tmp_path: Path) -> None:
    write_phantom_sites(tmp_path / "sites", profile="xray", hospitals=3, patients=12)
    options = StudyOptions(
        name="shared",
        task="classification",
        profile="xray",
        model="small_cnn",
        hospitals=3,
        rounds=1,
        patients_hint=12,
        privacy="local",
        anyway=True,
        deadlines=Deadlines(**(DEADLINES | {"silence_s": 60.0})),
    )
    study, initial = new_study(options)
    heard: list[tuple[str, str, object]] = []
    folder = tmp_path / "nodes" / SHARED

    def listen(who: str, event: Event) -> None:
        name = str(event.get("event"))
        heard.append((who, name, event.get("code")))
        if name == "ranks.ready" and sum(one[1] == name for one in heard) == 1:
            kill_rank_1(folder)

    with WithRanks(tmp_path, find_sites(tmp_path / "sites"), listen) as consortium:
        plan = consortium.open(study, initial)
        status = played_out(consortium, plan.id, meanwhile=lambda: None, limit_s=1500)
    assert (SHARED, "attempt.missed", "rank-lost") in heard
    assert {who for who, name, _ in heard if name == "ranks.ready"} == {SHARED}
    assert [attempt.kind for attempt in status.attempts if attempt.done] == ["train", "evaluate"]
    assert SHARED in {member for attempt in status.attempts if attempt.done for member in attempt.survivors}
    with Ledger.open(Node.load(folder).ledger, cohorts=folder / "cohorts") as ledger:
        paid = [entry.state for entry in charges(ledger.rows()) if entry.split is Split.TRAIN]
    assert paid == [State.RELEASED]
    assert not list((folder / "jobs").iterdir())
