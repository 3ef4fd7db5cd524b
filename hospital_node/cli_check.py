"""``medveil node check --profile`` and ``--data``: the images before there is a study, or a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hospital_node.cli_cohort import show_problems
from hospital_node.cli_ledger import node_in
from hospital_node.cli_manifest import BY_CLASS, fit_beside
from medveil.errors import BadFile, BadOption
from medveil.shown import Screen, fault, good, plain, strong, warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hospital_node.profile_check import Counts, Effort, ProfileCheck, Question

screen, progress = Screen(), Screen(stderr=True)
WIDTH = 10
NETWORK = "small_cnn"


def check_kind(
    *, study: Path | None, profile: str, data: Path | None, target: str, preview: Path | None, folder: Path
) -> int:
    """Read every image as a study of this kind would, show what came out, and write the preview.

    Returns: the exit status: 0 fine, 1 something refused, 4 nobody to train on.
    Raises: BadOption, BadFile, UnknownName, NoNode; and what reading raises.
    """
    if (study is None) == (not profile):
        raise BadOption(problem="name either a kind of image (--profile xray) or a study file (--study)")
    node = None if data is not None else node_in(folder)
    where = data if node is None else node.settings.data
    if where is None or not where.is_dir():
        raise BadFile(name="--data", problem=f"there is no folder '{plain(where)}'")
    from hospital_node.profile_check import Question, checked, question_for
    from medveil.study import read_study

    question = question_for(where, profile, target) if study is None else Question(read_study(study), True)
    with progress.waiting(), checked(where, question, node) as found:
        status = _show(found, plain(where))
        if preview is not None:
            from hospital_node.preview import write_preview

            path = write_preview(found, preview)
            screen.say(good("written"), f"{plain(path)}: patients' images, for this hospital's eyes.")
    return status


def _show(found: ProfileCheck, where: str) -> int:
    site, counts = found.site, found.counts
    screen.say(strong(where), _said(found.question))
    _show_counts(counts)
    problems = tuple(p for p in site.problems if p.code not in _replaced(found))
    show_problems(problems)
    for doubt in found.doubts:
        screen.say(warn("warning"), plain(doubt, 1000))
    screen.fields(_effort(found.effort, found.question), width=WIDTH, indent=2)
    refused = sum(p.severity == "error" for p in problems)
    if not site.train:
        screen.say(fault("problem"), "There is no patient to train on.")
        return 4
    if refused:
        screen.say(f"{refused:,} item(s) cannot be used and are left out; the rest trains.")
    elif not found.doubts:
        screen.say(good("PASSED"), "  Everything can be used.")
    else:
        screen.say("Everything can be used; think about the warnings.")
    return 1 if refused else 0


def _replaced(found: ProfileCheck) -> set[str]:
    """Problems of the whole site that the warnings below say better."""
    return {"one-class", "no-training-patients"} if found.doubts else set()


def _said(question: Question) -> str:
    study = question.study
    what = study.transforms.profile
    if not question.labelled:
        return f"{what} images; the manifest does not say what they show"
    if study.target is not None:
        return f"{what} images; {plain(study.target.column, 60)} as the number that is learned"
    return f"{what} images; {study.task}"


def _show_counts(counts: Counts) -> None:
    classes = sorted({name for by_class in counts.classes.values() for name in by_class})
    apart = classes if fit_beside(classes) else []
    numbers = bool(counts.numbers)
    rows = []
    for split, patients in counts.patients.items():
        row = [split, f"{patients:,}", f"{counts.images[split]:,}"]
        row += [f"{counts.classes.get(split, {}).get(name, 0):,}" for name in apart]
        if numbers:
            held = counts.numbers.get(split)
            row.append("" if held is None else f"{held[0]:.4g} to {held[2]:.4g}, median {held[1]:.4g}")
        rows.append(row)
    heads = ["split", "patients", "images", *(plain(name, 30) for name in apart)]
    heads += ["the number"] * numbers
    screen.table(heads, rows, title=BY_CLASS if apart else "", right=range(1, len(heads)))
    if classes and not apart:
        splits = tuple(counts.patients)
        listed = [
            (plain(name, 60), *(f"{counts.classes.get(split, {}).get(name, 0):,}" for split in splits))
            for name in classes
        ]
        screen.table(("patients of", *splits), listed, right=range(1, 4))


def _effort(effort: Effort, question: Question) -> Iterator[tuple[str, str]]:
    """What the images take of this machine."""
    disk = f"; {effort.disk_bytes / 1e9:.1f} GB of sealed copies on disk" if effort.disk_bytes else ""
    yield "memory", f"{effort.memory_bytes / 1e9:.1f} GB with these images{disk}; a network comes on top"
    again = " (once; then from the sealed copies)" if effort.disk_bytes else ""
    yield "reading", f"{_duration(effort.reading_s)} here{again}"
    if effort.pass_s:
        yield (
            "training",
            f"about {_duration(effort.pass_s)} for a pass of {NETWORK} over train",
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
