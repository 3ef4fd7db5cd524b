"""Events and counts, one JSON object a line; fields come from an allow-list and nothing else is written."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

ALLOWED = frozenset(
    """
    event level timestamp plan round attempt kind phase node nodes survivors advertised committed count
    total seconds size bytes epsilon delta steps code status method route version model port reason
    device parameters
    """.split()
)
"""What may be logged: ids, phases, counts, durations, sizes, epsilon, error codes.

Pixel data, DICOM tags, file names, patient ids, seeds, keys, shares, unmasked vectors and one hospital's
losses have no field here, so they cannot be logged by accident.
"""


def _only_allowed(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    dropped = [key for key in event if key not in ALLOWED]
    for key in dropped:
        del event[key]
    if dropped:
        event["reason"] = f"{len(dropped)} field(s) not on the allow-list were dropped"
    return event


def set_up(level: str = "info") -> None:
    """Log JSON lines to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def get_logger() -> Any:
    """A structlog logger; call it with an event name and allowed fields."""
    return structlog.get_logger()
