"""``deploy/nginx-front`` writes what nginx takes, and leaves things as they were where it does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rooms import ROOT


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An aggregator's folder, as init writes it, and a program in the place of nginx."""
    (tmp_path / "own" / "tls").mkdir(parents=True)
    for name in ("server.pem", "server.key", "ca.pem"):
        (tmp_path / "own" / "tls" / name).write_text(f"own {name}\n")
    (tmp_path / "own" / "aggregator.json").write_text('{\n  "host": "127.0.0.1",\n  "port": 9443\n}\n')
    (tmp_path / "bin").mkdir()
    return tmp_path


def front(place: Path, *words: str | Path, nginx: str = "exit 0") -> subprocess.CompletedProcess[str]:
    program = place / "bin" / "nginx"
    program.write_text(f"#!/bin/sh\necho nginx $* >> {place}/asked\n{nginx}\n")
    program.chmod(0o755)
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [ROOT / "deploy" / "nginx-front", *words],
        env={"PATH": path, "ETC": str(place / "etc")}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_name_port_and_certificates_are_the_aggregators(place: Path) -> None:
    done = front(place, "fl.hospital.test", place / "own")
    assert done.returncode == 0, done.stderr
    site = (place / "etc" / "conf.d" / "medveil.conf").read_text()
    shipped = (ROOT / "deploy" / "nginx.conf").read_text()
    assert site == shipped.replace("fl.example.org", "fl.hospital.test").replace(":8443", ":9443").replace(
        "10.0.0.2:9443", "10.0.0.2:8443"
    )
    assert (place / "etc" / "medveil" / "server.pem").read_text() == "own server.pem\n"
    assert (place / "etc" / "medveil" / "server.key").stat().st_mode & 0o777 == 0o600
    assert (place / "etc" / "medveil" / "aggregator-ca.pem").read_text() == "own ca.pem\n"
    assert (place / "asked").read_text() == "nginx -t -q\nnginx -s reload\n"


def test_ones_own_certificate_is_shown_instead(place: Path) -> None:
    (place / "pki.pem").write_text("pki\n")
    (place / "pki.key").write_text("pki key\n")
    done = front(place, "fl.hospital.test", place / "own", place / "pki.pem", place / "pki.key")
    assert done.returncode == 0, done.stderr
    assert (place / "etc" / "medveil" / "server.pem").read_text() == "pki\n"


@pytest.mark.parametrize("earlier", ["", "what was there\n"])
def test_what_nginx_does_not_take_is_put_back(place: Path, earlier: str) -> None:
    site = place / "etc" / "conf.d" / "medveil.conf"
    key = place / "etc" / "medveil" / "server.key"
    if earlier:
        for file in (site, key):
            file.parent.mkdir(parents=True)
            file.write_text(earlier)
    done = front(place, "fl.hospital.test", place / "own", nginx="exit 1")
    assert done.returncode == 1
    assert "what was there before is there again" in done.stderr
    for file in (site, key):
        assert (file.read_text() if file.exists() else "") == earlier


@pytest.mark.parametrize("name", ["", "fl example", "a;b", "$(id)", "fl.example.org/x"])
def test_what_is_no_name_never_reaches_the_file(place: Path, name: str) -> None:
    done = front(place, name, place / "own")
    assert done.returncode == 2
    assert "no DNS name" in done.stderr
    assert not (place / "etc").exists()


def test_a_folder_without_an_aggregator_changes_nothing(place: Path) -> None:
    (place / "own" / "aggregator.json").unlink()
    done = front(place, "fl.hospital.test", place / "own")
    assert done.returncode == 1
    assert "Nothing was changed" in done.stderr
    assert not (place / "etc").exists()
