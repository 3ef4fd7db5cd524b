"""A BIDS dataset (Brain Imaging Data Structure): sub-*/ses-*/anat, participants.tsv, maps as derivatives.

Source: BIDS specification 1.10, sections on names of files, participants, sessions and derivatives of
segmentations. Read tolerantly: most sets in hospitals were never held against the validator.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medveil.cells import simple
from medveil.errors import BadOption
from medveil.shown import plain
from medveil_imaging.sources.listed_images import with_list
from medveil_imaging.sources.participants import Participants, participants_of
from medveil_imaging.sources.proposals import LAYOUTS, Layout
from medveil_imaging.sources.proposed import Image, Proposal, Wish
from medveil_imaging.sources.tree import File, Leavings, Reason, Tree

TABLES = (".tsv", ".json", ".bval", ".bvec")
"""Endings of files that say something about images, and are none."""
MAPS = frozenset({"dseg", "mask", "probseg"})
DISCRETE = ("dseg", "mask")
USUAL = ("T1w", "FLAIR", "T2w", "PDw", "T2starw")
"""Which suffix is taken where none is asked for: the first of these, else the most frequent."""
ASIDE = frozenset({"sourcedata", "code", "rawdata_dicom", "stimuli", "phenotype"})
OWN_SPACE = frozenset({None, "orig", "individual"})
"""What a name says of the space in which the image itself was made."""
OFFERED = ("age", "sex")
"""Columns of participants.tsv that go into the manifest without being asked for."""
NO_NIFTI = Reason("no NIfTI image of a subject", "Nothing, if it is none; else convert it to NIfTI.")
OTHER_SUFFIX = Reason(
    "an image of another kind than is asked for", "Nothing, if it is not meant; else --suffix NAME."
)
NO_SUBJECT = Reason(
    "in no folder of a subject (sub-…)", "Nothing, if it is a template; else sort it as BIDS says."
)
FEW_CHANNELS = Reason(
    "a session that lacks one of the kinds of image asked for", "Nothing, or ask for fewer --suffix."
)
SECOND_RUN = Reason(
    "a further run where channels are put together; the first is used", "Nothing, if the first is good."
)
NO_MAP = Reason("no label map that belongs to it", "Draw one, or leave --label-map out to list it without.")
NO_LABEL = Reason("participants.tsv says no label for its subject", "Fill the cell, if it is known.")
UNUSED_MAP = Reason(
    "a label map that is not the one chosen", "Nothing, if it is not meant; else --label-map WORD."
)


@dataclass(frozen=True)
class _Named:
    """A NIfTI file by its BIDS name."""

    file: File
    subject: str
    session: str
    entities: Mapping[str, str] = field(repr=False)
    suffix: str
    derived: bool

    @property
    def place(self) -> tuple[str, str, str]:
        """What it shares with the label map that belongs to it."""
        return self.subject, self.session, self.entities.get("run", "")


def fits_bids(tree: Tree) -> bool:
    """Whether there are folders of subjects with NIfTI files in them."""
    return any(
        file.kind == "nifti" and any(re.fullmatch(r"sub-[A-Za-z0-9]+", name) for name in file.folders)
        for file in tree.files
    )


def propose_bids(tree: Tree, wish: Wish, leavings: Leavings) -> Proposal:
    """A line for each image of the suffix that is asked for, or for each session with all of several."""
    named = [one for file in tree.files if (one := _named(file, leavings)) is not None]
    outlines = [one for one in named if one.suffix in DISCRETE]
    pictures = _raw([one for one in named if one.suffix not in MAPS])
    found = Counter(one.suffix for one in pictures)
    suffixes = _suffixes(found, wish)
    for one in pictures:
        if one.suffix not in suffixes:
            leavings.leave(OTHER_SUFFIX, one.file.path)
    meant = [one for one in pictures if one.suffix in suffixes]
    groups = _channels(meant, suffixes, leavings) if len(suffixes) > 1 else [(one,) for one in meant]
    maps, said = _maps(outlines, groups, wish, leavings)
    participants = participants_of(tree)
    label = _label_column(participants, wish)
    columns = _columns(participants, wish, label)
    images, names, kept = [], [], set()
    for group in groups:
        first = group[0]
        outline = maps.get(first.file.path, "")
        cells = participants.cells(first.subject, first.session)
        if maps and not outline:
            leavings.leave(NO_MAP, first.file.path)
        elif label and not cells.get(simple(label)):
            leavings.leave(NO_LABEL, first.file.path)
        else:
            kept.add(first.subject)
            images.append(_image(group, outline, cells, label, columns))
            names.append({"path": first.file.path, "patient": first.subject, "name": first.file.name})
    told = (
        ("images", _kinds(found, suffixes)),
        *said,
        *_of_labels(participants, label, wish.columns),
        ("patients", "sub-LABEL"),
    )
    channels = tuple(suffix.lower() for suffix in suffixes) if len(suffixes) > 1 else ()
    proposal = Proposal(told, tuple(images), channels, columns, tuple(participants.notes(kept)), volumes=True)
    return with_list(proposal, names, wish, leavings, patients=False)


def _named(file: File, leavings: Leavings) -> _Named | None:
    if file.name.endswith(TABLES):
        return None
    if file.kind != "nifti" or ASIDE & set(file.folders):
        leavings.leave(NO_NIFTI, file.path)
        return None
    parts = file.stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    inside = [name for name in file.folders if re.fullmatch(r"sub-[A-Za-z0-9]+", name)]
    subject = f"sub-{entities['sub']}" if entities.get("sub") else (inside[-1] if inside else "")
    if not subject:
        leavings.leave(NO_SUBJECT, file.path)
        return None
    sessions = [name for name in file.folders if name.startswith("ses-")]
    session = f"ses-{entities['ses']}" if entities.get("ses") else (sessions[-1] if sessions else "")
    suffix = "" if "-" in parts[-1] else parts[-1]
    return _Named(file, subject, session, entities, suffix, "derivatives" in file.folders)


def _raw(pictures: Sequence[_Named]) -> list[_Named]:
    """Without what programs have made of the images, if there are images beside it."""
    raw = [one for one in pictures if not one.derived]
    return raw or list(pictures)


def _suffixes(found: Counter[str], wish: Wish) -> tuple[str, ...]:
    """Raises: BadOption: a suffix that is asked for is not there."""
    if wish.suffixes:
        missing = [one for one in wish.suffixes if one not in found]
        if missing:
            raise BadOption(problem=f"no image here is a {plain(missing[0], 40)}; there are {_listed(found)}")
        return wish.suffixes
    return tuple([one for one in USUAL if one in found][:1] or [one for one, _ in found.most_common(1)])


def _channels(
    meant: Sequence[_Named], suffixes: Sequence[str], leavings: Leavings
) -> list[tuple[_Named, ...]]:
    sessions: dict[tuple[str, str], dict[str, list[_Named]]] = defaultdict(lambda: defaultdict(list))
    for one in meant:
        sessions[one.subject, one.session][one.suffix].append(one)
    groups = []
    for kinds in sessions.values():
        if len(kinds) < len(suffixes):
            leavings.leave(FEW_CHANNELS, next(iter(kinds.values()))[0].file.path)
            continue
        for several in kinds.values():
            for one in several[1:]:
                leavings.leave(SECOND_RUN, one.file.path)
        groups.append(tuple(kinds[suffix][0] for suffix in suffixes))
    return groups


def _maps(
    outlines: Sequence[_Named], groups: Sequence[tuple[_Named, ...]], wish: Wish, leavings: Leavings
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The label map of each image, all of one kind: the one asked for, else the one that most images have."""
    if wish.label_column and not wish.maps:
        return {}, []
    kinds: dict[str, dict[tuple[str, str, str], _Named]] = defaultdict(dict)
    spaces = {one.entities.get("space") for group in groups for one in group}
    spaces |= {one.suffix for group in groups[:1] for one in group} | OWN_SPACE
    for one in outlines:
        if one.entities.get("space") in spaces:
            kinds[_kind(one)].setdefault(one.place, one)
    fitting = {kind: found for kind, found in kinds.items() if wish.maps.casefold() in kind.casefold()}
    if not fitting:
        if wish.maps:
            raise BadOption(
                problem=f"no label map is called {plain(wish.maps, 60)}; there are {_listed(kinds)}"
            )
        return {}, []
    maps = {kind: _matched(found, groups) for kind, found in fitting.items()}
    chosen = max(sorted(maps), key=lambda kind: len(maps[kind]))
    for one in outlines:
        if _kind(one) != chosen:
            leavings.leave(UNUSED_MAP, one.file.path)
    others = sorted(kind for kind in kinds if kind != chosen)
    said = f"label maps {chosen}" + (
        f"; also here: {', '.join(others[:6])} (--label-map WORD)" if others else ""
    )
    return maps[chosen], [("outlines", said)] if maps[chosen] else []


def _matched(
    found: Mapping[tuple[str, str, str], _Named], groups: Sequence[tuple[_Named, ...]]
) -> dict[str, str]:
    """Path of an image → of its label map: of the same run, else one whose name tells no run."""
    matched = {}
    for group in groups:
        subject, session, run = group[0].place
        one = found.get((subject, session, run)) or found.get((subject, session, ""))
        if one is not None:
            matched[group[0].file.path] = one.file.path
    return matched


def _kind(one: _Named) -> str:
    """What a label map is of: the program that made it, and what its name says beside the person."""
    folders = one.file.folders
    maker = folders[folders.index("derivatives") + 1] if one.derived and folders[-1] != "derivatives" else ""
    told = [
        f"{key}-{one.entities[key]}" for key in ("space", "atlas", "desc", "label") if key in one.entities
    ]
    return "/".join(
        filter(None, (maker if not maker.startswith("sub-") else "", "_".join([*told, one.suffix])))
    )


def _label_column(participants: Participants, wish: Wish) -> str:
    if not wish.label_column or (
        wish.labels is not None and wish.labels.place(wish.label_column) is not None
    ):
        return ""
    participants.check(wish.label_column)
    return wish.label_column


def _columns(participants: Participants, wish: Wish, label: str) -> tuple[str, ...]:
    """Raises: BadOption: a column that is asked for is nowhere."""
    wanted = [*(one for one in OFFERED if participants.has(one)), *wish.columns]
    for column in wish.columns:
        if wish.labels is None or wish.labels.place(column) is None:
            participants.check(column)
    return tuple(
        dict.fromkeys(one for one in wanted if participants.has(one) and simple(one) != simple(label))
    )


def _image(
    group: Sequence[_Named], outline: str, cells: Mapping[str, str], label: str, columns: Sequence[str]
) -> Image:
    return Image(
        tuple(one.file.path for one in group),
        group[0].subject,
        split=cells.get("split", ""),
        label=cells.get(simple(label), "") if label else "",
        label_map=outline,
        more={column: cells.get(simple(column), "") for column in columns},
        source=next((cells[one] for one in ("site", "scanner", "center", "centre") if cells.get(one)), ""),
    )


def _kinds(found: Counter[str], suffixes: Sequence[str]) -> str:
    others = {suffix: count for suffix, count in found.items() if suffix not in suffixes}
    more = f"; also here: {_listed(others)} (--suffix NAME)" if others else ""
    return f"{' with '.join(suffixes)} of subjects{more}"


def _of_labels(participants: Participants, label: str, taken: Sequence[str]) -> list[tuple[str, str]]:
    said = []
    if label:
        said.append(("labels", f"from the column {label} of participants.tsv"))
    elif not taken and participants.offers():
        said.append(
            (
                "offered",
                f"participants.tsv has {participants.offers()}; take one with --label-column or --target",
            )
        )
    return said


def _listed(names: Mapping[str, object]) -> str:
    shown = [f"{plain(name, 40) or 'without a suffix'}" for name in sorted(names)]
    return ", ".join(shown[:12]) or "none"


LAYOUTS.register("bids")(Layout(what="a BIDS dataset", asked=1, fits=fits_bids, propose=propose_bids))
