"""Two small certificate authorities: one for the aggregator's server certificate, one for the nodes'.

Nodes pin the server's authority, whose key is thrown away. A hospital network with its own PKI replaces
``tls/server.pem`` and ``tls/server.key`` and hands its authority to the nodes instead.

Client certificates are a second lock, off unless ``client_certificates`` is set: who asks is decided by the
Ed25519 signature in any case. The nodes' authority signs for 30 days; hospitals with their own PKI put its
certificate into ``tls/hospitals-ca.pem``.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aggregator.storage.blobs import write_durably
from medveil.errors import RemoteProtocolError
from medveil.log import get_logger

AUTHORITY_DAYS, SERVER_DAYS, NODE_DAYS = 3650, 397, 30
NODES_AUTHORITY, HOSPITALS_AUTHORITY = "nodes-ca.pem", "hospitals-ca.pem"
REASONS = {
    9: "not-yet-valid",
    10: "expired",
    18: "wrong-authority",
    19: "wrong-authority",
    20: "wrong-authority",
    21: "wrong-authority",
    23: "revoked",
    26: "wrong-purpose",
}
"""OpenSSL's verification results in the words of our log; all others are "invalid"."""
log = get_logger()


class BadCertificateRequest(RemoteProtocolError):
    """A request for a certificate that cannot be signed."""

    code = "bad-certificate-request"

    def __init__(self) -> None:
        super().__init__(
            what="The request for a certificate is damaged, unsigned or for a key of the wrong kind.",
            meaning="No certificate was made.",
            remedy="Run 'medveil node certificate' with the aggregator's version of MedVeil.",
        )


class WrongCertificate(RemoteProtocolError):
    """The TLS client certificate is missing or does not name the sender of the request."""

    code = "wrong-certificate"

    def __init__(self) -> None:
        super().__init__(
            what="The connection has no client certificate, or one that names somebody else.",
            meaning="The request was not looked at, although its signature is good.",
            remedy="Run 'medveil node certificate', or have your PKI issue one that names this hospital.",
        )


def make_certificates(folder: Path, names: tuple[str, ...]) -> None:
    """Write ``ca.pem``, ``server.pem`` and ``server.key``; the authority's key is thrown away.

    A new server certificate therefore comes with a new authority (rotation is part of operations).
    """
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
    _make_pair(folder, names, "server", purposes, authority="MedVeil consortium authority")


def make_cluster_certificates(folder: Path) -> None:
    """Write ``ca.pem``, ``cluster.pem`` and ``cluster.key`` for all processes of a cluster of workers.

    Whoever has the key is one of them. The authority signs nothing else and its key is thrown away, so nobody
    can join later but with a copy of these files.
    """
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    _make_pair(folder, ("medveil-cluster",), "cluster", purposes, authority="MedVeil cluster authority")


def _make_pair(
    folder: Path, names: tuple[str, ...], file: str, purposes: list[x509.ObjectIdentifier], *, authority: str
) -> None:
    """A new authority, and one certificate that it signs for these names and purposes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    signing, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name(authority)
    signer = (
        _builder(issuer, issuer, signing.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(signing, hashes.SHA256())
    )
    signed = (
        _builder(_name(names[0]), issuer, key.public_key(), SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
        .sign(signing, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(signer.public_bytes(pem))
    (folder / f"{file}.pem").write_bytes(signed.public_bytes(pem) + signer.public_bytes(pem))
    _write_key(folder / f"{file}.key", key)


def make_nodes_authority(folder: Path) -> None:
    """Write ``nodes-ca.pem`` and ``nodes-ca.key`` unless they are there. The key stays, for renewals.

    It can make client certificates only: no node accepts it for a server, and a client certificate without
    the hospital's signature opens nothing.
    """
    if (folder / NODES_AUTHORITY).exists():
        return
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("MedVeil nodes authority")
    authority = (
        _builder(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / "nodes-ca.key", key)
    write_durably(folder / NODES_AUTHORITY, authority.public_bytes(serialization.Encoding.PEM))


def sign_node_certificate(folder: Path, request: bytes, name: str) -> bytes:
    """A client certificate of 30 days for the hospital ``name``, whatever name the request has.

    Args:
        request: a PKCS #10 request, DER, with a P-256 key.
    Returns: PEM.
    Raises: BadCertificateRequest.
    """
    try:
        asked = x509.load_der_x509_csr(request)
        key = asked.public_key()
        good = asked.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadCertificateRequest() from error
    if not (good and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise BadCertificateRequest()
    authority = x509.load_pem_x509_certificate((folder / NODES_AUTHORITY).read_bytes())
    private = serialization.load_pem_private_key((folder / "nodes-ca.key").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)  # make_nodes_authority wrote it
    signed = (
        _builder(_name(name), authority.subject, key, NODE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), critical=False
        )
        .sign(private, hashes.SHA256())
    )
    return signed.public_bytes(serialization.Encoding.PEM)


class _Watched(ssl.SSLObject):
    """Writes down why a client certificate was refused; asyncio does not."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            log.info("certificate.refused", reason=REASONS.get(error.verify_code, "invalid"))
            raise


def ask_for_certificates(context: ssl.SSLContext, folder: Path) -> None:
    """Let a server ask its clients for certificates of our nodes' authority or the hospitals' own PKI.

    A connection without one still opens, so that a newcomer can get its first; the routes look at the name.
    """
    for name in (NODES_AUTHORITY, HOSPITALS_AUTHORITY):
        if (folder / name).exists():
            context.load_verify_locations(str(folder / name))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.sslobject_class = _Watched


def names_in(certificate: dict[str, Any] | None) -> frozenset[str]:
    """Common name and DNS names of a verified client certificate, as ``SSLObject.getpeercert`` shows it."""
    if not certificate:
        return frozenset()
    common = [v for part in certificate.get("subject", ()) for k, v in part if k == "commonName"]
    return frozenset([*common, *(v for k, v in certificate.get("subjectAltName", ()) if k == "DNS")])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(private)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    start = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
