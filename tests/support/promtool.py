"""Prometheus' own checks of what it would scrape, and of the rules it would follow."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from served import ROOT

PROMTOOL = shutil.which("promtool")
INSTALL = "promtool is not installed: apt-get install prometheus"
DEPLOY = ROOT / "deploy"


def missing() -> bool:
    """Whether there is no promtool on this machine."""
    assert PROMTOOL or not os.environ.get("MEDVEIL_SKIP_NOTHING"), INSTALL
    return not PROMTOOL


needs_promtool = pytest.mark.skipif(missing(), reason=INSTALL)


def promtool(*arguments: str | Path, text: bytes = b"") -> str:
    """What it says; it must find nothing wrong."""
    command = [str(PROMTOOL), *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def samples(page: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Every line of a page of metrics: name, labels, value."""
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
