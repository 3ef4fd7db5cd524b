"""What a file does to its decoder costs that file alone: it is refused by name, and the rest is read."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folders import film, write_folder
from hostile_format import DEEDS, hostile
from medveil.stopping import Stopped, stoppable
from medveil_imaging.sources.raw import Film, Unusable
from medveil_imaging.sources.read import Wanted
from medveil_imaging.sources.readers import in_this_process
from medveil_imaging.sources.site import read_site
from medveil_imaging.sources.workers import Limits, Workers
from world import make_study

LIES = ("garbage", "no header", "deep", "other fields", "too many pixels", "negative", "no words", "shrink")


@pytest.fixture(scope="module")
def readers() -> Iterator[Workers]:
    with closing(Workers(1, Limits(2**30, cpu_s=0), formats=["hostile_format"])) as found:
        yield found


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def server_of(pid: int, known: Sequence[int] = ()) -> int:
    """The process that makes readers for another one."""
    children = [child for child in children_of(pid) if child not in known]
    [found] = [c for c in children if b"reader_process" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return found


def results(readers: Any, paths: list[Path]) -> list[str]:
    """A refusal's code for each file, and "read"."""
    found = []
    for path, read in readers(paths, lambda p: [Wanted("film", p)]):
        assert path == paths[len(found)]
        found.append(read.code if isinstance(read, Unusable) else "read")
    return found


def between(folder: Path, deeds: list[str]) -> list[Path]:
    """Hostile files, each with a film before and after it."""
    paths = [folder / "first.png"]
    film(paths[0], 0)
    for number, deed in enumerate(deeds):
        paths += [hostile(folder / deed, deed), folder / f"{number}.png"]
        film(paths[-1], number + 1)
    return paths


def test_a_crash_a_loop_and_a_bomb_cost_one_file_each(readers: Workers, tmp_path: Path) -> None:
    paths = between(tmp_path, ["crash", "loop", "bomb", "leave", "killed"])
    codes = ["reader-crashed", "reader-too-slow", "reader-memory", "reader-crashed", "reader-memory"]
    expected = ["read", *(one for code in codes for one in (code, "read"))]
    assert results(readers, paths) == expected


@pytest.mark.slow
def test_a_file_on_a_disk_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    limits = Limits(2**30, wall_s=0.1)
    with closing(Workers(1, limits, formats=["hostile_format"])) as readers:
        assert results(readers, [hostile(tmp_path / "sleep", "sleep")]) == ["reader-too-slow"]


def test_what_a_reader_says_is_not_believed(readers: Workers, tmp_path: Path) -> None:
    paths = between(tmp_path, list(LIES))
    assert results(readers, paths) == ["read", *["reader-crashed", "read"] * len(LIES)]


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of system calls is Linux's")
def test_a_decoder_that_is_taken_over_can_write_send_and_start_nothing(
    readers: Workers, tmp_path: Path
) -> None:
    path = hostile(tmp_path / "try all", "try all")
    [(_, refused)] = readers([path], lambda p: [Wanted("film", p)])
    assert isinstance(refused, Unusable)
    assert refused.what == "nothing"


def test_images_come_through_a_reader_as_they_are(readers: Workers, tmp_path: Path) -> None:
    for size in (9, 400):  # with the answer, and in shared memory
        film(tmp_path / "film.png", 1, size)
        [(_, here)] = in_this_process([tmp_path / "film.png"], lambda p: [Wanted("film", p)])
        [(_, there)] = readers([tmp_path / "film.png"], lambda p: [Wanted("film", p)])
        assert isinstance(here, list)
        assert isinstance(there, list)
        one, other = here[0], there[0]
        assert isinstance(one, Film)
        assert isinstance(other, Film)
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.notes, one.patient_mark) == (other.notes, other.patient_mark)


def test_a_site_lists_the_file_that_crashed_its_decoder(readers: Workers, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "films")
    hostile(folder / "val-1-0.png", "crash")
    site = read_site(folder, make_study(), readers=readers)
    assert [(p.file, p.code) for p in site.problems] == [("val-1-0.png", "reader-crashed")]
    assert [len(each) for each in (site.train, site.val, site.test)] == [12, 3, 4]


def test_nothing_is_left_of_a_reading_that_was_stopped(readers: Workers, tmp_path: Path) -> None:
    stop, paths = threading.Event(), between(tmp_path, ["loop"])
    with stoppable(stop):
        reading = readers(paths, lambda p: [Wanted("film", p)])
        next(reading)
        stop.set()
        with pytest.raises(Stopped):
            next(reading)
    assert results(readers, paths[:1]) == ["read"]


def test_several_threads_read_at_once(readers: Workers, tmp_path: Path) -> None:
    paths, found = between(tmp_path, []) * 20, []
    threads = [threading.Thread(target=lambda: found.append(results(readers, paths))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["read"] * 20] * 3


@pytest.mark.slow
def test_a_server_that_is_killed_is_replaced(tmp_path: Path) -> None:
    before = children_of(os.getpid())
    with closing(Workers(1)) as readers:
        paths = between(tmp_path, []) * 3
        assert results(readers, paths) == ["read"] * 3
        os.kill(server_of(os.getpid(), before), signal.SIGKILL)
        assert results(readers, paths) == ["read"] * 3


@pytest.mark.slow
def test_readers_end_with_the_process_that_asked_however_it_ends(tmp_path: Path) -> None:
    film(tmp_path / "film.png", 1)
    script = (
        "import sys; from pathlib import Path; from medveil_imaging.sources.read import Wanted\n"
        "from medveil_imaging.sources.workers import workers\n"
        "list(workers()([Path(sys.argv[1])], lambda p: [Wanted('film', p)]))\n"
        "print('read', flush=True); sys.stdin.read()"
    )
    path = os.pathsep.join(filter(None, sys.path))
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "film.png")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"read\n"
    server = server_of(child.pid)
    ends = [os.pidfd_open(pid) for pid in (server, *children_of(server))]
    assert len(ends) == 2
    child.kill()
    child.communicate()
    for end in ends:
        assert select.select([end], [], [], 200)[0] == [end]
        os.close(end)


def test_every_deed_is_tried() -> None:
    tried = {"crash", "loop", "bomb", "leave", "killed", "sleep", "try all", *LIES}
    assert tried == set(DEEDS)
