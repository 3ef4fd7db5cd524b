"""Node, researcher and relay reach the aggregator through a proxy, or are told which, and what to do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.access.tls import make_certificates
from aggregator.relay.line import AggregatorRefuses, UpstreamLine
from hospital_node.line import AggregatorProblem, ProxyRefused, Unreachable
from hospital_node.transport import Transport
from medveil.errors import Error, RemoteProtocolError
from medveil.identity import Identity
from medveil.reachability import BadProxy, CertificateRefused, WrongAuthority
from medveil.rounds import AttemptKey
from medveil_research.client import Client, NoAnswer
from proxies import SmallProxy, running

ME = Identity.generate("hospital-1")
Ask = Callable[[str, Path, str], None]


def as_node(address: str, authority: Path, proxy: str = "") -> None:
    async def offers() -> None:
        async with Transport(address, authority, ME, patience_s=-1.0, proxy=proxy) as transport:
            await transport.offers()

    asyncio.run(offers())


def as_researcher(address: str, authority: Path, proxy: str = "") -> None:
    with Client(address, authority, ME) as client:
        client.check_up()


def as_relay(address: str, authority: Path, proxy: str = "") -> None:
    async def work() -> None:
        line = UpstreamLine(address, authority, ME, patience_s=-1.0, proxy=proxy)
        try:
            await line.work(AttemptKey("ab" * 32, 1, 1))
        finally:
            await line.close()

    asyncio.run(work())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ours``: the aggregator's certificate. ``hospital``: one that the hospital's own authority made."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ours", "hospital"):
        make_certificates(folder / name, ("fl.example.org",))
    return folder


def context_of(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context


@pytest.fixture(scope="module")
def address(tls: Path) -> Iterator[str]:
    """An aggregator over HTTPS that refuses everybody, under a name that only the proxies know."""
    context = context_of(tls / "ours")
    answer = b"HTTP/1.1 418 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopping = threading.Event()

        def serve() -> None:
            while True:
                line, _ = listener.accept()
                if stopping.is_set():
                    line.close()
                    return
                with line:
                    try:
                        with context.wrap_socket(line, server_side=True) as shown:
                            shown.recv(65_536)
                            shown.sendall(answer)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield f"https://fl.example.org:{port}"
        stopping.set()
        socket.create_connection(("127.0.0.1", port), 10).close()
        thread.join(10)


def answered(ask: Ask, address: str, authority: Path, proxy: str = "") -> None:
    """The aggregator itself has answered, in its own way."""
    with pytest.raises((AggregatorProblem, NoAnswer, AggregatorRefuses), match="418"):
        ask(address, authority, proxy)


@pytest.mark.parametrize("ask", [as_node, as_researcher, as_relay])
@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("password", ["", "anna:p%40ss"])
def test_a_proxy_of_the_environment_is_used_and_gets_its_password(
    address: str, tls: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask, kind: str, password: str
) -> None:
    with running(SmallProxy(kind, password.replace("%40", "@"))) as proxy:
        named = proxy.url.replace("://", f"://{password}@") if password else proxy.url
        monkeypatch.setenv("HTTPS_PROXY", named)
        answered(ask, address, tls / "ours" / "ca.pem")
        assert set(proxy.asked) == {address.removeprefix("https://")}


def test_a_nodes_own_setting_goes_before_the_environment_and_none_goes_without(
    address: str, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = tls / "ours" / "ca.pem"
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with running(SmallProxy("http")) as proxy:
        answered(as_node, address, authority, proxy.url)
    here = address.replace("fl.example.org", "127.0.0.1")
    with pytest.raises(CertificateRefused, match=r"127\.0\.0\.1"):
        as_node(here, authority, "none")
    with pytest.raises(Unreachable, match="name is not known here") as refused:
        as_node(address.replace("fl.example.org", "nowhere.invalid"), authority, "none")
    assert "proxy '" not in str(refused.value)


@pytest.mark.parametrize("ask", [as_node, as_researcher, as_relay])
@pytest.mark.parametrize(
    ("proxy", "words", "remedy"),
    [
        (SmallProxy("http", "anna:secret"), "asks for a password", "USER:PASSWORD"),
        (SmallProxy("socks5", "anna:secret"), "asks for a password", "USER:PASSWORD"),
        (
            SmallProxy("http", refuses="403 Forbidden"),
            "does not let the connection through",
            "network people",
        ),
        (SmallProxy("socks5", refuses="2"), "does not let the connection through", "network people"),
        (SmallProxy("http", refuses="503 No"), "could not connect to the aggregator", "may reach it"),
        (SmallProxy("socks5", refuses="4"), r"to the aggregator \(Host unreachable\)", "may reach it"),
    ],
    ids=lambda value: f"{value.kind}-{value.refuses}" if isinstance(value, SmallProxy) else None,
)
def test_a_proxy_that_does_not_connect_is_named_with_its_reason_and_what_to_do(
    address: str,
    tls: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Ask,
    proxy: SmallProxy,
    words: str,
    remedy: str,
) -> None:
    with running(proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises((ProxyRefused, NoAnswer, AggregatorRefuses), match=words) as refused:
            ask(address, tls / "ours" / "ca.pem", "")
        assert proxy.url in refused.value.what
        assert remedy in refused.value.remedy


@pytest.mark.parametrize("ask", [as_node, as_researcher, as_relay])
def test_a_wrong_password_is_never_shown_and_another_protocol_is_named(
    address: str, tls: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    with running(SmallProxy("socks5", "anna:right")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://anna:wr0ng@"))
        with pytest.raises(RemoteProtocolError, match="does not accept this user and password") as refused:
            ask(address, tls / "ours" / "ca.pem", "")
        assert "wr0ng" not in str(refused.value)
    for spoken, named in (("socks5", "http"), ("http", "socks5")):
        with running(SmallProxy(spoken)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"{named}://127.0.0.1:{proxy.port}")
            with pytest.raises(RemoteProtocolError, match=rf"{named}://127\.0\.0\.1:{proxy.port}"):
                ask(address, tls / "ours" / "ca.pem", "")


@pytest.mark.parametrize("ask", [as_node, as_researcher, as_relay])
def test_a_proxy_that_is_not_there_is_named_and_not_the_aggregator(
    address: str, tls: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        empty = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", empty)
    with pytest.raises(RemoteProtocolError, match=f"the proxy '{empty}' cannot be reached: nothing listens"):
        ask(address, tls / "ours" / "ca.pem", "")


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_that_opens_tls_is_refused_and_the_authority_behind_it_is_named(
    address: str, tls: Path, kind: str
) -> None:
    """Also one whose authority every browser of the hospital trusts."""
    with running(SmallProxy(kind, opens_as=context_of(tls / "hospital"))) as proxy:
        with pytest.raises(WrongAuthority, match="'MedVeil consortium authority'") as refused:
            as_node(address, tls / "ours" / "ca.pem", proxy.url)
        assert proxy.url in refused.value.what
        assert "unopened (no TLS inspection)" in refused.value.remedy


def test_a_proxy_whose_own_certificate_is_not_known_is_not_called_an_aggregator_that_lies(
    address: str, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hospital's authority counts for the hospital's proxy; here the proxy has another name."""
    with running(SmallProxy("https", shows=context_of(tls / "hospital"))) as proxy:
        for authority in ("", str(tls / "hospital" / "ca.pem")):
            if authority:
                monkeypatch.setenv("SSL_CERT_FILE", authority)
            with pytest.raises(
                ProxyRefused, match=r"certificate of the proxy 'https://127\.0\.0\.1"
            ) as refused:
                as_node(address, tls / "ours" / "ca.pem", proxy.url)
            assert "SSL_CERT_FILE" in refused.value.remedy
            assert ("127.0.0.1" in refused.value.what.partition("accepted")[2]) == bool(authority)


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("ftp://proxy:21", "begins with none"),
        ("http://proxy", "no port"),
        ("http://proxy:99999", "no address"),
        ("http://anna:secret@pro xy:3128", "no address"),
        ("socks4://proxy:1080", "begins with none"),
        ("http://:3128", "no address"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_before_anything_is_sent(
    tls: Path, monkeypatch: pytest.MonkeyPatch, named: str, problem: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", named)
    for ask in (as_node, as_researcher, as_relay):
        with pytest.raises(BadProxy, match=problem) as refused:
            ask("https://fl.example.org:1", tls / "ours" / "ca.pem")
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["https://127.0.0.1:1", "https://localhost:1", "https://[::1]:1"])
def test_this_machine_needs_no_proxy_to_reach_itself(
    tls: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with pytest.raises(Error, match="nothing listens") as refused:
        as_node(address, tls / "ours" / "ca.pem")
    assert "proxy '" not in str(refused.value)
