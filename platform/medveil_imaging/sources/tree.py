"""A hospital's folder of files → what lies in it, by a look at each file's first bytes.

Nothing is followed out of the folder and nothing twice: links to folders are left out, so no circle of them
is walked. Each file is opened once, read-only, and only if it is an ordinary one: a pipe would never end.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medveil.errors import Error
from medveil.progress import tell
from medveil.stopping import check_stopped
from medveil_imaging.sources.formats import FORMATS
from medveil_imaging.sources.manifest import MANIFEST

MOST_FILES = 1_000_000
OLD = ".old"
"""What the manifest before is called with."""
HEAD_BYTES = 512
"""A NIfTI header tells at byte 344 what it is, a DICOM file at 128."""
PACKED_BYTES = 2048
"""Of a gzip file: enough to unpack a head from."""
SYSTEM = frozenset(
    {"__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "@eaDir", "lost+found"}
)
EXAMPLES = 3


@dataclass(frozen=True)
class Reason:
    """Why something is left out of a proposal, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class LeftOut:
    """How much was left out for one reason."""

    reason: Reason
    count: int
    examples: tuple[str, ...] = field(repr=False)
    """The first names, for the operator's own screen."""


class Leavings:
    """What is left out, counted while a folder is looked at."""

    def __init__(self) -> None:
        self._counts: Counter[Reason] = Counter()
        self._examples: dict[Reason, list[str]] = {}

    def leave(self, reason: Reason, name: str, count: int = 1) -> None:
        """One more, or several of the same kind."""
        self._counts[reason] += count
        examples = self._examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(name)

    def listed(self) -> tuple[LeftOut, ...]:
        """By reason, the most frequent first."""
        return tuple(LeftOut(r, n, tuple(self._examples[r])) for r, n in self._counts.most_common())


@dataclass(frozen=True)
class File:
    """One file below the folder."""

    path: str
    """Below the folder, with forward slashes."""
    size: int
    """In bytes."""
    kind: str
    """The image format of its first bytes (:data:`medveil_imaging.sources.formats.FORMATS`); "" for none."""

    @property
    def name(self) -> str:
        """Without the folders."""
        return self.path.rpartition("/")[2]

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders above it."""
        return tuple(self.path.split("/")[:-1])

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return stem_of(self.name)


@dataclass(frozen=True)
class Tree:
    """What lies in a folder, in the order of the paths."""

    root: Path
    files: tuple[File, ...] = field(repr=False)
    manifests: tuple[str, ...] = ()
    """Folders below that have a ``manifest.csv`` of their own."""

    @property
    def images(self) -> tuple[File, ...]:
        """The files that are images."""
        return tuple(file for file in self.files if file.kind)


class TooManyFiles(Error):
    """The folder holds more files than are looked at."""

    code = "too-many-files"

    def __init__(self) -> None:
        super().__init__(
            what=f"The folder holds more than {MOST_FILES:,} files.",
            meaning="Nothing was proposed and nothing was written.",
            remedy="Name the folder that holds this hospital's images only, or divide it.",
        )


SYSTEM_FILE = Reason("hidden, or left there by an operating system", "Nothing need be done.")
BROKEN_LINK = Reason("a link to a file that is not there", "Fetch the file (of a DataLad set: datalad get).")
LINK_OUTSIDE = Reason(
    "a link out of this folder", "Copy the file into the folder: a node reads nothing outside."
)
LINK_TO_FOLDER = Reason("a link to a folder", "Move or copy that folder here; links are not walked.")
NO_FILE = Reason("no ordinary file (a pipe, a socket, a device)", "Remove it.")
CLOSED = Reason("this user may not read it", "Give the node's user the right to read it.")
EMPTY = Reason("empty", "Copy it again.")
NO_IMAGE = Reason(
    "no image that is read here (DICOM, NIfTI, PNG, JPEG)",
    "Nothing, if it is none; else export it as one of them.",
)


def mostly_volumes(files: Sequence[File]) -> bool:
    """Whether most of them are NIfTI."""
    return 2 * sum(file.kind == "nifti" for file in files) > len(files)


def stem_of(name: str) -> str:
    """A file's name without its ending; ``.nii.gz`` is one ending."""
    for ending in (".nii.gz", ".nii"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    stem, dot, ending = name.rpartition(".")
    return stem if dot and stem and 1 <= len(ending) <= 5 and not ending.isdigit() else name


def tree_of(folder: Path, leavings: Leavings) -> Tree:
    """Walk a folder and look at the beginning of each file.

    Time and memory grow with the number of files; no file is read whole.
    Raises: TooManyFiles, Stopped; OSError if the folder itself cannot be listed.
    """
    os.listdir(folder)
    found, manifests = [], []
    for path in _walked(folder, leavings):
        name = path.rpartition("/")[2]
        if name == MANIFEST and "/" in path:
            manifests.append(path.rpartition("/")[0])
        if name in (MANIFEST, MANIFEST + OLD):
            continue
        found.append(path)
        if len(found) > MOST_FILES:
            raise TooManyFiles()
    files = []
    kind_of(b"")  # loads the formats, which is nobody's pace
    for done, path in enumerate(sorted(found), start=1):
        check_stopped()
        tell("files looked at", done, len(found))
        file = _looked_at(folder, path, leavings)
        if file is not None:
            files.append(file)
    return Tree(folder, tuple(files), tuple(sorted(manifests)))


def _walked(root: Path, leavings: Leavings) -> Iterator[str]:
    """Paths of ordinary files below ``root``, in no order."""
    real = os.path.realpath(root)
    waiting = [""]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(os.path.join(root, here)))
        except OSError:
            leavings.leave(CLOSED, here)
            continue
        for entry in entries:
            path = f"{here}/{entry.name}" if here else entry.name
            if entry.name.startswith(".") or entry.name in SYSTEM:
                leavings.leave(SYSTEM_FILE, path)
            elif entry.is_symlink():
                reason = _of_link(entry.path, real)
                if reason is None:
                    yield path
                else:
                    leavings.leave(reason, path)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                leavings.leave(NO_FILE, path)


def _of_link(path: str, root: str) -> Reason | None:
    """Why a link is left out; None if it leads to an ordinary file below the folder."""
    try:
        target = os.path.realpath(path, strict=True)
        mode = os.stat(target).st_mode
    except OSError:  # nothing is there, or links in a circle
        return BROKEN_LINK
    if not target.startswith(root.rstrip("/") + "/"):
        return LINK_OUTSIDE
    if stat.S_ISDIR(mode):
        return LINK_TO_FOLDER
    return None if stat.S_ISREG(mode) else NO_FILE


def _looked_at(root: Path, path: str, leavings: Leavings) -> File | None:
    try:
        handle = os.open(os.path.join(root, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        leavings.leave(CLOSED, path)
        return None
    with open(handle, "rb", buffering=0) as file:
        try:
            size, head = os.fstat(handle).st_size, file.read(PACKED_BYTES)
        except OSError:
            leavings.leave(CLOSED, path)
            return None
    if not head:
        leavings.leave(EMPTY, path)
        return None
    return File(path, size, kind_of(head))


def kind_of(head: bytes) -> str:
    """The name of the image format that a file's first bytes are of; "" if none knows them."""
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, HEAD_BYTES)
        except zlib.error:
            return ""
    asked = sorted(FORMATS, key=lambda name: not FORMATS[name].before_others)
    return next((name for name in asked if FORMATS[name].begins(head)), "")
