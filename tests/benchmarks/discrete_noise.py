"""What exact discrete noise costs, and what an audit sees of it.

``--data FOLDER`` holds xray-chest; ``--write FILE`` puts the section "Measured" at the end of
docs/decisions/0066-exact-discrete-noise.md.

Noise moves a figure by more than its kind does, so two independent runs say little. A third way is the study
of discrete noise with the Gaussian's own draws, each rounded to the whole number next to it. A rounded
Gaussian has the chances of the discrete one but for a share of about (x^2 / s^4 - 1 / s^2) / 24 of each
(Taylor's series of the density within a step), so that all draws of a study come out alike but for the chance
that :func:`unlike` gives. What is left between the two runs is what whole numbers cost: patients' shares that
are rounded, sums that are cut to a lane, updates that travel without dither.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from numpy.typing import NDArray
from utility import JOBS, Kind, federate, study_of

from hospital_node.training import FeatureCache
from medveil.metrics import headline
from medveil.study import Study
from medveil.values import Drawn
from medveil_research import audit
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.grid import training_grid
from privacy.dp.noise import NoiseSource
from rows import Row, publish, with_data
from rows import arguments as usual
from spread import half_interval, half_interval_apart

TITLE = "## Measured"
COST = 0.001
CLOSE = 1.1
"""Fitted epsilon over the stated one, at most."""
SIZES = (1_217, 1_000_000)


class Rounded(NoiseSource):
    """The Gaussian draws of a key, as whole numbers."""

    def discrete(self, size: int, deviation: int) -> NDArray[np.int64]:
        """The next values of :meth:`gaussian`, rounded to the nearest whole number."""
        return np.rint(self.gaussian(size, deviation)).astype(np.int64)


@dataclass(frozen=True)
class Way:
    """A kind of noise, and where its draws come from."""

    noise: Drawn
    source: type[NoiseSource] = NoiseSource


GAUSSIAN, DISCRETE, SAME_DRAWS = Way("gaussian"), Way("discrete"), Way("discrete", Rounded)


@dataclass(frozen=True)
class Costs:
    """One study under each way of drawing, seed after seed: the headline figure on the test patients."""

    found: dict[Way, list[float]]
    unlike: float

    def less(self, way: Way) -> float:
        """The Gaussian's mean less this way's."""
        return statistics.mean(self.found[GAUSSIAN]) - statistics.mean(self.found[way])

    @property
    def apart(self) -> float:
        """Half the 95 % interval of the difference from independent draws."""
        return half_interval_apart(self.found[GAUSSIAN], self.found[DISCRETE])

    @property
    def paired(self) -> float:
        """Half the 95 % interval of the difference from the same draws, seed by seed; nan of one seed."""
        pairs = zip(self.found[GAUSSIAN], self.found[SAME_DRAWS], strict=True)
        half = half_interval([one - other for one, other in pairs])
        return math.nan if half is None else half


def costs(job: str, kind: Kind, epsilon: float, *, folder: Path, seeds: int) -> Costs:
    """Train each way, on the same patients."""
    studies = {noise: study_of(job, kind, epsilon, noise=noise) for noise in ("gaussian", "discrete")}
    sites = JOBS[job].read(folder, studies["gaussian"][0])
    caches = [FeatureCache() for _ in sites]
    found: dict[Way, list[float]] = {way: [] for way in (GAUSSIAN, DISCRETE, SAME_DRAWS)}
    for seed in range(seeds):
        for way, values in found.items():
            study, initial = studies[way.noise]
            outcome = federate(study, initial, sites, seed=seed, caches=caches, source=way.source)
            values.append(outcome.figures[headline(study)])
            print(f"{job}, {kind}, seed {seed}, {way}: {values[-1]:.5f}", file=sys.stderr, flush=True)
    return Costs(found, unlike(studies["discrete"][0], hospitals=len(sites)))


def unlike(study: Study, *, hospitals: int) -> float:
    """A bound of the chance that draws of discrete noise and rounded Gaussian ones need not be alike.

    The total variation of one draw is half of E|z^2 - 1| / 24 s^2 for a standard normal z, and E|z^2 - 1| is
    .968; the next term of the series is smaller by another s^2. All draws of all rounds, added up; twice
    that, for the rest of the series.
    """
    steps, each = study.training.local_steps or 0, 0.968 / 48
    grids = [training_grid(study, number) for number in range(1, study.training.rounds + 1)]
    drawn = math.fsum(1 / grid.deviation**2 for grid in grids if grid is not None)
    return 2 * each * drawn * steps * study.model.tensors.size * hospitals


def fits() -> dict[str, float]:
    """Epsilon as an audit fits it over the stated one, by split, for films with joint noise at epsilon 3."""
    study, _ = new_study(
        StudyOptions(
            name="audited",
            task="classification",
            profile="xray",
            patients_hint=200,
            privacy="joint",
            epsilon=3.0,
            hospitals=5,
            noise="discrete",
            anyway=True,
        )
    )
    return {str(one.split): one.fit.epsilon / one.claim for one in audit.audit(study)}


def seconds(size: int) -> float:
    """Processor time of so many values, fastest of three."""
    source, found = NoiseSource.fresh(), []
    for _ in range(3):
        begun = time.process_time()
        source.discrete(size, 2**26 + 1)
        found.append(time.process_time() - begun)
    return min(found)


def main() -> None:
    """Run, print, write."""
    parser = usual(__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="runs each way, two at least")
    parser.add_argument("--write", type=Path, help="put the section at the end of this Markdown file")
    given = with_data(parser)
    torch.set_num_threads(1)
    cases: list[tuple[str, Kind, float]] = [("films", "joint", 3.0), ("films", "local", 3.0)]
    rows, table = [], []
    for job, kind, epsilon in cases:
        found = costs(job, kind, epsilon, folder=given.data, seeds=given.seeds)
        name = f"{job}, {kind}, epsilon {epsilon:g}"
        mean = {way: statistics.mean(values) for way, values in found.found.items()}
        rows.append(
            Row(f"{name}: Gaussian less discrete, same draws", found.less(SAME_DRAWS), "AUROC", f"<= {COST}")
        )
        rows.append(Row(f"{name}: half its 95 % interval", found.paired, "AUROC", f"<= {COST}"))
        rows.append(Row(f"{name}: Gaussian less discrete, own draws", found.less(DISCRETE), "AUROC"))
        rows.append(Row(f"{name}: half its 95 % interval, own draws", found.apart, "AUROC"))
        table.append(
            f"| {name} | {mean[GAUSSIAN]:.4f} | {mean[SAME_DRAWS]:.4f} | "
            f"{found.less(SAME_DRAWS):+.5f} ± {found.paired:.5f} | {found.unlike:.0e} | "
            f"{mean[DISCRETE]:.4f} | {found.less(DISCRETE):+.4f} ± {found.apart:.4f} |"
        )
    fitted = fits()
    rows += [
        Row(f"films, joint, epsilon 3, {split}: fitted over stated", x, "x", f"<= {CLOSE}")
        for split, x in fitted.items()
    ]
    spent = {size: seconds(size) for size in SIZES}
    rows += [Row(f"{size:,} values", s, "s") for size, s in spent.items()]
    publish(rows, given.json)
    if given.write is not None:
        lines = [
            TITLE,
            "",
            f"By `tests/benchmarks/discrete_noise.py --data FOLDER --seeds {given.seeds} --write` this page.",
            "*Same draws*: the study of discrete noise with the Gaussian's draws, each rounded to a whole",
            "number. These have the chances of discrete draws but for the stated chance that any one in the",
            "study must differ (a bound; the script derives it). So the difference, seed by seed, is what",
            "whole numbers cost. *Own draws*: discrete noise as it is drawn; two independent runs, which",
            "scatter so.",
            "Both with half their 95 % interval by Student's t.",
            "",
            "| AUROC on the test patients | Gaussian | same draws | Gaussian less it | unlike | own draws "
            "| Gaussian less it |",
            "|---|---|---|---|---|---|---|",
            *table,
            "",
            "An audit fits, over the stated epsilon 3 (films, joint): "
            + ", ".join(f"{split} {x:.3f}" for split, x in fitted.items())
            + ". Processor time: "
            + ", ".join(f"{size:,} values {s:.4f} s" for size, s in spent.items())
            + ".",
            "",
        ]
        before = given.write.read_text(encoding="utf-8").partition(TITLE)[0].rstrip("\n")
        given.write.write_text(before + "\n\n" + "\n".join(lines), encoding="utf-8")
    sys.exit(not all(row.ok for row in rows))


if __name__ == "__main__":
    main()
