"""Sums that other machines add up: the same words, and nothing is lost when scheduler or worker fail."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from aggregator import admin
from aggregator.rounds import publishing
from aggregator.rounds.coordinator import Coordinator
from aggregator.settings import Settings, load
from aggregator.storage.blobs import DamagedBlob
from aggregator.web.app import _gauges
from aggregator.work import orders
from aggregator.work.cluster import (
    ENDS,
    FRESH_S,
    MOST_TRIES,
    REST_S,
    Cluster,
    ClusterLost,
    ClusterUnreachable,
    Engine,
    Standing,
    UnusableCluster,
)
from aggregator.work.open import FILES, check_address, open_cluster
from aggregator.work.orders import Order, OtherSoftware, order_of, perform
from aggregator.work.unmasking import Summing, gather, part_of, sum_part, sum_segment
from aggregator.work.workers import Failure, Inline
from clustered import Played, summing
from medveil.cli import root_app
from medveil.errors import BadOption
from world import World, make_sites, play

Build = Callable[..., World]
GONE = ConnectionError()


class Scheduler:
    """Stands for a scheduler and a worker in this process; each connection to it is an engine.

    ``fates`` says what becomes of the next jobs: an error, a result in place of the right one, or None.
    """

    def __init__(self, *fates: Exception | Failure | None) -> None:
        self.fates = list(fates)
        self.connected = 0
        self.here, self.silent = True, False
        self.held: list[Future[Any]] = []

    def connect(self) -> Engine:
        if not self.here:
            raise ClusterUnreachable(problem="its scheduler does not answer")
        self.connected += 1
        return _Connection(self)


class _Connection:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    def check(self) -> int:
        if not self.scheduler.here:
            raise ClusterUnreachable(problem="its scheduler has gone")
        return 2

    def hand_in(self, order: Order, number: int) -> Future[Any]:
        fate = self.scheduler.fates.pop(0) if self.scheduler.fates else None
        done: Future[Any] = Future()
        if self.scheduler.silent:
            self.scheduler.held.append(done)
        elif isinstance(fate, Exception):
            done.set_exception(fate)
        else:
            done.set_result(fate or perform(pickle.loads(pickle.dumps(order)), number))  # noqa: S301
        return done

    def close(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def cluster_of(
    scheduler: Scheduler, *, local: bool = False, clock: Callable[[], float] = time.monotonic
) -> Cluster:
    return Cluster(scheduler.connect, Inline() if local else None, clock=clock, thread=Inline())


@pytest.fixture
def job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Summing:
    """Two hospitals' short vectors in a folder that the worker sees as well."""
    found = summing(folder, words=64)
    monkeypatch.setattr(orders, "own_blobs", lambda: found.blobs)
    return found


def right(job: Summing) -> bytes:
    """The draft as this machine's workers make it."""
    here = replace(job, draft_id="here")
    sum_segment(here, 0)
    return here.draft.read_bytes()


def test_parts_from_a_cluster_make_the_draft_that_this_machine_makes(job: Summing) -> None:
    digest = cluster_of(Scheduler()).submit(job, 0).result()
    assert isinstance(digest, bytes)
    gather(job.blobs, job.folder, job.draft_id, (digest,))
    assert job.draft.read_bytes() == right(job)
    job.blobs.put_segment(
        job.folder, part_of(job.draft_id), 0, bytes(8 * 64)
    )  # the bucket gives something else
    with pytest.raises(DamagedBlob):
        gather(job.blobs, job.folder, job.draft_id, (digest,))


@pytest.mark.parametrize("local", [True, False])
def test_what_is_lost_on_the_way_is_handed_in_again_and_then_it_is_named_or_computed_here(
    job: Summing, local: bool
) -> None:
    scheduler = Scheduler(*[GONE] * (MOST_TRIES - 1))
    assert cluster_of(scheduler, local=local).submit(job, 0).result() == sum_part(job, 0)
    outcome = cluster_of(Scheduler(*[GONE] * MOST_TRIES), local=local).submit(job, 0)
    if local:
        assert outcome.result() == sum_part(job, 0)
    else:
        assert isinstance(outcome.exception(), ClusterLost)


def test_a_cluster_that_is_away_is_not_asked_for_each_segment_and_is_found_again(job: Summing) -> None:
    scheduler, clock = Scheduler(), Clock()
    cluster, scheduler.here = cluster_of(scheduler, clock=clock), False
    assert isinstance(cluster.submit(job, 0).exception(), ClusterUnreachable)
    scheduler.here = True
    assert isinstance(cluster.submit(job, 0).exception(), ClusterUnreachable)
    assert scheduler.connected == 0
    clock.now = REST_S
    assert cluster.submit(job, 0).result() == sum_part(job, 0)
    scheduler.here, clock.now = False, clock.now + FRESH_S
    assert isinstance(cluster.submit(job, 0).exception(), ClusterUnreachable)
    cluster.close()


def test_a_scheduler_that_hangs_loses_what_it_has_in_hand_to_this_machine(job: Summing) -> None:
    scheduler = Scheduler()
    cluster, scheduler.silent = cluster_of(scheduler, local=True), True
    outcome = cluster.submit(job, 0)
    cluster._look()
    assert not outcome.done()  # it is there, and may still be at work
    scheduler.here = False
    cluster._look()
    assert outcome.result() == sum_part(job, 0)
    scheduler.held[0].set_exception(GONE)  # what it says now is not heard
    assert scheduler.connected == 1
    cluster.close()


def test_nobody_waits_for_what_was_given_up(job: Summing) -> None:
    scheduler = Scheduler()
    cluster, scheduler.silent = cluster_of(scheduler, local=True), True
    outcome = cluster.submit(job, 0)
    cluster.give_up()
    assert outcome.cancelled()
    cluster.close()


def ends(cluster: Cluster) -> dict[str, int]:
    return {end: count for end, count in cluster.standing.ended.items() if count}


def test_what_became_of_each_segment_is_counted_for_the_metrics(job: Summing) -> None:
    cluster = cluster_of(Scheduler(GONE))
    assert cluster.standing == Standing(workers=0, waiting=0, ended=dict.fromkeys(ENDS, 0), last=0.0)
    cluster.submit(job, 0).result()
    assert ends(cluster) == {"lost": 1, "done": 1}
    assert cluster.standing.workers == 2
    assert abs(cluster.standing.last - time.time()) < 60
    here = cluster_of(Scheduler(Failure("damaged-segment"), *[GONE] * MOST_TRIES), local=True)
    for _ in range(2):
        here.submit(job, 0).result()
    assert ends(here) == {"here": 2, "lost": MOST_TRIES}
    waits = cluster_of(Scheduler(Failure("damaged-segment"), *[GONE] * MOST_TRIES))
    for _ in range(2):
        waits.submit(job, 0).exception()
    assert ends(waits) == {"failed": 2, "lost": MOST_TRIES}
    for one in (cluster, here, waits):
        one.close()


def test_a_cluster_is_looked_at_before_a_sum_needs_it_and_said_to_be_away_once(job: Summing) -> None:
    scheduler, clock = Scheduler(), Clock()
    cluster, scheduler.here = cluster_of(scheduler, clock=clock), False
    with capture_logs() as told:

        def errors() -> list[str]:
            return [one["event"] for one in told if one["log_level"] == "error"]

        cluster.watch()
        cluster._look()
        assert errors() == ["cluster.failed"]
        assert cluster.standing.workers == 0
        cluster.submit(job, 0)
        assert errors() == ["cluster.failed"] * 2  # a sum goes without it
        scheduler.here, clock.now = True, REST_S
        cluster._look()
    assert told[-1]["event"] == "cluster.joined"
    assert cluster.standing.workers == 2
    scheduler.silent = True
    cluster.submit(job, 0)
    assert cluster.standing.waiting == 1
    cluster.close()


def test_the_process_that_leads_tells_prometheus_of_its_cluster(folder: Path) -> None:
    Settings(folder).save()
    admin.set_up_cluster(load(folder), "tls://10.0.0.1:8786")
    cluster = cluster_of(Scheduler())
    service = SimpleNamespace(gauges=tuple)

    def told(app: Any, cluster: Cluster | None) -> set[str]:
        return {one.name for one in _gauges(app, load(folder), cluster) if "cluster" in one.name}

    leads, stands_by = (SimpleNamespace(state=SimpleNamespace(service=one)) for one in (service, None))
    assert told(leads, cluster) == {
        "medveil_cluster_workers",
        "medveil_cluster_segments_waiting",
        "medveil_cluster_segments",
        "medveil_cluster_last_segment_timestamp_seconds",
        "medveil_cluster_certificate_seconds_left",
    }
    assert told(stands_by, cluster) == told(leads, None) == set()
    cluster.close()


def test_a_worker_of_another_version_touches_nothing_and_is_named(job: Summing) -> None:
    order = replace(order_of(job), software="0.0.9 abcdef")
    assert perform(order, 0) == Failure(OtherSoftware.code)
    assert not list((job.draft.parent).glob("sum*"))


def test_an_order_shows_no_seed(job: Summing) -> None:
    shown = repr(order_of(job))
    for mask in job.removal:
        assert mask.seed.reveal().hex() not in shown
        assert repr(mask.seed.reveal()) not in shown


# ---- a whole study


@pytest.fixture
def played(build: Build, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Played]:
    """A study whose sums all go to a cluster."""
    monkeypatch.setattr(publishing, "TOGETHER", 0)

    def make(scheduler: Scheduler, *, local: bool = False) -> Played:
        world = build()
        monkeypatch.setattr(orders, "own_blobs", lambda: world.blobs)
        cluster = cluster_of(scheduler, local=local, clock=world.clock)
        world.coordinator = Coordinator(
            world.store, world.blobs, clock=world.clock, wall_clock=lambda: 1.7e9, cluster=cluster
        )
        return Played(world, make_sites(world))

    return make


@pytest.mark.parametrize(
    ("fates", "local"),
    [
        ((), False),
        pytest.param((GONE, GONE), False, marks=pytest.mark.slow),
        pytest.param((GONE,) * 9, True, marks=pytest.mark.slow),
        pytest.param((Failure("other-software"),) * 3, True, marks=pytest.mark.slow),
    ],
)
def test_a_model_of_sums_that_the_cluster_added_up_is_the_same_as_any_other(
    build: Build, played: Callable[..., Played], fates: tuple[Any, ...], local: bool
) -> None:
    calm = build()
    one = played(Scheduler(*fates), local=local)
    for world, sites in ((calm, make_sites(calm)), (one.world, one.sites)):
        play(world, sites, until=lambda world=world: len(world.status["versions"]) == 2)
    assert [a["outcome"] for a in one.world.status["attempts"]] == ["done"]
    assert [v["model"] for v in one.world.status["versions"]] == [v["model"] for v in calm.status["versions"]]


OTHERS = ("cluster-lost", "other-software", "damaged-segment")


@pytest.mark.parametrize(
    "code", ["cluster-unreachable", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)]
)
def test_a_sum_that_waits_for_the_cluster_says_for_what_and_is_made_when_it_is_back(
    played: Callable[..., Played], code: str
) -> None:
    scheduler = Scheduler(
        *{
            "cluster-lost": [GONE] * MOST_TRIES,
            "other-software": [Failure("other-software")],
            "damaged-segment": [Failure("damaged-segment", 1, 0)],
        }.get(code, [])
    )
    scheduler.here = code != "cluster-unreachable"
    one = played(scheduler)
    attempt = lambda: one.world.coordinator.runs.of(one.world.plan.id, "hospital-1").attempt  # noqa: E731
    play(one.world, one.sites, until=lambda: bool((a := attempt()) and a.trouble))
    assert attempt().trouble.reason == code
    scheduler.here = True
    play(one.world, one.sites, until=lambda: bool(one.world.status["attempts"]))
    assert one.world.status["attempts"][0]["outcome"] == "done"


# ---- settings and commands


@pytest.mark.parametrize(
    "address",
    ["", "tcp://10.0.0.1:8786", "tls://10.0.0.1", "tls://:8786", "tls://a:b", "tls://u:p@a:1", "tls://a:1/x"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UnusableCluster, match="tls://HOST:PORT"):
        check_address(address)


def test_a_cluster_is_set_up_once_and_keeps_its_certificates(folder: Path) -> None:
    Settings(folder).save()
    assert admin.set_up_cluster(load(folder), "tls://10.0.0.1:8786")
    key = (folder / "cluster" / "cluster.key").read_bytes()
    assert (folder / "cluster" / "cluster.key").stat().st_mode & 0o777 == 0o600
    assert not admin.set_up_cluster(load(folder), "tls://10.0.0.2:8786")
    assert load(folder).cluster == "tls://10.0.0.2:8786"
    assert (folder / "cluster" / "cluster.key").read_bytes() == key
    (folder / "cluster" / "cluster.key").write_text("no key")
    with pytest.raises(UnusableCluster, match="certificate"):
        open_cluster(folder, "tls://10.0.0.2:8786", "local", Inline())


def test_what_is_handed_out_to_its_machines_holds_no_secret_but_the_cluster_s(folder: Path) -> None:
    own, out = folder / "own", folder / "out"
    Settings(own, database="postgresql://fl:hush@db/fl", blobs="s3://b/p?region=r").save()
    (own / "admin.key").write_text("secret")
    admin.set_up_cluster(load(own), "tls://10.0.0.1:8786")
    admin.hand_out_cluster(load(own), out)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {"aggregator.json", *(f"cluster/{name}" for name in FILES)}
    handed = load(out)
    assert (handed.cluster, handed.blobs, handed.database) == ("tls://10.0.0.1:8786", "s3://b/p?region=r", "")
    assert (out / "cluster" / "cluster.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadOption, match="--hand-out: it is there already"):
        admin.hand_out_cluster(load(own), out)
    shutil.rmtree(own / "cluster")
    with pytest.raises(BadOption, match="--hand-out: No such file"):
        admin.hand_out_cluster(load(own), folder / "half")
    assert sorted(path.name for path in folder.iterdir()) == ["out", "own"]


def test_what_is_missing_or_mistyped_is_named_before_anything_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnusableCluster, match="without_cluster"):
        open_cluster(folder, "tls://a:1", "remote", Inline())
    monkeypatch.setattr("aggregator.work.open.find_spec", lambda name: None)
    with pytest.raises(UnusableCluster, match=r"pip install 'medveil\[cluster\]'"):
        open_cluster(folder, "tls://a:1", "local", Inline())


def test_a_folder_without_a_cluster_starts_no_scheduler_and_no_worker(folder: Path) -> None:
    Settings(folder).save()
    for verb in ("scheduler", "worker"):
        refused = CliRunner().invoke(root_app(["aggregator"]), ["aggregator", verb, "--folder", str(folder)])
        assert "names no cluster" in str(refused.exception)


def test_an_aggregator_without_a_cluster_does_not_load_the_engine() -> None:
    assert open_cluster(Path("nowhere"), "", "local", Inline()) is None
    assert importlib.util.find_spec("aggregator.work.engine") is not None
