"""One rank of a training job: the sum over its blocks of patients, for as long as the node asks.

A rank has no key of the hospital's, no ledger, noise, line to the outside or name of a patient. It gets
images and weights from the job's folder, and hands on sums before noise: to rank 0 by gloo, and as one from
there to the node. It keeps nothing from step to step, so whatever it does wrong ends with its job.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from hospital_node.ranks.folder import MEETING, Damaged, JobFolder, Waiting
from hospital_node.ranks.place import Place
from hospital_node.ranks.problems import RankAnswer, RankLost, RankSilent
from hospital_node.ranks.standing import Standing
from hospital_node.ranks.tree import Branch, branch_sum, branches, run_of, whole_sum
from hospital_node.training.checks import require_safe
from hospital_node.training.clipped_sum import add_clipped_sum
from hospital_node.training.gradients import Drawn, Loss, runs_in_bfloat16
from hospital_node.training.optimizer import PatientOptimizer
from hospital_node.training.uncompiled import uncompiled
from medveil.freed import BETWEEN_STEPS, keep_freed
from medveil.noise_policies import GaussianNoise
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.models import build_model

DTYPES = {"float32": torch.float32, "float64": torch.float64}
Vector = NDArray[np.floating]


def serve(folder: JobFolder, place: Place, order: Standing) -> None:
    """Compute until the node removes the folder.

    Raises: NotSafe: this study's gradients cannot be bounded here. RankLost, RankSilent, RankAnswer: another
        rank's fault. What torch raises.
    """
    keep_freed(BETWEEN_STEPS)
    study, device = Study.model_validate_json(order.study), _device(order, place)
    sums = _Sums(study, DTYPES[order.precision], device)
    if study.privacy.kind != "none":
        require_safe(study, device)
    torch.seed()  # else every rank would toss the same coins where a network has chance in it
    meet(folder, place, order)
    folder.write(f"ready-{place.rank}", {"device": device.type})
    for number in _asked(folder):
        go = folder.read(f"go-{number}") or {}
        weights = (folder.read_arrays(f"weights-{number}") or {})["weights"]
        sums.load(weights)
        kind, blocks = str(go["kind"]), int(go["blocks"])

        def of_block(k: int, kind: str = kind, number: int = number) -> Vector:
            return sums.of(kind, folder, f"block-{number}-{k}")

        mine = {
            one: branch_sum(one, of_block)
            for one in branches(run_of(place.rank, place.count, blocks), blocks)
        }
        if place.rank:
            send(mine, number, order.step_s)
            continue
        known = mine | receive(weights, number, place.count, blocks, order.step_s)
        folder.write_arrays(f"sum-{number}", {"sum": whole_sum(known, blocks)})


def _asked(folder: JobFolder) -> Iterator[int]:
    """The numbers of the sums that are wanted, each when it is, until the job is over."""
    number = 1
    while True:
        waiting = Waiting()
        while not (folder.path / f"go-{number}").exists():
            if not folder.is_there:
                return
            waiting.pause()
        yield number
        number += 1


def _device(order: Standing, place: Place) -> torch.device:
    """The card of this rank among those of its machine."""
    if not order.gpu or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", place.local % torch.cuda.device_count())
    torch.cuda.set_device(device)
    if order.gpu_memory_share is not None:
        torch.cuda.set_per_process_memory_fraction(order.gpu_memory_share)
    return device


class _Sums:
    """The study's network, and sums of gradients over blocks of patients."""

    def __init__(self, study: Study, dtype: torch.dtype, device: torch.device) -> None:
        self._module: nn.Module = build_model(study).to(device, dtype)
        self._weights = [p for p in self._module.parameters() if p.requires_grad]
        self._loss: Loss = TASKS[study.task].loss
        self._device, self._optimizer = device, None
        if isinstance(study.privacy, GaussianNoise):
            self._optimizer = PatientOptimizer(
                uncompiled(torch.optim.SGD)(self._weights, lr=0.0),
                policy=study.privacy,
                expected_patients=1.0,
                noise=None,
            )

    def load(self, weights: Vector) -> None:
        """Take the step's weights, shape (d,)."""
        parts = torch.split(torch.from_numpy(weights), [p.numel() for p in self._weights])
        with torch.no_grad():
            for parameter, part in zip(self._weights, parts, strict=True):
                parameter.copy_(part.view_as(parameter))

    def of(self, kind: str, folder: JobFolder, name: str) -> Vector:
        """The sum of one block, shape (d,). Raises: Damaged."""
        block = folder.read_arrays(name)
        if block is None:
            raise Damaged(name)
        images, labels = torch.from_numpy(block["images"]), torch.from_numpy(block["labels"])
        if kind == "loss":
            found = self._of_losses(images, labels)
        else:
            counts = block["counts"].tolist()
            patients = zip(torch.split(images, counts), torch.split(labels, counts), strict=True)
            found = self._of_patients([Drawn(*one) for one in patients])
        return torch.cat([one.flatten() for one in found]).cpu().numpy()

    def _of_patients(self, drawn: list[Drawn]) -> list[torch.Tensor]:
        if self._optimizer is None:
            raise TypeError("a noise policy is needed")
        add_clipped_sum(self._optimizer, self._module, self._loss, drawn, device=self._device)
        return self._optimizer.taken_sum()

    def _of_losses(self, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
        device, reduced = self._device, runs_in_bfloat16(self._module, self._device)
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            logits = self._module(images.to(device, self._weights[0].dtype))
        value = self._loss(logits.float(), labels.to(device)).sum()
        found = torch.autograd.grad(value, self._weights, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self._weights, found, strict=True)]


def meet(folder: JobFolder, place: Place, order: Standing) -> None:
    """Find the other ranks, by a file: no rank listens for anybody but those whose address is in the folder.

    Raises: RankLost, RankSilent: one has come and gone.
    """
    if place.count == 1:
        return
    waiting = Waiting()
    while not all(
        folder.sign(str(rank)) for rank in range(place.count)
    ):  # a cluster may start them one by one
        waiting.pause()
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ["GLOO_SOCKET_IFNAME"] = order.interface or loopback
    with others_faults(rank=0 if place.rank else 1, seconds=order.step_s):
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder.path / MEETING}",
            rank=place.rank,
            world_size=place.count,
            timeout=dt.timedelta(seconds=order.step_s),
        )


@contextmanager
def others_faults(*, rank: int, seconds: float) -> Iterator[None]:
    """What gloo raises, as what it means of the rank on the other side."""
    try:
        yield
    except RuntimeError as error:
        if "imed out" in str(error):
            raise RankSilent(rank=rank, seconds=seconds) from error
        raise RankLost(rank=rank, how="its connection is closed") from error


def _header(number: int, sums: int, size: int, itemsize: int) -> torch.Tensor:
    return torch.tensor([number, sums, size, itemsize])


def send(mine: dict[Branch, Vector], number: int, seconds: float) -> None:
    """Hand the sums of this rank's branches to rank 0. Raises: RankLost, RankSilent."""
    with others_faults(rank=0, seconds=seconds):
        first = next(iter(mine.values()), np.empty(0, np.float32))
        dist.send(_header(number, len(mine), first.size, first.itemsize), dst=0)
        for value in mine.values():
            dist.send(torch.from_numpy(value), dst=0)


def receive(like: Vector, number: int, ranks: int, blocks: int, seconds: float) -> dict[Branch, Vector]:
    """The sums of all other ranks' branches. gloo ends a process that is sent more than it expects, so what
    comes is announced first.

    Args:
        like: an array of the shape (d,) and precision that every sum has.
    Raises: RankLost, RankSilent, RankAnswer.
    """
    found = {}
    for rank in range(1, ranks):
        expected = list(branches(run_of(rank, ranks, blocks), blocks))
        size, itemsize = (like.size, like.itemsize) if expected else (0, 4)
        wanted, header = _header(number, len(expected), size, itemsize), torch.zeros(4, dtype=torch.int64)
        with others_faults(rank=rank, seconds=seconds):
            dist.recv(header, src=rank)
        if not torch.equal(header, wanted):
            problem = f"{header.tolist()} in place of {wanted.tolist()} (step, sums, values, bytes of each)"
            raise RankAnswer(rank=rank, problem=problem)
        for branch in expected:
            value = torch.from_numpy(np.empty_like(like))
            with others_faults(rank=rank, seconds=seconds):
                dist.recv(value, src=rank)
            if not bool(value.isfinite().all()):
                raise RankAnswer(rank=rank, problem="values that are not finite numbers")
            found[branch] = value.numpy()
    return found
