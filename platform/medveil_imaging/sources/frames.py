"""What a reader's process says: plain frames, a header of known fields in JSON and arrays as they are.

The process that wrote a frame may be ruled by a hostile file. So nothing is unpickled, every field is held
against its type, every array against the bytes that are there, and what passes cannot change any more.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np

from medveil_imaging.sources.raw import MAX_VOXELS, Film, Float32, Float64, Note, Unusable, Volume

MOST_HEADER = 2**16
MOST_CONTENT = 8 * MAX_VOXELS
INLINE = 2**17
"""Content up to this size comes with the header; more lies in a sealed piece of shared memory."""
ALIGNED = 64
PREFIX = struct.Struct("!IQ")
"""Bytes of the header, bytes of the content."""
CODE = re.compile("[a-z0-9-]{1,60}")
MOST_TEXT, MOST_NOTES, MOST_AXES = 600, 20, 5
SEALED = getattr(fcntl, "F_SEAL_WRITE", 0) | getattr(fcntl, "F_SEAL_SHRINK", 0)

Buffer = bytes | bytearray | mmap.mmap
Put = Callable[[Any, list[np.ndarray]], Any]
Take = Callable[[Any, Buffer], Any]


class BadFrame(Exception):
    """What came is not what a reader says."""


def send_image(to: socket.socket, image: Film | Volume) -> None:
    """Hand an image over, with one copy of its arrays."""
    arrays: list[np.ndarray] = []
    header = {f.name: _FIELDS[type(image)][f.name][0](getattr(image, f.name), arrays) for f in fields(image)}
    _send(to, header, arrays)


def send_refusal(to: socket.socket, refusal: Unusable) -> None:
    """Say why there is no image."""
    _send(to, {"refused": [refusal.code, refusal.what, refusal.remedy]}, [])


def receive(source: socket.socket, kind: type[Film] | type[Volume]) -> Film | Volume | Unusable:
    """One answer.

    Guarantees: its arrays are this process's own; whoever sent them cannot change them.
    Raises: BadFrame; EOFError if the other side has gone; TimeoutError as the socket is set.
    """
    head, shared = _prefix(source)
    try:
        header_bytes, content_bytes = PREFIX.unpack(head)
        if not 0 < header_bytes <= MOST_HEADER or content_bytes > MOST_CONTENT:
            raise BadFrame("a frame of another size")
        header = _parsed(bytes(_exactly(source, header_bytes)))
        content: Buffer
        if not shared:
            content = _exactly(source, content_bytes)
        else:
            content = _mapped(shared[0], content_bytes)
    finally:
        for handle in shared:
            os.close(handle)
    if set(header) == {"refused"}:
        return Unusable(*_note(header["refused"]))
    known = _FIELDS[kind]
    if set(header) != set(known):
        raise BadFrame("other fields")
    return kind(**{name: take(header[name], content) for name, (_, take) in known.items()})


def _send(to: socket.socket, header: dict[str, Any], arrays: list[np.ndarray]) -> None:
    text = json.dumps(header).encode()
    pieces: list[bytes | memoryview] = []
    for array in arrays:
        pieces += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % ALIGNED)]
    size = sum(map(len, pieces))
    head = PREFIX.pack(len(text), size) + text
    handle = None if size <= INLINE else _shared_memory()
    if handle is None:
        to.sendall(b"".join([head, *pieces]) if size <= INLINE else head)
        for piece in pieces if size > INLINE else ():
            to.sendall(piece)
        return
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(handle, rest) :]
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, SEALED | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        sent = socket.send_fds(to, [head], [handle])
        to.sendall(head[sent:])
    finally:
        os.close(handle)


def _shared_memory() -> int | None:
    """A piece of it; None where the system has none, or gives this process none."""
    with suppress(AttributeError, OSError):
        return os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    return None


def _prefix(source: socket.socket) -> tuple[bytes, list[int]]:
    if not hasattr(os, "memfd_create"):
        return bytes(_exactly(source, PREFIX.size)), []
    head, shared, _, _ = socket.recv_fds(source, PREFIX.size, 1, socket.MSG_CMSG_CLOEXEC)
    try:
        if not head:
            raise EOFError
        return head + _exactly(source, PREFIX.size - len(head)), shared
    except BaseException:
        for handle in shared:
            os.close(handle)
        raise


def _exactly(source: socket.socket, count: int) -> bytearray:
    found = bytearray(count)
    rest = memoryview(found)
    while rest:
        got = source.recv_into(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return found


def _mapped(handle: int, size: int) -> mmap.mmap:
    """Shared memory that nobody can write or cut any more: no page of it can go away under a reader."""
    try:
        seals = fcntl.fcntl(handle, fcntl.F_GET_SEALS)
        if seals & SEALED != SEALED or os.fstat(handle).st_size != size:
            raise BadFrame("shared memory that is not sealed")
        return mmap.mmap(handle, size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise BadFrame("no shared memory") from error


def _parsed(text: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        header = json.loads(text)
        if isinstance(header, dict):
            return header
    raise BadFrame("no header")


def _put_array(array: np.ndarray, arrays: list[np.ndarray]) -> list[Any]:
    offset = sum(one.nbytes + -one.nbytes % ALIGNED for one in arrays)
    arrays.append(np.ascontiguousarray(array))
    return [offset, list(array.shape)]


def _take_array(dtype: type[np.floating[Any]]) -> Take:
    def take(told: Any, content: Buffer) -> np.ndarray:
        if not (isinstance(told, list) and len(told) == 2 and isinstance(told[1], list)):
            raise BadFrame("no array")
        offset, shape = told
        whole = [offset, *shape]
        if not all(type(n) is int and 0 <= n <= MOST_CONTENT for n in whole) or len(shape) > MOST_AXES:
            raise BadFrame("no place or shape")
        count = math.prod(shape)  # Python integers: no product wraps around
        if offset % ALIGNED or offset + count * dtype().itemsize > len(content):
            raise BadFrame("an array beyond the content")
        return np.frombuffer(content, dtype, count, offset).reshape(shape)

    return take


def _note(told: Any) -> tuple[str, str, str]:
    if not (isinstance(told, list) and len(told) == 3 and all(isinstance(text, str) for text in told)):
        raise BadFrame("no note")
    code, reason, remedy = told
    if not CODE.fullmatch(code) or any(len(t) > MOST_TEXT or not t.isprintable() for t in (reason, remedy)):
        raise BadFrame("no words for people")
    return code, reason, remedy


def _take_notes(told: Any, _: Buffer) -> tuple[Note, ...]:
    if not isinstance(told, list) or len(told) > MOST_NOTES:
        raise BadFrame("no notes")
    return tuple(Note(*_note(one)) for one in told)


def _take_mark(told: Any, _: Buffer) -> bytes | None:
    if told is None:
        return None
    if not isinstance(told, str) or not re.fullmatch("([0-9a-f]{2}){1,64}", told):
        raise BadFrame("no mark")
    return bytes.fromhex(told)


def _take_bool(told: Any, _: Buffer) -> bool:
    if not isinstance(told, bool):
        raise BadFrame("neither true nor false")
    return told


_KINDS: dict[Any, tuple[Put, Take]] = {
    Float32: (_put_array, _take_array(np.float32)),
    Float64: (_put_array, _take_array(np.float64)),
    tuple[Note, ...]: (lambda notes, _: [[n.code, n.reason, n.remedy] for n in notes], _take_notes),
    bool: (lambda answer, _: answer, _take_bool),
    bytes | None: (lambda mark, _: mark.hex() if mark is not None else None, _take_mark),
}
"""How a field of that type is put into a frame and taken out of it. A field of another type needs a line."""
_FIELDS = {kind: {n: _KINDS[hint] for n, hint in get_type_hints(kind).items()} for kind in (Film, Volume)}
