"""Writes platform/medveil_imaging/models/hippocampus_head.safetensors: what drawings teach, and no patient.

Run it as ``python tests/support/hippocampus_features.py`` (some minutes of one core) after a change of
:mod:`medveil_imaging.drawn_crops`, and put the hash that it prints into the model's module. ``--network``
takes an earlier network instead of training one. Rounding differs between machines, so another machine's file
has another hash; that is why the file is shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from medveil.tasks import TASKS
from medveil_imaging.drawn_crops import SIZE, distances, draw_crop, draw_person, draw_population
from medveil_imaging.models import ModelShape
from medveil_imaging.models.hippocampus_head import FEATURES, FILE, KNOTS, DrawnNetwork, places_in
from medveil_imaging.models.position_head import PositionHead, hats

SHAPES, MAPS, STEEPNESS = 240, 40, 1.5
"""Drawn shapes, their main directions, and millimetres to a unit of logit."""
MARGIN = (slice(None), slice(None), slice(4, 44), slice(4, 60), slice(4, 44))
"""Of a crop, what the network is trained on: faster, and a reason not to trust the border."""


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Volumes (n, 1, x, y, z), float16, and label maps (n, x, y, z), uint8."""
    random = np.random.default_rng(seed)
    pairs = [draw_crop(random, draw_person(random, draw_population(random))) for _ in range(count)]
    images = np.stack([image for image, _ in pairs]).astype(np.float16)
    return torch.from_numpy(images)[:, None], torch.from_numpy(np.stack([labels for _, labels in pairs]))


def train(images: torch.Tensor, labels: torch.Tensor, steps: int) -> DrawnNetwork:
    """Adam on pairs of shifted crops, and the running mean of the weights."""
    torch.manual_seed(0)
    network, random = DrawnNetwork(), np.random.default_rng(3)
    kept = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizer, loss = torch.optim.Adam(network.parameters(), 5e-3), TASKS["segmentation"].loss
    places = places_in(SIZE)[MARGIN[1:]]
    for step in range(steps):
        chosen = random.integers(len(images), size=2)
        shift = tuple(int(n) for n in random.integers(-3, 4, size=3))
        seen = torch.roll(images[chosen].float(), shift, (2, 3, 4))[MARGIN]
        truth = torch.roll(labels[chosen].long(), shift, (1, 2, 3))[MARGIN[1:]]
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1, step / 50) * (1 - step / steps)
        found = loss(network(seen, places)[1], truth).mean()
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        for name, value in network.state_dict().items():
            kept[name].mul_(0.98).add_(value, alpha=0.02)
        if step % 100 == 99:
            sys.stderr.write(f"step {step + 1} of {steps}: loss {float(found.detach()):.3f}\n")
    network.load_state_dict(kept)
    return network.eval()


def shape_maps(seed: int) -> NDArray[np.float64]:
    """The logit of the mean outline and the main directions of single ones, at the knots: (41, a, b, c)."""
    random, depths, seen = np.random.default_rng(seed), [], np.zeros(tuple(n // 2 for n in SIZE))
    for _ in range(SHAPES):
        surface, *_ = distances(draw_person(random, draw_population(random)))
        depths.append(np.clip(-surface / STEEPNESS, -5, 5))
        seen += (surface < 0) / SHAPES
    logit = np.clip(np.log((seen + 0.003) / (1.003 - seen)), -6, 6)
    rows = np.stack(depths).reshape(SHAPES, -1)
    _, strengths, directions = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    main = directions[:MAPS] * strengths[:MAPS, None] / SHAPES**0.5
    maps = np.concatenate([logit[None], main.reshape(MAPS, *seen.shape)])
    a, b, c = (np.linalg.pinv(hats(n // 2, k)) for n, k in zip(SIZE, KNOTS, strict=True))
    return np.einsum("kxyz,ax,by,cz->kabc", maps, a, b, c)


def even_features(network: DrawnNetwork, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The turn (16, 31) to features of spread one near the outline, largest first, and their usual values."""
    filters, places, seen = PositionHead(ModelShape(SIZE, 2)), places_in(SIZE), []
    inside = filters.get_buffer("inside")
    with torch.no_grad():
        for image in images.float().split(1):
            looks, logits = (part[0].flatten(1)[:, inside] for part in network(image, places))
            near = ((logits[1] + logits[2]) / 2 - logits[0]).abs() < 4
            both = torch.cat([filters.features(image)[0].float(), looks])
            seen.append(both[:, near][:, ::5])
    values = torch.cat(seen, 1).double()
    usual = values.mean(1)
    spread, directions = torch.linalg.eigh(torch.cov(values))
    turn = (directions[:, -FEATURES:] / spread[-FEATURES:].sqrt()).T.flip(0)
    return turn, usual


def main() -> None:
    """Draw, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--network", type=Path, help="an earlier network, as --keep has written it")
    parser.add_argument("--keep", type=Path, help="write the network here, too")
    parser.add_argument("--to", type=Path, default=FILE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.network:
        network = DrawnNetwork()
        network.load_state_dict(torch.load(given.network, weights_only=True))
        network.eval()
    else:
        some, others = drawn(220, seed=101), drawn(40, seed=100)
        network = train(torch.cat([some[0], others[0]]), torch.cat([some[1], others[1]]), given.steps)
    if given.keep:
        torch.save(network.state_dict(), given.keep)
    turn, usual = even_features(network, drawn(40, seed=1)[0])
    tensors = {f"network.{name}": value.half().contiguous() for name, value in network.state_dict().items()}
    tensors |= {
        "shapes": torch.from_numpy(shape_maps(seed=2)).half(),
        "turn": turn.float(),
        "usual": usual.float(),
    }
    data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    given.to.write_bytes(data)
    sys.stdout.write(f"{given.to}: {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}\n")


if __name__ == "__main__":
    main()
