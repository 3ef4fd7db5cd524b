"""A folder for each class, as the public chest film sets come: train/NORMAL/…, NORMAL/train/… or NORMAL/…"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from medveil.cells import simple
from medveil_imaging.sources.copies import copies_among
from medveil_imaging.sources.file_patients import owners_of
from medveil_imaging.sources.header import SPLIT_WORDS
from medveil_imaging.sources.listed_images import with_list
from medveil_imaging.sources.manifest import SPLITS
from medveil_imaging.sources.proposals import LAYOUTS, Layout
from medveil_imaging.sources.proposals.dicom import Found, found_in
from medveil_imaging.sources.proposed import Image, Proposal, Wish
from medveil_imaging.sources.tree import NO_IMAGE, File, Leavings, Reason, Tree, mostly_volumes

MOST_CLASSES = 64
"""As many as a study may have; more folders are patients or exams."""
NO_CLASS = Reason("in no folder of a class", "Move it into the folder of its class, or leave it out.")
TWO_CLASSES = Reason(
    "the same file lies in folders of several classes; none of the copies is used", "Keep the right one."
)
COPY = Reason("a copy of another file of the same class", "Nothing need be done: the other one is used.")
PLACES = frozenset(
    {"images", "image", "img", "imgs", "films", "files", "data", "png", "jpg", "jpeg", "dicom"}
)
"""Folders that name no class."""


@dataclass(frozen=True)
class _Placed:
    """An image by the folders above it."""

    file: File
    split: str
    folders: tuple[str, ...]
    """Without those that name a split."""


def _placed(files: Sequence[File]) -> list[_Placed]:
    found = []
    for file in files:
        splits = [SPLIT_WORDS[simple(name)] for name in file.folders if simple(name) in SPLIT_WORDS]
        rest = tuple(name for name in file.folders if simple(name) not in SPLIT_WORDS)
        found.append(_Placed(file, splits[-1] if splits else "", rest))
    return found


def _depth(placed: Sequence[_Placed]) -> int:
    """How many folders all images have in common, above those of the classes."""
    named = [one.folders for one in placed if one.folders]
    depth = 0
    while (
        named and all(len(folders) > depth + 1 for folders in named) and len({f[depth] for f in named}) == 1
    ):
        depth += 1
    return depth


def fits_classes(tree: Tree) -> bool:
    """Whether at least two folders, and not more than a study has classes, hold films or volumes."""
    placed = _placed([file for file in tree.images if file.kind != "dicom"])
    depth = _depth(placed)
    names = Counter(simple(one.folders[depth]) for one in placed if len(one.folders) > depth)
    return 2 <= len(names) <= MOST_CLASSES and min(names.values()) > 1 and not set(names) <= PLACES


def propose_classes(tree: Tree, wish: Wish, leavings: Leavings) -> Proposal:
    """A line for each image, its class from the folder, its split from a folder if one is called so."""
    kinds = Counter(file.kind for file in tree.images)
    if kinds and kinds.most_common(1)[0][0] == "dicom":
        return _of_dicom(tree, wish, leavings)
    for file in tree.files:
        if not file.kind:
            leavings.leave(NO_IMAGE, file.path)
    placed = _placed(tree.images)
    depth, kept = _depth(placed), []
    for one in placed:
        if len(one.folders) > depth:
            kept.append(one)
        else:
            leavings.leave(NO_CLASS, one.file.path)
    kept = _without_copies(tree, kept, depth, leavings)
    below = [one.folders[depth + 1] if len(one.folders) > depth + 1 else "" for one in kept]
    folders = below if not set(map(simple, below)) <= PLACES else []
    owners = owners_of([one.file.path for one in kept], wish.pattern, folders)
    classes = _spelled([one.folders[depth] for one in kept])
    images = tuple(
        Image((one.file.path,), patient, split=one.split, label=classes[simple(one.folders[depth])])
        for one, patient in zip(kept, owners.patients, strict=True)
    )
    told = (("classes", _named(classes.values())), ("patients", owners.told))
    found = Proposal(
        told=told, images=images, notes=owners.notes, volumes=mostly_volumes([one.file for one in kept])
    )
    names = [{"path": one.file.path, "name": one.file.name, "stem": one.file.stem} for one in kept]
    return with_list(found, names, wish, leavings, patients=True)


def _of_dicom(tree: Tree, wish: Wish, leavings: Leavings) -> Proposal:
    """As of a tree of DICOM files, with the classes of the folders."""
    found: Found = found_in(tree, wish, leavings)
    placed = _placed([File(image.places[0], 0, "dicom") for image in found.proposal.images])
    depth, images, names = _depth(placed), [], []
    classes = _spelled([one.folders[depth] for one in placed if len(one.folders) > depth])
    for image, one, known in zip(found.proposal.images, placed, found.names, strict=True):
        if len(one.folders) <= depth:
            leavings.leave(NO_CLASS, one.file.path)
            continue
        images.append(replace(image, split=one.split, label=classes[simple(one.folders[depth])]))
        names.append(known)
    told = (("classes", _named(classes.values())), *found.proposal.told)
    return with_list(
        replace(found.proposal, told=told, images=tuple(images)), names, wish, leavings, patients=False
    )


def _spelled(names: Sequence[str]) -> dict[str, str]:
    """The usual spelling of each class's name: NORMAL in one folder and Normal in another are one."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for name in names:
        spellings[simple(name)][name] += 1
    return {
        form: min(found.items(), key=lambda one: (-one[1], one[0]))[0] for form, found in spellings.items()
    }


def _named(classes: Iterable[str]) -> str:
    return f"from the folders: {', '.join(sorted(classes))}"


def _without_copies(tree: Tree, placed: Sequence[_Placed], depth: int, leavings: Leavings) -> list[_Placed]:
    """Of files that are copies one is kept, that which teaches; none if they lie in several classes."""
    of = {one.file.path: one for one in placed}
    dropped = set()
    for same in copies_among(tree.root, [one.file for one in placed]):
        theirs = sorted((of[file.path] for file in same), key=lambda one: (_rank(one.split), one.file.path))
        several = len({simple(one.folders[depth]) for one in theirs}) > 1
        for one in theirs if several else theirs[1:]:
            leavings.leave(TWO_CLASSES if several else COPY, one.file.path)
            dropped.add(one.file.path)
    return [one for one in placed if one.file.path not in dropped]


def _rank(split: str) -> int:
    return SPLITS.index(split) if split else len(SPLITS)


LAYOUTS.register("classes")(
    Layout(what="a folder for each class", asked=4, fits=fits_classes, propose=propose_classes)
)
