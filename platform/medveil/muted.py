"""Libraries that are kept quiet while they work; standard library only, for processes that start often."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def muted(*libraries: str) -> Iterator[None]:
    """No warning, and no log line of these libraries, gets out."""
    loggers = [one for one in map(logging.getLogger, libraries) if one.level <= logging.CRITICAL]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
