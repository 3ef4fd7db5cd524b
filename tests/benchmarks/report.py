"""What the page of a study costs: seconds of a core and size, by rounds and hospitals.

The results are made up and counted, noised and summed as in a study; nothing is trained. The promise: a study
of 200 rounds in 5 seconds of a core, and no page is larger than a megabyte.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from made_results import made_result
from medveil_research.report.page import render
from rows import Row, arguments, publish

FOUR, FIFTY = ("north", "south", "west", "east"), tuple(f"hospital-{number}" for number in range(50))


def main() -> None:
    """Print the table."""
    given = arguments(__doc__).parse_args()
    rows = []
    for rounds, names in ((10, FOUR), (200, FOUR), (200, FIFTY), (1000, FIFTY)):
        result = made_result("classification", patients=300, rounds=rounds, names=names)
        begun = time.process_time()
        page = render(result)
        seconds = time.process_time() - begun
        case = f"{rounds} rounds, {len(names)} hospitals"
        promised = rounds <= 200
        rows.append(Row(f"{case}: page made", seconds, "s of a core", "<= 5" if promised else ""))
        rows.append(Row(f"{case}: size", len(page.encode()) / 1e6, "MB", "<= 1" if promised else ""))
    publish(rows, given.json)


if __name__ == "__main__":
    main()
