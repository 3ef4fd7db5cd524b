"""Worker processes carry little, and none outlives the server, however it ends."""

from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest

from aggregator.work.workers import Workers

SERVER = """
import os, signal
from aggregator.work.workers import Workers
if __name__ == "__main__":
    workers = Workers(1)
    print(workers.submit(os.getpid).result(), flush=True)
    workers.submit(signal.pause)
    signal.pause()
"""


def ended(pid: int, seconds: float) -> bool:
    """Whether a process ends within that time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def test_workers_start_when_they_are_needed_and_no_more_than_are() -> None:
    workers = Workers(3)
    assert workers.pids == []
    first = workers.submit(os.getpid).result()
    assert workers.submit(os.getpid).result() == first
    assert workers.pids == [first]
    workers.shutdown()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_worker_keeps_the_memory_of_one_vector_for_the_next() -> None:
    copies = "[(bytearray(bytes(2**22)), __import__('resource').getrusage(0).ru_minflt)[1] for _ in 'abcdef']"
    workers = Workers(1)
    fetched: list[int] = workers.submit(eval, copies).result()
    workers.shutdown()
    assert fetched[-1] - fetched[1] < 1024  # pages of one copy; else each of the four fetches as many


def test_a_job_that_never_ends_does_not_hold_up_the_end() -> None:
    workers = Workers(1)
    pid = workers.submit(os.getpid).result()
    stuck = workers.submit(signal.pause)
    workers.shutdown()
    assert ended(pid, 0)
    assert isinstance(stuck.exception(), BrokenProcessPool)


def test_workers_are_replaced_without_waiting_for_one_that_hangs() -> None:
    workers = Workers(1)
    pid = workers.submit(os.getpid).result()
    stuck = workers.submit(signal.pause)
    workers.shutdown(wait=False)
    assert workers.pids == []
    assert workers.submit(os.getpid).result() != pid
    assert isinstance(stuck.exception(), BrokenProcessPool)
    assert ended(pid, 10)
    workers.shutdown()


def test_after_a_worker_was_killed_the_next_job_finds_another() -> None:
    workers = Workers(1)
    pid = workers.submit(os.getpid).result()
    stuck = workers.submit(signal.pause)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        stuck.result()
    assert workers.submit(os.getpid).result() not in (pid, os.getpid())
    workers.shutdown()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_its_server_even_in_the_middle_of_a_job(
    end: signal.Signals, tmp_path: object
) -> None:
    script = os.path.join(str(tmp_path), "server.py")
    with open(script, "w") as file:
        file.write(SERVER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        os.kill(server.pid, end)
        server.wait()
        assert ended(pid, 10.0)


@pytest.mark.slow
def test_a_worker_loads_neither_server_nor_database_nor_accountant() -> None:
    heavy = ("fastapi", "starlette", "uvicorn", "sqlalchemy", "dp_accounting", "scipy", "torch")
    code = f"""
import sys
import aggregator.work.unmasking, aggregator.work.versions, aggregator.work.workers
loaded = [name for name in {heavy!r} if name in sys.modules]
sys.exit(", ".join(loaded) or 0)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
