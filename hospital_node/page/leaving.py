"""The newest of what has left, from the end of the record alone: the page never reads years of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hospital_node.page.values import Leaves, Sent
from hospital_node.settings import Node
from hospital_node.transmissions.entries import Entry, read_header, read_line
from hospital_node.transmissions.look import Line, summed_up
from hospital_node.transmissions.record import FILE
from hospital_node.transmissions.requests import NOTES
from medveil.shown import plain

TAIL_BYTES = 262_144
"""Of the newest file: some five hundred entries."""
SHOWN = 12


def path_of(node: Node) -> Path:
    """The newest file of the record."""
    return node.folder / FILE


def newest(node: Node) -> Leaves:
    """The newest transmissions, the newest first. Raises: BadTransmission if what is read is no record."""
    try:
        with open(path_of(node), "rb") as file:
            read_header(file.readline(TAIL_BYTES))
            first, size = file.tell(), file.seek(0, os.SEEK_END)
            start = file.seek(max(first, size - TAIL_BYTES))
            tail = file.read()
    except OSError:
        return Leaves()
    if start > first:
        tail = tail[tail.find(b"\n") + 1 :]
    whole = tail[: tail.rfind(b"\n") + 1]  # a line that is being written is left out
    found = summed_up(_entries(whole), last=10 * SHOWN)
    lines = [line for line in found.lines if line.entry.kind not in NOTES]
    return Leaves(tuple(map(_sent, reversed(lines[-SHOWN:]))), found.end.number, recorded=True)


def _entries(whole: bytes) -> Iterator[Entry]:
    for line in whole.splitlines():
        yield read_line(line, number=0)


def _sent(line: Line) -> Sent:
    told = line.entry.told
    masked = told.get("masked")
    return Sent(
        at=line.entry.time_ms / 1000,
        kind=plain(line.entry.kind, 40),
        where=plain(told.get("round", ""), 20),
        bytes=line.bytes,
        masked=masked if isinstance(masked, bool) else None,
        to=plain(told.get("to", ""), 100),
        hash=plain(told.get("sha256", ""), 64)[:16],
        answer=plain(line.answer, 40),
    )
