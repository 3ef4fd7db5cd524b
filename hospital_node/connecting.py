"""How a line to the aggregator is looked at before anything is sent, and why it failed, in words."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx2 as httpx
from socksio import SOCKSError

from hospital_node.line import AggregatorProblem, ProxyRefused, Unreachable
from medveil.outgoing import AT_PROXY, FAILURES, closing_lines, open_client, pinned
from medveil.reachability import (
    OTHER_AUTHORITY,
    Proxy,
    check_certificate,
    proxy_trouble,
    refused_certificate,
    why,
)

LOOK_S = 15.0
ISSUER_S = 5.0
OWN_AUTHORITY = (
    "Add the hospital's own authority to this machine's (update-ca-certificates), or name its file in "
    "SSL_CERT_FILE. It is trusted for the proxy and never for the aggregator."
)


@dataclass(frozen=True)
class Look:
    """What can be seen of an aggregator from outside."""

    ahead_s: float | None
    """How far its clock is ahead of this machine's, within a second or two; None: it tells no time."""
    certificate_ends: float
    """When its TLS certificate expires, Unix seconds."""


def lost_by(error: BaseException, proxy: Proxy | None) -> Unreachable | ProxyRefused:
    """What a request's failure is, in words."""
    shown = proxy.shown if proxy else ""
    if proxy is not None and isinstance(error, httpx.ProxyError | SOCKSError):
        words = str(error) if isinstance(error, httpx.ProxyError) else "it does not speak SOCKS 5"
        reason, remedy = proxy_trouble(words, shown)
        return ProxyRefused(reason=reason, remedy=remedy)
    return Unreachable(reason=why(error, shown))


async def look(address: str, authority: Path, proxy: Proxy | None) -> Look:
    """Ask an aggregator whether it is well. The question is not signed and tells nothing of this hospital.

    Raises: Unreachable, ProxyRefused, WrongAuthority, CertificateRefused, AggregatorProblem, BadFile.
    """
    context = pinned(authority)
    try:
        async with asyncio.timeout(LOOK_S), open_client(address, context, proxy) as client:
            request = client.build_request("GET", "/healthz")
            before = time.time()
            async with closing_lines(request):
                answer = await client.send(request, stream=True)
            middle = (before + time.time()) / 2
            shown = answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert()
            await answer.aclose()
    except FAILURES as error:
        await check_shown(error, address, proxy)
        raise lost_by(error, proxy) from error
    if not answer.is_success:
        title = f"What answers there is no aggregator that is well ({answer.status_code})."
        raise AggregatorProblem(status=answer.status_code, code="aggregator-error", title=title, detail="")
    return Look(
        ahead_s=_ahead(answer.headers.get("date", ""), middle),
        certificate_ends=float(ssl.cert_time_to_seconds(shown["notAfter"])),
    )


def _ahead(date: str, at: float) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - at  # the second that it names is half over
    except (ValueError, TypeError, OverflowError):
        return None


async def check_shown(error: BaseException, address: str, proxy: Proxy | None) -> None:
    """If a certificate is why the connection failed, say so.

    Raises: WrongAuthority, CertificateRefused; ProxyRefused if it was the proxy's own.
    """
    refused = refused_certificate(error)
    if refused is not None and proxy is not None and AT_PROXY in getattr(refused, "__notes__", ()):
        reason = f"the certificate of the proxy '{proxy.shown}' is not accepted: {refused.verify_message}"
        raise ProxyRefused(reason=reason, remedy=OWN_AUTHORITY) from error
    issuer = await _issuer_shown(error, address, proxy)
    check_certificate(error, proxy=proxy.shown if proxy else "", issuer=issuer)


async def _issuer_shown(error: BaseException, address: str, proxy: Proxy | None) -> str:
    """Who has signed the certificate that was shown in place of a pinned authority's; empty if unknown.

    The library tells nothing of a certificate that it refuses, so it is looked at once more. Nothing is
    sent but the question for ``/healthz``, nothing of the answer is used, and trust does not follow.
    """
    refused = refused_certificate(error)
    if refused is None or refused.verify_code not in OTHER_AUTHORITY:
        return ""
    unjudged = ssl.create_default_context()
    unjudged.check_hostname, unjudged.verify_mode = False, ssl.CERT_NONE
    with suppress(*FAILURES, ValueError):
        async with (
            asyncio.timeout(ISSUER_S),
            open_client(address, unjudged, proxy) as client,
            client.stream("GET", "/healthz") as answer,
        ):
            shown = answer.extensions["network_stream"].get_extra_info("ssl_object")
            return _issuer_of(shown.getpeercert(binary_form=True))
    return ""


def _issuer_of(certificate: bytes) -> str:
    """The name of whoever signed a certificate (DER). Raises: ValueError."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    issuer = x509.load_der_x509_certificate(certificate).issuer
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for one in issuer.get_attributes_for_oid(kind):
            return str(one.value)
    return issuer.rfc4514_string()
