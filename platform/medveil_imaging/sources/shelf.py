"""A site's images in a cache: what a line gave is found again, and taken when a step wants it.

A record is named by what its files hold, by how the study brings them into shape, and by the program that
does so. So nothing that has changed is ever found, and a label that the manifest holds is never in a record.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import torch

import medveil.profiles
import medveil_imaging
from medveil.errors import Error
from medveil.ids import digest
from medveil.log import get_logger
from medveil.profile_source import profile_hash
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.cache import Damaged, ImageCache, Record
from medveil_imaging.sources.contents import content_digest
from medveil_imaging.sources.dicom.blanking import rules_in_use
from medveil_imaging.sources.manifest import Row
from medveil_imaging.sources.one_row import RowShape, Shaped, label_tensor
from medveil_imaging.sources.people import Marks
from medveil_imaging.sources.raw import Note, Unusable, quiet
from medveil_imaging.sources.read import Wanted
from medveil_imaging.sources.readers import Readers

LIBRARIES = ("numpy", "torch", "monai", "pydicom", "nibabel", "pillow", "python-gdcm", "imagecodecs")
"""Other versions of these may give other pixels."""

log = get_logger()


class ImageChanged(Error):
    """A file is another one than when the folder was read."""

    code = "image-changed"

    def __init__(self) -> None:
        super().__init__(
            what="An image is no longer what it was when the folder was read.",
            meaning="It could not be taken from the cache, so it was to be read again. Nothing was computed.",
            remedy="Put the file back, or let the node read the folder again: restart it.",
        )


@dataclass(eq=False, slots=True)
class Shelved:
    """What one line gave: in the cache if there was room, else read from its files whenever it is wanted."""

    row: Row
    contents: bytes = field(repr=False)
    shapes: tuple[tuple[int, ...], ...]
    """Of the images (k, channels, \\*size), and of the label maps if they are kept."""
    record: Record | None
    label_type: str = ""

    def __len__(self) -> int:
        return self.shapes[0][0]


@dataclass(frozen=True)
class Found:
    """What one line gave, and what is to be told of it."""

    images: Shelved
    notes: tuple[Note, ...]
    marks: Marks


class Shelf:
    """One study's lines in the cache.

    Args:
        readers: who reads what is not in the cache.
    """

    def __init__(self, cache: ImageCache, study: Study, readers: Readers) -> None:
        self.cache, self._readers = cache, readers
        self.shape = RowShape(study, cache.secret(b"marks"))
        outlines = len(study.classes) if TASKS[study.task].outlines else 0
        profile = profile_hash(study.transforms.profile)
        told = [study.transforms.model_dump(mode="json"), outlines, profile, reading_version()]
        told += filter(None, [rules_in_use()])
        self._study = json.dumps(told, sort_keys=True).encode()
        self.damaged = 0
        """Records that were not what was written; their images were read again."""

    def contents(self, row: Row) -> bytes | None:
        """A hash of all files of a line; None if they cannot be read."""
        paths = row.paths if row.label_map is None else (*row.paths, row.label_map)
        try:
            return digest("image-contents", *(content_digest(path) for path in paths))
        except OSError:
            return None

    def find(self, row: Row, contents: bytes) -> Found | None:
        """What is in the cache of a line whose files hold that."""
        record = self.cache.find(self._name(contents))
        if record is None:
            return None
        try:
            told = json.loads(record.note())
        except Damaged:
            self._note_damage()
            return None
        shapes = tuple(tuple(shape) for shape in told["shapes"])
        person = told["patient"]
        marks = Marks(bytes.fromhex(told["pixels"]), None if person is None else bytes.fromhex(person))
        notes = tuple(Note(*note) for note in told["notes"])
        return Found(Shelved(row, contents, shapes, record, told["labels"]), notes, marks)

    def keep(self, row: Row, contents: bytes, shaped: Shaped) -> Found:
        """Put what a line gave into the cache, if there is room and its files are still the same."""
        parts, label_type = [shaped.images.contiguous().numpy()], ""
        if row.label_map is not None:
            small = _small(shaped.labels.contiguous().numpy())
            parts, label_type = [*parts, small], str(small.dtype)
        shapes = tuple(part.shape for part in parts)
        told = {
            "shapes": shapes,
            "labels": label_type,
            "notes": [[note.code, note.reason, note.remedy] for note in shaped.notes],
            "pixels": shaped.marks.pixels.hex(),
            "patient": None if shaped.marks.patient is None else shaped.marks.patient.hex(),
        }
        record = None
        if self.contents(row) == contents:
            record = self.cache.put(self._name(contents), json.dumps(told).encode(), parts)
        return Found(Shelved(row, contents, shapes, record, label_type), shaped.notes, shaped.marks)

    def take(self, line: Shelved, which: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One image (1, channels, \\*size) of a line, and its label. Raises: ImageChanged, Stopped."""
        if line.record is not None:
            try:
                image = torch.from_numpy(self._part(line.record, line, 0, which))[None]
                if line.row.label_map is None:
                    return image, label_tensor(line.row.label)[None]
                return image, torch.from_numpy(self._part(line.record, line, 1, which).astype(np.int64))[None]
            except Damaged:
                self._note_damage()
        images, labels = self._read_again(line)
        return images[which : which + 1], labels[which : which + 1]

    def _name(self, contents: bytes) -> bytes:
        return self.cache.name_of(self._study, contents)

    def _part(self, record: Record, line: Shelved, part: int, which: int) -> np.ndarray:
        shape = line.shapes[part][1:]
        dtype = np.dtype(np.float32) if part == 0 else np.dtype(line.label_type)
        size = dtype.itemsize * prod(shape)
        return record.read(_sizes(line), part, which * size, (which + 1) * size).view(dtype).reshape(shape)

    def _read_again(self, line: Shelved) -> tuple[torch.Tensor, torch.Tensor]:
        if self.contents(line.row) != line.contents:
            raise ImageChanged()
        with quiet():
            [(_, read)] = self._readers([line.row], self.shape.wanted)
            try:
                if isinstance(read, Unusable):
                    raise read
                shaped = self.shape.shaped(line.row, read)
            except Unusable as error:
                raise ImageChanged() from error
        if tuple(shaped.images.shape) != line.shapes[0]:
            raise ImageChanged()
        line.record = self.keep(line.row, line.contents, shaped).images.record
        return shaped.images, shaped.labels

    def _note_damage(self) -> None:
        self.damaged += 1
        log.warning("cache.damaged", code="cache-damaged", count=self.damaged)


@dataclass(frozen=True)
class ShelvedPatient:
    """A :class:`medveil_imaging.patients.Patient` whose images are in the cache."""

    patient: str = field(repr=False)
    lines: tuple[Shelved, ...] = field(repr=False)
    shelf: Shelf = field(repr=False)
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return sum(map(len, self.lines))

    def take(self, which: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`medveil_imaging.patients.Patient`. Raises: ImageChanged, Stopped."""
        taken = [self.shelf.take(*self._place(k)) for k in which]
        if len(taken) == 1:  # no copy of a large volume
            return taken[0]
        return torch.cat([image for image, _ in taken]), torch.cat([label for _, label in taken])

    def _place(self, k: int) -> tuple[Shelved, int]:
        for line in self.lines:
            if k < len(line):
                return line, k
            k -= len(line)
        raise IndexError("no such image")


def shaped_with(
    shelf: Shelf, rows: Sequence[Row], readers: Readers
) -> Iterator[tuple[Row, Found | Unusable]]:
    """What each line gives, in their order: as the cache has it, or read from its files and put there.

    Raises: Stopped, ReadersMissing.
    """
    ahead: dict[int, tuple[bytes, Found | None]] = {}

    def wanted(row: Row) -> Sequence[Wanted]:
        contents = shelf.contents(row) or b""
        found = shelf.find(row, contents) if contents else None
        ahead[row.number] = contents, found
        return () if found is not None else shelf.shape.wanted(row)

    for row, read in readers(rows, wanted):
        contents, found = ahead.pop(row.number)
        if found is not None:
            yield row, found
            continue
        try:
            if isinstance(read, Unusable):
                raise read
            yield row, shelf.keep(row, contents, shelf.shape.shaped(row, read))
        except Unusable as error:
            yield row, error


@cache
def reading_version() -> str:
    """Another one for every change of the code or the libraries that bring images into shape."""
    versions = []
    for library in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{library} {importlib.metadata.version(library)}")
    sources = []
    for package in (medveil.profiles, medveil_imaging):
        folder = Path(str(package.__file__)).parent
        sources += [path for path in sorted(folder.rglob("*.py")) if folder / "models" not in path.parents]
    parts = (*(v.encode() for v in versions), *(path.read_bytes() for path in sources))
    return digest("image-reading", *parts).hex()


def _sizes(line: Shelved) -> list[int]:
    """Bytes of the record's parts."""
    widths = [4, np.dtype(line.label_type).itemsize] if line.label_type else [4]
    return [width * prod(shape) for width, shape in zip(widths, line.shapes, strict=True)]


def _small(labels: np.ndarray) -> np.ndarray:
    """The same whole numbers in as few bytes as hold them."""
    for kind in (np.uint8, np.int16):
        if labels.size and np.iinfo(kind).min <= labels.min() and labels.max() <= np.iinfo(kind).max:
            return labels.astype(kind)
    return labels
