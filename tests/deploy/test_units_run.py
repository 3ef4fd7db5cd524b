"""What stands behind ExecStart= of scheduler and worker, run as it is: two machines make a sum."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aggregator.admin import hand_out_cluster, set_up_cluster
from aggregator.settings import Settings, load
from aggregator.work.cluster import ENDS, Cluster
from aggregator.work.open import open_cluster
from aggregator.work.unmasking import gather, segment_lengths, sum_segment
from aggregator.work.workers import Inline
from clustered import summing
from medveil_research.ports import free_port
from privacy.secagg.masks import SEGMENT_WORDS
from services import start_unit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SCHEDULER, WORKER = "medveil-scheduler.service", "medveil-worker.service"
WORDS, PATIENCE_S = 2 * SEGMENT_WORDS + 5, 120.0


@dataclass
class Machines:
    """An aggregator's folder; a scheduler's and two workers' processes, each with what was handed out."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]]

    def cluster(self) -> Cluster:
        """As the aggregator opens it; a sum that the cluster does not compute ends with an error."""
        found = open_cluster(self.folder, load(self.folder).cluster, "wait", Inline())
        assert found is not None
        return found

    def log(self, name: str) -> str:
        return (self.folder.parent / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    place = tmp_path_factory.mktemp("machines")
    own = place / "aggregator"
    Settings(own, database="postgresql://fl:hush@db/fl").save()
    set_up_cluster(load(own), f"tls://127.0.0.1:{free_port()}")
    (own / "uploads").mkdir()
    hand_out_cluster(load(own), place / "handed")
    processes = {}
    for name, unit in (("scheduler", SCHEDULER), ("worker-1", WORKER), ("worker-2", WORKER)):
        shutil.copytree(place / "handed", place / name)
        (place / name / "uploads").symlink_to(own / "uploads")  # stands for the folder that all mount
        processes[name] = start_unit(unit, place / name, place / f"{name}.log")
    found = Machines(own, processes)
    yield found
    for process in processes.values():
        process.kill()
        process.wait()


def test_two_machines_add_up_a_sum_word_for_word_and_the_aggregator_tells_of_it(machines: Machines) -> None:
    cluster = machines.cluster()
    cluster.watch()
    deadline = time.monotonic() + PATIENCE_S
    while not all("worker.joined" in machines.log(name) for name in ("worker-1", "worker-2")):
        assert time.monotonic() < deadline, machines.log("worker-1")
        time.sleep(0.1)
    job = summing(machines.folder, words=WORDS, hospitals=3)
    count = len(segment_lengths(WORDS))
    digests = [one.result(60) for one in [cluster.submit(job, number) for number in range(count)]]
    gather(job.blobs, job.folder, job.draft_id, tuple(one for one in digests if isinstance(one, bytes)))
    there = job.draft.read_bytes()
    for number in range(count):
        sum_segment(job, number)
    assert there == job.draft.read_bytes()
    standing = cluster.standing
    assert standing.workers >= 2
    assert standing.waiting == 0
    assert standing.ended == dict.fromkeys(ENDS, 0) | {"done": count}
    assert standing.last > time.time() - 120
    cluster.close()


def test_what_systemd_sends_ends_each_of_them_well_and_their_logs_are_events(machines: Machines) -> None:
    """``Restart=on-failure`` starts nothing again that was stopped."""
    for process in machines.processes.values():
        process.terminate()
    assert {name: process.wait(60) for name, process in machines.processes.items()} == dict.fromkeys(
        machines.processes, 0
    )
    for name in machines.processes:
        lines = machines.log(name).splitlines()
        assert lines
        assert all(line.startswith('{"') for line in lines), lines
