"""What a simulated hospital costs, and how that grows: medveil simulate on drawn updates, real masks.

    python tests/benchmarks/simulate.py --write docs/simulate-benchmarks.md
    python tests/benchmarks/simulate.py --sizes 200 500      a part, in some minutes

Each size is one round of `medveil simulate` in processes of its own: two that play hospitals, one that is the
aggregator. Of 2,000 hospitals on two free cores a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medveil.study import Study
from medveil.tensors import ModelSpec, model_hash, to_safetensors
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_file import write_study

SIZES, PARAMETERS, DROPOUTS = (200, 500, 1000, 2000), 100_000, 0.05
MINUTES, GIGABYTES = 20.0, 2.0


@dataclass(frozen=True)
class Measured:
    """One size."""

    hospitals: int
    seconds: float
    facts: dict[str, Any]

    @property
    def cpu_s(self) -> float:
        """Of one hospital, all phases."""
        return float(sum(self.facts["costs"]["cpu_s"].values()))

    @property
    def messages(self) -> float:
        """Bytes of one hospital beside its vector."""
        costs = self.facts["costs"]
        return float(sum(costs["up"].values()) + sum(costs["down"].values()) - costs["up"]["vector"])


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--parameters", type=int, default=PARAMETERS)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    found = []
    for size in given.sizes:
        found.append(measure(size, given.parameters))
        print(row_of(found[-1], found[0]), flush=True)
    text = page(found, given.parameters, load)
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    else:
        print(text)


def measure(hospitals: int, parameters: int) -> Measured:
    """One round with so many hospitals, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="simulate-") as name:
        folder = Path(name)
        study, vector = study_of(hospitals, parameters)
        write_study(folder / "study", study, to_safetensors(vector, study.model.tensors))
        words = [
            "--hospitals",
            str(hospitals),
            "--updates",
            "random",
            "--dropouts",
            str(DROPOUTS),
            "--rounds",
            "1",
        ]
        command = [sys.executable, "-m", "medveil", "simulate", str(folder / "study" / "study.toml")]
        began = time.monotonic()
        subprocess.run(
            [*command, *words, "--rounds", "1", "--processes", "2", "-o", str(folder / "out")],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        seconds = time.monotonic() - began
        told = json.loads((folder / "out" / "simulation.json").read_text())
        return Measured(hospitals, seconds, told["attempts"][0])


def study_of(hospitals: int, parameters: int) -> tuple[Study, np.ndarray[Any, np.dtype[np.float32]]]:
    """The shipped study of films with a model of exactly so many parameters; nobody builds it."""
    graph = "hidden" if hospitals > 128 else "complete"
    options = StudyOptions(
        name="simulated",
        task="classification",
        profile="xray",
        hospitals=hospitals,
        privacy="none",
        mask_graph=graph,
        patients_hint=100,
    )
    study, _ = new_study(options)
    spec = ModelSpec.model_validate([{"name": "weights", "shape": [parameters]}])
    vector = np.zeros(parameters, np.float32)
    name = model_hash(vector, spec).hex()
    model = study.model.model_copy(update={"tensors": spec, "initial_model": name})
    return study.model_copy(update={"model": model}), vector


def row_of(one: Measured, first: Measured) -> tuple[str, ...]:
    """A row of the table of growth."""
    facts = one.facts
    return (
        f"{one.hospitals:,}",
        f"{one.seconds / 60:.1f} min",
        f"{one.cpu_s:.3f} s",
        f"{one.cpu_s / first.cpu_s:.2f}",
        f"{1000 * facts['masking_s']:.1f} ms",
        f"{facts['masking_s'] / first.facts['masking_s']:.2f}",
        f"{facts['neighbours']:.1f} ({facts['theory']['neighbours']:.1f})",
        f"{one.messages / 1000:.0f} kB ({facts['theory']['message_bytes'] / 1000:.0f} kB)",
        f"{facts['aggregator_s']:.0f} s",
        f"{facts['peak_bytes'] / 1e9:.2f} GB",
        f"{facts['wrong_words']:,}",
    )


def page(found: Sequence[Measured], parameters: int, load: float) -> str:
    """The page as Markdown."""
    heads = (
        "hospitals",
        "round",
        "CPU of a hospital",
        "to the first",
        "of it masking",
        "to the first",
        "neighbours (theory)",
        "messages (formula)",
        "aggregator's CPU",
        "resident, all",
        "wrong words",
    )
    last = found[-1]
    wrong, memory = sum(one.facts["wrong_words"] for one in found), last.facts["peak_bytes"] / 1e9
    targets = [
        ("words of sums that are not the sum of what was encoded", f"{wrong}", "0"),
        (
            f"{last.hospitals:,} hospitals, one round",
            f"{last.seconds / 60:.1f} min",
            f"≤ {MINUTES:g} (2,000)",
        ),
        ("resident memory of all processes", f"{memory:.2f} GB", f"≤ {GIGABYTES:g} (2,000)"),
    ]
    sizes = " ".join(str(one.hospitals) for one in found)
    command = f"python tests/benchmarks/simulate.py --sizes {sizes} --write docs/simulate-benchmarks.md"
    lines = [
        "# A simulation, measured",
        "",
        f"Written by `{command}`;",
        f"nothing here is typed by hand. Machine: {processor()}, {os.cpu_count()} cores,",
        f"load {load:.1f} at the start.",
        "",
        f"One round of `medveil simulate` on drawn updates of {parameters:,} parameters; {DROPOUTS:.0%}",
        "of the hospitals vanish between commit and upload. Keys, shares, masks and unmasking are real.",
        "",
        *table(("target", "measured", "wanted"), targets),
        "",
        *table(heads, [row_of(one, found[0]) for one in found]),
        "",
        *WORDS,
    ]
    return "\n".join(lines) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]


WORDS = (
    "*What grows and what does not.* Masking follows the neighbours in the hidden graph, which grow with",
    "the logarithm of the hospitals. All else that a hospital does grows with their number: it deals",
    "everybody a share of its two secrets, opens a box of everybody and derives a key with everybody, so",
    "that the whole grows with the square. That is the protocol's choice",
    "([protocol.md](protocol.md#the-hidden-mask-graph)): shares among all are what its thresholds stand on.",
    "",
    "*What was shared.* A process checks a good signature once, for whichever of its hospitals comes first.",
    "A real hospital checks those of all keys and of a quorum itself, at about 0.1 ms of a core each.",
    "",
    "*More than 2,000* hospitals are refused: a plan holds no more, and lanes have room for 4,096.",
)


def processor() -> str:
    """Its name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
