"""The engine of private training: per-patient gradients, clipping, noise, draw."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.utils import set_determinism
from torch import nn
from torch.nn import functional

from hospital_node.training import gradients as engine
from hospital_node.training.gradients import Chosen, Drawn, Way, draw, patient_gradients, taken
from hospital_node.training.optimizer import PatientOptimizer, clip_factors, row_norms
from medveil.noise_policies import LocalNoise
from medveil_imaging.patients import PatientImages
from privacy.dp.noise import NoiseSource

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
CLIP = 0.3


def policy(**changes: object) -> LocalNoise:
    return LocalNoise.model_validate(
        {"clip_norm": CLIP, "noise_multiplier": 1.7, "evaluation_multiplier": 2.0, "epsilon": 8.0} | changes
    )


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def flat_net() -> nn.Module:
    """What breaks engines with hooks: reflected padding, in-place activation, a weight without use."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 4, 2, 2),
        nn.PReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    net.register_parameter("spare", nn.Parameter(torch.ones(2)))
    return net


def solid_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=True),
        nn.PReLU(),
        nn.AdaptiveAvgPool3d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def some_patients(dims: int, counts: Sequence[int], seed: int = 0, scale: float = 1.0) -> list[Drawn]:
    g = torch.Generator().manual_seed(seed)
    return [
        Drawn(
            scale * torch.randn(k, 1, *(6,) * dims, generator=g, dtype=torch.float64),
            torch.randint(3, (k,), generator=g),
        )
        for k in counts
    ]


def oracle(net: nn.Module, one: Drawn) -> torch.Tensor:
    weights = list(net.parameters())
    images = one.images.to(weights[0].dtype)
    found = torch.autograd.grad(loss(net(images), one.labels).mean(), weights, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(w) if f is None else f).flatten() for w, f in zip(weights, found, strict=True)]
    )


def rows(net: nn.Module, drawn: Sequence[Drawn]) -> torch.Tensor:
    chunks = [
        torch.cat([chunk[w].flatten(1) for w in net.parameters()], 1)
        for chunk in patient_gradients(net, loss, drawn, device=CPU)
    ]
    return torch.cat(chunks)


def optimizer(net: nn.Module, *, rate: float = 0.0, **changes: object) -> PatientOptimizer:
    return PatientOptimizer(
        torch.optim.SGD(net.parameters(), lr=rate),
        policy=policy(**changes),
        expected_patients=1.0,
        noise=NoiseSource.fresh(),
    )


def clipped_sum(net: nn.Module, drawn: Sequence[Drawn], **changes: object) -> torch.Tensor:
    own = optimizer(net, **changes)
    for w in net.parameters():
        w.summed_grad = torch.zeros_like(w)  # type: ignore[attr-defined]
    for chunk in patient_gradients(net, loss, drawn, device=CPU):
        own.accumulate(chunk)
    return torch.cat([w.summed_grad.flatten() for w in net.parameters()])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("dims", "dtype", "tolerance"),
    [(2, torch.float64, 1e-9), (3, torch.float64, 1e-9), (2, torch.float32, 1e-4), (3, torch.float32, 1e-4)],
)
def test_gradients_equal_a_loop_over_single_patients(dims: int, dtype: torch.dtype, tolerance: float) -> None:
    net = (flat_net() if dims == 2 else solid_net()).to(dtype)
    drawn = some_patients(dims, [1, 3, 2, 3])
    expected = torch.stack([oracle(net, one) for one in drawn])
    assert float((rows(net, drawn) - expected).norm() / expected.norm()) < tolerance


def test_chunks_and_padding_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, drawn = flat_net().double(), some_patients(2, [1, 1, 2, 3, 3])
    whole = rows(net, drawn)
    monkeypatch.setitem(engine.VALUES_AT_ONCE, "cpu", 100)
    assert len(list(patient_gradients(net, loss, drawn, device=CPU))) > 1
    torch.testing.assert_close(rows(net, drawn), whole, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(engine, "MOST_BYTES", 1)
    assert len(list(patient_gradients(net, loss, drawn, device=CPU))) == len(drawn)
    torch.testing.assert_close(rows(net, drawn), whole, rtol=1e-9, atol=1e-12)


def test_a_chunk_without_room_is_halved_and_nobody_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    net, drawn = flat_net().double(), some_patients(2, [1, 1, 2, 3, 3])
    whole, real, tried = rows(net, drawn), engine._vmapped, []

    def cramped(*args: Any) -> Any:
        function = real(*args)

        def limited(weights: Any, images: torch.Tensor, labels: Any, mask: Any) -> Any:
            tried.append(len(images))
            if len(images) > 1:
                raise torch.OutOfMemoryError("planted")
            return function(weights, images, labels, mask)

        return limited

    monkeypatch.setattr(engine, "_vmapped", cramped)
    torch.testing.assert_close(rows(net, drawn), whole, rtol=1e-9, atol=1e-12)
    assert tried == [5, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("copies", [1, 4, 16])
def test_copies_of_a_patients_image_contribute_the_clip_once(dims: int, copies: int) -> None:
    net = (flat_net() if dims == 2 else solid_net()).double()
    one = some_patients(dims, [1], scale=3.0)[0]
    many = Drawn(torch.cat([one.images] * copies), torch.cat([one.labels] * copies))
    summed = clipped_sum(net, [many], clip_norm=1e-3)
    assert float(summed.norm()) == pytest.approx(1e-3 * (1 - 1e-3), rel=1e-6)  # the margin keeps it below
    torch.testing.assert_close(summed, clipped_sum(net, [one], clip_norm=1e-3), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("clipping", ["flat", "unit"])
@pytest.mark.parametrize("dims", [2, 3])
def test_taking_out_any_patient_changes_the_sum_by_at_most_the_clip(dims: int, clipping: str) -> None:
    worst = 0.0
    for seed in range(6):
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            net = flat_net() if dims == 2 else solid_net()
        drawn = some_patients(dims, [1, 2, 3, 4], seed=seed, scale=10.0)
        whole = clipped_sum(net, drawn, clip_norm=0.01, clipping=clipping)
        for place in range(len(drawn)):
            rest = drawn[:place] + drawn[place + 1 :]
            change = whole - clipped_sum(net, rest, clip_norm=0.01, clipping=clipping)
            worst = max(worst, float(change.norm()) / 0.01)
    assert 0.5 < worst <= 1 + 1e-6


@pytest.mark.parametrize("clipping", ["flat", "unit"])
def test_a_factor_never_lifts_a_norm_over_the_clip(clipping: str) -> None:
    norms = torch.cat([torch.logspace(-30, 30, 601), torch.tensor([0.0, CLIP, math.inf, math.nan])])
    factors = clip_factors(norms, policy(clipping=clipping))
    assert torch.all(factors[:-2] * norms[:-2] <= CLIP)
    assert factors[-2:].tolist() == [0.0, 0.0]
    short = norms < CLIP * 0.99
    if clipping == "flat":
        assert torch.all(factors[short] == 1.0)


def test_a_patient_with_broken_values_counts_for_nothing_and_spoils_nobody() -> None:
    net, drawn = flat_net(), some_patients(2, [2, 2])
    bad = Drawn(torch.full_like(drawn[0].images, math.nan), drawn[0].labels)
    torch.testing.assert_close(clipped_sum(net, [bad, *drawn]), clipped_sum(net, drawn))


@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_norms_of_ten_million_entries_are_not_lost_to_rounding(value: float) -> None:
    """Equal entries are the worst case: every rounding errs to the same side."""
    row = torch.full((1, 10_000_019), value)
    exact = math.sqrt(row.shape[1]) * float(row[0, 0])
    assert float(row_norms(row)) == pytest.approx(exact, rel=1e-4)
    assert float(row_norms(row[:, :5])) == pytest.approx(math.sqrt(5) * float(row[0, 0]), rel=1e-6)
    assert row_norms(row[:0]).shape == (0,)


@pytest.mark.parametrize("way", ["together", "single"])
def test_in_bfloat16_only_the_forward_pass_is_coarse(way: Way) -> None:
    net, drawn = flat_net(), some_patients(2, [1, 2, 3])
    seen: list[torch.dtype] = []
    layer = next(m for m in net.modules() if isinstance(m, nn.Linear))
    handle = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    losses: list[torch.dtype] = []

    def watched(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses.append(logits.dtype)
        return loss(logits, labels)

    chunks = list(patient_gradients(net, watched, drawn, device=CPU, way=way, bfloat16=True))
    handle.remove()
    assert set(seen) == {torch.bfloat16}
    assert set(losses) == {torch.float32}
    assert (
        {w.dtype for w in net.parameters()}
        == {g.dtype for c in chunks for g in c.values()}
        == {torch.float32}
    )
    found = torch.cat([torch.cat([c[w].flatten(1) for w in net.parameters()], 1) for c in chunks])
    expected = rows(net, drawn)
    error = float((found - expected).norm() / expected.norm())
    assert 1e-6 < error < 0.05  # coarse indeed, and no more than that
    own = optimizer(net, clip_norm=1e-3)
    for chunk in chunks:
        own.accumulate(chunk)
    norms = found.double().norm(dim=1)
    total = (found.double() * (1e-3 / norms)[:, None]).sum(0)
    summed = torch.cat([w.summed_grad.flatten() for w in net.parameters()])  # type: ignore[attr-defined]
    assert summed.dtype == torch.float32
    torch.testing.assert_close(summed.double() / (1 - 1e-3), total, rtol=1e-4, atol=1e-9)


def test_norms_of_half_precision_gradients_are_float32_and_hold_the_clip() -> None:
    """Squares of bfloat16 gradients lose two thirds of their digits; the norm must not."""
    net = nn.Linear(4096, 1, bias=False)
    own = optimizer(net, clip_norm=1.0)
    row = (torch.randn(1, 1, 4096, generator=torch.Generator().manual_seed(0)) * 3).to(torch.bfloat16)
    own.accumulate({net.weight: row})
    summed = net.weight.summed_grad
    assert summed.dtype == torch.float32
    assert float(summed.double().norm()) == pytest.approx(1 - 1e-3, rel=1e-5)


def test_noise_is_never_drawn_in_low_precision() -> None:
    """bfloat16 noise has 8 bits of mantissa: few different values. Here nearly all are different."""
    net = nn.Linear(100_000, 1, bias=False)
    own = optimizer(net, clip_norm=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        own.finish_step()
        own.accumulate({net.weight: torch.zeros(1, 1, 100_000, dtype=torch.bfloat16)})
        own.add_noise()
    assert net.weight.grad is not None
    assert net.weight.grad.dtype == torch.float32
    # 1.7 deviations at 2^20 steps each: of 100,000 draws about one in fifty meets another.
    assert len(net.weight.grad.unique()) > 95_000


# The deviation of n values scatters by 1/sqrt(2n): half a percent is seven times that at a million.
def test_noise_has_the_promised_deviation_over_a_million_values() -> None:
    net = nn.Linear(1_000_000, 1, bias=False)
    own = optimizer(net, rate=1.0)
    before = net.weight.detach().clone()
    own.finish_step()
    change = (net.weight.detach() - before).double()
    assert abs(float(change.std()) / (1.7 * CLIP) - 1) < 0.005
    assert abs(float(change.mean())) < 5 * 1.7 * CLIP / 1000


def test_seeds_of_training_scripts_make_no_noise_and_no_coin_predictable() -> None:
    """Two nodes that both call MONAI's set_determinism(0) share neither noise nor the choice of patients."""
    patients = [PatientImages(str(i), torch.zeros(1, 1, 1, 1), torch.tensor([i])) for i in range(1000)]
    noises, draws = [], []
    try:
        for _node in range(2):
            set_determinism(0)
            net = nn.Linear(100_000, 1, bias=False)
            own = optimizer(net, rate=1.0)
            before = net.weight.detach().clone()
            own.finish_step()
            noises.append((net.weight.detach() - before).double().flatten() / (1.7 * CLIP))
            drawn = draw(patients, policy(sample_rate=0.5), NoiseSource.fresh())
            draws.append({int(one.patient.patient) for one in drawn})
    finally:
        set_determinism(None)
    assert abs(float((noises[0] * noises[1]).mean())) < 5 / math.sqrt(100_000)
    assert 400 < len(draws[0] ^ draws[1]) < 600  # half of them, as for independent coins


def test_what_is_released_lies_on_the_grid() -> None:
    net = nn.Linear(1000, 1, bias=False)
    own = optimizer(net)
    net.weight.summed_grad = torch.full_like(net.weight, math.pi)  # type: ignore[assignment]
    own.add_noise()
    grid = 2.0 ** (math.floor(math.log2(CLIP)) - 20)
    assert net.weight.grad is not None
    steps = net.weight.grad.double() / grid
    assert torch.equal(steps, steps.round())


def test_a_step_is_divided_by_the_public_constant_and_not_by_the_number_drawn() -> None:
    net = nn.Linear(2, 1, bias=False)
    own = PatientOptimizer(
        torch.optim.SGD(net.parameters(), lr=1.0),
        policy=policy(clip_norm=100.0, noise_multiplier=1e-9),
        expected_patients=4.0,
        noise=NoiseSource.fresh(),
    )
    before = net.weight.detach().clone()
    for _ in range(2):  # two chunks of one and two patients are one step
        own.accumulate({net.weight: torch.ones(1, 1, 2)})
    own.finish_step()
    torch.testing.assert_close(before - net.weight.detach(), torch.full((1, 2), 0.5), rtol=1e-4, atol=1e-4)


GIVEN_BACK = """
import torch
from pathlib import Path
from medveil.freed import BETWEEN_STEPS, keep_freed
kept = {kept} and keep_freed(BETWEEN_STEPS)
def pages():
    return int(Path('/proc/self/statm').read_text().split()[0])
blocks = [torch.ones(4 * 2**20) for _ in range(12)]
most = pages()
del blocks
print(int(kept), most - pages())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_a_step_has_freed_is_there_for_the_next() -> None:
    """Of the address space: what is in memory of it is the kernel's business, and it may be busy."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}
    given_back = {}
    for kept in (False, True):
        command = [sys.executable, "-c", GIVEN_BACK.format(kept=kept)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        worked, given_back[kept] = map(int, done.stdout.split())
        assert worked == kept
    assert given_back[True] < 1_000 < 40_000 < given_back[False]


def whole(chosen: Sequence[Chosen]) -> list[Drawn]:
    pieces = list(taken(chosen, lambda one: Drawn(*one.patient.take(one.which))))
    return [one for piece in pieces for one in piece]


def test_images_are_taken_in_pieces_that_hold_everybody_once(monkeypatch: pytest.MonkeyPatch) -> None:
    patients = [
        PatientImages(str(i), torch.full((1, 1, 8, 8), float(i)), torch.zeros(1).long()) for i in range(20)
    ]
    monkeypatch.setattr(engine, "BYTES_TAKEN", 3 * 4 * 64)
    chosen, asked = draw(patients, policy(), NoiseSource.fresh()), list[int]()

    def take(one: Chosen) -> Drawn:
        asked.append(int(one.patient.patient))
        return Drawn(*one.patient.take(one.which))

    sizes = []
    for piece in taken(chosen, take):
        sizes.append(len(piece))
        assert len(asked) == sum(sizes)  # nobody is read before the turn comes
    assert sorted(asked) == list(range(20))
    assert max(sizes) <= 4
    assert list(taken([], take)) == []


def test_every_patient_enters_with_the_sample_rate_and_whole() -> None:
    patients = [
        PatientImages(str(i), torch.full((1 + i % 7, 1, 1, 1), float(i)), torch.zeros(1 + i % 7).long())
        for i in range(200)
    ]
    noise, steps, counts, pairs = NoiseSource(bytes(32)), 800, np.zeros(200), 0
    for _ in range(steps):
        drawn = whole(draw(patients, policy(sample_rate=0.05), noise))
        seen = [int(one.images[0, 0, 0, 0]) for one in drawn]
        assert len(set(seen)) == len(seen)
        for place, one in zip(seen, drawn, strict=True):
            assert torch.all(one.images == place)
            assert len(one.images) == len(one.labels) == min(4, 1 + place % 7)
        counts[seen] += 1
        pairs += {0, 1} <= set(seen)
    spread = math.sqrt(0.05 * 0.95 / steps)
    assert abs(counts.mean() / steps - 0.05) < 5 * spread / math.sqrt(200)
    assert np.abs(counts / steps - 0.05).max() < 5 * spread
    assert abs(pairs / steps - 0.0025) < 5 * math.sqrt(0.0025 / steps)


def test_at_full_participation_everybody_takes_part_in_every_step() -> None:
    patients = [PatientImages(str(i), torch.zeros(1, 1, 1, 1), torch.zeros(1).long()) for i in range(50)]
    assert len(draw(patients, policy(), NoiseSource.fresh())) == 50
    nobody = [PatientImages("x", torch.zeros(0, 1, 1, 1), torch.zeros(0).long())]
    assert draw(nobody, policy(), NoiseSource.fresh()) == []


def test_a_loss_that_is_not_one_number_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="one number an image"):
        list(patient_gradients(flat_net(), lambda z, y: loss(z, y).mean(), some_patients(2, [2]), device=CPU))
