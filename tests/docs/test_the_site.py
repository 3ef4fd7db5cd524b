"""The pages make a site: each has its place, no link is broken, and nothing comes from another host."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import decisions_list
from rooms import ROOT

SITE = ROOT / "deploy" / "site"


def test_every_page_has_its_place_in_the_site() -> None:
    config = (SITE / "mkdocs.yml").read_text(encoding="utf-8")
    for page in sorted(ROOT.glob("docs/**/*.md")):
        if page.parent.name != "decisions":
            assert str(page.relative_to(ROOT)) in config, page.name


def test_every_decision_is_in_the_map() -> None:
    """Mend it by: python tests/support/decisions_list.py."""
    assert decisions_list.INDEX.read_text(encoding="utf-8") == decisions_list.listed()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None,
    reason="mkdocs is missing: pip install --require-hashes --no-deps -r requirements/site.txt",
)
def test_the_site_is_built_strictly_and_asks_no_other_host(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SITE / "build.py", tmp_path / "site"],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text(encoding="utf-8")
        asked = re.findall(r"""<(?:script|img|link|iframe)[^>]*?(?:src|href)=["']?(https?:[^"'> ]+)""", text)
        assert not asked, page.name
