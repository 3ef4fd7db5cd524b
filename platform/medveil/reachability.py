"""Why a connection failed, in words that an operator can act on; and the proxy that it goes through."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from medveil.errors import Error, RemoteProtocolError, utc
from medveil.shown import plain

REASONS: tuple[tuple[type[OSError], str], ...] = (
    (socket.gaierror, "its name is not known here"),
    (ConnectionRefusedError, "nothing listens at that address and port"),
    (TimeoutError, "no answer in time"),
    (ssl.SSLError, "what answers there does not speak TLS as this program does"),
    (ConnectionError, "the connection was cut"),
)
DIRECT = "none"
"""In place of a proxy's address: connect without one, whatever the environment says."""
SCHEMES = ("http", "https", "socks5", "socks5h")
OTHER_AUTHORITY = (18, 19, 20, 21)
"""OpenSSL's results for a certificate that a trusted authority has not signed."""
_PASSWORD = (
    "Give its user and password, as http://USER:PASSWORD@HOST:PORT, in HTTPS_PROXY or as 'proxy' in "
    "node.json or relay.json (signs in them percent-encoded). Only plain passwords are spoken, no NTLM and "
    "no Kerberos."
)
_NOT_ALLOWED = "Ask the network people to let this machine through to the aggregator's address and port."
_NOT_REACHED = (
    "Is the aggregator's address right? If so, ask the network people whether the proxy may reach it."
)


class CertificateRefused(RemoteProtocolError):
    """The other side shows a TLS certificate that is not valid here."""

    code = "certificate-refused"

    def __init__(self, *, reason: str) -> None:
        super().__init__(
            what=f"The aggregator's certificate is not accepted: {reason}.",
            meaning=f"Nothing was sent. Certificates are judged by this machine's clock; it says {utc()}.",
            remedy="Is the clock right? If so, compare ca.pem with the admin by telephone: there is a new "
            "certificate, its names leave this address out, or somebody stands in between.",
        )


class WrongAuthority(RemoteProtocolError):
    """Another authority than the pinned one has signed what is shown: often a proxy that opens TLS."""

    code = "wrong-authority"

    def __init__(self, *, issuer: str, way: str) -> None:
        super().__init__(
            what=f"What answers as the aggregator{way} shows a certificate of {issuer}, and not one that the "
            "authority in ca.pem has signed.",
            meaning="TLS is opened on the way, by a proxy or firewall of this network, or the consortium has "
            "a new certificate. Nothing was sent: no authority but the consortium's is accepted here.",
            remedy="Ask the network people to pass this address through unopened (no TLS inspection). If "
            "they do, ask the admin for the new ca.pem, and compare its fingerprint by telephone.",
        )


class BadProxy(Error):
    """A proxy's address that cannot be used."""

    code = "bad-proxy"

    def __init__(self, *, proxy: str, source: str, problem: str) -> None:
        super().__init__(
            what=f"The proxy '{proxy}', named by {source}, cannot be used: {problem}.",
            meaning="Nothing was sent.",
            remedy="Name it as http://HOST:PORT or socks5://HOST:PORT in HTTPS_PROXY or as 'proxy' in "
            f"node.json or relay.json, where '{DIRECT}' stands for no proxy; NO_PROXY lists the addresses "
            "that need none.",
        )


@dataclass(frozen=True)
class Proxy:
    """A proxy on the way to an address."""

    url: str = field(repr=False)
    """With user and password, if it has them."""
    shown: str
    """Without them."""
    source: str
    """Who names it."""


def proxy_to(address: str, own: str = "", *, file: str = "node.json") -> Proxy | None:
    """The proxy on the way to an address; None: connect directly.

    Args:
        own: this program's own setting: a proxy's address, or :data:`DIRECT`. If empty, the environment says
            (HTTPS_PROXY, ALL_PROXY, NO_PROXY, in either case), and this machine needs none to reach itself.
        file: where that setting stands, for the words of a problem.
    Raises: BadProxy.
    """
    if own == DIRECT:
        return None
    named, source = own or _of_environment(address), file if own else "the environment"
    return _read(named, source) if named else None


def _of_environment(address: str) -> str:
    parts = urlsplit(address)
    if is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    named = getproxies()
    return named.get(parts.scheme) or named.get("all") or ""


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_password(named: str) -> str:
    scheme, mark, rest = named.rpartition("://")
    return plain(f"{scheme}{mark}{rest.rpartition('@')[2]}", 200)


def _read(named: str, source: str) -> Proxy:
    """Raises: BadProxy."""
    url = named if "://" in named else f"http://{named}"
    url = re.sub(r"^socks://", "socks5://", url).rstrip("/")  # as desktops write it
    shown = _without_password(url)
    try:
        parts = urlsplit(url)
        port = parts.port or 0
    except ValueError:
        raise BadProxy(proxy=shown, source=source, problem="it is no address") from None
    if parts.scheme not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise BadProxy(proxy=shown, source=source, problem=f"it begins with none of {known}")
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname or "") or parts.path or parts.query:
        raise BadProxy(proxy=shown, source=source, problem="it is no address")
    if not port:
        raise BadProxy(proxy=shown, source=source, problem="it has no port")
    return Proxy(url, shown, source)


def check_certificate(error: BaseException, *, proxy: str = "", issuer: str = "") -> None:
    """If a certificate is why the connection failed, say so.

    Args:
        proxy: in between, without a password; empty if there is none.
        issuer: who has signed what was shown; empty if that is not known.
    Raises: WrongAuthority, CertificateRefused.
    """
    found = refused_certificate(error)
    if found is None:
        return
    if found.verify_code in OTHER_AUTHORITY:
        whose = f"'{plain(issuer, 100)}'" if issuer else "another authority"
        raise WrongAuthority(issuer=whose, way=_through(proxy)) from error
    raise CertificateRefused(reason=found.verify_message + _through(proxy)) from error


def refused_certificate(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """What spoke against the certificate, if that is why the connection failed."""
    return next((c for c in _causes(error) if isinstance(c, ssl.SSLCertVerificationError)), None)


def why(error: BaseException, proxy: str = "") -> str:
    """The reason of a failed connection; with a proxy in between, whose reason it is."""
    causes = list(_causes(error))
    for kind, reason in REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            itself = kind in (socket.gaierror, ConnectionRefusedError)  # nothing else is connected to
            return (
                f"the proxy '{proxy}' cannot be reached: {reason}"
                if proxy and itself
                else (reason + _through(proxy))
            )
    return f"the connection ended ({type(error).__name__}){_through(proxy)}"


def _through(proxy: str) -> str:
    return f", through the proxy '{proxy}'" if proxy else ""


def proxy_trouble(words: str, proxy: str) -> tuple[str, str]:
    """Reason and remedy of a proxy that answers and does not connect.

    Args:
        words: of the HTTP library: ``407 Proxy Authentication Required``, or what a SOCKS proxy replied.
    """
    status, text = words[:3], words.lower()
    if status == "407" or "no acceptable methods" in text or "got username/password" in text:
        return f"the proxy '{proxy}' asks for a password", _PASSWORD
    if "invalid username" in text:
        return f"the proxy '{proxy}' does not accept this user and password", _PASSWORD
    if "got no authentication" in text:
        return f"the proxy '{proxy}' takes no user and password", "Leave them out of the proxy's address."
    if status in ("401", "403", "405") or "not allowed" in text:
        return f"the proxy '{proxy}' does not let the connection through ({plain(words, 60)})", _NOT_ALLOWED
    problem = plain(words.removeprefix("Proxy Server could not connect: ").rstrip("."), 60)
    return f"the proxy '{proxy}' could not connect to the aggregator ({problem})", _NOT_REACHED


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
