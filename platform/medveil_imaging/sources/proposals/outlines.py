"""Images and label maps side by side: images/ and labels/, or imagesTr/ and labelsTr/ as for nnU-Net."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from medveil.cells import simple
from medveil_imaging.sources.file_patients import owners_of
from medveil_imaging.sources.listed_images import with_list
from medveil_imaging.sources.proposals import LAYOUTS, Layout
from medveil_imaging.sources.proposed import Image, Proposal, Wish
from medveil_imaging.sources.tree import NO_IMAGE, File, Leavings, Reason, Tree

IMAGES = re.compile(r"(images?|imgs?|scans|volumes)(tr|ts|val)?")
LABELS = re.compile(r"(labels?|labelmaps?|masks?|segmentations?|segs?|annotations)(tr|ts|val)?")
ENDS = re.compile(
    r"([-_. ](seg|segmentation|masks?|labels?|labelmap|lesions?|roi|gt|dseg|images?|img))+$", re.IGNORECASE
)
CHANNEL = re.compile(r"_(\d{4})$")
"""nnU-Net's number of a channel."""
NO_MAP = Reason("no label map of its name beside it", "Draw one, or leave it out.")
NO_PICTURE = Reason("a label map without its image", "Copy the image here, or leave it out.")
FEW_CHANNELS = Reason("lacks a channel that others have", "Copy the missing file here, or leave it out.")


def _side(file: File) -> str:
    """``image``, ``label`` or "", by the nearest folder that says so."""
    for name in reversed(file.folders):
        if IMAGES.fullmatch(simple(name)):
            return "image"
        if LABELS.fullmatch(simple(name)):
            return "label"
    return ""


def _key(file: File) -> str:
    return ENDS.sub("", file.stem).casefold()


def fits_outlines(tree: Tree) -> bool:
    """Whether there are folders of images and of label maps with files of the same names."""
    sides: dict[str, set[str]] = {"image": set(), "label": set(), "": set()}
    for file in tree.images:
        sides[_side(file)].add(CHANNEL.sub("", _key(file)))
    return bool(sides["image"] & sides["label"])


def propose_outlines(tree: Tree, wish: Wish, leavings: Leavings) -> Proposal:
    """A line for each image that has a label map of its name."""
    maps: dict[str, File] = {}
    cases: dict[str, dict[str, File]] = defaultdict(dict)
    for file in tree.files:
        side, key = _side(file), _key(file)
        if not file.kind:
            leavings.leave(NO_IMAGE, file.path)
        elif side == "label" and wish.maps in file.path:
            maps.setdefault(key, file)
        elif side == "image":
            channel = CHANNEL.search(key)
            cases[CHANNEL.sub("", key)][channel[1] if channel else ""] = file
    channels = sorted({channel for files in cases.values() for channel in files})
    kept = []
    for key, files in sorted(cases.items()):
        reason = None if key in maps else NO_MAP
        if reason is None and len(files) < len(channels):
            reason = FEW_CHANNELS
        if reason is None:
            kept.append(key)
        else:
            leavings.leave(reason, next(iter(files.values())).path)
    for key in sorted(maps.keys() - cases.keys()):
        leavings.leave(NO_PICTURE, maps[key].path)
    return _listed(wish, leavings, [(cases[key], maps[key]) for key in kept], channels)


def _listed(
    wish: Wish, leavings: Leavings, pairs: Sequence[tuple[dict[str, File], File]], channels: Sequence[str]
) -> Proposal:
    first = [min(files.items())[1] for files, _ in pairs]
    owners = owners_of([file.path for file in first], wish.pattern)
    images = tuple(
        Image(tuple(files[one].path for one in channels), patient, label_map=outline.path)
        for (files, outline), patient in zip(pairs, owners.patients, strict=True)
    )
    names = tuple(f"channel{one}" for one in channels) if len(channels) > 1 else ()
    told = [("outlines", "label maps of the same names")]
    if names:
        told.append(("channels", f"{', '.join(names)}, by the number at the end of the name"))
    volumes = any(file.kind != "picture" for file in first)
    told.append(("patients", owners.told))
    found = Proposal(tuple(told), images, names, (), owners.notes, volumes)
    known = [{"path": file.path, "name": file.name, "stem": file.stem} for file in first]
    return with_list(found, known, wish, leavings, patients=True)


LAYOUTS.register("outlines")(
    Layout(
        what="images and label maps, each in folders of their own",
        asked=2,
        fits=fits_outlines,
        propose=propose_outlines,
    )
)
