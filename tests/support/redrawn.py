"""The figures of one trained model, released many times: how far off they are, whether their intervals hold.

A release is computed from the hospitals' sums without noise, which are counted once; nothing is trained
again. Noise is drawn as the product draws it, one source for each hospital and release, with keys made of a
name: so a figure can be measured again, and no two jobs share their noise.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hospital_node.training import FeatureCache, contributions
from medveil.metrics import bounded, headline, noise_in_sum, noise_scales, released, summarise
from medveil.noise_policies import GaussianNoise
from medveil.readings import named
from medveil.study import Study
from medveil.tasks import Sums
from medveil.tensors import Float32
from medveil_imaging.sources.site import SiteData
from privacy.dp.noise import NoiseSource
from rows import cpu


@dataclass(frozen=True)
class Redrawn:
    """What became of the headline figure over many releases."""

    off: tuple[float, ...]
    """Released less exact, of those that were released."""
    shown: float
    """The error, one standard deviation, that stands beside the figure; mean."""
    width: float
    """Of the 95 % interval by the noise alone; mean."""
    held: int
    """In how many releases the exact figure lay in that interval."""
    draws: int
    drowned: int
    """In how many the noise left no figure; these count as held, from end to end of the range."""

    @property
    def error(self) -> float:
        """Root mean square."""
        return statistics.mean([x**2 for x in self.off]) ** 0.5

    @property
    def bias(self) -> float:
        """Mean."""
        return statistics.mean(self.off)


def together(parts: Sequence[Redrawn]) -> Redrawn:
    """All releases of several models."""
    draws = sum(one.draws for one in parts)
    return Redrawn(
        off=tuple(x for one in parts for x in one.off),
        shown=sum(one.shown * one.draws for one in parts) / draws,
        width=sum(one.width * one.draws for one in parts) / draws,
        held=sum(one.held for one in parts),
        draws=draws,
        drowned=sum(one.drowned for one in parts),
    )


def redraw(
    study: Study,
    model: Float32,
    sites: Sequence[SiteData],
    caches: Sequence[FeatureCache],
    *,
    exact: float,
    draws: int,
    name: str,
) -> Redrawn | None:
    """Release the final evaluation of a model so often; None without noise.

    Args:
        exact: the headline figure without noise, of the same patients.
        name: of this job; another one has other noise.
    """
    if not isinstance(study.privacy, GaussianNoise):
        return None
    sums = [sums_of(study, model, site, cache) for site, cache in zip(sites, caches, strict=True)]
    figures = [_released(study, sums, f"{name} {draw}") for draw in range(draws)]
    key = headline(study)
    known = [one for one in figures if key in one]
    ends = [(one[named(key, "noise_low")], one[named(key, "noise_high")]) for one in known]
    return Redrawn(
        off=tuple(one[key] - exact for one in known),
        shown=statistics.mean([one["noise"] for one in known]),
        width=statistics.mean([high - low for low, high in ends]),
        held=sum(low <= exact <= high for low, high in ends) + draws - len(known),
        draws=draws,
        drowned=draws - len(known),
    )


def sums_of(study: Study, model: Float32, site: SiteData, cache: FeatureCache) -> Sums:
    """What one hospital's test patients add to the released sums."""
    total = {name: np.zeros(size) for name, size in released(study).items()}
    for one in contributions(study, model, site.test, device=torch.device("cpu"), cache=cache):
        for name, values in bounded(study, one).items():
            total[name] += values
    return total


def _released(study: Study, sums: Sequence[Sums], name: str) -> dict[str, float]:
    alone, scales = noise_in_sum(study, hospitals=1), noise_scales(study)
    total = {key: np.zeros(size) for key, size in released(study).items()}
    for place, own in enumerate(sums):
        source = NoiseSource(hashlib.sha256(f"released {name} {place}".encode()).digest())
        for key, values in own.items():
            total[key] += values + source.gaussian(len(values), alone * scales[key])
    return summarise(study, total, noise=noise_in_sum(study, hospitals=len(sums)))


def releases_page(command: str, found: Mapping[str, tuple[Redrawn, Redrawn]]) -> str:
    """A table of settings whose histograms are sent as blends, and beside it cell by cell.

    Args:
        command: what utility.py was told.
    """
    lines = [
        f"Written by `tests/benchmarks/utility.py --data FOLDER {command}",
        f"--releases PAGE`, {cpu()}; test patients of all sites. *Error*: root mean square of released less",
        "exact; *width*: of the 95 % interval by the noise; *held*: how often the exact figure lies in it.",
        "",
        "| | releases | error | bias | width | held | cell by cell: error | bias | width | held |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (now, before) in found.items():
        both = [
            f"{one.error:.3f} | {one.bias:+.3f} | {one.width:.3f} | {one.held / one.draws:.1%}"
            for one in (now, before)
        ]
        lines.append(f"| {name} | {now.draws} | {' | '.join(both)} |")
    return "\n".join(lines)
