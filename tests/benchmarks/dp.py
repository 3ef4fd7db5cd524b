"""What private training costs: one step by our two ways and by Opacus, against the same step without privacy.

Interleaved: every repetition runs each engine twice and times the second step, and a ratio compares steps of
the same repetition. One image per patient, so that engines that know images only do the same work. Memory is
the peak above the process before its first step, each engine in a process of its own. ``--write FILE`` writes
the page docs/dp-benchmarks.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from torch import nn

from hospital_node.training.features import features, has_features
from hospital_node.training.gradients import Drawn, Loss, Way, patient_gradients, runs_in_bfloat16
from hospital_node.training.optimizer import PatientOptimizer
from medveil.freed import BETWEEN_STEPS, keep_freed
from medveil.noise_policies import LocalNoise
from medveil.tasks import TASKS
from medveil_imaging.models import ModelShape, build
from privacy.dp.noise import NoiseSource
from rows import Row, arguments, cpu, publish

Step = Callable[[], None]
POLICY = LocalNoise(clip_norm=1.0, noise_multiplier=1.0, epsilon=8.0, evaluation_multiplier=1.0)
RATE = 1e-6
AUDIT = "## What an audit measures"
"""From here on the page is by privacy_audit.py, and stays."""
"""So small that repeated steps stay comparable."""
REPETITIONS = 7
ENGINES = ("plain", "vmap", "single", "hooks", "functorch", "ghost")
NAMES = {
    "plain": "without privacy",
    "vmap": "ours, patients together (vmap)",
    "single": "ours, patient by patient",
    "hooks": "Opacus hooks",
    "functorch": "Opacus functorch",
    "ghost": "Opacus ghost",
}


@dataclass(frozen=True)
class Case:
    """A model at a size, patients of one step, images of each, and what our default way must hold."""

    model: str
    size: tuple[int, ...]
    patients: int
    images: int = 1
    time: float | None = None
    memory: float | None = None

    @property
    def title(self) -> str:
        return f"{self.model} {'x'.join(map(str, self.size))}, {self.patients} patients"

    @property
    def way(self) -> str:
        """Our default for it."""
        return "single" if len(self.size) == 3 else "vmap"


CPU_CASES = (
    Case("small_cnn", (64, 64), 64, time=2.8),
    Case("densenet121", (64, 64), 16, time=2.8),
    Case("wavelet_head", (64, 64), 512),
    Case("unet3d", (32, 32, 32), 8, memory=1.0),
    Case("unet3d", (48, 48, 48), 8, memory=1.0),
)
CUDA_CASES = (
    Case("densenet121", (224, 224), 64, time=2.0, memory=1.5),
    Case("unet3d", (96, 96, 96), 8, images=4, time=1.3, memory=1.1),
)


@dataclass(frozen=True)
class Measured:
    """Of one engine: median seconds of a step, median ratio to the plain step, peak memory in MB."""

    seconds: float
    ratio: float
    peak_mb: float


def parts(case: Case, device: torch.device) -> tuple[nn.Module, Loss, list[Drawn]]:
    """A fresh model, its loss and random patients."""
    segments = len(case.size) == 3
    model = build(case.model, ModelShape(case.size, 3 if segments else 1), {}, seed=1).to(device)
    g = torch.Generator().manual_seed(0)
    outline = case.size if segments else ()
    drawn = [
        Drawn(
            torch.randn(case.images, 1, *case.size, generator=g),
            torch.randint(2, (case.images, *outline), generator=g),
        )
        for _ in range(case.patients)
    ]
    if has_features(model):  # computed once for a whole study, so no part of a step
        drawn = [Drawn(features(model, one.images, device), one.labels) for one in drawn]
    return model, TASKS["segmentation" if segments else "classification"].loss, drawn


def plain(model: nn.Module, loss: Loss, drawn: list[Drawn], device: torch.device) -> Step:
    """One step on all images at once, in the precision that private training has."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    images, labels = (torch.cat([getattr(d, part) for d in drawn]) for part in ("images", "labels"))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=runs_in_bfloat16(model, device)):
            logits = model(images.to(device))
        torch.autograd.backward(loss(logits.float(), labels.to(device)).mean())
        optimizer.step()

    return step


def ours(model: nn.Module, loss: Loss, drawn: list[Drawn], device: torch.device, way: Way) -> Step:
    """The product's own step: gradients, clipping, noise."""
    optimizer = PatientOptimizer(
        torch.optim.SGD(model.parameters(), lr=RATE),
        policy=POLICY,
        expected_patients=len(drawn),
        noise=NoiseSource.fresh(),
    )

    def step() -> None:
        for gradients in patient_gradients(model, loss, drawn, device=device, way=way):
            optimizer.accumulate(gradients)
            del gradients  # as in add_clipped_sum: memory for the next ones
        optimizer.finish_step()

    return step


def opacus(model: nn.Module, loss: Loss, drawn: list[Drawn], *, functorch: bool) -> Step:
    """Opacus' gradients per image, by hooks or by its vmap of single layers, and its own optimiser."""
    hooked = GradSampleModule(model, loss_reduction="sum", force_functorch=functorch)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=RATE),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=len(drawn),
    )
    images, labels = (torch.cat([getattr(d, part) for d in drawn]) for part in ("images", "labels"))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(hooked(images), labels).sum().backward()
        optimizer.step()

    return step


def opacus_ghost(model: nn.Module, loss: Loss, drawn: list[Drawn]) -> Step:
    """Opacus' two passes: norms first, then the weighted loss."""
    hooked = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", max_grad_norm=1.0)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(model.parameters(), lr=RATE),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=len(drawn),
    )
    images, labels = (torch.cat([getattr(d, part) for d in drawn]) for part in ("images", "labels"))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = loss(hooked(images), labels)
        losses.sum().backward(retain_graph=True)
        optimizer.original_optimizer.zero_grad(set_to_none=True)
        factors = hooked.get_clipping_coef()
        hooked.disable_hooks()
        (factors * losses).sum().backward()
        hooked.enable_hooks()
        optimizer.step()

    return step


def engine(name: str, case: Case, device: torch.device) -> Step:
    """A step of that engine on a model and patients of its own."""
    model, loss, drawn = parts(case, device)
    if name == "plain":
        return plain(model, loss, drawn, device)
    if name in ("vmap", "single"):
        return ours(model, loss, drawn, device, "together" if name == "vmap" else "single")
    if name == "ghost":
        return opacus_ghost(model, loss, drawn)
    return opacus(model, loss, drawn, functorch=name == "functorch")


def timed(case: Case, names: tuple[str, ...], device: torch.device) -> dict[str, tuple[float, float]]:
    """Median seconds, and median ratio to the plain step of the same repetition, per engine."""
    keep_freed(BETWEEN_STEPS)  # for all engines, as training does
    steps = {name: engine(name, case, device) for name in names}
    # Processor time on the CPU: with one thread it is what a step costs, whoever else uses the machine.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(REPETITIONS + 1):
        for name, step in steps.items():
            step()  # in training it is the same step again and again, not other engines' in between
            started = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repetition:  # the first is for warming up
                seconds[name].append(clock() - started)
    base = seconds["plain"]
    return {
        name: (statistics.median(own), statistics.median(a / b for a, b in zip(own, base, strict=True)))
        for name, own in seconds.items()
    }


def peak_mb(case: Case, name: str, device: torch.device) -> float:
    """Peak memory of two steps above what model and data need, in MB."""
    step = engine(name, case, device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
    before = _status("VmRSS")
    step()
    step()
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_in_own_process(case: Case, name: str) -> float:
    """As :func:`peak_mb`, with an allocator that gives memory back at once, so that the peak is real."""
    # What a freed block leaves in the heap would count for the next step and hide its peak.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return float(_own_process(settings, "--peak", str(CPU_CASES.index(case)), name))


def timed_in_own_process(case: Case) -> dict[str, tuple[float, float]]:
    """As :func:`timed`: what an earlier case left in the heap costs the next one page faults."""
    found: dict[str, tuple[float, float]] = _own_process({}, "--time", str(CPU_CASES.index(case)))
    return found


def _own_process(settings: dict[str, str], *words: str) -> Any:
    command = [sys.executable, __file__, *words]
    environment = os.environ | settings | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: Case, device: torch.device) -> dict[str, Measured]:
    """Every engine on the CPU; ours only on a GPU, where Opacus has no mixed precision in all modes."""
    if device.type == "cpu":
        times = timed_in_own_process(case)
        peaks = {name: peak_in_own_process(case, name) for name in ENGINES}
    else:
        names = ("plain", case.way)
        times = timed(case, names, device)
        peaks = {name: peak_mb(case, name, device) for name in names}
    return {name: Measured(*times[name], peaks[name]) for name in times}


def rows_of(case: Case, found: dict[str, Measured]) -> list[Row]:
    """Figures per engine, with the goals where our default way has them."""
    rows, base = [], found["plain"]
    for name, own in found.items():
        title, goals = f"{case.title}: {NAMES[name]}", name == case.way
        rows.append(Row(f"{title}, time", own.seconds * 1000, "ms"))
        rows.append(Row(f"{title}, peak memory", own.peak_mb, "MB"))
        if name != "plain":
            limit = f"<= {case.time}" if goals and case.time else ""
            rows.append(Row(f"{title}, time to plain", own.ratio, "x", limit))
            limit = f"<= {case.memory}" if goals and case.memory else ""
            rows.append(Row(f"{title}, memory to plain", own.peak_mb / base.peak_mb, "x", limit))
    if "hooks" in found and case.time:
        gain = found["hooks"].ratio / found[case.way].ratio
        rows.append(Row(f"{case.title}: hooks to ours, time", gain, "x", ">= 1"))
    return rows


def page(results: dict[Case, dict[str, Measured]], missing: list[str]) -> str:
    """The results as Markdown."""
    lines = [
        "# What private training costs",
        "",
        "Written by `python tests/benchmarks/dp.py --write docs/dp-benchmarks.md`; nothing here is typed by",
        f"hand. Machine: {cpu()}, one thread, processor time. One step on random images, one image per",
        f"patient; a ratio is the median of {REPETITIONS} interleaved comparisons with the same step without",
        "privacy. Memory is the peak above model and data. The way that MedVeil takes by itself is in bold;",
        "features of `wavelet_head` are computed before.",
        "",
    ]
    for case, found in results.items():
        lines += [
            f"## {case.title}",
            "",
            "| step | ms | time | MB | memory |",
            "|---|---|---|---|---|",
        ]
        for name, own in found.items():
            label = f"**{NAMES[name]}**" if name == case.way else NAMES[name]
            memory = own.peak_mb / found["plain"].peak_mb
            time_and_memory = (
                f"{own.seconds * 1000:.1f} | {own.ratio:.2f} x | {own.peak_mb:.0f} | {memory:.2f} x"
            )
            lines.append(f"| {label} | {time_and_memory} |")
        goals = [f"time at most {case.time} x"] if case.time else []
        goals += [f"memory at most {case.memory} x"] if case.memory else []
        lines += ["", f"Goal: {' and '.join(goals)}." if goals else "No goal is set.", ""]
    if missing:
        lines += ["## Not measured", "", *missing, ""]
    return "\n".join(lines)


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--write", type=Path, help="write the results as Markdown to this file")
    parser.add_argument(
        "--peak", nargs=2, metavar=("CASE", "ENGINE"), help="one peak, for this script itself"
    )
    parser.add_argument("--time", type=int, metavar="CASE", help="one case's times, for this script itself")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    torch.set_num_threads(1)
    if given.peak:
        print(json.dumps(peak_mb(CPU_CASES[int(given.peak[0])], given.peak[1], torch.device("cpu"))))
        return
    if given.time is not None:
        print(json.dumps(timed(CPU_CASES[given.time], ENGINES, torch.device("cpu"))))
        return
    results = {case: measure(case, torch.device("cpu")) for case in CPU_CASES}
    missing = []
    if torch.cuda.is_available():
        results |= {case: measure(case, torch.device("cuda")) for case in CUDA_CASES}
    else:
        missing = [f"* {case.title}: not measured, no CUDA device" for case in CUDA_CASES]
    publish([row for case, found in results.items() for row in rows_of(case, found)], given.json)
    print("\n".join(missing))
    if given.write is not None:
        before = given.write.read_text() if given.write.exists() else ""
        given.write.write_text(page(results, missing) + "".join(before.partition(AUDIT)[1:]))


if __name__ == "__main__":
    main()
