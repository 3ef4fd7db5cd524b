"""Writes the list of decisions in ``docs/index.md`` from the pages' headings (run it)."""

from __future__ import annotations

import re

from rooms import ROOT

INDEX = ROOT / "docs" / "index.md"
BEFORE = "One page each: the question, the choice, why, and the price.\n\n"


def listed() -> str:
    """The index with one line for each page, in order."""
    lines = []
    for page in sorted(ROOT.glob("docs/decisions/*.md")):
        heading = page.read_text(encoding="utf-8").splitlines()[0]
        number, title = re.fullmatch(r"# (\d+)\. (.+)", heading).groups()  # type: ignore[union-attr]
        lines.append(f"{number}. [{title}](decisions/{page.name})\n")
    before, _, _ = INDEX.read_text(encoding="utf-8").partition(BEFORE)
    return before + BEFORE + "".join(lines)


if __name__ == "__main__":
    INDEX.write_text(listed(), encoding="utf-8")
