"""What the files under deploy/ are held against: hadolint, Helm's library, Kubernetes' schemas."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "medveil"
INSTALL = "make deploy-tools"
KUBERNETES = "1.37"
HADOLINT = shutil.which(
    "hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
)


def needs(what: str, there: bool) -> pytest.MarkDecorator:
    """Skip by name where a tool is missing; in CI nothing may be skipped."""
    said = f"{what} is not installed: {INSTALL}"
    assert there or not os.environ.get("MEDVEIL_SKIP_NOTHING"), said
    return pytest.mark.skipif(not there, reason=said)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


needs_hadolint = needs("hadolint", HADOLINT is not None)
needs_helm = needs("helm-python-sdk", _has("helm_python"))
needs_kubernetes = needs("kubernetes-validate", _has("kubernetes_validate") and _has("helm_python"))


def hadolint(file: Path) -> str:
    """What it has to say; nothing if it is content."""
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, "--no-color", str(file)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@cache
def _chart() -> Any:
    from helm_python import Chart

    return Chart.load(CHART)


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Every resource of the chart with these values. Raises: what Helm does, with the chart's sentence."""
    texts = _chart().render(values=values, name="trial", namespace="medveil")
    files = (text for name, text in texts.items() if name.endswith(".yaml"))
    return [one for text in files for one in yaml.safe_load_all(text) if one]


def linted(values: dict[str, Any]) -> list[str]:
    """Helm's findings above mere advice."""
    from helm_python import lint

    found = lint(CHART, values=values, strict=True)
    return [one["error"] for one in found["messages"] if one["severity"] > 1] + found["errors"]


def validate(resource: dict[str, Any]) -> None:
    """Raises: what Kubernetes' schema refuses, unknown fields too."""
    import kubernetes_validate

    kubernetes_validate.validate(resource, KUBERNETES, strict=True)
