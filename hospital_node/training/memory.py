"""The C library's memory: kept between the steps of a training."""

from __future__ import annotations

import ctypes
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's names for its settings (malloc.h)."""
KEPT_BYTES = 2**30
LARGEST_BLOCK = 32 * 2**20
"""Larger blocks always come from the system and go back to it; glibc allows no larger bound."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GB that was freed, instead of handing it back at once; whether it could.

    A private step frees hundreds of megabytes of per-patient gradients, and the next one asks for them again.
    Fetching them anew, page by page, takes a quarter of the time of a step with seven million weights. On a
    system with another C library nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES))
