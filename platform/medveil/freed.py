"""The C library's memory: what was freed is kept for what comes next, instead of going back to the system."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""glibc's names for its settings (malloc.h)."""
BETWEEN_ROUNDS = 64 * 2**20
"""Kept by a process that sends, takes and adds up vectors."""
BETWEEN_STEPS = 2**30
"""Kept by one that trains: a private step frees hundreds of megabytes of gradients, for the next one."""
LARGEST_BLOCK = 32 * 2**20
"""Larger blocks always come from the system and go back to it; glibc allows no larger bound."""


def keep_freed(most_bytes: int) -> bool:
    """Let this process keep so many bytes that were freed, for all of its threads; whether it could.

    A vector is copied a few times on its way through sockets, TLS and NumPy. By itself glibc fetches the
    memory of each copy anew, page by page, which may take ten times as long as the copy, and has a store of
    freed memory for each thread. The last call counts. On a system with another C library nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGEST_BLOCK), (TRIM_THRESHOLD, most_bytes))
    return all(mallopt(name, value) for name, value in settings)
