"""The node's TLS client certificate, where the aggregator asks for them: got once, renewed at two thirds.

It is a second lock. Who asks is decided by the signature with ``identity.key`` in any case. A certificate of
the hospital's own PKI in ``client.pem`` is left to that PKI.
"""

from __future__ import annotations

import asyncio
import datetime as dt

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hospital_node.settings import Node
from hospital_node.transport import CLIENT_PAIR, Transport
from medveil.errors import Error
from medveil.files import replace_durably
from medveil.identity import Identity
from medveil.log import get_logger
from medveil.messages import BadMessage

OURS = "MedVeil nodes authority"
LOOK_S = 3600.0
log = get_logger()


def due(pair: bytes, now: dt.datetime) -> bool:
    """Whether a certificate of the aggregator's authority has lived two thirds of its life."""
    certificate = x509.load_pem_x509_certificate(pair)
    issuer = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return [i.value for i in issuer] == [OURS] and now >= start + (end - start) * 2 / 3


async def get_certificate(node: Node, transport: Transport) -> None:
    """Make a fresh key, have it signed, and put both in place in one go.

    Raises: BadMessage if what comes is no certificate for this key; AggregatorProblem, Unreachable.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node.settings.name)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    signed = _for(key, await transport.certificate(asked.public_bytes(serialization.Encoding.DER)))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    replace_durably(node.folder / CLIENT_PAIR, signed + private, private=True)
    log.info("certificate.renewed")


def _for(key: ec.EllipticCurvePrivateKey, answer: bytes) -> bytes:
    """The certificate as PEM; nothing else of the answer gets into the file. Raises: BadMessage."""
    try:
        certificate = x509.load_pem_x509_certificate(answer)
        same = certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadMessage() from error
    if not same:
        raise BadMessage()
    return certificate.public_bytes(serialization.Encoding.PEM)


async def keep_certificate(node: Node) -> None:
    """Renew the certificate for as long as the node runs; a failure is tried again within the hour."""
    identity = Identity.load(node.settings.name, node.key)
    pair = node.folder / CLIENT_PAIR
    while True:
        try:
            if pair.exists() and due(pair.read_bytes(), dt.datetime.now(dt.UTC)):
                async with Transport(
                    node.settings.aggregator, node.authority, identity, proxy=node.settings.proxy
                ) as transport:
                    await get_certificate(node, transport)
        except (Error, OSError, ValueError) as error:
            log.warning("certificate.not-renewed", reason=getattr(error, "code", type(error).__name__))
        await asyncio.sleep(LOOK_S)
