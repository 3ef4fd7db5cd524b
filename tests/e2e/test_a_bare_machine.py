"""On a Debian with nothing but Python, make and git the documented commands are enough."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bare_debian import HOME, INSTALL, BareDebian, available, bare_debian
from rooms import ROOT

NAME = "fl.example.org"
PAGE = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## From a bare machine") : PAGE.index("## nginx in front")]

ASKED = """
import ssl, sys, time, urllib.request
pinned = ssl.create_default_context(cafile=sys.argv[1])
while True:
    try:
        print(urllib.request.urlopen("https://127.0.0.1/readyz", context=pinned).read())
        break
    except OSError as error:
        print(error)
        time.sleep(0.3)
"""
"""Waits until the aggregator answers through nginx."""

needs_debian = pytest.mark.skipif(not available(), reason=INSTALL)


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareDebian]:
    with bare_debian(tmp_path_factory.mktemp("debian")) as made:
        yield made


def test_the_page_promises_six_commands() -> None:
    assert len(re.findall(r"^\$ ", SECTION, re.M)) == 6


@needs_debian
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_newcomer_types_make_demo(machine: BareDebian) -> None:
    said = machine.types("make demo")
    assert "trained together" in said, said[-3000:]
    report = re.search(r"report\s+(\S+report\.html)", said)
    assert report, said[-3000:]
    place = Path(HOME) / report[1]  # an absolute path stays what it is
    assert (machine.root / place.relative_to("/")).stat().st_size > 10_000


@needs_debian
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_aggregator_in_six_commands_and_a_hospital_joins(machine: BareDebian, tmp_path: Path) -> None:
    typed = [line.replace(NAME, "127.0.0.1") for line in re.findall(r"^\$ (.*)$", SECTION, re.M)]
    # What starts a service after its installation, on a machine that was booted, is not there in a folder.
    booted = "service postgresql start"
    script = "\n".join(["apt-get update -qq", typed[0], booted, *typed[1:-1]])
    (machine.root / HOME.lstrip("/") / "asked.py").write_text(ASKED)
    script += (
        f"\n{typed[-1]} &\n"
        ".venv/bin/python asked.py /var/lib/medveil/tls/ca.pem\n"
        ".venv/bin/medveil aggregator invite north --folder /var/lib/medveil\necho INVITED\nread -r enough"
    )
    log = tmp_path / "said.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            machine.words(script), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            while b"INVITED" not in log.read_bytes():
                assert process.poll() is None, log.read_text(errors="replace")[-6000:]
                time.sleep(0.2)
            (tmp_path / "films").mkdir()
            invitation = machine.root / HOME.lstrip("/") / "north.invitation"
            join = [sys.executable, "-m", "medveil", "node", "join", invitation]
            join += ["--data", "films", "--folder", "north", "--yes"]
            done = subprocess.run(join, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Films of five hospitals" in done.stdout
        finally:
            process.stdin.close() if process.stdin else None
            process.kill()
            process.wait()
    assert not list((machine.root / "var/lib/medveil").glob("*.db")), "the database is PostgreSQL's"
