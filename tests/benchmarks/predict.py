"""How fast a model says what it sees, by torch and by ONNX, on the same threads; and that both say the same.

``python tests/benchmarks/predict.py [--threads 2] [--seconds 5] [--models small_cnn,…]``

Each model gets made-up images of its study, one at a time, as ``medveil research predict`` hands them over.
The two take turns, so that a busy machine slows both; the figure is the median of the turns' ratios. With one
thread the processor's own time counts, on which other programs have little influence; else the clock's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medveil.identity import Identity
from medveil.tensors import from_safetensors
from medveil_research.finished import Finished
from medveil_research.hand_on import hand_on
from medveil_research.prediction.networks import Judge, judging
from medveil_research.programs import trial_images
from medveil_research.studies import StudyOptions, new_study

FILMS: dict[str, Any] = {"task": "classification", "profile": "xray"}
HEADS: dict[str, Any] = {"task": "segmentation", "profile": "mri"}
STUDIES: dict[str, dict[str, Any]] = {
    "small_cnn": FILMS,
    "wavelet_head": FILMS,
    "wavelet_head 224": FILMS | {"model": "wavelet_head", "size": (224, 224)},
    "densenet121": FILMS,
    "mobilenet": {"task": "classification", "profile": "picture", "size": (224, 224)},
    "unet3d": HEADS,
    "position_head": HEADS | {"size": (40, 48, 40)},
    "monai:SegResNet": HEADS | {"size": (48, 64, 48)},
}
TURNS = 9
Clock = Callable[[], float]


def finished(model: str) -> Finished:
    """A fresh model, its weights moved at random, so that none that begins at zero says nothing."""
    usual: dict[str, Any] = {"name": "speed", "privacy": "none", "hospitals": 3, "seed": 1, "anyway": True}
    study, initial = new_study(StudyOptions(**(usual | {"model": model} | STUDIES[model])))
    weights = from_safetensors(initial, study.model.tensors)
    moved = weights + 0.02 * np.random.default_rng(1).standard_normal(len(weights), np.float32)
    return Finished(study, "", moved.astype(np.float32), epsilon=None)


def images_a_second(judge: Judge, image: torch.Tensor, seconds: float, clock: Clock) -> float:
    """Of one image at a time."""
    judge(image)
    count, begun = 0, clock()
    while clock() - begun < seconds or count < 3:
        judge(image)
        count += 1
    return count / (clock() - begun)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="for each of the two, in all turns together"
    )
    parser.add_argument("--models", default=",".join(STUDIES))
    given = parser.parse_args()
    clock = time.process_time if given.threads == 1 else time.perf_counter
    signer = Identity.generate("speed")
    heads = ("torch/s", "onnx/s", "onnx/torch", "apart", "export")
    print(f"{'model':<18} {'size':<14}", *(f"{head:>10}" for head in heads))
    for model in given.models.split(","):
        made = finished(model)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            hand_on("onnx", made, Path(folder) / "onnx", signer)
            took = time.perf_counter() - begun
            hand_on("weights", made, Path(folder) / "weights", signer)
            ways = [judging(Path(folder) / n, threads=given.threads).judge for n in ("weights", "onnx")]
        image = trial_images(made.study)[:1].contiguous()
        apart = float((ways[0](image) - ways[1](image)).abs().max())
        turns = []
        for _ in range(TURNS):
            turns.append([images_a_second(way, image, given.seconds / TURNS, clock) for way in ways])
        torch_s, onnx_s = (statistics.median(turn[k] for turn in turns) for k in (0, 1))
        ratio = statistics.median(turn[1] / turn[0] for turn in turns)
        size = "x".join(map(str, made.study.transforms.size))
        print(
            f"{model:<18} {size:<14} {torch_s:10.1f} {onnx_s:10.1f} {ratio:10.2f} {apart:10.1e} {took:9.0f}s",
            flush=True,
        )


if __name__ == "__main__":
    main()
