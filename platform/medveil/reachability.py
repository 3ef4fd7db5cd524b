"""Why a connection failed, in words that an operator can act on."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from medveil.errors import RemoteProtocolError, utc

REASONS: tuple[tuple[type[OSError], str], ...] = (
    (socket.gaierror, "its name is not known here"),
    (ConnectionRefusedError, "nothing listens at that address and port"),
    (TimeoutError, "no answer in time"),
    (ssl.SSLError, "what answers there does not speak TLS as this program does"),
    (ConnectionError, "the connection was cut"),
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


def check_certificate(error: BaseException) -> None:
    """Raises: CertificateRefused if that is why the connection failed."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise CertificateRefused(reason=cause.verify_message) from error


def why(error: BaseException) -> str:
    """The reason of a failed connection."""
    causes = list(_causes(error))
    for kind, reason in REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    return f"the connection ended ({type(error).__name__})"


def proxy_for(address: str) -> str:
    """The proxy that the environment names for this address, without a password; empty if there is none."""
    parts = urlsplit(address)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    named = getproxies()
    found = named.get(parts.scheme) or named.get("all") or ""
    scheme, mark, rest = found.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
