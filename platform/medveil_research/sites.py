"""The folders of all sites, where one person holds them: found, or filled with made-up images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, cast

from medveil.cells import simple
from medveil.errors import Error
from medveil.shown import plain
from medveil.study import Target
from medveil.tasks import TASKS
from medveil_imaging.sources.header import SPLIT_WORDS
from medveil_imaging.sources.lines import readable_cells
from medveil_imaging.sources.manifest import MANIFEST
from medveil_imaging.sources.phantom import PHANTOMS, write_phantom_sites
from medveil_imaging.sources.phantom import Task as Phantom
from medveil_imaging.sources.phantom_film import FINDINGS

CLASSES: dict[str, tuple[str, ...]] = {
    "classification": ("normal", "abnormal"),
    "segmentation": ("background", "anterior", "posterior"),
    "findings": FINDINGS,
}
HEART = Target(column="heart_mm", unit="mm", low=50, high=170)
"""What the made-up images show: classes, outlines, findings, a number."""


class BadSites(Error):
    """The folder of sites cannot be a consortium."""

    code = "bad-sites"

    def __init__(self, *, problem: str, least: int = 3) -> None:
        super().__init__(
            what=f"The folder of sites cannot be used: {problem}.",
            meaning="Nothing was started.",
            remedy=f"Give a folder with at least {least} folders in it, each with a manifest.csv.",
        )


class NotMadeUp(Error):
    """Nobody draws such images."""

    code = "not-made-up"

    def __init__(self, *, task: str, profile: str) -> None:
        super().__init__(
            what=f"There are no made-up images for {task} of '{plain(profile, 48)}' images.",
            meaning="Nothing was started.",
            remedy="Name a folder of sites with --data, or leave --profile out.",
        )


@dataclass(frozen=True)
class Site:
    """One hospital's folder."""

    name: str
    folder: Path
    train_patients: int


def find_sites(folder: Path, *, least: int = 3) -> list[Site]:
    """The sites in a folder, in name order. Raises: BadSites: fewer than ``least``, or two of one name."""
    sites = []
    for manifest in sorted(folder.glob("*/manifest.csv")):
        name = re.sub(r"[^a-z0-9]+", "-", manifest.parent.name.lower()).strip("-")[:48]
        lines = readable_cells(manifest, ("patient_id", "split"))
        train = {line["patient_id"] for line in lines if SPLIT_WORDS.get(simple(line["split"])) == "train"}
        sites.append(Site(name, manifest.parent, len(train)))
    if len(sites) < least:
        raise BadSites(
            problem=f"it holds {len(sites)} folder(s) with a manifest.csv; {least} is the least", least=least
        )
    if len({s.name for s in sites}) != len(sites):
        raise BadSites(problem="two folders have the same name once it is simplified")
    return sites


def write_made_up(
    folder: Path, task: str, hospitals: int, patients: int | None, *, profile: str | None = None
) -> list[Site]:
    """Made-up hospitals whose images suit a task.

    Args:
        profile: kind of image; without it films, or volumes for a task that outlines.
    Raises: NotMadeUp.
    """
    kind = profile or ("mri" if TASKS[task].outlines else "xray")
    if (kind, phantom_of(task)) not in PHANTOMS:
        raise NotMadeUp(task=task, profile=kind)
    write_phantom_sites(
        folder,
        profile=cast(Literal["xray", "mri"], kind),
        task=phantom_of(task),
        hospitals=hospitals,
        patients=patients,
    )
    return find_sites(folder, least=1)


def phantom_of(task: str) -> Phantom:
    """The task whose made-up images suit this one."""
    return cast(Phantom, task if task in CLASSES else TASKS[task].recipes_of)


def holds_volumes(site: Site) -> bool:
    lines = islice(readable_cells(site.folder / MANIFEST, ("image",)), 2)
    return any(re.search(r"\.nii(\.gz)?$", line["image"].strip()) for line in lines)


def typical_patients(sites: Sequence[Site]) -> int:
    counts = sorted(s.train_patients for s in sites)
    return max(1, counts[len(counts) // 2])
