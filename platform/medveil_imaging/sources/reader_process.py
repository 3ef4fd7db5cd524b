"""The processes in which files from outside are opened: a small server that forks, and the readers it makes.

The server is a fresh process that has loaded the image libraries and nothing else: no torch, no key, no
thread. A reader is a copy of it, made in milliseconds, confined, and replaced when a file has ended it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

WORD = struct.Struct("!cii")
"""Between the server and who started it: what, a process, its exit status as ``os.waitpid`` has it."""
READY, FORK, FORKED, KILL, ENDED = b"r", b"f", b"F", b"k", b"e"
REQUEST = struct.Struct("!I")
MOST_REQUEST = 2**16


def main() -> None:
    """The server; it ends with its connection.

    Arguments: the connection's handle, bytes of memory, seconds of computing, and modules that bring further
    formats.
    """
    handle, memory_bytes, cpu_s = (int(value) for value in sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=handle)
    sys.modules["requests"] = None  # type: ignore[assignment]  # pydicom would load it, to fetch samples
    from PIL import Image

    from medveil_imaging.sources.formats import FORMATS
    from medveil_imaging.sources.raw import quiet

    list(FORMATS)  # loads them
    for module in sys.argv[4:]:
        importlib.import_module(module)
    Image.preinit()
    gc.collect()
    gc.freeze()  # what is there now stays shared with every copy
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    control.sendall(WORD.pack(READY, os.getpid(), 0))
    with quiet():
        _serve(control, woken, memory_bytes, cpu_s)


def _serve(control: socket.socket, woken: int, memory_bytes: int, cpu_s: int) -> None:
    children: set[int] = set()
    while True:
        ready = select.select([control.fileno(), woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            for pid, status in _ended(children):
                children.discard(pid)
                control.sendall(WORD.pack(ENDED, pid, status))
        if control.fileno() in ready:
            word, handles, _, _ = socket.recv_fds(control, WORD.size, 1)
            what, pid, _ = WORD.unpack(word) if len(word) == WORD.size else (b"", 0, 0)
            if what == FORK:
                child = os.fork()
                if child == 0:
                    _read_until_told(handles[0], memory_bytes, cpu_s)
                children.add(child)
                os.close(handles[0])
                control.sendall(WORD.pack(FORKED, child, 0))
            elif what == KILL and pid in children:
                os.kill(pid, signal.SIGKILL)
            elif what != KILL:  # whoever started this has gone
                for child in children:
                    os.kill(child, signal.SIGKILL)
                for child in children:
                    with suppress(ChildProcessError):
                        os.waitpid(child, 0)
                os._exit(0)


def _ended(children: set[int]) -> list[tuple[int, int]]:
    found = []
    for child in children:
        with suppress(ChildProcessError):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                found.append((pid, status))
    return found


def _read_until_told(handle: int, memory_bytes: int, cpu_s: int) -> None:
    """In a reader: read what is asked for, file after file."""
    from medveil_imaging.sources.confinement import allow_cpu, confine
    from medveil_imaging.sources.frames import send_image, send_refusal
    from medveil_imaging.sources.raw import Unusable, too_large
    from medveil_imaging.sources.read import read_wanted

    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(handle, 3)
        os.closerange(4, 1024)
        asker = socket.socket(fileno=3)
        confine(memory_bytes)
        while (wanted := _request(asker)) is not None:
            allow_cpu(cpu_s)
            try:
                send_image(asker, read_wanted(wanted))
            except Unusable as refusal:
                send_refusal(asker, refusal)
            except MemoryError:
                send_refusal(asker, too_large())
    finally:
        os._exit(1)


def _request(asker: socket.socket) -> Any:
    from medveil.identity import Secret
    from medveil_imaging.sources.dicom.blanking import take_rules
    from medveil_imaging.sources.read import Wanted
    from medveil_imaging.sources.sealed import open_with

    head = asker.recv(REQUEST.size, socket.MSG_WAITALL)
    if len(head) < REQUEST.size:
        os._exit(0)
    text = asker.recv(REQUEST.unpack(head)[0], socket.MSG_WAITALL)
    kind, path, beside, key, rectangles = json.loads(text)
    take_rules(rectangles)
    open_with(Secret(bytes.fromhex(key)) if key else None)
    return Wanted(kind, Path(path), Path(beside) if beside else None)


def request(kind: str, path: Path, beside: Path | None = None) -> bytes:
    """What a reader is sent. Surrogates stand for bytes of a name that are no text, and come back as such."""
    from medveil_imaging.sources.dicom.blanking import rules_in_use
    from medveil_imaging.sources.sealed import key_in_use

    text = json.dumps([kind, str(path), str(beside or ""), key_in_use(), rules_in_use()]).encode()
    return REQUEST.pack(len(text)) + text


if __name__ == "__main__":
    main()
