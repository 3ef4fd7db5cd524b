"""What a cluster's worker is told and does: one segment of one sum, over the store that it reaches itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from aggregator.settings import load
from aggregator.storage.blobs import Blobs
from aggregator.storage.open import open_blobs
from aggregator.work.unmasking import Summing, sum_part
from aggregator.work.workers import Failure, attempt
from medveil.errors import Error
from medveil.software import own_version, revision
from privacy.secagg.masks import Mask

FOLDER_VARIABLE = "MEDVEIL_WORKER_FOLDER"
"""Names the worker's folder to the process that it has started."""


class OtherSoftware(Error):
    """A worker of the cluster does not run what the aggregator runs."""

    code = "other-software"

    def __init__(self) -> None:
        super().__init__(
            what="A worker of the cluster runs another version of MedVeil than the aggregator.",
            meaning="It did not touch the sum. The aggregator computes it itself, or waits, as it is set.",
            remedy="Install the aggregator's version on every machine of the cluster; restart its workers.",
        )


@dataclass(frozen=True)
class Order:
    """A sum as it travels to the workers: everything but where the uploads lie.

    Args:
        software: of who sends it. The others are as in :class:`~aggregator.work.unmasking.Summing`.
    """

    software: str
    folder: str
    draft_id: str
    words: int
    uploads: Mapping[int | str, tuple[bytes, ...]] = field(repr=False)
    removal: tuple[Mask, ...] = field(repr=False)


@cache
def software() -> str:
    """Version and revision of what runs here."""
    return f"{own_version()} {revision()}"


def order_of(job: Summing) -> Order:
    """A sum, made ready for another machine."""
    return Order(software(), job.folder, job.draft_id, job.words, job.uploads, job.removal)


def perform(order: Order, number: int) -> bytes | Failure:
    """In a worker: one segment of the sum; the SHA-256 of what now lies in the store."""
    return attempt(_perform, order, number)


def _perform(order: Order, number: int) -> bytes:
    if order.software != software():
        raise OtherSoftware()
    blobs, uploads = own_blobs(), dict(order.uploads)
    job = Summing(blobs, order.folder, order.draft_id, order.words, uploads, order.removal)
    return sum_part(job, number)


@cache
def own_blobs() -> Blobs:
    """The store as this worker's own folder names it. Raises: BadFile, UnusableBlobs."""
    settings = load(Path(os.environ[FOLDER_VARIABLE]))
    return open_blobs(settings.folder, settings.blobs)
