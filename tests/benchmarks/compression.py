"""What smaller uploads cost in accuracy: the same studies whole, sparse and of low rank, without privacy.

``--data FOLDER`` holds pneumonia28 and mri-hippocampus; ``--write FILE`` puts the table into a Markdown page
(docs/results.md). Federations run in one process through the product's own training, public maps and strategy
(:mod:`medveil_research.comparison.engine`); what a hospital holds back is held back, and the mean is that of
encoded updates, rounded to the lanes' steps as in the product. Bytes are those of the vector that the product
masks and uploads in a training round, made once for each study. Shares and ranks were chosen so that a round
uploads an eighth or less; learning rates and rounds are the recipes'.
"""

from __future__ import annotations

import secrets
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from utility import small_films

from hospital_node.training.features import FeatureCache
from medveil.compression import Compression
from medveil.identity import Secret
from medveil.metrics import headline
from medveil.rounds import RoundKind
from medveil.strategies import State
from medveil.study import Study
from medveil.tensors import Float32, Update, from_safetensors
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.comparison import engine
from medveil_research.comparison.engine import judged, run_federated
from medveil_research.studies import StudyOptions, new_study
from privacy.encoding import decode, params_for
from privacy.secagg.masks import Mask
from privacy.secagg.vector import masked_update
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data
from unmasked import encode

WHOLE = "whole"
WAYS = {
    WHOLE: None,
    "sparse:0.12": Compression(kind="sparse", share=0.12),
    "low_rank:9": Compression(kind="low_rank", rank=9),
    "sparse:0.16, 16-bit lanes": Compression(kind="sparse", share=0.16),
}
NARROW = ", 16-bit lanes"
"""Two bytes a number in place of 2.67: more numbers for the same bytes. Whole updates keep the lanes."""
MOST_LOST = 0.005


@dataclass(frozen=True)
class Job:
    """A data set, the settings of its study, and in which ways its updates are sent."""

    title: str
    settings: dict[str, Any]
    read: Callable[[Path, Study], list[SiteData]]
    ways: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One way of sending over all seeds."""

    job: str
    way: str
    numbers: int
    bytes: int
    values: list[float]
    worst_site: float
    """The lowest figure of one site's test patients, of all seeds."""


def volumes(folder: Path, study: Study) -> list[SiteData]:
    """Four sites, by what their scanners' export left in the files."""
    return [read_site(folder / "mri-hippocampus" / f"hippo-{name}", study) for name in "abcd"]


JOBS = {
    "films": Job(
        "films at 28 x 28, AUROC",
        {
            "task": "classification",
            "profile": "xray",
            "classes": ("normal", "abnormal"),
            "hospitals": 3,
            "patients_hint": 600,
            "size": (28, 28),
            "model": "small_cnn",
        },
        small_films,
        ("sparse:0.12", "low_rank:9"),
    ),
    "hippocampus": Job(
        "hippocampus, Dice",
        {
            "task": "segmentation",
            "profile": "mri",
            "classes": ("background", "anterior", "posterior"),
            "hospitals": 4,
            "patients_hint": 70,
            "model": "unet3d",
            "size": (48, 64, 48),
        },
        volumes,
        ("sparse:0.12", "sparse:0.16, 16-bit lanes"),
    ),
}


def study_of(name: str, way: str) -> tuple[Study, bytes]:
    """The shipped study of a job; figures travel in the last round only, as they are no part of an update."""
    study, initial = new_study(
        StudyOptions(
            name=f"smaller-{name}",
            privacy="none",
            seed=0,
            compression=WAYS[way],
            **JOBS[name].settings,
        )
    )
    content = study.model_dump(mode="json")
    content["evaluation"]["every_round"] = False
    if way.endswith(NARROW):
        content["secure_aggregation"]["lane_bits"] = 16
    return Study.model_validate(content), initial


def uploaded_bytes(study: Study, hospitals: int) -> int:
    """Length of what the product uploads in a training round, masked as it masks it."""
    params = params_for(study, RoundKind.TRAIN, hospitals)
    masked = masked_update(
        Update(np.zeros(study.uploaded, np.float32)),
        params,
        weight=params.max_weight,
        metrics=np.zeros(params.metrics, np.uint64),
        check_key=Secret(secrets.token_bytes(32)),
        index=1,
        masks=[Mask(Secret(secrets.token_bytes(32)), 1)],
        random_bytes=secrets.token_bytes,
    )
    return sum(map(len, masked.segments()))


def measure(name: str, folder: Path, seeds: int) -> list[Cell]:
    """One job in every way, seeds being runs with other shuffling and augmentation."""
    sites, cells = JOBS[name].read(folder, study_of(name, WHOLE)[0]), []
    for way in (WHOLE, *JOBS[name].ways):
        study, initial = study_of(name, way)
        vector = from_safetensors(initial, study.model.tensors)
        with encoded_means(study, len(sites)):
            runs = [run_federated(study, vector, sites) for _ in range(seeds)]
        values = [run.released[headline(study)] for run in runs]
        worst = min(on_site(study, run.model, site) for run in runs for site in sites)
        cells.append(Cell(name, way, study.uploaded, uploaded_bytes(study, len(sites)), values, worst))
        print(cells[-1], file=sys.stderr, flush=True)
    return cells


@contextmanager
def encoded_means(study: Study, hospitals: int) -> Iterator[None]:
    """Means of training rounds from encoded updates; masks would cancel to the bit, so there are none."""
    params = params_for(study, RoundKind.TRAIN, hospitals)
    metrics = np.zeros(params.metrics, np.uint64)

    def mean(members: Sequence[Any], model: Float32, number: int, state: State) -> tuple[Float32, float]:
        total = np.zeros(params.words, np.uint64)
        for one in members:
            update = Update(one.update(model, number, state))
            total += encode(
                update, params, weight=one.weight, metrics=metrics, random_bytes=secrets.token_bytes
            )
        return decode(total, params, hospitals=len(members), study=study).mean, 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_mean_update", mean)
        yield


def on_site(study: Study, model: Float32, site: SiteData) -> float:
    """A model's figure on one site's test patients."""
    return judged(study, model, [site.test], [FeatureCache()])[headline(study)]


def lost(cell: Cell, cells: Sequence[Cell]) -> float:
    """How much less than whole updates give, mean over the seeds."""
    whole = next(c for c in cells if (c.job, c.way) == (cell.job, WHOLE))
    return statistics.mean(whole.values) - statistics.mean(cell.values)


def part_of(cell: Cell, cells: Sequence[Cell]) -> float:
    """Bytes of an upload over those of whole updates."""
    return cell.bytes / next(c.bytes for c in cells if (c.job, c.way) == (cell.job, WHOLE))


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """Everything measured, against what must be reached."""
    rows = []
    for cell in cells:
        title = f"{JOBS[cell.job].title}, {cell.way}"
        rows.append(Row(title, statistics.mean(cell.values), ""))
        rows.append(Row(f"{title}: upload of a round", cell.bytes, "bytes"))
        if cell.way != WHOLE:
            rows.append(Row(f"{title}: less than whole", lost(cell, cells), "", f"<= {MOST_LOST}"))
            rows.append(Row(f"{title}: part of the bytes", part_of(cell, cells), "", "<= 0.125"))
    return rows


def section(name: str, cells: Sequence[Cell], seeds: int) -> str:
    """One job's figures as a part of the page of results."""
    lines = [
        f"## Smaller uploads: {JOBS[name].title}",
        "",
        f"Written by `tests/benchmarks/compression.py --data FOLDER --only {name} --seeds {seeds}",
        f"--write PAGE`, on {cpu()}, other work beside it.",
        "",
        "Without privacy, shipped recipe, test patients of all sites; mean of runs with other shuffling and",
        "augmentation. Numbers and bytes: what a hospital uploads in a training round, as the product masks",
        "it. What a round does not send stays in the hospital, and training goes on from it",
        "([decision 37](decisions/0037-smaller-uploads.md)). Target: an eighth of the bytes, at most",
        f"{MOST_LOST} less.",
        "",
        "| updates | numbers | bytes | part | mean | smallest–largest | less than whole | worst site |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        part = "" if c.way == WHOLE else f"1/{1 / part_of(c, cells):.1f}"
        mean = [f"**{statistics.mean(c.values):.4f}**", f"{min(c.values):.4f}–{max(c.values):.4f}"]
        less = "" if c.way == WHOLE else f"{lost(c, cells):+.4f}"
        figures = [f"{c.numbers:,}", f"{c.bytes:,}", part, *mean, less, f"{c.worst_site:.3f}"]
        lines.append("| " + " | ".join([f"`{c.way}`", *figures]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting")
    parser.add_argument("--only", choices=JOBS, help="one data set instead of all")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    every = []
    for name in [given.only] if given.only else JOBS:
        cells = measure(name, given.data, given.seeds)
        if given.write is not None:
            put_section(given.write, f"smaller uploads {name}", section(name, cells, given.seeds))
        every += cells
    publish(rows_of(every), given.json)


if __name__ == "__main__":
    main()
