"""A format whose decoder does what the file says: what a decoder with a hole may be made to do."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medveil_imaging.sources.formats import FORMATS, Format
from medveil_imaging.sources.frames import PREFIX
from medveil_imaging.sources.raw import Film, Unusable

BEGINNING = b"HOSTILE "
CONNECTION = 3
"""Where a reader's connection is: a decoder that is taken over would find it."""


def hostile(path: Path, deed: str) -> Path:
    """Write a file that makes its decoder do something."""
    path.write_bytes(BEGINNING + deed.encode())
    return path


def _crash() -> None:
    ctypes.string_at(0)


def _loop() -> None:
    while True:
        pass


def _bomb() -> None:
    raise AssertionError(f"there was room for {np.ones(2**31).nbytes} bytes")


def _killed() -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGKILL)


def _lie(header: bytes, content: bytes = b"") -> None:
    os.write(CONNECTION, PREFIX.pack(len(header), len(content)) + header + content)


def _shrink() -> None:
    """Shared memory that could be cut while somebody reads it."""
    handle = os.memfd_create("image", os.MFD_ALLOW_SEALING)
    os.write(handle, bytes(2**20))
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    header = b'{"pixels": [0, [512, 512]], "notes": [], "patient_mark": null}'
    with socket.socket(fileno=os.dup(CONNECTION)) as to:
        socket.send_fds(to, [PREFIX.pack(len(header), 2**20) + header], [handle])


def _try_all() -> None:
    """Refuses the file; the reason lists what was possible."""
    here = Path(__file__).parent
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: (here / "written-by-a-decoder").write_bytes(b""),
        "remove": lambda: (here / "nothing-there").unlink(),
        "connect": socket.socket,
        "fork": os.fork,
        "program": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
        "kill": lambda: os.kill(os.getppid(), 0),
        "signal": lambda: signal.pidfd_send_signal(0, 0),
        "unlimited": lambda: ctypes.CDLL(None).prlimit(os.getppid(), 7, None, None) and _fail(),
    }
    possible = []
    for name, attempt in attempts.items():
        try:
            attempt()
            possible.append(name)
        except PermissionError:
            pass
        except OSError as error:
            possible.append(f"{name} {error.errno}")
    raise Unusable("tried", " ".join(possible) or "nothing", "-")


def _fail() -> None:
    raise PermissionError


DEEDS: dict[str, Callable[[], object]] = {
    "crash": _crash,
    "loop": _loop,
    "bomb": _bomb,
    "killed": _killed,
    "sleep": lambda: time.sleep(10_000),
    "leave": lambda: os._exit(0),
    "try all": _try_all,
    "garbage": lambda: os.write(CONNECTION, os.urandom(64)),
    "no header": lambda: _lie(b"[]"),
    "deep": lambda: _lie(b"[" * 60_000),
    "other fields": lambda: _lie(b'{"__class__": "os.system"}'),
    "too many pixels": lambda: _lie(b'{"pixels": [0, [65536, 65536]], "notes": [], "patient_mark": null}'),
    "negative": lambda: _lie(b'{"pixels": [-64, [4]], "notes": [], "patient_mark": null}', bytes(64)),
    "no words": lambda: _lie(b'{"refused": ["a", "\\u001b[31m", "b"]}'),
    "shrink": _shrink,
}


def _film(data: bytes) -> Film:
    DEEDS[data[len(BEGINNING) :].decode()]()
    return Film(np.zeros((8, 8), np.float32))


if "pytest" not in sys.modules:  # in a reader, not where a test writes such files
    FORMATS.register("hostile")(
        Format(what="hostile", begins=lambda data: data.startswith(BEGINNING), film=_film)
    )
