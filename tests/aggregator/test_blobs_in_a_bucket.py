"""Blobs in an S3-compatible store keep the promises of those in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

import buckets
from aggregator.backup import NotThere, back_up
from aggregator.settings import Settings, load
from aggregator.storage.blobs import Blobs, DamagedBlob, StorageFailed, UnusableBlobs
from aggregator.storage.bucket import BucketBlobs, open_store
from aggregator.storage.open import open_blobs
from aggregator.storage.store import Store
from aggregator.work.unmasking import segment_lengths
from aggregator.work.workers import Inline, Workers
from door import Door
from medveil_research.ports import free_port
from restoring import put_back
from world import World, finish, make_sites, model_in, play

Build = Callable[..., World]
DATA = os.urandom(100_000)
DIGEST = hashlib.sha256(DATA).digest()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with buckets.s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket on a server of its own."""
    for name, value in buckets.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    buckets.bucket_of_moto().keys.clear()
    return server


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket behind a port at which nobody listens."""
    for name, value in buckets.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return f"s3://gone?endpoint=http://127.0.0.1:{free_port()}&region=us-east-1"


@pytest.fixture(params=["folder", "memory", "local", pytest.param("s3", marks=pytest.mark.slow)])
def blobs(request: pytest.FixtureRequest, folder: Path) -> Blobs:
    if request.param == "folder":
        return Blobs(folder)
    if request.param == "s3":
        return open_blobs(folder, request.getfixturevalue("bucket"))
    if request.param == "memory":
        return BucketBlobs(folder, MemoryStore())
    return BucketBlobs(folder, LocalStore(folder / "elsewhere", mkdir=True, automatic_cleanup=True))


def draft(blobs: Blobs, data: bytes) -> Path:
    blobs.put_segment("a", 1, 0, DATA)  # an attempt begins with its uploads
    path = blobs.draft("a", "sum", "token")
    path.write_bytes(data)
    return path


def test_what_was_kept_is_read_back_whole_or_in_pieces(blobs: Blobs) -> None:
    blobs.put_model("m", DATA)
    blobs.put_sum("s", DATA[:10])
    blobs.keep_model("n", draft(blobs, DATA * 100))  # ten megabytes: in parts, where there are parts
    blobs.keep_sum("t", draft(blobs, DATA[10:]))
    assert model_in(blobs, "m") == DATA
    assert blobs.names() == {"m", "n"}
    assert model_in(blobs, "n") == DATA * 100
    with blobs.open_model("n") as file:
        assert file.seek(0, os.SEEK_END) == 10_000_000
        file.seek(5_000_100)
        assert file.read(300_000) == (DATA * 4)[100:300_100]
        file.seek(9_999_990)
        assert file.read(100) == DATA[-10:]
        assert file.read(100) == b""
    with blobs.open_sum("s") as file:
        assert file.read() == DATA[:10]
    with blobs.open_sum("t") as file:
        assert file.read() == DATA[10:]
    assert not blobs.draft("a", "sum", "token").exists()


def test_what_is_not_there_has_a_name_for_it(blobs: Blobs) -> None:
    for ask in (blobs.open_model, blobs.open_sum):
        with pytest.raises(DamagedBlob):
            ask("m")
    with pytest.raises(DamagedBlob), blobs.mapped_segment("a", 1, 0):
        pass
    assert blobs.names() == set()
    assert blobs.uploads() == set()
    blobs.forget_uploads("a")
    blobs.forget_drafts("a")
    blobs.sweep()


def test_a_segment_is_replaced_by_a_repeat_and_checked_before_use(blobs: Blobs) -> None:
    blobs.put_segment("a", 1, 0, b"something else")
    with pytest.raises(DamagedBlob):
        blobs.segment("a", 1, 0, DIGEST)
    blobs.put_segment("a", 1, 0, DATA)
    assert blobs.segment("a", 1, 0, DIGEST) == DATA
    with blobs.mapped_segment("a", 1, 0) as view:
        assert bytes(view) == DATA
    blobs.put_segment("a", 1, 0, b"")
    with pytest.raises(DamagedBlob), blobs.mapped_segment("a", 1, 0):
        pass


def test_an_attempt_is_forgotten_with_its_drafts_and_no_other_one(blobs: Blobs) -> None:
    draft(blobs, DATA)
    blobs.put_segment("b", 1, 0, DATA)
    blobs.put_model("m", DATA)
    assert blobs.uploads() == {"a", "b"}
    blobs.forget_uploads("a")
    assert blobs.uploads() == {"b"}
    assert blobs.names() == {"m"}


def test_a_probe_goes_through_where_blobs_can_be_kept(blobs: Blobs) -> None:
    blobs.probe()


@pytest.mark.slow
@pytest.mark.parametrize("real_workers", [False, True])
def test_a_study_in_a_bucket_goes_on_after_a_restart_and_ends_like_one_in_a_folder(
    build: Build, bucket: str, real_workers: bool
) -> None:
    calm = build()
    finish(calm, make_sites(calm))
    workers = Workers(1) if real_workers else Inline()
    try:
        world = build(bucket=bucket, workers=workers)
        sites = make_sites(world)
        play(world, sites, until=lambda: world.phase == "agree")
        world.blobs.put_segment("0123456789abcdef-9-1", 1, 0, b"left by a crash")
        world.restart()
        assert len(world.blobs.uploads()) == 1
        deadline = time.monotonic() + 300
        while not world.status["finished"] and time.monotonic() < deadline:
            for site in sites:
                site.act()
            world.coordinator.tick()
    finally:
        workers.shutdown()
    assert [(a["outcome"], a["figures"]) for a in world.status["attempts"]] == [
        (a["outcome"], a["figures"]) for a in calm.status["attempts"]
    ]
    kept = {v["model"] for v in world.status["versions"]}
    assert kept == world.blobs.names()
    assert world.blobs.uploads() == set()
    assert not [p for p in world.folder.rglob("*") if p.is_file() and not p.name.startswith("aggregator.db")]


def test_a_store_that_is_away_refuses_whole_is_named_and_goes_on_later(
    build: Build, nowhere: str, folder: Path
) -> None:
    world = build()
    works, away = BucketBlobs(folder, MemoryStore()), open_blobs(folder, nowhere)
    works.put_model(
        world.plan.study.model.initial_model, model_in(world.blobs, world.plan.study.model.initial_model)
    )
    world.coordinator.runs.blobs = works
    sites = make_sites(world)
    play(world, sites, until=lambda: world.phase == "upload")
    door, before = Door(world), world.dump()
    world.coordinator.runs.blobs = away
    attempt = world.coordinator.runs._runs[world.plan.id].attempt
    assert attempt is not None
    (length,) = segment_lengths(attempt.params.words)
    refused = door.ask(door.hospital(), "PUT", f"{door.at}/rounds/1/attempts/1/segments/0", bytes(length))
    door.refused(refused, 503, "storage-failed")
    assert int(refused.headers["Retry-After"]) > 0
    not_ready = door.raw("GET", "/readyz", b"", {})
    assert (not_ready.status_code, "blobs" in not_ready.text) == (503, True)
    assert world.dump() == before
    world.coordinator.runs.blobs = works
    finish(world, sites)
    assert [a["outcome"] for a in world.status["attempts"]] == ["done"] * 3
    door.service.close()


class Full(BaseHTTPRequestHandler):
    """A store that has no room left."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(507)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_full_store_is_named_and_nothing_is_kept_by_half(
    folder: Path, nowhere: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Full) as full:
        threading.Thread(target=full.serve_forever, daemon=True).start()
        url = f"s3://full?endpoint=http://127.0.0.1:{full.server_port}&region=us-east-1"
        blobs = open_blobs(folder, url)
        path = blobs.draft("a", "model", "token")
        path.write_bytes(DATA)
        for keep in (
            lambda: blobs.put_segment("a", 1, 0, DATA),
            lambda: blobs.keep_model("m", path),
            blobs.probe,
        ):
            with pytest.raises(StorageFailed):
                keep()
        full.shutdown()
    assert not path.exists()
    assert "storage.failed" in (told := "".join(capsys.readouterr()))
    assert "canary" not in told
    assert f":{full.server_port}" not in told


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_large_model_leaves_nothing_that_counts(
    folder: Path, bucket: str
) -> None:
    blobs, held = open_blobs(folder, bucket), buckets.bucket_of_moto()
    path = draft(blobs, os.urandom(2**20) * 96)
    program = (
        "import sys; from pathlib import Path; from aggregator.storage.open import open_blobs;"
        "open_blobs(Path(sys.argv[1]), sys.argv[2]).keep_model('m', Path(sys.argv[3]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(folder), bucket, str(path)])
    deadline = time.monotonic() + 120
    while not any(m.parts for m in list(held.multiparts.values())) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(m.parts for m in held.multiparts.values())
    assert blobs.names() == set()
    with pytest.raises(DamagedBlob):
        model_in(blobs, "m")
    blobs.keep_model("m", path)
    assert blobs.names() == {"m"}


@pytest.mark.slow
def test_memory_does_not_grow_with_a_model(folder: Path, bucket: str) -> None:
    """In a process of its own: keep 256 MB and read them again in pieces."""
    path = draft(open_blobs(folder, bucket), b"")
    with open(path, "r+b") as file:
        file.truncate(256 * 2**20)
    program = (
        "import sys, resource; from pathlib import Path; from aggregator.storage.open import open_blobs\n"
        "blobs = open_blobs(Path(sys.argv[1]), sys.argv[2])\n"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = most(); blobs.keep_model('m', Path(sys.argv[3]))\n"
        "with blobs.open_model('m') as file:\n"
        "    while file.read(2**20): pass\n"
        "print(most() - before)"
    )
    run = [sys.executable, "-c", program, str(folder), bucket, str(path)]
    grown = int(subprocess.run(run, capture_output=True, check=True, text=True).stdout)
    assert grown < 100 * 1024, grown


@pytest.mark.slow
def test_a_backup_names_the_bucket_and_is_restored_only_where_the_newest_models_are(
    build: Build, folder: Path, bucket: str
) -> None:
    world = build(bucket=bucket)
    finish(world, make_sites(world))
    world.admin.save(world.folder / "admin.key")
    Settings(world.folder, blobs=bucket).save()
    back_up(load(world.folder), folder / "backup")
    restored = replace(load(folder / "backup"), folder=folder / "new")
    assert restored.blobs == bucket
    put_back(folder / "backup", restored)
    again = Store(restored.where, world.admin)
    assert [v.model for v, _ in again.plans.versions(world.plan.id)] == [
        v["model"] for v in world.status["versions"]
    ]
    again.close()
    buckets.bucket_of_moto().keys.clear()
    with pytest.raises(NotThere, match="newest model"):
        put_back(folder / "backup", replace(restored, folder=folder / "newer"))


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:canary-secret@bucket/prefix",
        "s3://bucket?secret_access_key=canary-secret",
        "s3://bucket?endpoint=http://store.example",
        "gs://bucket",
        "s3:///prefix",
    ],
)
def test_an_address_with_credentials_or_without_tls_is_refused_and_not_repeated(
    folder: Path, url: str
) -> None:
    with pytest.raises(UnusableBlobs) as refused:
        open_blobs(folder, url)
    assert "canary" not in f"{refused.value} {refused.value.meaning} {refused.value.remedy}"


def test_credentials_are_neither_shown_nor_sent_to_a_worker(folder: Path, nowhere: str) -> None:
    blobs = open_blobs(folder, nowhere)
    assert b"canary" not in pickle.dumps(blobs)
    assert "canary" not in repr(blobs) + repr(open_store(nowhere))
    again = pickle.loads(pickle.dumps(blobs))  # noqa: S301 (as the pipe to a worker does)
    assert isinstance(again, BucketBlobs)
    with pytest.raises(StorageFailed):
        again.probe()
    Settings(folder, blobs=nowhere).save()
    assert "canary" not in (folder / "aggregator.json").read_text()
    assert json.loads((folder / "aggregator.json").read_text())["blobs"] == nowhere
