"""A bundle installs without a network and without rights; one that was changed installs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rooms import ROOT

NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
PYTHON = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"


def run(*words: str | Path, alone: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
    """As a user without rights and, if ``alone``, in a network of nothing."""
    apart = ["unshare", "--net"] if alone else []
    command = [*apart, *NOBODY, "env", "-i", "PATH=/usr/bin:/bin", *(f"{k}={v}" for k, v in settings.items())]
    return subprocess.run([*command, *map(str, words)], cwd="/", capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bundle() -> Iterator[Path]:
    """For an aggregator, where everybody may read it."""
    if os.geteuid() or shutil.which("unshare") is None or not Path(PYTHON).exists():
        pytest.skip(f"it wants root, unshare and {PYTHON}: apt-get install util-linux python3-venv")
    folder = Path("/var/tmp") / f"medveil-bundle-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    script = ROOT / "deploy" / "release" / "bundle.py"
    made = [sys.executable, script, folder / "bundle", "--for", "aggregator"]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "home").mkdir()
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    (folder / "home").chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_an_aggregator_is_installed_and_begun_where_no_network_is(bundle: Path) -> None:
    home = bundle / "home"
    install = ("sh", bundle / "bundle" / "install.sh", home / "medveil")
    done = run(*install, HOME=str(home), PYTHON=PYTHON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without torch" in done.stdout
    medveil = home / "medveil" / "bin" / "medveil"
    folder = home / "aggregator"
    for words in (("aggregator", "init", "--consortium", "Films", "--folder", folder), ("doctor",)):
        typed = f"cd {home} && exec {medveil} {' '.join(map(str, words))} < /dev/null"
        done = run("sh", "-c", typed, alone=words[0] != "doctor")  # which looks at the loopback, too
        assert done.returncode == 0, done.stdout + done.stderr
    again = run(*install, HOME=str(home), PYTHON=PYTHON)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert medveil.exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_bundle_that_is_not_whole_installs_nothing(bundle: Path, how: str) -> None:
    wheel = next((bundle / "bundle" / "wheels").glob("cbor2*"))
    kept = wheel.read_bytes()
    wheel.unlink()
    if how == "changed":
        wheel.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        target = bundle / "home" / how
        done = run("sh", bundle / "bundle" / "install.sh", target, HOME=str(bundle / "home"), PYTHON=PYTHON)
        assert done.returncode == 1
        assert "is not the one that was bundled" in done.stderr
        assert wheel.name in done.stdout + done.stderr
        assert not target.exists()
    finally:
        wheel.write_bytes(kept)


@pytest.mark.slow
def test_another_python_is_told_before_anything_is_made(bundle: Path, tmp_path: Path) -> None:
    other = bundle / "home" / "python"
    other.write_text("#!/bin/sh\necho 3.99\n")
    other.chmod(0o755)
    target = bundle / "home" / "other"
    done = run("sh", bundle / "bundle" / "install.sh", target, HOME=str(bundle / "home"), PYTHON=str(other))
    assert done.returncode == 1
    assert "is 3.99. Name another" in done.stderr
    assert not target.exists()
    done = run(
        "sh", bundle / "bundle" / "install.sh", "other", HOME=str(bundle / "home"), PYTHON="python-3.99"
    )
    assert done.returncode == 1
    assert "There is no python-3.99 here" in done.stderr
    assert "install.sh /other" in done.stderr  # a folder is meant from where it is typed
