"""What the hospital's policy says of this machine: hours, line, GPU; and all of the policy in words."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterator, MutableMapping
from functools import partial
from typing import TYPE_CHECKING

from hospital_node.settings import Node, Policy, minutes_of
from medveil.identity import Body

if TYPE_CHECKING:
    from hospital_node.ranks.job import OpenJob

CHUNK = 65_536
LARGE_CHUNK = 4 * CHUNK
"""Handed to the line at a time: enough that calls cost little, and no second body lies in its buffers."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def outside_hours(policy: Policy, now: dt.datetime | None = None) -> str:
    """Until when no attempt is joined, in words; empty within the hours, or without any.

    Args:
        now: local time; the machine's clock if left out.
    """
    if policy.hours is None:
        return ""
    start, end = minutes_of(policy.hours)
    at = dt.datetime.now().astimezone() if now is None else now
    minute = 60 * at.hour + at.minute
    inside = start <= minute < end if start < end else minute >= start or minute < end
    return (
        ""
        if inside
        else f"this hospital's hours, {policy.hours}: nothing is joined before {policy.hours[:5]}"
    )


class Pace:
    """Bytes at a bounded rate, over all that is sent. Bodies go out one after the other.

    Args:
        bytes_per_s: None: as fast as the line is.
    """

    def __init__(self, bytes_per_s: int | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def body(self, data: Body) -> bytes | AsyncIterator[bytes]:
        """What to hand to the client in place of a body: a large one in pieces."""
        if len(data) <= CHUNK:
            return bytes(data)
        return _in_pieces(data) if self.bytes_per_s is None else self._slowly(data, self.bytes_per_s)

    async def _slowly(self, data: Body, bytes_per_s: int) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            wait_s = self._free_at - clock()
            self._free_at = max(self._free_at, clock()) + len(piece) / bytes_per_s
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            yield bytes(piece)


async def _in_pieces(data: Body) -> AsyncIterator[bytes]:
    for start in range(0, len(data), LARGE_CHUNK):
        yield bytes(data[start : start + LARGE_CHUNK])


def confine_gpu(policy: Policy, environ: MutableMapping[str, str]) -> None:
    """Let this process and all that it starts see the GPU that the policy names, or none.

    To be called before torch loads.
    """
    if not policy.gpu:
        environ[VISIBLE] = ""
    elif policy.gpu_device is not None:
        seen = [one for one in environ.get(VISIBLE, "").split(",") if one]
        if not seen:
            environ[VISIBLE] = str(policy.gpu_device)
        else:
            environ[VISIBLE] = seen[policy.gpu_device] if policy.gpu_device < len(seen) else ""


def confine_gpu_memory(policy: Policy) -> None:
    """Take no more than the policy's share of the GPU's memory."""
    if policy.gpu_memory_share is None:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(policy.gpu_memory_share)


def opener_of(node: Node) -> OpenJob | None:
    """Starts the ranks that share this hospital's steps of training; None where the node computes alone."""
    ranks, policy = node.settings.ranks, node.settings.policy
    if ranks is None:
        return None
    from hospital_node.ranks.job import Card, opened

    return partial(opened, ranks, node.jobs, Card(policy.gpu, policy.gpu_memory_share))


def policy_rows(policy: Policy) -> Iterator[tuple[str, str, str]]:
    """Each line of the policy: its name in node.json, what it says, and what that means."""
    one = policy
    yield "allow_no_privacy", _yes(one.allow_no_privacy), "studies without differential privacy"
    yield "epsilon_cap", f"{one.epsilon_cap:g}", "most that any patient may ever spend, over all studies"
    delta = "min(1e-5, 1/(10 n))" if one.delta_cap is None else f"{one.delta_cap:g}"
    yield "delta_cap", delta, "largest delta at which epsilon is counted"
    yield (
        "count_joint_noise",
        _yes(one.count_joint_noise),
        "the other hospitals' noise counts towards the cap",
    )
    yield "allow_site_figures", _yes(one.allow_site_figures), "this hospital's own figures may be shown"
    yield "min_hospitals", str(one.min_hospitals), "fewest hospitals in a sum"
    yield "min_colluders", str(one.min_colluders), "dishonest others that a plan must resist"
    yield "tasks", _list(one.tasks), "what may be learned"
    yield "profiles", _list(one.profiles), "kinds of images"
    yield "max_parameters", f"{one.max_parameters:,}", "largest model"
    yield "max_steps", f"{one.max_steps:,}", "most steps of training of a whole study"
    yield "max_voxels", f"{one.max_voxels:,}", "largest image as the model sees it"
    upload = "any" if one.max_upload_mb is None else f"{one.max_upload_mb:g} MB"
    yield "max_upload_mb", upload, "most that a round may send"
    speed = "as the line is" if one.upload_bytes_per_s is None else f"{one.upload_bytes_per_s:,} bytes/s"
    yield "upload_bytes_per_s", speed, "fastest that updates are sent"
    yield "hours", one.hours or "always", "local time in which rounds are joined; one that began goes on"
    memory = "nine tenths" if one.memory_gb is None else f"{one.memory_gb:g} GB"
    yield "memory_gb", memory, "most of this machine's memory"
    yield "burned_in", one.burned_in, "what becomes of a film that seems to show writing"
    yield "faces", one.faces, "what becomes of a volume that seems to show a face"
    yield "gpu", _yes(one.gpu), "the GPU may be used"
    device = "the first" if one.gpu_device is None else str(one.gpu_device)
    yield "gpu_device", device, "which, counted from 0"
    share = "all" if one.gpu_memory_share is None else f"{one.gpu_memory_share:.0%}"
    yield "gpu_memory_share", share, "of its memory"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _list(names: tuple[str, ...] | None) -> str:
    return "any" if names is None else ", ".join(names)
