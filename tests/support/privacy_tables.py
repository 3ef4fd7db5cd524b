"""The table of docs/privacy.md on curious members, computed by the accountant.

python tests/support/privacy_tables.py      writes it into the page again
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from medveil_research.joint import default_honest, joint_prices, least_in_sum
from privacy.dp.accounting import Event, calibrate

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"
HOSPITALS, ROUNDS, DELTA = 5, 60, 1e-5


def curious_members() -> str:
    """Epsilon of a patient by what a study states, by survivors, and by curious members."""
    lines = [
        "| study's epsilon | in the sum | none curious | one | two | all the others |",
        "|---|---|---|---|---|---|",
    ]
    for stated in (8.0, 3.0, 1.0):
        noise = calibrate(stated, DELTA, sample_rate=1.0, steps=ROUNDS)
        own = Event(noise / math.sqrt(default_honest(HOSPITALS)), 1.0, ROUNDS)
        for in_sum in range(least_in_sum(HOSPITALS), HOSPITALS + 1):
            cells = " | ".join(f"{price:.2f}" for price in joint_prices([own], DELTA, in_sum=in_sum))
            lines.append(f"| {stated:g} | {in_sum} | {cells} |")
    return "\n".join(lines)


def page_with_tables(text: str) -> str:
    """The page with its marked table made anew."""
    pattern = r"(<!-- table: curious members -->\n).*?(<!-- end -->)"
    text, count = re.subn(pattern, lambda m: f"{m[1]}{curious_members()}\n{m[2]}", text, flags=re.DOTALL)
    assert count == 1
    return text


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
