"""MNIST among five hospitals: the plain example of federated averaging, measured.

``--data FOLDER`` holds the folder mnist with the four IDX files; ``--write FILE`` puts the table into a
Markdown page (docs/results.md). Five clients get every fifth picture, or with ``--by-label`` two blocks of
pictures in the order of their labels; network and settings are those of ``make seed-mnist``
(:mod:`medveil_imaging.models.lenet`, its recipe), with ``--epochs`` passes in each of ten rounds. The
federation is :func:`medveil_research.comparison.engine.run_federated`. All test digits judge.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from medveil.study import Study
from medveil.tensors import Float32, from_safetensors
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.comparison.engine import run_federated
from medveil_research.mnist import write_mnist_sites
from medveil_research.studies import StudyOptions, new_study
from results_page import put_section
from rows import Row, arguments, cpu, publish, with_data

CLIENTS, ROUNDS = 5, 10
ACCEPT, AIM = 0.988, 0.993


@dataclass(frozen=True)
class Measured:
    """One seed."""

    accuracies: list[float]
    """Of all test digits after each round; of the last round only where the others were not asked for."""
    seconds: float
    """Of the processor, for training."""


def study_of(seed: int, epochs: int, images: int) -> tuple[Study, Float32]:
    """The study of ``make seed-mnist`` with so many passes a round."""
    study, initial = new_study(
        StudyOptions(
            name="mnist",
            task="classification",
            profile="xray",
            model="lenet",
            privacy="none",
            hospitals=CLIENTS,
            rounds=ROUNDS,
            size=(28, 28),
            classes=tuple("0123456789"),
            patients_hint=images // CLIENTS,
            seed=seed,
        )
    )
    training = study.training.model_copy(update={"local_epochs": epochs})
    return study.model_copy(update={"training": training}), from_safetensors(initial, study.model.tensors)


def measure(seed: int, epochs: int, images: int, sites: Sequence[SiteData]) -> Measured:
    """Ten rounds; all test digits judge after each."""
    study, initial = study_of(seed, epochs, images)
    accuracies: list[float] = []

    def heard(number: int, figures: dict[str, float]) -> None:
        accuracies.append(figures["accuracy"])
        print(f"seed {seed}, round {number}: {accuracies[-1]:.4f}", file=sys.stderr, flush=True)

    started = time.process_time()
    run_federated(study, initial, sites, watched="test", heard=heard)
    return Measured(accuracies, time.process_time() - started)


def section(given: argparse.Namespace, found: Sequence[Measured]) -> str:
    """The figures as a part of the page of results."""
    cut = " --by-label" if given.by_label else ""
    last = [one.accuracies[-1] for one in found]
    mark = "aim" if min(last) >= AIM else "accepted" if min(last) >= ACCEPT else "**missed**"
    lines = [
        f"## MNIST, {given.images:,} digits, {given.epochs} epoch(s) a round{', by label' * given.by_label}",
        "",
        f"Written by `tests/benchmarks/mnist.py --data FOLDER --images {given.images} --epochs {given.epochs}"
        f"{cut} --seeds {given.seeds} --write PAGE`,",
        f"on {cpu()}, one thread, other work beside it. Model `lenet` (186,110 weights), SGD, rate 0.01,",
        "momentum 0.9, batches of 32, FedAvg, five clients; accuracy on all test digits after each round.",
        "",
        "| seed | " + " | ".join(str(number + 1) for number in range(ROUNDS)) + " | CPU s |",
        "|---|" + "---|" * (ROUNDS + 1),
    ]
    for seed, one in enumerate(found):
        cells = " | ".join(f"{value:.4f}" for value in one.accuracies)
        lines.append(f"| {seed} | {cells} | {one.seconds:.0f} |")
    if not given.by_label and given.images == 60_000:
        lines += ["", f"Accepted from {ACCEPT}, aimed at {AIM}: {mark}."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=60_000, help="training pictures")
    parser.add_argument("--epochs", type=int, default=5, help="passes in a round")
    parser.add_argument("--by-label", action="store_true", help="each client sees about two digits")
    parser.add_argument("--seeds", type=int, default=1, help="runs from different initial weights")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown page")
    given = with_data(parser)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="medveil-mnist-") as scratch:
        cuts = write_mnist_sites(
            given.data / "mnist",
            Path(scratch) / "sites",
            hospitals=CLIENTS,
            by_label=given.by_label,
            images=given.images,
        )
        study = study_of(0, given.epochs, given.images)[0]
        sites = [read_site(cut.folder, study) for cut in cuts]
    found = [measure(seed, given.epochs, given.images, sites) for seed in range(given.seeds)]
    mean = statistics.mean(one.accuracies[-1] for one in found)
    wanted = f">= {ACCEPT}" if given.images == 60_000 and not given.by_label else ""
    publish(
        [
            Row("MNIST, accuracy after ten rounds, mean of the seeds", mean, "", wanted),
            Row("MNIST, training", statistics.mean(one.seconds for one in found), "s of CPU"),
        ],
        given.json,
    )
    if given.write is not None:
        name = f"mnist {given.images} {given.epochs}{' by label' * given.by_label}"
        put_section(given.write, name, section(given, found))


if __name__ == "__main__":
    main()
