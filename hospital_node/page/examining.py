"""``medveil node doctor`` for the page: in a process of its own, for it loads what trains.

``python -m hospital_node.page.examining FOLDER`` prints its findings as JSON, for :func:`examine`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from medveil.examined import Finding
from medveil.shown import Screen, plain

LONGEST_S = 120.0
MOST = 40
TEXT = 600
"""Most characters of what one finding says."""


def examine(folder: Path) -> tuple[Finding, ...]:
    """All that a node needs, looked at. A look that does not end is a finding itself."""
    command = [sys.executable, "-m", __name__, str(folder.absolute())]
    try:
        told = subprocess.run(command, capture_output=True, timeout=LONGEST_S, check=True).stdout
        return tuple(
            Finding(*(plain(one[key], TEXT) for key in ("name", "found", "remedy")))
            for one in json.loads(told)[:MOST]
        )
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        remedy = "Run 'medveil node doctor' in the terminal: it says more."
        return (Finding("doctor", type(error).__name__, remedy),)


def main() -> None:
    """Print what was found."""
    from hospital_node import doctor

    Screen().json([asdict(one) for one in doctor.examine(Path(sys.argv[1]))])


if __name__ == "__main__":
    main()
