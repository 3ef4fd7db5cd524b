"""What privacy costs on real images: federations in one process, through the product's own engine and ledger.

``--data FOLDER`` holds xray-chest, mri-hippocampus and pneumonia28; ``--write FILE`` puts the table into a
Markdown page (docs/results.md). The federation is :func:`medveil_research.comparison.engine.run_federated`,
the one of ``medveil research compare``: training, ledger, strategy and evaluation are the product's own,
under the shipped recipe and policy (LocalNoise, JointNoise or none). Noise comes from keys made of the seed,
so a figure can be measured again.

The settings are those of :mod:`medveil_imaging.recipes`; nothing is chosen here. The recipes were chosen on
the validation patients of these very data sets, which a hospital could not do for free; test figures were
seen meanwhile: the joint rate below epsilon 8 was changed after one of them, and others were known when the
rates of centred studies were chosen (recipes.py, docs/decisions/0017-private-mean.md).
"""

from __future__ import annotations

import hashlib
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from hospital_node.training import FeatureCache
from medveil.metrics import headline
from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.site import SiteData, read_site
from medveil_imaging.transforms import z_score
from medveil_research.comparison.engine import judged, run_federated
from medveil_research.evaluate import Split, patients_of
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.noise import NoiseSource
from redrawn import Redrawn, redraw, releases_page, together
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data
from spread import half_interval

Kind = Literal["none", "joint", "local"]


@dataclass(frozen=True)
class Target:
    """What a figure must and should reach."""

    accept: float
    aim: float


@dataclass(frozen=True)
class Job:
    """One data set, what is learned from it, and what is to be reached by kind of noise and epsilon."""

    settings: dict[str, Any]
    read: Callable[[Path, Study], list[SiteData]]
    targets: dict[tuple[Kind, float], Target]
    gain: Target
    """By how much JointNoise must beat LocalNoise at epsilon 8."""


@dataclass(frozen=True)
class Outcome:
    """What one federation came to."""

    figures: dict[str, float]
    """Exact, on the test patients of all sites."""
    round_s: float
    """Longest time of one hospital's part in a round, the first round (features, self-check) left out."""
    model: Float32 = field(repr=False)
    released: dict[str, float] = field(default_factory=dict)
    """As the noised sum of the final evaluation gives them; empty without noise."""


@dataclass(frozen=True)
class Asked:
    """How much is measured, and what of it."""

    seeds: int
    """Trainings with different noise per setting."""
    draws: int
    """Releases of each trained model."""
    kind: Kind | None = None
    epsilon: float | None = None
    """One setting only."""

    def wants(self, kind: Kind, epsilon: float | None) -> bool:
        """Whether a setting is measured."""
        return self.kind in (None, kind) and self.epsilon in (None, epsilon)


@dataclass(frozen=True)
class Cell:
    """One setting over all seeds."""

    job: str
    kind: Kind
    epsilon: float | None
    values: list[float]
    released: Redrawn | None
    """The figure as it leaves through the noised evaluation, over many releases of each seed's model."""
    plain: Redrawn | None
    """The same if histograms were sent cell by cell; None where none are sent."""
    round_s: float
    target: Target | None

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.mean(self.values)

    @property
    def margin(self) -> float | None:
        """Half-width of the 95 % interval of the mean; None with one seed."""
        return half_interval(self.values)


def films(folder: Path, study: Study) -> list[SiteData]:
    """The three sites of one hospital."""
    return [read_site(folder / "xray-chest" / f"guangzhou-{name}", study) for name in "abc"]


def volumes(folder: Path, study: Study) -> list[SiteData]:
    """Four sites, by what their scanners' export left in the files."""
    return [read_site(folder / "mri-hippocampus" / f"hippo-{name}", study) for name in "abcd"]


def small_films(folder: Path, study: Study) -> list[SiteData]:
    """pneumonia28.npz, one site per ``site``; films of a patient belong together."""
    with np.load(folder / "pneumonia28" / "pneumonia28.npz", allow_pickle=False) as stored:
        pack = dict(stored)
    return [
        SiteData(str(site), *(_patients(pack, split, site) for split in ("train", "val", "test")), ())
        for site in np.unique(pack["train_site"])
    ]


def _patients(pack: dict[str, Any], split: str, site: str) -> tuple[PatientImages, ...]:
    here = pack[f"{split}_site"] == site
    names, images = pack[f"{split}_patient"][here], torch.from_numpy(pack[f"{split}_images"][here])
    labels = torch.from_numpy(pack[f"{split}_labels"][here].astype(np.int64).ravel())
    scored = torch.stack([z_score(image[None].float()) for image in images])
    return tuple(
        PatientImages(str(name), scored[names == name], labels[names == name]) for name in np.unique(names)
    )


FILM = {"task": "classification", "profile": "xray", "classes": ("normal", "abnormal"), "hospitals": 3}
JOBS = {
    "pneumonia28": Job(
        FILM | {"size": (28, 28), "options": {"scales": 2, "grid": 7}},
        small_films,
        {
            ("joint", 8.0): Target(0.975, 0.984),
            ("joint", 3.0): Target(0.970, 0.982),
            ("joint", 1.0): Target(0.955, 0.977),
            ("local", 8.0): Target(0.965, 0.976),
            ("local", 3.0): Target(0.960, 0.973),
            ("local", 1.0): Target(0.940, 0.963),
        },
        Target(0.004, 0.009),
    ),
    "films": Job(
        FILM,
        films,
        {
            ("joint", 8.0): Target(0.980, 0.987),
            ("joint", 3.0): Target(0.983, 0.986),
            ("joint", 1.0): Target(0.972, 0.977),
            ("local", 8.0): Target(0.970, 0.979),
            ("local", 3.0): Target(0.981, 0.984),
            ("local", 1.0): Target(0.968, 0.973),
        },
        Target(0.004, 0.009),
    ),
    "hippocampus": Job(
        {
            "task": "segmentation",
            "profile": "mri",
            "classes": ("background", "anterior", "posterior"),
            "hospitals": 4,
            "model": "hippocampus_head",
        },
        volumes,
        {
            ("joint", 8.0): Target(0.775, 0.80),
            ("joint", 3.0): Target(0.71, 0.75),
            ("local", 8.0): Target(0.735, 0.76),
        },
        Target(0.02, 0.04),
    ),
}


ERRORS: dict[tuple[str, Kind, float | None], str] = {("films", "local", 1.0): "<= 0.03"}
"""What the error of a released figure must reach."""


def study_of(name: str, kind: Kind, epsilon: float | None, **changes: Any) -> tuple[Study, bytes]:
    """The shipped study of a job, with other arguments of ``new_study`` if wanted."""
    settings = JOBS[name].settings | changes | ({} if epsilon is None else {"epsilon": epsilon})
    return new_study(
        StudyOptions(name=f"utility-{name}", patients_hint=600, privacy=kind, seed=0, **settings)
    )


def federate(
    study: Study,
    initial: bytes,
    sites: Sequence[SiteData],
    *,
    seed: int,
    split: Split = "test",
    caches: Sequence[FeatureCache] | None = None,
    source: type[NoiseSource] = NoiseSource,
) -> Outcome:
    """All rounds of a study, hospital after hospital, and the final model's figures over all sites.

    ``source``: what draws the noise.
    """
    kept = caches or [FeatureCache() for _ in sites]
    trained = run_federated(
        study,
        from_safetensors(initial, study.model.tensors),
        sites,
        noise=lambda site, number: source(_key(seed, site, number)),
        caches=kept,
    )
    figures = judged(study, trained.model, [patients_of(site, split) for site in sites], kept)
    noised = {} if study.privacy.kind == "none" else trained.released
    return Outcome(figures, trained.slowest_s, trained.model, noised)


def _key(seed: int, site: str, number: int) -> bytes:
    return hashlib.sha256(f"{seed} {site} {number}".encode()).digest()


def measure(name: str, folder: Path, asked: Asked) -> list[Cell]:
    """One job without privacy and under every policy and epsilon that has a target."""
    job = JOBS[name]
    sites = job.read(folder, study_of(name, "none", None)[0])
    settings: list[tuple[Kind, float | None]] = [("none", None), *job.targets]
    return [_cell(name, *one, sites, asked) for one in settings if asked.wants(*one)]


def _cell(name: str, kind: Kind, epsilon: float | None, sites: Sequence[SiteData], asked: Asked) -> Cell:
    study, initial = study_of(name, kind, epsilon)
    caches = [FeatureCache() for _ in sites]
    seeds = range(asked.seeds if epsilon else 1)
    found = [federate(study, initial, sites, seed=seed, caches=caches) for seed in seeds]
    key = headline(study)

    def released(of: Study) -> Redrawn | None:
        drawn = [
            redraw(
                of,
                outcome.model,
                sites,
                caches,
                exact=outcome.figures[key],
                draws=asked.draws,
                name=f"{name} {kind} {epsilon} {seed}",
            )
            for seed, outcome in zip(seeds, found, strict=True)
        ]
        known = [one for one in drawn if one is not None]
        return together(known) if known else None

    cells = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"blended": False})})
    cell = Cell(
        job=name,
        kind=kind,
        epsilon=epsilon,
        values=[outcome.figures[key] for outcome in found],
        released=released(study),
        plain=released(cells) if study.evaluation.blended else None,
        round_s=max(outcome.round_s for outcome in found),
        target=JOBS[name].targets.get((kind, epsilon or 0.0)),
    )
    values = " ".join(f"{v:.4f}" for v in cell.values)
    print(f"{_title(cell)}: {cell.mean:.4f} of {values}", file=sys.stderr, flush=True)
    return cell


def _title(cell: Cell) -> str:
    return f"{cell.job}, " + ("no privacy" if cell.epsilon is None else f"{cell.kind}, eps {cell.epsilon:g}")


def gain(cells: Sequence[Cell], job: str) -> list[float]:
    """JointNoise less LocalNoise at epsilon 8, seed by seed, on the same patients."""
    found = {c.kind: c.values for c in cells if (c.job, c.epsilon) == (job, 8.0)}
    if len(found) < 2:
        return []
    return [a - b for a, b in zip(found["joint"], found["local"], strict=True)]


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """Everything measured, against what must be reached."""
    rows = []
    for cell in cells:
        wanted = "" if cell.target is None else f">= {cell.target.accept}"
        aim = "" if cell.target is None else f" (aim {cell.target.aim})"
        rows.append(Row(f"{_title(cell)}{aim}", cell.mean, "", wanted))
        if cell.margin is not None:
            rows.append(Row(f"{_title(cell)}: 95 % interval, half", cell.margin, ""))
            rows.append(Row(f"{_title(cell)}: smallest of the seeds", min(cell.values), ""))
        rows += _released_rows(cell)
        rows.append(Row(f"{_title(cell)}: slowest hospital, one round", cell.round_s, "s"))
    for job in dict.fromkeys(c.job for c in cells):
        both = gain(cells, job)
        if not both:
            continue
        better, target = statistics.mean(both), JOBS[job].gain
        rows.append(
            Row(f"{job}: joint less local at eps 8 (aim {target.aim})", better, "", f">= {target.accept}")
        )
    return rows


def _released_rows(cell: Cell) -> list[Row]:
    found, wanted = cell.released, ERRORS.get((cell.job, cell.kind, cell.epsilon))
    if found is None:
        return []
    title = f"{_title(cell)}: released figure, "
    return [
        Row(f"{title}error (root mean square of {found.draws} releases)", found.error, "", wanted or ""),
        Row(f"{title}bias", found.bias, ""),
        Row(f"{title}stated error", found.shown, ""),
        Row(f"{title}width of its 95 % interval by the noise", found.width, ""),
        Row(f"{title}the exact figure lies in it", found.held / found.draws, "", ">= 0.93"),
        Row(f"{title}drowned by the noise", found.drowned / found.draws, ""),
    ] + ([Row(f"{title}error if sent cell by cell", cell.plain.error, "")] if cell.plain else [])


def section(cells: Sequence[Cell], seeds: int, draws: int) -> str:
    """The figures as a part of the page of results."""
    lines = [
        "# Utility under privacy",
        "",
        f"Written by `tests/benchmarks/utility.py --data FOLDER --seeds {seeds} --write docs/results.md`;",
        f"nothing here is typed by hand. Machine: {cpu()}, no GPU.",
        "",
        "Real images, the patient as unit, delta 0.00001, at most 4 images of a patient; pooled test",
        "patients of all sites. Settings: the shipped recipes, chosen once on the validation patients of",
        "these data (a hospital could not do that for free); test figures were seen meanwhile: the joint",
        "rate below epsilon 8 was changed after one, and others were known when the rates of centred studies",
        "were chosen ([decision 17](decisions/0017-private-mean.md)). Films: guangzhou a-c. Hippocampus:",
        "the drawings that its model comes from were held against validation patients, too",
        "([decision 67](decisions/0067-public-structure.md)).",
        f"Mean of {seeds} noise seeds, half its 95 % interval (of the noise alone, not of the choice of",
        "patients), smallest and largest. *Released*: by how much the figure that leaves through the noised",
        f"evaluation differs from the exact one (root mean square over {draws} releases of each model, drawn",
        "anew for each row), and *bias*, the mean of that; *shown*: its stated error; *width*: of its 95 %",
        "interval by the noise; *held*: in how many of the releases the exact figure lies in that.",
        "",
        "| task | noise | eps | mean | ± | smallest–largest | accept | aim | "
        "| released | bias | shown | width | held |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        first = [c.job, c.kind, "" if c.epsilon is None else f"{c.epsilon:g}", f"**{c.mean:.3f}**"]
        spread = ["" if c.margin is None else f"{c.margin:.3f}", f"{min(c.values):.3f}–{max(c.values):.3f}"]
        goal = ["", "", ""]
        if c.target is not None:
            goal = [f"{c.target.accept:.3f}", f"{c.target.aim:.3f}", _mark(c.mean, c.target)]
        error, found = [""] * 5, c.released
        if found is not None:
            error = [f"{found.error:.3f}", f"{found.bias:+.3f}", f"{found.shown:.3f}", f"{found.width:.3f}"]
            error.append(f"{found.held / found.draws:.0%}")
        lines.append("| " + " | ".join([*first, *spread, *goal, *error]) + " |")
    lines += ["", "| joint less local at eps 8, same patients | mean | each seed | accept | aim | |"]
    lines.append("|---|---|---|---|---|---|")
    for job in dict.fromkeys(c.job for c in cells):
        each, target = gain(cells, job), JOBS[job].gain
        if not each:
            continue
        better = statistics.mean(each)
        seen = ", ".join(f"{x:+.3f}" for x in each)
        marks = f"{target.accept} | {target.aim} | {_mark(better, target)}"
        lines.append(f"| {job} | **{better:+.4f}** | {seen} | {marks} |")
    return "\n".join(lines)


def kept_rows(new: str, page: str) -> str:
    """The new section, with the rows that the page has of data sets that were not measured again."""
    old = page.partition("<!-- utility -->")[2].partition("<!-- end of utility -->")[0].splitlines()
    lines: list[str] = []
    for line in new.splitlines():
        lines.append(line)
        if line.startswith("|---"):
            others = [job for job in JOBS if f"\n| {job} |" not in new]
            rows = [row for row in old if row.startswith(tuple(f"| {job} |" for job in others))]
            lines += [row for row in rows if row.count("|") == line.count("|")]
    return "\n".join(lines)


def _mark(value: float, target: Target) -> str:
    if value >= target.aim:
        return "aim"
    return "accepted" if value >= target.accept else "**missed**"


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="runs with different noise per setting")
    parser.add_argument("--draws", type=int, default=100, help="releases of each trained model's figures")
    parser.add_argument("--kind", choices=("none", "joint", "local"), help="one kind of noise")
    parser.add_argument("--epsilon", type=float, help="one epsilon")
    parser.add_argument("--only", choices=JOBS, help="one data set; the page keeps its rows of the others")
    parser.add_argument("--releases", type=Path, help="put what is said of releases into this page")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    names = [given.only] if given.only else list(JOBS)
    if given.write is not None and (given.kind or given.epsilon):
        parser.error("a page gets whole data sets: leave out --kind and --epsilon")
    asked = Asked(given.seeds, given.draws, given.kind, given.epsilon)
    cells = [cell for name in names for cell in measure(name, given.data, asked)]
    publish(rows_of(cells), given.json)
    if given.releases is not None:
        compared = {_title(c): (c.released, c.plain) for c in cells if c.released and c.plain}
        words = [(f"--{k}", getattr(given, k)) for k in ("only", "kind", "epsilon", "seeds", "draws")]
        command = " ".join(f"{name} {value}" for name, value in words if value)
        put_section(given.releases, "releases", releases_page(command, compared))
    if given.write is not None:
        page = given.write.read_text(encoding="utf-8") if given.only and given.write.exists() else ""
        put_section(given.write, "utility", kept_rows(section(cells, given.seeds, given.draws), page))


if __name__ == "__main__":
    main()
