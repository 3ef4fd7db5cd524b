"""DIMSE over TLS: the PACS is who its certificate says, the node too if asked, or nothing is fetched."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import orthanc
from hospital_node.cli import app
from hospital_node.pacs.cleaning import cleaner
from hospital_node.pacs.dimse import Dimse
from hospital_node.pacs.fetching import Fetching, Wanted
from hospital_node.pacs.problems import PacsCertificate, PacsUnreachable, PasswordShown
from hospital_node.pacs.settings import PacsSettings
from hospital_node.pacs.store import store_of
from hospital_node.settings import Node
from lying_pacs import certificate, instance
from medveil.errors import BadOption
from medveil.identity import Identity

pynetdicom = pytest.importorskip("pynetdicom", reason="pip install 'medveil[dimse]'")
TITLE = orthanc.TITLE


def made(folder: Path, *, days: int = 30) -> tuple[ssl.SSLContext, Path]:
    folder.mkdir()
    return certificate(folder, days=days)


def own(folder: Path) -> Path:
    """A node's certificate with its key, in one file of mode 0600."""
    _, vouched = made(folder)
    path = folder / "own.pem"
    path.write_bytes(vouched.read_bytes() + (folder / "server.key").read_bytes())
    os.chmod(path, 0o600)
    return path


@contextmanager
def echoing(context: ssl.SSLContext | None) -> Iterator[str]:
    """A PACS that answers echoes; over TLS if there is a context for it."""
    entity: Any = pynetdicom.AE(ae_title=TITLE)
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", 0), block=False, ssl_context=context)
    accept, lines = server.get_request, []

    def noted() -> Any:
        line, address = accept()
        lines.append(line)
        return line, address

    server.get_request = noted
    try:
        yield f"localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        for line in lines:  # pynetdicom leaves one open whose peer went away without asking for anything
            line.close()


def asked(place: str, **given: Any) -> Dimse:
    return Dimse(f"dimse-tls://{TITLE}@{place}", title="MEDVEIL", **given)


def test_a_pacs_is_believed_by_the_authority_that_is_named_and_by_no_other(tmp_path: Path) -> None:
    context, authority = made(tmp_path / "pacs")
    _, another = made(tmp_path / "other")
    with echoing(context) as place:
        asked(place, authority=authority).check()
        for wrong in (another, None):  # None: the system's authorities
            with pytest.raises(PacsCertificate, match=r"self.signed"):
                asked(place, authority=wrong).check()
        with pytest.raises(PacsCertificate, match="127"):  # the certificate has another name
            asked(place.replace("localhost", "127.0.0.1"), authority=authority).check()


@pytest.mark.slow
def test_a_certificate_that_has_ended_and_a_pacs_without_tls_are_called_so(tmp_path: Path) -> None:
    context, authority = made(tmp_path / "old", days=-1)
    with echoing(context) as place, pytest.raises(PacsCertificate, match="expired"):
        asked(place, authority=authority).check()
    with echoing(None) as place, pytest.raises(PacsUnreachable, match="no TLS"):
        asked(place, authority=authority).check()


def test_a_pacs_that_wants_a_certificate_gets_the_nodes_own(tmp_path: Path) -> None:
    context, authority = made(tmp_path / "pacs")
    mine = own(tmp_path / "node")
    context.load_verify_locations(tmp_path / "node" / "authority.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with echoing(context) as place:
        asked(place, authority=authority, certificate=mine).check()
        with pytest.raises(PacsUnreachable, match="certificate of this node"):
            asked(place, authority=authority).check()


def test_files_that_others_may_read_or_that_hold_no_key_are_refused(tmp_path: Path) -> None:
    mine = own(tmp_path / "node")
    address = f"dimse-tls://{TITLE}@pacs.example.org:2762"
    PacsSettings(address=address, certificate=mine).check()
    with pytest.raises(BadOption, match="dimse-tls"):
        PacsSettings(address="https://pacs.example.org", certificate=mine).check()
    os.chmod(mine, 0o644)
    with pytest.raises(PasswordShown, match="key"):
        PacsSettings(address=address, certificate=mine).check()
    for named in (tmp_path / "node" / "authority.pem", tmp_path / "none.pem"):
        with pytest.raises(BadOption):
            Dimse(address, title="MEDVEIL", certificate=named)


@pytest.mark.slow
@pytest.mark.skipif(not orthanc.installed(), reason=f"no Orthanc here: {orthanc.INSTALL}")
def test_images_come_from_a_real_pacs_over_tls_by_typing_it(node: Node, tmp_path: Path) -> None:
    _, authority = made(tmp_path / "pacs")
    mine = own(tmp_path / "own")
    told = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(authority),
        "DicomTlsPrivateKey": str(tmp_path / "pacs" / "server.key"),
        "DicomTlsTrustedCertificates": str(tmp_path / "own" / "authority.pem"),
        "DicomTlsRemoteCertificateRequired": True,
    }
    Identity.generate("st-marys").save(node.key)
    with orthanc.running(tmp_path / "server", [instance(1, 0), instance(1, 1)], **told) as server:
        address = f"dimse-tls://{TITLE}@localhost:{server.dicom_port}"
        tls = ("--pacs-ca", str(authority), "--pacs-certificate", str(mine))
        typed = CliRunner().invoke(
            app, ["pacs", "connect", address, *tls, "--folder", str(node.folder)], catch_exceptions=False
        )
        assert "PASSED" in typed.output, typed.output
        pacs = Dimse(address, title="MEDVEIL", authority=authority, certificate=mine)
        store = store_of(node)
        outcome = Fetching(pacs, store, Wanted(), cleaner(store.names)).run()
        assert (outcome.fetched, outcome.instances, outcome.refusals) == (1, 2, [])
