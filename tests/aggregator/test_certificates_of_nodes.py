"""Client certificates: each wrong one is refused for its own reason, and none replaces the signature."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aggregator.access.tls import (
    BadCertificateRequest,
    make_certificates,
    make_nodes_authority,
    names_in,
    sign_node_certificate,
)
from aggregator.settings import Limits
from aggregator.storage.store import Store
from hospital_node.certificate import due, get_certificate
from hospital_node.line import AggregatorProblem
from hospital_node.settings import Node, NodeSettings
from hospital_node.transport import CLIENT_PAIR, Transport
from medveil.identity import sign_request
from nginx import INSTALL_STREAM, NGINX, STREAM, through
from served import Served, received, served
from world import World, make_world

DAY = dt.timedelta(days=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def common(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def private_pem(key: Any) -> bytes:
    return bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@dataclass
class Pki:
    """A hospital network's own authority."""

    name: str = "Hospital network"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> bytes:
        built = self._builder(common(self.name), self.key.public_key(), now() - DAY, now() + 30 * DAY)
        ca = x509.BasicConstraints(ca=True, path_length=0)
        return self._signed(built.add_extension(ca, critical=True))

    def pair(
        self, name: str, start: dt.timedelta = -DAY, end: dt.timedelta = DAY, usage: Any = CLIENT
    ) -> bytes:
        """Certificate and key for a name, valid between two times from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = self._builder(common(name), key.public_key(), now() + start, now() + end)
        built = built.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return self._signed(built) + private_pem(key)

    def _builder(
        self, subject: x509.Name, key: Any, start: dt.datetime, end: dt.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(common(self.name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )

    def _signed(self, built: x509.CertificateBuilder) -> bytes:
        return built.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass
class Place:
    """A server that asks for client certificates, and its consortium."""

    world: World
    server: Served
    pki: Pki
    folder: Path

    def get(
        self, pair: bytes, path: str, index: int = 0, scratch: str = "pair.pem", port: int = 0
    ) -> tuple[int, bytes]:
        """One signed request over a connection that shows this pair; status 0 if it is refused."""
        context = ssl.create_default_context(cafile=str(self.world.folder / "tls" / "ca.pem"))
        if pair:
            (self.folder / scratch).write_bytes(pair)
            context.load_cert_chain(self.folder / scratch)
        proof = sign_request(self.world.identities[index], "GET", path, b"").headers()
        head = [
            f"GET {path} HTTP/1.1",
            "Host: here",
            "Connection: close",
            *(f"{k}: {v}" for k, v in proof.items()),
        ]
        request = "\r\n".join([*head, "", ""]).encode()
        with contextlib.suppress(OSError), self.connect(context, port) as line:
            line.sendall(request)
            return received(line)
        return 0, b""

    def connect(self, context: ssl.SSLContext, port: int = 0) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port or self.server.port), 20)
        return context.wrap_socket(plain, server_hostname="localhost")

    def reasons(self) -> list[str]:
        lines = [json.loads(t) for t in self.server.log.read_text().splitlines() if t.startswith("{")]
        return [e["reason"] for e in lines if e["event"] == "certificate.refused"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, pki = tmp_path_factory.mktemp("certificates"), Pki()
    world = make_world(folder / "world")
    world.admin.save(world.folder / "admin.key")
    world.store.close()
    make_certificates(world.folder / "tls", ("localhost", "127.0.0.1"))
    (world.folder / "tls" / "hospitals-ca.pem").write_bytes(pki.pem)
    (world.folder / "models" / world.plan.study.model.initial_model).write_bytes(bytes(30 * 2**20))
    limits = Limits(handshake_s=0.5, stall_s=0.6, linger_s=0.3)
    with served(world.folder, limits, client_certificates=True) as server:
        yield Place(world, server, pki, folder)


def node_of(place: Place, folder: Path) -> Node:
    """A node's folder for hospital 1, as ``medveil node init`` and ``enroll`` leave it."""
    one = place.world.identities[0]
    address = f"https://localhost:{place.server.port}"
    node = Node(folder, NodeSettings(name=one.name, aggregator=address, data=folder, dataset="x"))
    one.save(node.key)
    node.authority.write_bytes((place.world.folder / "tls" / "ca.pem").read_bytes())
    return node


def test_a_certificate_that_names_the_sender_opens_and_no_other(place: Place) -> None:
    assert place.get(place.pki.pair("hospital-1"), "/v1/plans")[0] == 200
    for pair in (b"", place.pki.pair("hospital-2"), place.pki.pair("HOSPITAL-1")):
        status, answer = place.get(pair, "/v1/plans")
        assert status == 403
        assert b"urn:medveil:wrong-certificate" in answer


@pytest.mark.slow
@pytest.mark.skipif(NGINX is None or not STREAM.exists(), reason=INSTALL_STREAM)
def test_behind_an_nginx_that_passes_tls_through_certificates_count_and_one_address_has_fifty_lines(
    place: Place, tmp_path: Path
) -> None:
    with through(tmp_path, place.server.port) as port:
        assert place.get(place.pki.pair("hospital-1"), "/v1/plans", port=port)[0] == 200
        status, answer = place.get(b"", "/v1/plans", port=port)
        assert status == 403
        assert b"urn:medveil:wrong-certificate" in answer
        anybody = ssl.create_default_context(cafile=str(place.world.folder / "tls" / "ca.pem"))
        lines = [place.connect(anybody, port) for _ in range(50)]
        try:
            assert place.get(place.pki.pair("hospital-1"), "/v1/plans", port=port) == (0, b"")
        finally:
            for line in lines:
                line.close()
        while place.get(place.pki.pair("hospital-1"), "/v1/plans", port=port)[0] != 200:
            time.sleep(0.05)  # until nginx has noticed that they are gone


def test_a_certificate_without_the_signature_opens_nothing(place: Place) -> None:
    status, answer = place.get(place.pki.pair("hospital-1"), "/v1/plans", index=1)
    assert status == 403
    assert b"urn:medveil:wrong-certificate" in answer


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "expired"),
        ("future", "not-yet-valid"),
        ("other authority", "wrong-authority"),
        ("forged authority", "invalid"),
        ("server's purpose", "wrong-purpose"),
    ],
)
def test_a_bad_certificate_ends_the_handshake_and_the_log_says_why(
    place: Place, kind: str, reason: str
) -> None:
    pair = {
        "expired": lambda: place.pki.pair("hospital-1", -3 * DAY, -2 * DAY),
        "future": lambda: place.pki.pair("hospital-1", DAY, 2 * DAY),
        "other authority": lambda: Pki("Somebody else").pair("hospital-1"),
        "forged authority": lambda: Pki(place.pki.name).pair("hospital-1"),
        "server's purpose": lambda: place.pki.pair("hospital-1", usage=SERVER),
    }[kind]()
    before = len(place.reasons())
    assert place.get(pair, "/healthz") == (0, b"")
    assert place.reasons()[before:] == [reason]


def test_tls_1_2_takes_authenticated_encryption_and_no_cbc(place: Place) -> None:
    def suite_of(wanted: str) -> str:
        context = ssl.create_default_context(cafile=str(place.world.folder / "tls" / "ca.pem"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(wanted)
        with place.connect(context) as line:
            agreed = line.cipher()
            assert agreed is not None
            return agreed[0]

    assert "GCM" in suite_of("ECDHE-ECDSA-AES256-GCM-SHA384")
    for old in ("ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"):
        with pytest.raises((ssl.SSLError, ConnectionError, socket.timeout)):
            suite_of(f"{old}:@SECLEVEL=0")


def test_a_handshake_that_does_not_come_and_an_old_protocol_are_cut(place: Place) -> None:
    started = time.monotonic()
    with place.server.connect() as line:
        line.sendall(b"\x16\x03\x01")
        assert received(line)[0] == 0
    assert time.monotonic() - started >= 0.4
    context = ssl.create_default_context(cafile=str(place.world.folder / "tls" / "ca.pem"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        place.connect(context)


def test_who_does_not_read_the_answer_is_cut_off_behind_tls_too(place: Place) -> None:
    path = f"/v1/plans/{place.world.plan.id}/models/{place.world.plan.study.model.initial_model}"
    (place.folder / "reader.pem").write_bytes(place.pki.pair("hospital-1"))
    context = ssl.create_default_context(cafile=str(place.world.folder / "tls" / "ca.pem"))
    context.load_cert_chain(place.folder / "reader.pem")
    proof = sign_request(place.world.identities[0], "GET", path, b"").headers()
    head = [f"GET {path} HTTP/1.1", "Host: here", *(f"{k}: {v}" for k, v in proof.items()), "", ""]
    with place.connect(context) as line:
        line.sendall("\r\n".join(head).encode())
        assert line.recv(100).startswith(b"HTTP/1.1 200")
        while place.server.holds(line):
            time.sleep(0.05)
        with contextlib.suppress(OSError):
            assert len(received(line)[1]) < 29 * 2**20


def test_a_node_gets_a_certificate_uses_it_and_renews_it_without_a_break(
    place: Place, tmp_path: Path
) -> None:
    node = node_of(place, tmp_path / "node")

    async def scene() -> list[bytes]:
        pairs = []
        async with Transport(node.settings.aggregator, node.authority, place.world.identities[0]) as line:
            with pytest.raises(AggregatorProblem) as refused:
                await line.offers()
            assert refused.value.code == "wrong-certificate"
            for _ in range(2):
                await get_certificate(node, line)
                pairs.append((node.folder / CLIENT_PAIR).read_bytes())
                async with Transport(
                    node.settings.aggregator, node.authority, place.world.identities[0]
                ) as fresh:
                    assert len((await fresh.offers()).offers) == 1
        return pairs

    first, second = asyncio.run(scene())
    assert first != second
    assert (node.folder / CLIENT_PAIR).stat().st_mode & 0o777 == 0o600
    loaded = x509.load_pem_x509_certificate(first)
    assert (loaded.not_valid_after_utc - loaded.not_valid_before_utc).days == 30
    assert not due(first, now() + 19 * DAY)
    assert due(first, now() + 20 * DAY)
    assert not due(place.pki.pair("hospital-1"), now() + 300 * DAY)  # another PKI's is not ours to renew


def test_a_revoked_hospital_is_refused_whatever_certificate_it_has(place: Place) -> None:
    pair = place.pki.pair("hospital-3")
    assert place.get(pair, "/v1/plans", index=2)[0] == 200
    elsewhere = Store(place.world.database, place.world.admin)
    elsewhere.register.revoke("hospital-3", now=1.0)
    elsewhere.close()
    status, answer = place.get(pair, "/v1/plans", index=2)
    assert status == 403
    assert b"urn:medveil:revoked" in answer


def test_only_a_whole_request_for_a_key_of_the_right_kind_is_signed_and_for_the_senders_name(
    tmp_path: Path,
) -> None:
    make_nodes_authority(tmp_path)
    before = (tmp_path / "nodes-ca.pem").read_bytes()
    make_nodes_authority(tmp_path)
    assert (tmp_path / "nodes-ca.pem").read_bytes() == before
    assert (tmp_path / "nodes-ca.key").stat().st_mode & 0o777 == 0o600

    def request(key: Any, algorithm: Any = hashes.SHA256()) -> bytes:
        built = x509.CertificateSigningRequestBuilder().subject_name(common("somebody-else"))
        return bytes(built.sign(key, algorithm).public_bytes(serialization.Encoding.DER))

    good = request(ec.generate_private_key(ec.SECP256R1()))
    signed = x509.load_pem_x509_certificate(sign_node_certificate(tmp_path, good, "hospital-1"))
    authority = x509.load_pem_x509_certificate(before)
    signed.verify_directly_issued_by(authority)
    assert signed.subject == common("hospital-1")
    assert list(signed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [CLIENT]
    assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    tampered = good[:-1] + bytes([good[-1] ^ 1])
    others = (
        request(rsa.generate_private_key(65537, 2048)),
        request(ec.generate_private_key(ec.SECP384R1())),
        request(ed25519.Ed25519PrivateKey.generate(), None),
    )
    for bad in (b"", b"x", good[:-5], good + b"x", tampered, *others):
        with pytest.raises(BadCertificateRequest):
            sign_node_certificate(tmp_path, bad, "hospital-1")


def test_the_names_of_a_certificate_are_its_common_name_and_dns_names() -> None:
    shown = {
        "subject": ((("countryName", "CH"),), (("commonName", "a"),)),
        "subjectAltName": (("DNS", "b"), ("IP Address", "192.0.2.1")),
    }
    assert names_in(shown) == {"a", "b"}
    assert names_in({}) == names_in(None) == frozenset()
