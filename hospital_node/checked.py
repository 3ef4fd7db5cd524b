"""What the last look at the images found, as counts: for the operator's page, which reads no image itself.

``medveil node check`` keeps it in the node's folder. No name of a file, no pseudonym and no line of the
manifest is in it; the lines themselves are on the terminal only.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hospital_node.settings import Node
from medveil.errors import BadFile
from medveil.files import replace_durably
from medveil.handed import read_json
from medveil.shown import plain
from medveil.study import Study
from medveil.values import Frozen, Name

if TYPE_CHECKING:
    from medveil_imaging.sources.site import SiteData

MOST_STUDIES = 20
"""Studies whose last look is kept; the oldest go first."""
MOST_BYTES = 2**20
Count = Annotated[int, Field(ge=0)]


class OfSplit(Frozen):
    """How many there are in one split."""

    split: str
    patients: Count
    images: Count


class OfLabel(Frozen):
    """How many images of training have one label."""

    label: str
    images: Count


class Rejects(Frozen):
    """Items of one kind that cannot be used, or that somebody should look at."""

    code: str
    severity: Literal["error", "warning"]
    reason: str
    remedy: str
    count: Count


class Checked(Frozen):
    """One look at the images folder, for one study."""

    study: Name
    task: str
    profile: str
    at: float
    """Unix seconds."""
    splits: tuple[OfSplit, ...]
    labels: tuple[OfLabel, ...] = ()
    """Empty where a study learns no classes, or where there are too many images to keep them in memory."""
    moved: Count = 0
    """Patients who are left out, for an earlier study met them in another split."""
    problems: tuple[Rejects, ...] = ()


class _Kept(Frozen):
    looks: tuple[Checked, ...] = ()


def path_of(node: Node) -> Path:
    """Where it is kept."""
    return node.folder / "checked.json"


def keep(node: Node, study: Study, site: SiteData, *, moved: int = 0, now: float | None = None) -> Checked:
    """Keep what a look has found; an earlier one for the same study goes. Raises: OSError."""
    one = Checked(
        study=study.name,
        task=study.task,
        profile=study.transforms.profile,
        at=time.time() if now is None else now,
        splits=tuple(
            OfSplit(split=name, patients=len(each), images=sum(map(len, each)))
            for name, each in (("train", site.train), ("val", site.val), ("test", site.test))
        ),
        labels=tuple(_labels(study, site)),
        moved=moved,
        problems=tuple(_rejects(site)),
    )
    others = tuple(other for other in looks(node) if other.study != study.name)
    kept = _Kept(looks=(one, *others)[:MOST_STUDIES])
    replace_durably(path_of(node), kept.model_dump_json().encode(), private=True)
    return one


def looks(node: Node) -> tuple[Checked, ...]:
    """What was found last for each study, the newest first; nothing if it cannot be read."""
    try:
        return read_json(path_of(node), _Kept, MOST_BYTES).looks
    except BadFile:
        return ()


def _labels(study: Study, site: SiteData) -> Iterator[OfLabel]:
    if study.task != "classification":
        return
    found: Counter[int] = Counter()
    for patient in site.train:
        labels = getattr(patient, "labels", None)  # of a patient in the cache they are sealed on the disk
        if labels is None:
            return
        found.update(int(one) for one in labels.tolist())
    for number, name in enumerate(study.classes):
        yield OfLabel(label=plain(name, 60), images=found[number])


def _rejects(site: SiteData) -> Iterator[Rejects]:
    counted = Counter((one.code, one.severity) for one in site.problems)
    first = {(one.code, one.severity): one for one in reversed(site.problems)}
    for (code, severity), count in counted.most_common():
        told = first[code, severity]
        yield Rejects(
            code=code,
            severity=severity,
            reason=_nameless(told.reason),
            remedy=_nameless(told.remedy),
            count=count,
        )


def _nameless(text: str) -> str:
    """Without what stands in quotation marks: there a reason names a file or a cell."""
    return plain(re.sub(r"'[^']*'|\"[^\"]*\"|‘[^’]*’|“[^”]*”", "…", text))
