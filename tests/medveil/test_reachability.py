"""Node and researcher are told why a connection failed, in words, and a bad certificate is named as such."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.access.tls import make_certificates
from hospital_node.transport import Transport
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity
from medveil.reachability import CertificateRefused, WrongAuthority, proxy_to, why
from medveil_research.client import Client, NoAnswer

Ask = Callable[[str, Path], None]
ME = Identity.generate("hospital-1")


def as_node(address: str, authority: Path) -> None:
    async def offers() -> None:
        async with Transport(address, authority, ME, patience_s=-1.0) as transport:
            await transport.offers()

    asyncio.run(offers())


def as_researcher(address: str, authority: Path) -> None:
    with Client(address, authority, ME) as client:
        client.plans()


@contextmanager
def listening(context: ssl.SSLContext | None) -> Iterator[str]:
    """Something that answers every connection: over TLS with this certificate, or in another protocol."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here, ended = listener.getsockname(), threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError), listener.accept()[0] as line:
                    if ended.is_set():
                        return
                    if context is None:
                        line.sendall(b"220 mail.example.org\r\n")
                        line.recv(4096)
                    else:
                        context.wrap_socket(line, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{here[1]}"
        ended.set()
        socket.create_connection(here, 10).close()
        thread.join(10)


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    folder.mkdir()
    make_certificates(folder, (name,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context


@pytest.mark.parametrize("ask", [as_node, as_researcher])
def test_a_certificate_of_another_name_is_told_with_the_clock_and_one_of_another_authority_as_such(
    ask: Ask, tmp_path: Path
) -> None:
    ours = certificate(tmp_path / "ours", "elsewhere.example")
    theirs = certificate(tmp_path / "theirs", "127.0.0.1")
    authority = tmp_path / "ours" / "ca.pem"
    with listening(ours) as address, pytest.raises(CertificateRefused, match=r"127\.0\.0\.1") as refused:
        ask(address, authority)
    assert " UTC" in refused.value.meaning
    with listening(theirs) as address, pytest.raises(WrongAuthority, match=r"authority in ca\.pem"):
        ask(address, authority)


@pytest.mark.parametrize("ask", [as_node, as_researcher])
def test_an_empty_port_another_protocol_and_a_cut_line_are_told_apart(ask: Ask, tmp_path: Path) -> None:
    trusted = certificate(tmp_path / "tls", "127.0.0.1")
    authority = tmp_path / "tls" / "ca.pem"
    with socket.create_server(("127.0.0.1", 0)) as free:
        empty = f"https://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RemoteProtocolError, match="nothing listens"):
        ask(empty, authority)
    with listening(None) as address, pytest.raises(RemoteProtocolError, match="does not speak TLS"):
        ask(address, authority)
    with listening(trusted) as address, pytest.raises(RemoteProtocolError, match=r"(ended|was cut)"):
        ask(address, authority)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (socket.gaierror(-2, "unknown"), "name is not known"),
        (TimeoutError(), "in time"),
        (ConnectionResetError(), "cut"),
        (KeyError(), "OSError"),
    ],
)
def test_the_first_cause_is_found_under_the_librarys_own_errors(cause: Exception, words: str) -> None:
    lost = OSError("the library's own")
    lost.__cause__ = cause
    assert words in why(lost)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, ""),
        ({"https_proxy": "http://anna:secret@proxy:3128"}, "http://proxy:3128"),
        ({"all_proxy": "socks5://127.0.0.1:3"}, "socks5://127.0.0.1:3"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "fl.example.org"}, ""),
        ({"http_proxy": "http://proxy:3128"}, ""),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_proxy_that_the_environment_names_is_found_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, str], expected: str
) -> None:
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    found = proxy_to("https://fl.example.org:8443")
    assert (found.shown if found else "") == expected
    assert "secret" not in repr(found)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_a_researcher_is_told_of_the_proxy_in_between(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    make_certificates(tmp_path, ("fl.example.org",))
    with pytest.raises(NoAnswer, match=proxy) as refused:
        as_researcher("https://fl.example.org:8443", tmp_path / "ca.pem")
    assert "NO_PROXY" in refused.value.remedy
