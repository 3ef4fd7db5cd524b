"""Scheduler and workers as their commands start them: killed, restarted, stopped, and before a stranger."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.access.tls import make_cluster_certificates
from aggregator.work.cluster import Cluster, ClusterUnreachable
from aggregator.work.engine import Connected, security_of
from aggregator.work.open import FILES
from aggregator.work.unmasking import Summing, gather, segment_lengths, sum_segment
from aggregator.work.workers import Inline
from clustered import summing
from privacy.secagg.masks import SEGMENT_WORDS
from schedulers import Processes, processes

pytestmark = pytest.mark.slow
WORDS = 3 * SEGMENT_WORDS + 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def job(cluster: Processes) -> Summing:
    return summing(cluster.folder, words=WORDS, hospitals=4)


def check(job: Summing, cluster: Cluster, meanwhile: object = None) -> None:
    """The sum that comes back, word for word as this machine's."""
    handed = [cluster.submit(job, number) for number in range(len(segment_lengths(WORDS)))]
    if callable(meanwhile):
        meanwhile()
    digests = [one.result(timeout=120) for one in handed]
    gather(job.blobs, job.folder, job.draft_id, tuple(one for one in digests if isinstance(one, bytes)))
    there = job.draft.read_bytes()
    for number in range(len(digests)):
        sum_segment(job, number)
    assert there == job.draft.read_bytes()


def test_a_worker_that_is_killed_in_the_middle_costs_nothing(cluster: Processes, job: Summing) -> None:
    handing = Cluster(cluster.connect, None)
    check(job, handing)
    before = cluster.computing()
    assert len(before) == 2
    check(job, handing, lambda: os.kill(before[0], signal.SIGKILL))
    handing.close()
    cluster.wait_until_joined()  # its guard has started another
    assert before[0] not in cluster.computing()


def test_a_scheduler_that_is_killed_is_named_and_what_it_had_is_computed_here(
    cluster: Processes, job: Summing
) -> None:
    handing = Cluster(cluster.connect, Inline())
    check(job, handing, cluster.scheduler.kill)
    handing.close()
    with pytest.raises(ClusterUnreachable, match="does not answer"):
        cluster.connect()
    cluster.start_scheduler()
    cluster.wait_until_joined()  # the workers have found it again
    again = Cluster(cluster.connect, None)
    check(job, again)
    again.close()


def test_a_scheduler_that_hangs_is_noticed(cluster: Processes, job: Summing) -> None:
    handing = Cluster(cluster.connect, Inline())
    check(job, handing)
    check(job, handing, lambda: os.kill(cluster.scheduler.pid, signal.SIGSTOP))
    os.kill(cluster.scheduler.pid, signal.SIGCONT)
    handing.close()


def test_a_stranger_is_let_in_nowhere(cluster: Processes, tmp_path: Path) -> None:
    make_cluster_certificates(tmp_path)
    files = [str(tmp_path / name) for name in FILES]
    with pytest.raises(ClusterUnreachable):
        Connected(cluster.address, security_of(*files))
    own = [str(cluster.folder / "cluster" / FILES[0]), *files[1:]]  # it trusts them; they do not trust it
    with pytest.raises(ClusterUnreachable):
        Connected(cluster.address, security_of(*own))


def test_nothing_of_it_listens_beyond_the_address_that_was_given(cluster: Processes) -> None:
    pids = [cluster.scheduler.pid, cluster.workers.pid, *cluster.computing()]
    sockets = {os.readlink(fd) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    listening = [
        row.split()[1]
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if row.split()[3] == "0A" and f"socket:[{row.split()[9]}]" in sockets
    ]
    assert listening
    assert {address.split(":")[0] for address in listening} == {"0100007F"}


def test_its_logs_show_events_and_no_job(cluster: Processes, job: Summing) -> None:
    for verb in ("scheduler", "worker"):
        lines = (cluster.folder / f"{verb}.log").read_text().splitlines()
        assert lines
        assert all(line.startswith('{"') for line in lines), lines
