"""A release may be given away, says where it comes from, and a changed file of it is found out."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medveil import software
from medveil.cli import root_app
from rooms import ROOT

RELEASE = ROOT / "deploy" / "release"
sys.path.insert(0, str(RELEASE))

import licences  # noqa: E402
import release  # noqa: E402
from making import NotMade  # noqa: E402


def test_every_package_that_is_installed_has_a_licence_that_is_allowed() -> None:
    found = licences.needed()
    assert {"torch", "monai", "fastapi", "onnxruntime", "psycopg"} <= set(found)
    refused = {n: licences.licence(p) for n, p in found.items() if not licences.allowed(licences.licence(p))}
    assert set(refused) == set(licences.BY_NAME)
    core = set(licences.needed(extras=()))
    assert not core & set(licences.BY_NAME)


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("MIT", True),
        ("MIT OR Apache-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("BSD-3-Clause AND MIT", True),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception", True),
        ("BSD-3-Clause AND GPL-2.0-only", False),
        ("AGPL-3.0", False),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_of_alternatives_one_must_be_allowed_and_of_parts_all(expression: str, fine: bool) -> None:
    assert licences.allowed(expression) is fine


def test_the_page_of_licences_is_what_is_installed() -> None:
    """Mend it by: python deploy/release/licences.py."""
    assert (ROOT / "docs" / "licences.md").read_text(encoding="utf-8") == licences.page()


def test_the_version_says_revision_python_and_torch() -> None:
    said = CliRunner().invoke(root_app([]), ["--version"]).output
    pattern = (
        r"medveil \d+\.\d+\.\d+ \(revision ([0-9a-f]{12}(-dirty)?|unknown)\), "
        r"Python 3\.\d+\.\d+, torch \d.*\n"
    )
    assert re.fullmatch(pattern, said)


def test_a_release_tells_the_revision_that_was_written_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "HERE", tmp_path / "a" / "b" / "software.py")
    assert software.revision() == ""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "revision.txt").write_text("0123456789ab\n")
    assert software.revision() == "0123456789ab"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Two files with checksums, signed by a key whose public half is beside them."""
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "a.whl").write_bytes(b"wheel")
    (folder / "lock.txt").write_bytes(b"packages")
    done = subprocess.run(["sha256sum", "a.whl", "lock.txt"], cwd=folder, capture_output=True, check=True)
    (folder / release.SUMS).write_bytes(done.stdout)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", release.NAMESPACE, folder / release.SUMS],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "signers").write_text(f"medveil {key.with_suffix('.pub').read_text()}")
    return folder


def test_a_whole_release_is_known_and_any_other_refused(released: Path, tmp_path: Path) -> None:
    signers = tmp_path / "signers"
    assert list(release.check(released, signers)) == ["signed by medveil", "2 files are as released"]
    (released / "a.whl").write_bytes(b"wheel!")
    with pytest.raises(NotMade, match=r"a\.whl is not the file"):
        list(release.check(released, signers))
    sums = (released / release.SUMS).read_text().splitlines()[1]
    (released / release.SUMS).write_text(f"{'0' * 64}  a.whl\n{sums}\n")
    with pytest.raises(NotMade, match="verify"):
        list(release.check(released, signers))
    (released / f"{release.SUMS}.sig").unlink()
    with pytest.raises(NotMade, match="not signed"):
        list(release.check(released, signers))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("cyclonedx_py") is None,
    reason="cyclonedx-bom is missing: pip install --require-hashes --no-deps -r requirements/release.txt",
)
def test_a_release_is_made_of_the_revision_and_verified(tmp_path: Path) -> None:
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=True).stdout:
        with pytest.raises(NotMade, match="differ from their revision"):
            list(release.make(tmp_path / "dist", None))
        return
    assert "built twice, byte for byte the same" in list(release.make(tmp_path / "dist", None))
    assert list(release.check(tmp_path / "dist", None)) == ["4 files are as released"]
    revision = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert zipfile.ZipFile(wheel).read("medveil/revision.txt").decode() == revision
    bill = (tmp_path / "dist" / "medveil.cdx.json").read_text()
    assert '"monai"' in bill
    assert "hypothesis" not in bill
    assert not any("externalReferences" in part for part in json.loads(bill)["components"])
    assert "file://" not in bill  # nor anything else of where packages were fetched
    assert "/simple/" not in bill
    with pytest.raises(NotMade, match="there already"):
        list(release.make(tmp_path / "dist", None))
