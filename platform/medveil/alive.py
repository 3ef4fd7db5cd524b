"""A sign of life for whoever watches a container: a file that is touched as long as a process goes round.

Processes that accept no connection cannot be asked whether they are well; ``deploy/healthy.py`` looks at the
file's age instead.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "MEDVEIL_ALIVE"
"""Names the file. Where it is not set, nothing is written."""
EVERY_S = 10.0


def show_alive() -> None:
    """Touch the file. What cannot be written is seen by its age."""
    path = os.environ.get(VARIABLE)
    if path:
        with suppress(OSError):
            Path(path).touch()


async def stay_alive() -> None:
    """Touch it as long as this event loop goes round; until cancelled."""
    while True:
        show_alive()
        await asyncio.sleep(EVERY_S)
