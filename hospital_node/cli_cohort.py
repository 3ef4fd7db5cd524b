"""``medveil node check`` and ``medveil node cohort``: the images folder, and what was frozen of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.shown import NotConfirmed, Screen, can_ask, fault, good, plain, strong, warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hospital_node.cohort import Changes, Cohort, Reading
    from hospital_node.operator import Frozen
    from hospital_node.settings import Node
    from medveil.plan import Plan
    from medveil.study import Study
    from medveil_imaging.sources.raw import Problem
    from medveil_imaging.sources.site import SiteData

screen, progress = Screen(), Screen(stderr=True)
MOST = 200
"""Lines of a folder's changes that are shown."""


def check_images(node: Node, study: Study, plan: Plan | None = None) -> int:
    """Print what is usable, what is not, and what is no longer as it was frozen.

    Returns: the exit status: 0 fine, 1 something refused or changed, 4 nobody to train on.
    """
    from hospital_node.checked import keep
    from hospital_node.cohort import ImagesFolder
    from hospital_node.images import read_images
    from hospital_node.operator import frozen, viewed
    from medveil_imaging.fingerprints import check_profile

    check_profile(study.transforms)
    moved, changed, images = 0, False, ImagesFolder()
    with progress.waiting():
        site = read_images(node, study)
    with progress.waiting(), viewed(node) as records:
        if study.privacy.kind != "none":
            moved = records.ledger.usable(study, records.frozen(images.reading(study, records.reading)))[1]
        keep(node, study, site, moved=moved)
        screen.say(strong(study.name), f"{study.task} of {study.transforms.profile} images")
        splits = (("train", site.train), ("val", site.val), ("test", site.test))
        rows = [(name, str(len(each)), str(sum(len(p) for p in each))) for name, each in splits]
        screen.table(("split", "patients", "images"), rows)
        _show_groups(site, study)
        show_problems(site.problems)
        if plan is not None:
            changed = _show_changes(frozen(records, plan, images))
    refused = [p for p in site.problems if p.severity == "error"]
    if moved:
        screen.say(
            warn("left out"),
            f"{moved} patient(s) were in another split in an earlier study. A patient "
            "keeps the first split for life: write it into manifest.csv again.",
        )
    if not site.train:
        screen.say(fault("problem"), " There is no patient to train on.")
        return 4
    if refused:
        screen.say(f"{len(refused)} item(s) cannot be used and are left out; the rest trains.")
    elif not changed:
        screen.say(good("PASSED"), "  Everything can be used.")
    return 1 if refused or changed else 0


def _show_groups(site: SiteData, study: Study) -> None:
    """How many test patients are in each group of the study, and in none: for the operator's own screen."""
    rows = []
    for name, groups in sorted(study.evaluation.groups.items()):
        found = Counter(one.groups.get(name) for one in site.test)
        rows += [(plain(name), plain(group), str(found[group])) for group in groups.names]
        rows.append((plain(name), "in none of them", str(found[None])))
    if rows:
        screen.table(("groups", "of test patients", "patients"), rows)


def show_problems(problems: Sequence[Problem]) -> None:
    """What cannot be used, and what somebody should look at: a row each, for the operator's own screen."""
    if not problems:
        return
    rows = []
    for p in problems:
        mark = fault("refused") if p.severity == "error" else warn("warning")
        row = "" if p.row is None else str(p.row)
        rows.append((mark, row, plain(p.file), plain(p.reason), plain(p.remedy), p.code))
    screen.table(("", "row", "file", "what is wrong", "what to do", "code"), rows)


def _show_changes(one: Frozen) -> bool:
    """Whether the folder is another one than was frozen for an approved plan; then also where."""
    if one.cohort is None or not one.changes:
        return False
    screen.say(warn("changed"), f"since the plan was approved: {one.changes}.")
    rows = list(_lines(one.changes, one.cohort, one.now))
    screen.table(("row", "file", "what has changed"), rows[:MOST])
    if len(rows) > MOST:
        screen.say(f"{len(rows) - MOST} more lines.")
    if one.plan.study.privacy.kind != "none":
        screen.say("The plan does not go on until the folder is put right, or taken as it is:")
        screen.say("  medveil node cohort --take")
    return True


def _lines(changes: Changes, cohort: Cohort, now: Reading) -> Iterator[tuple[str, str, str]]:
    """The manifest's lines that are about a change: for the operator's own screen only."""
    for names, words in (
        (changes.joined, "this patient has joined"),
        (changes.split, "this patient is in another split"),
    ):
        for name in sorted(names):
            for _, _, row in now.rows[name]:
                yield str(row.number), plain(row.image), words
    for name in sorted(changes.images | changes.labels):
        before = dict(cohort.patients[name].images)
        for image, label, row in now.rows[name]:
            if image not in before:
                yield str(row.number), plain(row.image), "the image is new or another one"
            elif before[image] != label:
                yield str(row.number), plain(row.image), "the label is another one"
        missing = len(before.keys() - {image for image, _, _ in now.rows[name]})
        if missing:
            yield str(now.rows[name][0][2].number), "", f"{missing} image(s) of this patient are gone"
    if changes.gone:
        yield "", "", f"{len(changes.gone)} patient(s) are gone"


def cohort(
    plan: Annotated[
        list[str] | None,
        typer.Argument(help="A plan's twelve words or hash; else every approved plan."),
    ] = None,
    take: Annotated[
        bool, typer.Option("--take", help="Go on with the patients who are in the images folder now.")
    ] = False,
    patients: Annotated[
        int | None,
        typer.Option(help="For a plan that was approved with an earlier version: the number to declare."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --take: do not ask.")] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Show how the images folder differs from what was frozen for the approved plans; take it as it is."""
    node = node_in(folder)
    from hospital_node import operator, views
    from hospital_node.cohort import ImagesFolder

    images = ImagesFolder()
    with progress.waiting():
        found = operator.frozen_plans(node, plan, images=images)
    if not found:
        screen.say("No plan is approved here that is not over.")
    waiting = [one for one in found if one.cohort is None or one.changes]
    for one in found:
        screen.say(strong(one.plan.study.name))
        screen.fields(views.cohort_rows(one), width=views.WIDTH, indent=2)
    if take:
        for one in waiting:
            question = (
                f"Does '{plain(one.plan.study.name)}' go on with these patients? Who has joined pays from "
                "now on; who is gone is in no further round, and what was released before stays released."
            )
            if not yes and not (can_ask() and screen.ask(question)):
                raise NotConfirmed()
            part = operator.take_cohort(node, one.plan, patients=patients, images=images)
            screen.say(f"Taken. {part.declared} patients stay declared. A running node goes on with them.")
    raise typer.Exit(1 if waiting and not take else 0)
