"""Events and counts, one JSON object a line; fields come from an allow-list and nothing else is written."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from medveil.shown import plain

ALLOWED = frozenset(
    """
    event level timestamp plan round attempt kind phase node nodes survivors advertised committed count
    total seconds size bytes epsilon delta steps code status method route version model port reason
    device parameters rate
    """.split()
)
"""What may be logged: ids, phases, counts, durations, sizes, epsilon, error codes.

Pixel data, DICOM tags, file names, patient ids, seeds, keys, shares, unmasked vectors and one hospital's
losses have no field here, so they cannot be logged by accident.
"""

LONGEST = 300
SENTENCE = 500
MOST_ITEMS = 3000
People = Callable[[Mapping[str, Any]], str]
"""An event as a sentence."""
_LATER: list[tuple[str, People | None]] = []
"""What was set up, until the first logger is asked for."""


def _only_allowed(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    dropped = [key for key in event if key not in ALLOWED]
    for key in dropped:
        del event[key]
    if dropped:
        event["reason"] = f"{len(dropped)} field(s) not on the allow-list were dropped"
    return {key: _shown(value) for key, value in event.items()}


def _shown(value: Any) -> Any:
    """A field may come from the other side: a code, a name. Texts are printable and short, numbers usual."""
    if isinstance(value, str):
        return plain(value, LONGEST)
    if isinstance(value, bool | float | None):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else "a very large number"
    if isinstance(value, Mapping):
        return {plain(key, 60): _shown(item) for key, item in list(value.items())[:MOST_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(item) for item in list(value)[:MOST_ITEMS]]
    return plain(value, LONGEST)


Hearer = Callable[[str, Mapping[str, Any]], None]
_HEARERS: list[Hearer] = []


@contextmanager
def heard(hearer: Hearer) -> Iterator[None]:
    """Inside, every event that is written is told to ``hearer`` too: its name and its fields, as allowed."""
    _HEARERS.append(hearer)
    try:
        yield
    finally:
        _HEARERS.remove(hearer)


def _tell(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for hearer in tuple(_HEARERS):
        hearer(str(event.get("event", "")), event)
    return event


def set_up(level: str = "info", *, people: People | None = None) -> None:
    """Log JSON lines to standard error, of this level and above.

    Args:
        people: how an event reads; used in place of JSON where a person looks at a terminal.
    """
    if "structlog" in sys.modules:
        _configure(level, people)
    else:
        _LATER[:] = [(level, people)]


def get_logger() -> Any:
    """A structlog logger; call it with an event name and allowed fields."""
    import structlog  # a command that logs nothing starts without it

    if _LATER:
        _configure(*_LATER.pop())
    return structlog.get_logger()


def _sentences(people: People) -> Callable[..., str]:
    import structlog

    last = [""]

    def shown(_: Any, __: str, event: Mapping[str, Any]) -> str:
        sentence = plain(people(event), SENTENCE)
        if sentence == last[0]:
            raise structlog.DropEvent  # said already, and nothing else since
        last[0] = sentence
        return f"{dt.datetime.now():%H:%M:%S}  {sentence}"

    return shown


def _configure(level: str, people: People | None = None) -> None:
    import structlog

    as_json = people is None or not sys.stderr.isatty()

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            _tell,
            structlog.processors.JSONRenderer(sort_keys=True)
            if as_json or people is None
            else _sentences(people),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
