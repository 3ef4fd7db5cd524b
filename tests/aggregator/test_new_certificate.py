"""The aggregator's TLS certificate is changed as docs/operations.md says, and every node stays connected."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.admin import set_up_aggregator
from aggregator.cli import app
from aggregator.settings import Settings
from aggregator.storage.transactions import AlreadyThere


def trusts(authorities: Path, tls: Path, name: str = "127.0.0.1") -> bool:
    """Whether a node with these authorities opens a connection to a server with this folder's certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls / "server.pem", tls / "server.key")
    client = ssl.create_default_context(cafile=str(authorities))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for end in ends * 2:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return ends[0].version() is not None


def test_a_node_that_has_added_the_next_authority_connects_before_and_after_the_change(folder: Path) -> None:
    settings = Settings(folder / "aggregator-data", names=("127.0.0.1",))
    set_up_aggregator(settings)
    tls, mine, runner = settings.folder / "tls", folder / "ca.pem", CliRunner()
    mine.write_bytes((tls / "ca.pem").read_bytes())
    old = mine.read_bytes()
    assert trusts(mine, tls)

    made = runner.invoke(app, ["new-certificate", "--folder", str(settings.folder)])
    assert made.exit_code == 0
    assert "tls/next/ca.pem" in made.output
    assert (tls / "next" / "server.key").stat().st_mode & 0o077 == 0
    assert not trusts(mine, tls / "next")
    again = runner.invoke(app, ["new-certificate", "--folder", str(settings.folder)])
    assert isinstance(again.exception, AlreadyThere)  # what hospitals may have got stays

    subprocess.run(["sh", "-c", f"cat {tls}/next/ca.pem >> {mine}"], check=True)
    assert trusts(mine, tls)
    subprocess.run(["sh", "-c", f"mv {tls}/next/* {tls}/ && rmdir {tls}/next"], check=True)
    assert trusts(mine, tls)
    assert trusts(tls / "ca.pem", tls)
    mine.write_bytes(old)
    assert not trusts(mine, tls)


@pytest.mark.parametrize("name", ["localhost", "192.0.2.7"])
def test_the_names_can_be_changed_with_it(folder: Path, name: str) -> None:
    settings = Settings(folder / "aggregator-data", names=("127.0.0.1",))
    set_up_aggregator(settings)
    CliRunner().invoke(app, ["new-certificate", "--folder", str(settings.folder), "--name", name])
    following = settings.folder / "tls" / "next"
    assert trusts(following / "ca.pem", following, name)
    assert not trusts(following / "ca.pem", following)
