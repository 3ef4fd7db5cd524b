"""The process in which DICOM objects are made: headers from outside are parsed here, and nowhere else.

As the readers of images it is confined: it opens files to read them, and answers. What it answers is a file
that the caller writes.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medveil_imaging.sources.raw import Unusable, quiet
from medveil_imaging.sources.workers import crashed, too_slow
from medveil_research.prediction.dicom_objects import About, Labels, Number, outline_object, report_object

HEAD = struct.Struct("!IQ")
"""Bytes of a JSON text, and of what follows it."""
MEMORY_BYTES, CPU_S, WALL_S = 2**33, 300, 600.0
MOST = 2**32


class ObjectMaker:
    """Makes DICOM objects in a process of its own, started at the first and again after one that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def outline(
        self, paths: Sequence[Path], labels: Labels, affine: NDArray[np.float64], about: About
    ) -> bytes:
        """See :func:`medveil_research.prediction.dicom_objects.outline_object`. Raises: Unusable."""
        asked = {"paths": [str(p) for p in paths], "affine": affine.tolist(), "shape": labels.shape}
        return self._made(asked | {"about": asdict(about)}, np.ascontiguousarray(labels).tobytes())

    def report(
        self,
        paths: Sequence[Path],
        found: Sequence[Number],
        verdicts: Sequence[tuple[str, str]],
        about: About,
    ) -> bytes:
        """See :func:`medveil_research.prediction.dicom_objects.report_object`. Raises: Unusable."""
        asked: dict[str, Any] = {"paths": [str(p) for p in paths], "verdicts": list(verdicts)}
        return self._made(asked | {"numbers": [asdict(one) for one in found], "about": asdict(about)}, b"")

    def _made(self, asked: dict[str, Any], more: bytes) -> bytes:
        line = self._line()
        try:
            line.settimeout(WALL_S)
            _send(line, asked, more)
            head, data = _frame(line)
        except TimeoutError as error:
            self._end()
            raise too_slow() from error
        except (OSError, EOFError, ValueError) as error:
            self._end()
            raise crashed() from error
        refused = head.get("refused")
        if refused is not None:
            raise Unusable(*(str(part) for part in refused))
        return data

    def _line(self) -> socket.socket:
        if self._socket is None or self._process is None or self._process.poll() is not None:
            self._end()
            self._socket, there = socket.socketpair()
            settings = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": _path()}
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=settings | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
            )
            there.close()
        return self._socket

    def _end(self) -> None:
        line, self._socket = self._socket, None
        if line is not None:
            line.close()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def _path() -> str:
    return os.pathsep.join(filter(None, sys.path))


def _send(line: socket.socket, head: dict[str, Any], more: bytes) -> None:
    text = json.dumps(head).encode()
    line.sendall(HEAD.pack(len(text), len(more)) + text)
    line.sendall(more)


def _frame(line: socket.socket) -> tuple[dict[str, Any], bytes]:
    """One text with what follows it. Raises: EOFError, OSError (also TimeoutError), ValueError."""
    text_bytes, more_bytes = HEAD.unpack(_exactly(line, HEAD.size))
    if text_bytes > MOST or more_bytes > MOST:
        raise ValueError("a frame of another size")
    head = json.loads(_exactly(line, text_bytes))
    if not isinstance(head, dict):
        raise ValueError("no head")
    return head, _exactly(line, more_bytes)


def _exactly(line: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = line.recv(min(2**20, count - len(found)))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)


def main() -> None:
    """In the process: object after object, until nobody asks any more."""
    import highdicom
    from pydicom.sr.codedict import codes

    from medveil_imaging.sources.confinement import allow_cpu, confine

    assert highdicom.__version__
    assert codes.DCM.ArtificialIntelligence  # loads the dictionary
    line = socket.socket(fileno=int(sys.argv[1]))
    confine(MEMORY_BYTES)
    while True:
        try:
            asked, more = _frame(line)
        except EOFError:
            return
        allow_cpu(CPU_S)
        _send(line, *_answer(asked, more))


def _answer(asked: dict[str, Any], more: bytes) -> tuple[dict[str, Any], bytes]:
    paths = [Path(path) for path in asked["paths"]]
    about = About(**(asked["about"] | {"classes": tuple(asked["about"]["classes"])}))
    try:
        with quiet():
            if "shape" in asked:
                labels = np.frombuffer(more, np.uint8).reshape(asked["shape"])
                return {}, outline_object(paths, labels, np.array(asked["affine"]), about)
            numbers = [Number(**one) for one in asked["numbers"]]
            verdicts = [(str(question), str(answer)) for question, answer in asked["verdicts"]]
            return {}, report_object(paths, numbers, verdicts, about)
    except Unusable as refusal:
        return {"refused": [refusal.code, refusal.what, refusal.remedy]}, b""
    except Exception:  # pydicom and highdicom raise nearly everything where a header is incomplete
        what = (
            "No DICOM object could be made about this image: its header is incomplete or contradicts itself."
        )
        remedy = "Use the other files of the prediction, or export the image again with its whole header."
        return {"refused": ["no-dicom-object", what, remedy]}, b""


if __name__ == "__main__":
    main()
