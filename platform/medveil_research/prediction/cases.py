"""Which images a prediction is about: files and folders as a person names them, one case each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medveil.errors import BadOption
from medveil.profiles import PROFILES
from medveil.shown import plain
from medveil.study import Study
from medveil_imaging.sources.dicom.header import begins_like_dicom
from medveil_imaging.sources.dicom.series import NOT_SLICES
from medveil_imaging.sources.lines import Unreadable, open_table
from medveil_imaging.sources.manifest import MANIFEST
from medveil_imaging.sources.places import Places
from medveil_imaging.sources.raw import Unusable

FIRST_BYTES = 256
MOST_CASES = 100_000


@dataclass(frozen=True)
class Case:
    """What becomes one prediction: a film, a volume, or a volume with a file for each channel."""

    number: int
    """From 1 on; its files are called by it, for a name may tell whose image it is."""
    name: str = field(repr=False)
    """As its user knows it: the path below what was named."""
    paths: tuple[Path, ...] = field(repr=False)
    """One, or one for each channel; a folder is one DICOM series."""
    problem: Unusable | None = None
    """Why it cannot even be opened."""


def cases_in(given: Sequence[Path], study: Study) -> list[Case]:
    """The cases in files and folders, in the order of their names.

    A folder with a ``manifest.csv`` has the images that its columns name, with labels or without. Any other
    folder has each file below it, a folder of DICOM slices as one volume, and a folder with exactly one
    file for each of the study's channels (whose names hold the channel's) as one as well.

    Raises: BadOption: there is nothing, or too much.
    """
    found: list[tuple[str, tuple[Path, ...], Unusable | None]] = []
    for path in given:
        if not path.exists():
            raise BadOption(problem=f"'{plain(path, 80)}' is not there")
        found += [*_in_folder(path, study)] if path.is_dir() else [(path.name, (path,), None)]
    if not found:
        raise BadOption(problem="there is no image in what was named")
    if len(found) > MOST_CASES:
        raise BadOption(problem=f"there are more than {MOST_CASES:,} images")
    return [Case(number, *one) for number, one in enumerate(found, start=1)]


Found = tuple[str, tuple[Path, ...], Unusable | None]


def _in_folder(folder: Path, study: Study) -> Iterator[Found]:
    if (folder / MANIFEST).is_file():
        yield from _listed(folder, study)
        return
    for one in _below(folder, study):
        name = one[0].relative_to(folder) if one[0] != folder else Path(folder.name)
        yield (name if len(one) == 1 else name.parent).as_posix(), one, None


def _below(folder: Path, study: Study) -> Iterator[tuple[Path, ...]]:
    """Files and folders that are a case each; links to folders are not followed."""
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in NOT_SLICES)
    files = [p for p in inside if p.is_file()]
    folders = [p for p in inside if p.is_dir() and not p.is_symlink()]
    if PROFILES[study.transforms.profile].reads_volumes:
        if (channels := _channels(inside, study)) is not None:
            yield channels
            return
        if len(files) > 1 and _begins_like_dicom(files[0]):
            yield (folder,)
            files = []
    for file in files:
        yield (file,)
    for one in folders:
        yield from _below(one, study)


def _channels(inside: Sequence[Path], study: Study) -> tuple[Path, ...] | None:
    """One file (or folder of slices) for each channel, if the names say so without a doubt."""
    names = study.transforms.channels
    if len(names) < 2:
        return None
    chosen = []
    for name in names:
        fitting = [path for path in inside if name in _words(path)]
        if len(fitting) != 1:
            return None
        chosen.append(fitting[0])
    return tuple(chosen) if len(set(chosen)) == len(names) else None


def _words(path: Path) -> set[str]:
    """The parts of a name, and the whole of it without its endings: ``case1_flair.nii.gz`` → case1, flair."""
    stem = path.name.lower().split(".")[0]
    return {stem, *stem.replace("-", "_").split("_")}


def _begins_like_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return begins_like_dicom(file.read(FIRST_BYTES))
    except OSError:
        return False


def _listed(folder: Path, study: Study) -> Iterator[Found]:
    """The images of a manifest. Raises: Unusable: nobody can tell its lines or columns."""
    channels = study.transforms.channels
    table = open_table(folder / MANIFEST, ("image", *channels))
    apart = bool(channels) and all(table.header.place(channel) is not None for channel in channels)
    columns = channels if apart else ("image",)
    places = Places(folder)
    for _, cells in table.lines(table.header.places(columns)):
        if isinstance(cells, Unreadable):
            raise cells
        name = os.path.normpath(cells[columns[0]].strip() or ".")
        try:
            yield name, tuple(places.find(cells[column], column)[0] for column in columns), None
        except Unusable as error:
            yield name, (), error
