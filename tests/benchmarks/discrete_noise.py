"""What exact discrete noise costs, and what an audit sees of it.

``--data FOLDER`` holds xray-chest and pneumonia28; ``--write FILE`` puts the section "Measured" at the end of
docs/decisions/0066-exact-discrete-noise.md.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from scipy.stats import t as student
from utility import JOBS, Kind, federate, study_of

from hospital_node.training import FeatureCache
from medveil.metrics import headline
from medveil.values import Drawn
from medveil_research import audit
from medveil_research.studies import StudyOptions, new_study
from privacy.dp.noise import NoiseSource
from rows import Row, publish, with_data
from rows import arguments as usual

TITLE = "## Measured"
COST = 0.001
CLOSE = 1.1
"""Fitted epsilon over the stated one, at most."""
KINDS: tuple[Drawn, Drawn] = ("gaussian", "discrete")
SIZES = (1_217, 1_000_000)


def costs(job: str, kind: Kind, epsilon: float, *, folder: Path, seeds: int) -> dict[Drawn, list[float]]:
    """The headline figure of the final model on the test patients by kind of noise, seed after seed."""
    studies = {noise: study_of(job, kind, epsilon, noise=noise) for noise in KINDS}
    sites = JOBS[job].read(folder, studies["gaussian"][0])
    caches = [FeatureCache() for _ in sites]
    found: dict[Drawn, list[float]] = {noise: [] for noise in KINDS}
    for seed in range(seeds):
        for noise, (study, initial) in studies.items():
            outcome = federate(study, initial, sites, seed=seed, caches=caches)
            found[noise].append(outcome.figures[headline(study)])
    return found


def half_width(one: list[float], other: list[float]) -> float:
    """Of the 95 % interval of the difference of two means, each of at least two values."""
    variance = statistics.mean([statistics.variance(one), statistics.variance(other)])
    quantile = float(student.ppf(0.975, len(one) + len(other) - 2))
    return quantile * math.sqrt(variance * (1 / len(one) + 1 / len(other)))


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
    parser.add_argument("--seeds", type=int, default=12, help="runs with each noise, two at least")
    parser.add_argument("--write", type=Path, help="put the section at the end of this Markdown file")
    given = with_data(parser)
    cases: list[tuple[str, Kind, float]] = [("films", "joint", 3.0), ("films", "local", 3.0)]
    rows, table = [], []
    for job, kind, epsilon in cases:
        found = costs(job, kind, epsilon, folder=given.data, seeds=given.seeds)
        mean = {noise: statistics.mean(values) for noise, values in found.items()}
        cost, spread = mean["gaussian"] - mean["discrete"], half_width(*found.values())
        name = f"{job}, {kind}, epsilon {epsilon:g}"
        rows.append(Row(f"{name}: Gaussian less discrete", cost, "AUROC", f"<= {COST}"))
        rows.append(Row(f"{name}: half its 95 % interval", spread, "AUROC"))
        table.append(
            f"| {name} | {mean['gaussian']:.4f} | {mean['discrete']:.4f} | {cost:+.4f} ± {spread:.4f} |"
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
            "The two noises are drawn independently: a difference scatters as two runs do (± half its 95 %",
            "interval, by Student's t over both scatters).",
            "",
            "| AUROC on the test patients | Gaussian | discrete | Gaussian less discrete |",
            "|---|---|---|---|",
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
