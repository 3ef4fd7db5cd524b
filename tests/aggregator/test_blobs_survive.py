"""Files are whole or absent, whatever the disk does; nothing damaged is ever used."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.storage.blobs import Blobs, DamagedBlob, StorageFailed, write_durably
from aggregator.storage.store import Store
from aggregator.work.unmasking import DamagedSegment, Summing, sum_segment
from medveil.identity import Identity
from world import World, fresh_file, make_sites, model_in

PAGE = 4096
DATA = bytes(np.arange(3 * PAGE // 8, dtype="<u8").data)
DIGEST = hashlib.sha256(DATA).digest()
ADMIN = Identity.generate("admin")


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def damages() -> Iterator[tuple[str, bytes]]:
    for end in range(0, len(DATA), PAGE):
        yield f"cut at {end}", DATA[:end]
    yield "one byte less", DATA[:-1]
    yield "one byte more", DATA + b"\0"
    for place in range(0, len(DATA), 977):
        flipped = bytearray(DATA)
        flipped[place] ^= 1 << place % 8
        yield f"a flipped bit in byte {place}", bytes(flipped)


@pytest.mark.parametrize(("kind", "found"), list(damages()), ids=lambda v: v if isinstance(v, str) else "")
def test_a_torn_or_flipped_segment_is_never_summed(folder: Path, kind: str, found: bytes) -> None:
    blobs = Blobs(folder)
    for hospital in (1, 2):
        blobs.put_segment("a", hospital, 0, DATA)
    job = Summing(blobs, "a", "t", len(DATA) // 8, {1: (DIGEST,), 2: (DIGEST,)}, ())
    sum_segment(job, 0)
    (folder / "uploads" / "a" / "2-0").write_bytes(found)
    with pytest.raises(DamagedBlob):
        blobs.segment("a", 2, 0, DIGEST)
    with pytest.raises(DamagedSegment) as caught:
        sum_segment(job, 0)
    assert (caught.value.source, caught.value.segment) == (2, 0)
    blobs.put_segment("a", 2, 0, DATA)  # the upload is repeated
    sum_segment(job, 0)


def test_a_damaged_model_is_repaired_by_keeping_it_again(folder: Path) -> None:
    blobs = Blobs(folder)
    blobs.put_model("m", DATA)
    for _, found in damages():
        (folder / "models" / "m").write_bytes(found)
        blobs.put_model("m", DATA)
        assert model_in(blobs, "m") == DATA


class Failing:
    """The n-th call of a function of the operating system fails."""

    def __init__(self, real: Callable[..., Any], n: int, code: int) -> None:
        self.real, self.left, self.code = real, n, code

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments, **named)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("name", ["fsync", "replace", "open", "mkdir"])
def test_whichever_call_fails_the_file_is_whole_or_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    """n = 1, 2, … until it goes through; each time nothing half written stays, and a repeat succeeds."""
    failures = 0
    for n in range(1, 20):
        where = folder / str(n)
        where.mkdir()
        path = where / "models" / "m"
        with monkeypatch.context() as patch:
            failing = Failing(getattr(os, name), n, code)
            patch.setattr(os, name, failing)
            with suppress(StorageFailed):
                write_durably(path, DATA)
        if failing.left > 0:
            break
        failures += 1
        assert files(where) == set()
        write_durably(path, DATA)
        assert path.read_bytes() == DATA
    assert failures == {"fsync": 3, "replace": 1, "open": 2, "mkdir": 1}[name]


def test_a_file_whose_fsync_failed_is_lost_even_if_an_older_one_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fsync fails: the old file stays. The folder's fails: who can tell what is on the disk?"""
    path = folder / "f"
    for n, expected in ((1, b"old"), (2, None)):
        path.write_bytes(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", Failing(os.fsync, n, errno.EIO))
            with pytest.raises(StorageFailed):
                write_durably(path, b"new")
        assert (path.read_bytes() if path.exists() else None) == expected


def test_what_a_crash_left_half_written_is_swept_and_nothing_else(folder: Path) -> None:
    blobs = Blobs(folder)
    blobs.put_model("m", DATA)
    blobs.put_sum("s", DATA)
    blobs.put_segment("a", 1, 0, DATA)
    whole = files(folder)
    for name in ("models/m.0123.scratch", "models/n.4567.scratch", "sums/s.89.scratch"):
        (folder / name).write_bytes(DATA[:100])
    blobs.sweep()
    assert files(folder) == whole


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond this size fail, as on a full disk; Python writes none of its compiled files meanwhile."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = before


def test_a_file_that_does_not_fit_leaves_nothing_behind(folder: Path) -> None:
    blobs = Blobs(folder)
    with largest_file(PAGE), pytest.raises(StorageFailed):
        blobs.put_model("m", DATA)
    assert files(folder) == set()
    blobs.put_model("m", DATA)
    assert model_in(blobs, "m") == DATA


def test_a_database_that_cannot_grow_takes_nothing_by_half_and_goes_on_later(folder: Path) -> None:
    file = fresh_file(folder)
    store, taken = Store(file, ADMIN), 0
    with largest_file(file.stat().st_size + 4 * PAGE), suppress(StorageFailed):
        for taken in range(1000):
            store.register.add_token(f"h{taken}", name=f"h{taken}", role="hospital", expires=1.0)
    assert 0 < taken < 999
    assert sum(e.action == "token.added" for e in store.log.entries()) == taken
    store.log.verify()
    store.register.add_token("later", name="later", role="hospital", expires=1.0)
    assert store.log.verify() == store.transactions.head
    store.close()


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    at = folder / "small"
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(at)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield at
    subprocess.run(["umount", "--lazy", str(at)], check=True)


def test_a_full_disk_refuses_and_recovers(build: Callable[..., World], small_disk: Path) -> None:
    """Database and uploads on a full disk: messages are refused whole; with space again the study goes on."""
    world = build(database=fresh_file(small_disk))
    world.blobs._uploads = small_disk / "uploads"
    sites = make_sites(world)
    ballast = small_disk / "ballast"
    while world.phase != "upload":
        for site in sites:
            site.act()
        world.coordinator.tick()
    with open(ballast, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass
    before = world.dump()[0]
    refused = 0
    for site in sites:
        with suppress(StorageFailed):
            site.act()
            continue
        refused += 1
        site.sent.clear()
    assert refused == 3
    assert world.dump()[0] == before
    ballast.unlink()
    if world.store.transactions.in_doubt:
        world.coordinator.start_over()
    assert world.status["open"]["answered"] == []
    world.store.log.verify()
