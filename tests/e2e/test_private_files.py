"""What the commands write is readable by their own user only, whatever the shell's umask is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medveil.private_files import OpenFolder
from medveil_imaging.sources.phantom import write_phantom_sites
from medveil_research.demo import demo
from medveil_research.options import DemoOptions
from tests.support.folders import write_folder

AS_TYPED = """
import json, os, sys
from medveil.cli import main
for words in json.load(sys.stdin):
    os.umask(0o022)
    sys.argv = ["medveil", *words]
    try:
        main()
    except SystemExit as end:
        print(json.dumps([words, end.code or 0]), flush=True)
"""
"""Runs commands one after the other, each with the umask that a shell usually has."""


def typed(*commands: tuple[str | Path, ...]) -> list[int]:
    """Exit status of each command."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", AS_TYPED], input=words, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    assert len(lines) == len(commands), done.stderr
    return [json.loads(line)[1] for line in lines]


def open_to_others(folder: Path) -> Iterator[str]:
    """Every folder and file, this one included, that a group or everybody has a right to."""
    for path in (folder, *folder.rglob("*")):
        if path.stat().st_mode & 0o077:
            yield f"{path.relative_to(folder.parent)} {path.stat().st_mode & 0o777:o}"


@pytest.mark.slow
def test_every_command_writes_for_its_own_user_alone(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images")
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    aggregator, node, study = out / "aggregator", out / "node", out / "study"
    statuses = typed(
        ("aggregator", "init", "--folder", aggregator),
        ("aggregator", "backup", out / "backup", "--folder", aggregator),
        ("node", "init", "--name", "st-marys", "--aggregator", "https://127.0.0.1:8443",
         "--authority", aggregator / "tls" / "ca.pem", "--data", images, "--folder", node),
        ("node", "heads", "--export", out / "heads.json", "--folder", node),
        ("study", "new", "--name", "films", "--task", "classification", "--profile", "xray",
         "--model", "small_cnn", "--hospitals", "3", "--patients", "80", "--size", "32x32",
         "--classes", "normal,abnormal", "-o", study),
        ("research", "evaluate", "--study", study / "study.toml", "--model", study / "initial.safetensors",
         "--data", images, "--json", out / "figures.json"),
    )  # fmt: skip
    assert statuses == [0] * 6
    written = {path.relative_to(out).parts[0] for path in out.rglob("*")}
    assert written == {"aggregator", "backup", "node", "heads.json", "study", "figures.json"}
    assert [place for part in out.iterdir() for place in open_to_others(part)] == []


@pytest.mark.slow
def test_a_demo_keeps_its_folder_to_its_own_user(tmp_path: Path) -> None:
    keep = tmp_path / "kept" / "here"
    assert typed(("demo", "--patients", "10", "--keep", keep, "--kill", "nobody@1")) == [1]
    assert (keep / "sites").is_dir()
    assert list(open_to_others(tmp_path / "kept")) == []


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o770, 0o711, 0o701, 0o1777])
def test_a_demo_on_real_images_refuses_a_folder_that_others_may_enter(tmp_path: Path, mode: int) -> None:
    keep = tmp_path / "kept"
    keep.mkdir()
    os.chmod(keep, mode)
    with pytest.raises(OpenFolder, match="open-folder"):
        demo(DemoOptions(data=tmp_path, folder=keep, quiet=True))
    assert list(keep.iterdir()) == []


@pytest.mark.slow
def test_a_whole_demo_on_given_images_leaves_nothing_that_others_can_read(tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    write_phantom_sites(sites, profile="xray", hospitals=3, patients=12)
    keep = tmp_path / "kept"
    result = tmp_path / "result.json"
    told = ("demo", "--data", sites, "--keep", keep, "--rounds", "1", "--json", result, "--quiet")
    assert typed(told, ("research", "report", result, "-o", keep / "again.html")) == [0, 0]
    assert {"aggregator", "nodes", "logs", "report.html", "again.html"} <= {p.name for p in keep.iterdir()}
    assert list(open_to_others(keep)) == []
    assert result.stat().st_mode & 0o077 == 0
