"""A manifest made from what lies in a folder: proposed, shown, and written whole.

As :mod:`hospital_node.operator`: verbs that return values. Nothing here prints, and nothing is written but by
:func:`write_manifest`.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hospital_node.patients_key import FILE, KEY_BYTES, patients_key
from medveil.errors import BadFile, BadOption, Error
from medveil.files import replace_durably
from medveil.identity import Secret
from medveil.pseudonyms import BadPseudonym, one_spelling
from medveil.shown import plain
from medveil_imaging.sources.lists import Listed, read_list, split_in
from medveil_imaging.sources.manifest import MANIFEST, SPLITS
from medveil_imaging.sources.proposals import LAYOUTS, layout_of
from medveil_imaging.sources.proposed import Proposal, Wish, manifest_text, settled
from medveil_imaging.sources.tree import OLD, Leavings, tree_of

SHOWN = 8


class NothingToList(Error):
    """No image of the folder can go into a manifest."""

    code = "nothing-to-list"

    def __init__(self, *, folder: Path) -> None:
        super().__init__(
            what=f"Nothing in '{plain(folder)}' can go into a manifest as it was read.",
            meaning="Nothing was written.",
            remedy="What was left out is listed above with the reason. Perhaps --from names another layout, "
            "or --modality or --suffix another kind of image.",
        )


class SeveralSites(Error):
    """Folders below have manifests of their own."""

    code = "several-sites"

    def __init__(self, *, names: tuple[str, ...]) -> None:
        shown = ", ".join(plain(name, 60) for name in names[:SHOWN])
        super().__init__(
            what=f"{len(names)} folders below have a {MANIFEST} of their own: {shown}.",
            meaning="They seem to be several sets of images, each with its patients. Nothing was proposed.",
            remedy="Name one of these folders. To make one set of all of them, say its layout with --from.",
        )


class ManifestThere(Error):
    """The folder has a manifest already."""

    code = "manifest-there"

    def __init__(self) -> None:
        super().__init__(
            what=f"The folder has a {MANIFEST} already, and it is not replaced without a word.",
            meaning="Nothing was written.",
            remedy="To check it: medveil node check --data FOLDER --profile xray. To replace it: --replace; "
            f"the old one is kept as {MANIFEST}{OLD}.",
        )


@dataclass(frozen=True)
class Asked:
    """What the operator types, before it is understood."""

    layout: str = ""
    suffixes: tuple[str, ...] = ()
    maps: str = ""
    labels: Path | None = None
    label_column: str = ""
    patient_column: str = ""
    columns: tuple[str, ...] = ()
    pattern: str = ""
    modality: str = ""
    series: str = ""

    def wish(self, key: Secret) -> Wish:
        """The same, understood. Raises: BadOption, BadFile."""
        try:
            pattern = re.compile(self.pattern) if self.pattern else None
        except re.error as error:
            raise BadOption(problem=f"--patient-pattern is no regular expression: {plain(error)}") from error
        return Wish(
            key=key,
            labels=None if self.labels is None else read_list(self.labels),
            label_column=self.label_column,
            patient_column=self.patient_column,
            columns=self.columns,
            suffixes=self.suffixes,
            maps=self.maps,
            pattern=pattern,
            modality=self.modality,
            series=self.series,
        )


@dataclass(frozen=True)
class Proposed:
    """A manifest for a folder, and what is there now."""

    folder: Path
    what: str
    """The layout, in words."""
    proposal: Proposal = field(repr=False)
    there: int | None
    """Lines of the manifest that is there; None without one."""
    changes: Mapping[str, int]
    """Patients who would be new and gone against it."""


@dataclass(frozen=True)
class Tally:
    """Counts of a proposal."""

    patients: Mapping[str, int]
    """By split."""
    images: Mapping[str, int]
    """By split."""
    labels: Mapping[str, Mapping[str, int]]
    """Patients by split and label."""
    labelled: Mapping[str, int]
    """Images by label."""
    sources: Mapping[str, tuple[int, int]]
    """Patients and images by scanner or site; empty if it is not known."""


def propose(folder: Path, asked: Asked, node_folder: Path, *, keep_key: bool = True) -> Proposed:
    """Look at a folder and propose its manifest; nothing is written but, if it is new, the key of pseudonyms.

    Args:
        node_folder: where that key is kept.
        keep_key: False for a mere look: without a key, one for this once is used.
    Raises: BadFile, BadOption, SeveralSites, NothingToList, TooManyFiles, UnknownName, PatientsKeyDamaged.
    """
    if not folder.is_dir():
        raise BadFile(name="FOLDER", problem=f"there is no folder '{plain(folder)}'")
    if asked.layout:
        LAYOUTS[asked.layout]
    known = _known(folder)
    wish = asked.wish(_key(node_folder, keep=keep_key))
    leavings = Leavings()
    tree = tree_of(folder, leavings)
    if tree.manifests and known is None and not asked.layout:
        raise SeveralSites(names=tree.manifests)
    layout = LAYOUTS[asked.layout or layout_of(tree)]
    splits = {} if known is None else _splits(known)
    proposal = settled(layout.propose(tree, wish, leavings), wish.key, leavings, splits)
    here = set(map(one_spelling, {image.patient for image in proposal.images}))
    changes = {"new": len(here - splits.keys()), "gone": len(splits.keys() - here)}
    return Proposed(folder, layout.what, proposal, None if known is None else len(known.rows), changes)


def _key(folder: Path, *, keep: bool) -> Secret:
    if not keep and not (folder / FILE).exists():
        return Secret(secrets.token_bytes(KEY_BYTES))
    return patients_key(folder)[0]


def _known(folder: Path) -> Listed | None:
    """The manifest that is there; empty if it cannot be read."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        return read_list(folder / MANIFEST)
    except BadFile:
        return Listed(MANIFEST, (), ())


def _splits(known: Listed) -> dict[str, str]:
    """Who has which split there; nobody whom its lines put in several."""
    patient, split = known.place("patient_id"), known.place("split")
    found: dict[str, set[str]] = defaultdict(set)
    for row in known.rows if patient is not None and split is not None else ():
        try:
            found[one_spelling(row[patient or 0])].add(split_in(row[split or 0]))
        except BadPseudonym:
            continue
    return {form: next(iter(splits)) for form, splits in found.items() if len(splits) == 1 and splits != {""}}


def tally(proposal: Proposal) -> Tally:
    """Count a proposal; patients as they are counted."""
    patients: dict[str, set[str]] = defaultdict(set)
    labels: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    sources: dict[str, set[str]] = defaultdict(set)
    of_source = Counter(image.source for image in proposal.images)
    forms = {written: one_spelling(written) for written in {image.patient for image in proposal.images}}
    for image in proposal.images:
        form = forms[image.patient]
        patients[image.split].add(form)
        labels[image.split][image.label].add(form)
        sources[image.source].add(form)
    told = (
        {name: (len(sources[name]), of_source[name]) for name in of_source} if of_source.keys() - {""} else {}
    )
    return Tally(
        {split: len(patients[split]) for split in SPLITS},
        Counter(image.split for image in proposal.images),
        {split: {label: len(forms) for label, forms in labels[split].items()} for split in SPLITS},
        Counter(image.label for image in proposal.images if image.label),
        told,
    )


def write_manifest(proposed: Proposed, *, replace: bool) -> Path:
    """Write the manifest, whole or not at all; one that is there is kept beside it.

    Raises: NothingToList, ManifestThere; BadFile if the folder cannot be written to.
    """
    path = proposed.folder / MANIFEST
    if not proposed.proposal.images:
        raise NothingToList(folder=proposed.folder)
    if path.exists() and not replace:
        raise ManifestThere()
    try:
        if path.exists():
            replace_durably(path.with_name(MANIFEST + OLD), path.read_bytes(), private=True)
        replace_durably(path, manifest_text(proposed.proposal).encode(), private=True)
    except OSError as error:
        problem = error.strerror or "it cannot be written"
        raise BadFile(name=MANIFEST, problem=f"the folder takes no file ({problem})") from error
    return path
