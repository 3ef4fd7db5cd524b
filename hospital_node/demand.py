"""What a plan asks of this hospital's machine, as far as it can be known before anything runs."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hospital_node.settings import NodeSettings, Policy
from medveil.plan import Plan
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tasks import TASKS
from privacy.encoding import params_for

PROGRAM_BYTES = 500 * 10**6
"""Python and torch, before any image (measured: 480 MB)."""
BYTES_PER_PARAMETER = 56
"""Weights, gradients, optimiser, the update and its masked words: fourteen copies at four bytes."""
COPIES_OF_FROZEN = 3
"""Weights that are not trained: as they were read, kept for the next round, and in the network."""
COPIES_OF_A_BATCH = 40
"""What a network keeps of each image it is trained on, in images: 42 to 49 measured for the small ones, 650
for densenet121, next to nothing for a head on fixed features. Told, and no reason to refuse."""
MANIFEST_BYTES = 2**30
BYTES_PER_KEPT_IMAGE = 4000
"""What is known of an image that lies in the cache: its line of the manifest, its place, its hashes."""
AT_ONCE_BYTES = 2**28
"""Images that are taken from the cache at a time, and those that the readers have ready."""
SHARE = 0.9
"""Of the machine's memory, where the policy names no limit."""


@dataclass(frozen=True)
class Demand:
    """What a plan asks."""

    images: int
    """In this hospital's manifest, volumes cut into slices by estimate; 0 if it cannot be read."""
    memory_bytes: int
    """At least, with these images: those that are kept in memory, and the batch in hand once more."""
    network_bytes: int
    """About what the network keeps of a batch while it trains: on the GPU, if there is one."""
    steps: int
    """Optimiser steps of the whole study here."""
    upload_bytes: int
    """Of a training round."""
    evaluation_bytes: int
    """Of the final evaluation."""
    longest_hours: float
    """If every step of every attempt takes all the time it may."""


def demand_of(plan: Plan, settings: NodeSettings) -> Demand:
    """What a plan asks of this hospital."""
    study, lines = plan.study, images_in(settings.data)
    images = lines * plan.study.transforms.images_per_line
    from medveil_imaging.cache import in_memory  # an agent without images starts without them

    cached = settings.cache_gb > 0 and not in_memory(study, lines)
    times, rounds = study.deadlines, study.training.rounds
    short_s = times.advertise_s + times.share_s + times.agree_s + times.unmask_s
    each_s = short_s + times.train_s + times.upload_s
    sizes = {kind: 8 * params_for(study, kind, len(plan.roster)).words for kind in RoundKind}
    ranks = settings.ranks
    here = 0 if ranks is None or ranks.submit else ranks.count
    return Demand(
        images=images,
        memory_bytes=_memory(study, images, cached=cached) + here * _memory(study, 0, cached=False),
        network_bytes=COPIES_OF_A_BATCH * _batch(study, images),
        steps=_steps(study, images),
        upload_bytes=sizes[RoundKind.TRAIN],
        evaluation_bytes=sizes[RoundKind.EVALUATE],
        longest_hours=(rounds + 1) * study.attempts * each_s / 3600,
    )


def _steps(study: Study, images: int) -> int:
    training = study.training
    batches = max(1, math.ceil(images / training.batch_images))
    return training.rounds * (training.local_steps or (training.local_epochs or 1) * batches)


def _memory(study: Study, images: int, *, cached: bool) -> int:
    voxels, privacy = math.prod(study.transforms.size), study.privacy
    image = 4 * voxels * study.transforms.channel_count
    label = 8 * voxels if TASKS[study.task].outlines else 8 * max(1, len(study.classes))
    gradients = 12 if privacy.kind != "none" else 0
    model = (BYTES_PER_PARAMETER + gradients) * study.model.tensors.size
    model += COPIES_OF_FROZEN * _frozen_bytes(study)
    held = images * (image + label)
    if cached:
        held = images * BYTES_PER_KEPT_IMAGE + AT_ONCE_BYTES
    return PROGRAM_BYTES + held + _batch(study, images) + model


def _frozen_bytes(study: Study) -> int:
    from medveil_imaging.frozen import frozen_file

    path = frozen_file(study.model)
    return path.stat().st_size if path is not None and path.is_file() else 0


def _batch(study: Study, images: int) -> int:
    """Bytes of the images that are trained on at once."""
    privacy = study.privacy
    at_once = privacy.images_per_patient if privacy.kind != "none" else study.training.batch_images
    image = 4 * study.transforms.channel_count * math.prod(study.transforms.size)
    image *= study.transforms.patches or 1
    return image * max(1, min(at_once, images))


def images_in(folder: Path) -> int:
    """Lines of a hospital's manifest that hold something, but the header: no more images are read."""
    from medveil_imaging.sources.lines import count_lines
    from medveil_imaging.sources.manifest import MANIFEST

    return count_lines(folder / MANIFEST, MANIFEST_BYTES)


def memory_limit(policy: Policy) -> int:
    """Bytes that a plan may take here."""
    if policy.memory_gb is not None:
        return int(policy.memory_gb * 1e9)
    return int(SHARE * min(_physical(), _of_the_group()))


def _physical() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_the_group() -> float:
    """The smallest limit of the control groups around this process (``MemoryMax`` of a service)."""
    found = math.inf
    with suppress(OSError, ValueError):
        _, _, name = Path("/proc/self/cgroup").read_text().splitlines()[0].split(":", 2)
        here = Path("/sys/fs/cgroup") / name.lstrip("/")
        for group in (here, *here.parents):
            with suppress(OSError, ValueError):
                found = min(found, int((group / "memory.max").read_text()))
    return found
