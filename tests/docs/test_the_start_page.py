"""Every line of the first page that begins with ``$`` does what the page says, in order, in one shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medveil_research.ports import free_port
from rooms import ROOT

PAGE = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
WORDS = "small account company near release civil dinosaur about trouble comic hazard okay"
"""Stand in the page where each study has its own."""


def typed(port: int) -> list[str]:
    """What a reader types: with the words that the admin's command has printed, and a port that is free."""
    lines = re.findall(r"^\$ (.*)$", PAGE, re.M)
    assert len(lines) > 30
    out = []
    for line in lines:
        own = line.replace(WORDS, "$WORDS").replace("8443", str(port))
        if "study create" in line:
            own += " | tee created.txt\nWORDS=$(sed -n '/^  words/,/^  hash/p' created.txt"
            own += " | sed '/hash/d; s/^  words//' | xargs)"
        out.append(own)
    return out


def test_pages_with_such_lines_are_known() -> None:
    """README's two are run on a clean clone, deploy's by e2e/test_a_bare_machine, this page's below."""
    with_lines = {
        str(page.relative_to(ROOT))
        for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"))
        if re.search(r"^\$ ", page.read_text(encoding="utf-8"), re.M)
    }
    assert with_lines == {"README.md", "docs/start.md", "deploy/README.md"}
    assert re.findall(r"^\$ (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M) == [
        "make demo",
        "make test",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_from_top_to_bottom(tmp_path: Path) -> None:
    script = "set -euo pipefail\nset -m\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + "\n".join(
        typed(free_port())
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    said = tmp_path / "said.txt"
    with said.open("wb") as out:
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env={**os.environ, "PATH": path, "COLUMNS": "160"},
            check=False,
        )  # fmt: skip
    text = said.read_text(encoding="utf-8")
    assert done.returncode == 0, text[-4000:]
    assert "ten-minutes finished" in text
    assert (tmp_path / "ten-minutes-report.html").stat().st_size > 10_000
    assert "5 of 5" in text  # the ledger's row of the training patients
