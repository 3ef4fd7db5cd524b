"""``medveil node manifest``: a manifest proposed from a folder, shown in counts, written when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder
from medveil.shown import NotConfirmed, Screen, can_ask, good, plain, strong, warn

if TYPE_CHECKING:
    from hospital_node.manifests import Asked, Proposed, Tally
    from medveil_imaging.sources.proposed import Image, Proposal

screen, progress = Screen(), Screen(stderr=True)
WIDTH = 10
MOST_CLASSES, MOST_LETTERS = 4, 32
"""Classes that have a column each, and letters of all their names; more have a row each."""
MOST_WORDS = 6
"""Different cells of a column that are shown."""
BY_CLASS = "On the right: patients with an image of each class"
MOST_ROWS = 20


@dataclass(frozen=True)
class ManifestOptions:
    """Options of ``medveil node manifest``."""

    images: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder with the images.")]
    layout: Annotated[
        str, typer.Option("--from", help="bids, classes, dicom, outlines or images; looked for without it.")
    ] = ""
    labels: Annotated[
        Path | None,
        typer.Option(help="A list (CSV, TSV) with labels, by accession number, patient or file name."),
    ] = None
    label_column: Annotated[
        str, typer.Option(help="The column that holds the label, of the list or of participants.tsv.")
    ] = ""
    target: Annotated[str, typer.Option(help="The column of a number that is to be learned, e.g. age.")] = ""
    column: Annotated[
        list[str] | None, typer.Option(help="A further column for the manifest, e.g. sex; once for each.")
    ] = None
    patient_column: Annotated[
        str, typer.Option(help="The list's column of patients' pseudonyms, if you have your own.")
    ] = ""
    patient_pattern: Annotated[
        str, typer.Option(help="A regular expression that finds the patient in a path: its first group.")
    ] = ""
    suffix: Annotated[
        list[str] | None, typer.Option(help="BIDS: the kind of image, e.g. T1w; several make channels.")
    ] = None
    label_map: Annotated[str, typer.Option(help="A word in the names of the label maps that are meant.")] = ""
    modality: Annotated[str, typer.Option(help="DICOM: MR, CR, DX … if the tree holds several.")] = ""
    series: Annotated[str, typer.Option(help="DICOM: a word in the description of the series.")] = ""
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before writing.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it and write nothing.")] = False
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace a manifest that is there; it stays as manifest.csv.old."),
    ] = False
    folder: Folder = DEFAULT

    def asked(self) -> Asked:
        """What is asked of the proposal."""
        from hospital_node.manifests import Asked

        return Asked(
            layout=self.layout,
            suffixes=tuple(self.suffix or ()),
            maps=self.label_map,
            labels=self.labels,
            label_column=self.label_column,
            patient_column=self.patient_column,
            columns=tuple(dict.fromkeys([*([self.target] if self.target else []), *(self.column or ())])),
            pattern=self.patient_pattern,
            modality=self.modality,
            series=self.series,
        )


def manifest(options: ManifestOptions) -> None:
    """Propose manifest.csv from what lies in a folder: shown in counts, written when you say yes."""
    from hospital_node.manifests import ManifestThere, NothingToList, propose, write_manifest

    with progress.waiting():
        found = propose(options.images, options.asked(), options.folder, keep_key=not options.dry_run)
    _show(found)
    if not found.proposal.images:
        raise NothingToList(folder=options.images)
    if options.dry_run:
        screen.say("Nothing was written (--dry-run).")
        return
    if found.there is not None and not options.replace:
        raise ManifestThere()
    count = len(found.proposal.images)
    instead = " in place of the one that is there" if found.there is not None else ""
    question = f"Write manifest.csv with {count:,} lines into {plain(options.images)}{instead}?"
    if not options.yes and not (can_ask() and screen.ask(question)):
        raise NotConfirmed()
    path = write_manifest(found, replace=options.replace)
    screen.say(good("written"), f"{plain(path)}, {count:,} lines. Next:")
    profile = "mri" if found.proposal.volumes else "xray"
    target = f" --target {quote(options.target)}" if options.target else ""
    screen.say(f"  medveil node check --data {quote(str(options.images))} --profile {profile}{target}")


def _show(found: Proposed) -> None:
    from hospital_node.manifests import tally
    from medveil_imaging.sources.balance import doubts

    proposal = found.proposal
    screen.say(strong(found.folder))
    screen.fields([("layout", f"{found.what} (another one: --from)")], width=WIDTH, indent=2)
    screen.fields([(word, plain(said, 600)) for word, said in proposal.told], width=WIDTH, indent=2)
    if found.there is not None:
        new, gone = found.changes["new"], found.changes["gone"]
        said = f"a manifest with {found.there:,} lines; against it {new:,} patients are new and {gone:,} gone"
        screen.fields([("there is", said)], width=WIDTH, indent=2)
    if proposal.images:
        counted = tally(proposal)
        _show_counts(counted)
        _show_columns(proposal)
        notes = [*proposal.notes, *doubts(counted.labels, counted.patients)]
    else:
        notes = list(proposal.notes)
    if proposal.left_out:
        rows = [
            (f"{one.count:,}", one.reason.what, one.reason.remedy, plain(one.examples[0], 60))
            for one in proposal.left_out
        ]
        screen.table(("left out", "because it is", "what to do", "for example"), rows, right=(0,))
    for note in notes:
        screen.say(warn("warning"), plain(note, 1000))


def _show_counts(counted: Tally) -> None:
    classes = sorted(counted.labelled)
    apart = classes if fit_beside(classes) else []
    rows = [_row(counted, split, apart) for split in counted.patients]
    everybody = sum(counted.patients.values()), sum(counted.images.values())
    total = ["all", *(f"{number:,}" for number in everybody)]
    total += [f"{sum(counted.labels[split].get(name, 0) for split in counted.labels):,}" for name in apart]
    heads = ("split", "patients", "images", *(plain(name, 30) for name in apart))
    screen.table(heads, [*rows, total], title=BY_CLASS if apart else "", right=range(1, len(heads)))
    if classes and not apart:
        listed = [(plain(name, 60), f"{count:,}") for name, count in sorted(counted.labelled.items())]
        screen.table(("label", "images"), listed[:MOST_ROWS], right=(1,))
        if len(listed) > MOST_ROWS:
            screen.say(f"{len(listed) - MOST_ROWS:,} more labels.")
    if counted.sources:
        ordered = sorted(counted.sources.items(), key=lambda one: -one[1][1])
        sources = [(plain(name, 60) or "not told", f"{p:,}", f"{i:,}") for name, (p, i) in ordered]
        screen.table(("scanner or site", "patients", "images"), sources[:MOST_ROWS], right=(1, 2))


def fit_beside(classes: Sequence[str]) -> bool:
    """Whether so many classes have room in the columns of one table."""
    return len(classes) <= MOST_CLASSES and sum(map(len, classes)) <= MOST_LETTERS


def _row(counted: Tally, split: str, apart: Sequence[str]) -> list[str]:
    row = [split, f"{counted.patients[split]:,}", f"{counted.images.get(split, 0):,}"]
    return row + [f"{counted.labels[split].get(name, 0):,}" for name in apart]


def _show_columns(proposal: Proposal) -> None:
    """What further columns hold: a range, or words with counts."""
    rows = [(plain(column, WIDTH), _held(proposal.images, column)) for column in proposal.columns]
    if rows:
        screen.fields(rows, width=WIDTH, indent=2)


def _held(images: Sequence[Image], column: str) -> str:
    from collections import Counter

    from medveil.cells import numbers_in

    cells = Counter(image.more.get(column, "") for image in images)
    blank = cells.pop("", 0)
    numbers = [min(found) for cell in cells if (found := numbers_in(cell))]
    missing = f", blank in {blank:,} lines" if blank else ""
    if cells and len(numbers) == len(cells) and len(cells) > 2:
        return f"{min(numbers):g} to {max(numbers):g}{missing}"
    words = ", ".join(f"{plain(cell, 30)} {count:,}" for cell, count in cells.most_common(MOST_WORDS))
    return f"{words or 'nothing'}{' …' if len(cells) > MOST_WORDS else ''}{missing}"
