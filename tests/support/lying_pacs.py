"""A small PACS over plain HTTP that answers wrongly where it is told to, and remembers what it was asked."""

from __future__ import annotations

import datetime as dt
import http.server
import io
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dicom_files import header_of, picture, save

BOUNDARY = "part-of-it"
LOGIN_PAGE = b"<!doctype html><title>Please log in</title>"


@dataclass
class Shelved:
    """One series of one examination, and what is wrong with its answers."""

    number: int
    patient: str
    accession: str
    files: list[bytes]
    fault: str = ""
    modality: str = "CR"
    description: str = "Chest frontal"
    day: str = "20240131"
    told: int | None = None
    """How many instances it says it has; the truth if left out."""
    given: list[int] = field(default_factory=list)
    """How many instances each answer had."""

    @property
    def examination(self) -> str:
        return f"1.2.9.{self.number}"

    @property
    def uid(self) -> str:
        return f"1.2.9.{self.number}.1"


def instance(number: int, index: int, **tags: Any) -> bytes:
    """A film of the series with this number; each has pixels of its own."""
    told: dict[str, Any] = {
        "StudyInstanceUID": f"1.2.9.{number}",
        "SeriesInstanceUID": f"1.2.9.{number}.1",
        "SOPInstanceUID": f"1.2.9.{number}.1.{index + 1}",
        "PatientID": f"PAT{number:03}",
        "AccessionNumber": f"ACC{number:03}",
        "StudyDate": "20240131",
    }
    header = header_of(picture(top=3000 + 7 * number + index), **(told | tags))
    with tempfile.TemporaryDirectory() as folder:
        return save(Path(folder) / "one.dcm", header).read_bytes()


def shelved(number: int, count: int = 1, fault: str = "", **given: Any) -> Shelved:
    """A series of ``count`` films of patient PAT00n under accession number ACC00n."""
    files = [instance(number, index) for index in range(count)]
    return Shelved(number, f"PAT{number:03}", f"ACC{number:03}", files, fault, **given)


class LyingPacs:
    """The server; ``shelf`` may be changed while it runs."""

    def __init__(
        self, shelf: list[Shelved], *, password: str = "", certificate: ssl.SSLContext | None = None
    ):
        self.shelf, self.password = shelf, password
        self.asked: list[tuple[str, str, str]] = []
        """Method, path and Authorization of each request."""
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if certificate is not None:
            self._server.socket = certificate.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://localhost:{self._server.server_address[1]}/dicom-web"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, str, list[bytes], bool]:
        """Status, type, pieces of the body, and whether to end as if all was sent."""
        match path.removeprefix("/dicom-web").strip("/").split("/"):
            case ["studies"]:
                wanted = query.get("AccessionNumber", [""])[0]
                begin = int(query.get("offset", ["0"])[0])
                rows = [_study(s) for s in self.shelf if wanted in ("", s.accession)]
                return 200, "application/dicom+json", [json.dumps(rows[begin:]).encode()], True
            case ["studies", examination, "series"]:
                rows = [_series(s) for s in self.shelf if s.examination == examination]
                return 200, "application/dicom+json", [json.dumps(rows).encode()], True
            case ["studies", _, "series", uid]:
                return self._images(next(s for s in self.shelf if s.uid == uid))
        return 404, "text/plain", [b"no"], True

    def _images(self, series: Shelved) -> tuple[int, str, list[bytes], bool]:
        files, fault = list(series.files), series.fault
        series.given.append(len(files))
        if fault == "html":
            return 200, "text/html; charset=utf-8", [LOGIN_PAGE], True
        if fault == "redirect":
            return 302, "text/plain", [b""], True
        if fault == "broken":
            return 500, "text/plain", [b"PAT001 is broken"], True
        if fault == "another-patient":
            files[-1] = instance(series.number, len(files) - 1, PatientID="SOMEBODY")
        if fault == "another-series":
            files[-1] = instance(series.number, len(files) - 1, SeriesInstanceUID="1.2.3.4")
        if fault == "nobody":
            files[-1] = instance(series.number, len(files) - 1, PatientID="")
        if fault == "not-dicom":
            files[-1] = b"this is no image" * 100
        if fault == "spoiled":
            files[-1] = files[-1][:-500]
        if fault in ("grows", "grows-once"):
            series.files.append(instance(series.number, len(series.files)))
            series.fault = fault.replace("grows-once", "")
        body = io.BytesIO()
        for file in files:
            body.write(f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file + b"\r\n")
        body.write(f"--{BOUNDARY}--\r\n".encode())
        data = body.getvalue()
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        if fault in ("stops", "stops-quietly"):
            return 200, kind, [data[: len(data) // 2]], fault == "stops-quietly"
        return 200, kind, [data], True


def _handler(pacs: LyingPacs) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = self.headers.get("Authorization", "")
            pacs.asked.append((self.command, self.path, told))
            if pacs.password and told != pacs.password:
                self.send_response(401)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            parts = urlsplit(self.path)
            status, kind, pieces, ended = pacs.answer(parts.path, parse_qs(parts.query))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            size = sum(map(len, pieces))
            self.send_header("Content-Length", str(size if ended else 2 * size))
            self.end_headers()
            self.wfile.writelines(pieces)

        def log_message(self, *_: object) -> None:
            pass

    Handler.do_POST = Handler.do_PUT = Handler.do_DELETE = Handler.do_GET  # type: ignore[attr-defined]
    return Handler


def _value(kind: str, *values: object) -> dict[str, object]:
    return {"vr": kind, "Value": list(values)}


def _study(series: Shelved) -> dict[str, object]:
    return {
        "0020000D": _value("UI", series.examination),
        "00100020": _value("LO", series.patient),
        "00080050": _value("SH", series.accession),
        "00080020": _value("DA", series.day),
    }


def _series(series: Shelved) -> dict[str, object]:
    return {
        "0020000E": _value("UI", series.uid),
        "00080060": _value("CS", series.modality),
        "0008103E": _value("LO", series.description),
        "00201209": _value("IS", len(series.files) if series.told is None else series.told),
    }


@contextmanager
def lying(shelf: list[Shelved], **given: Any) -> Iterator[LyingPacs]:
    """A server with these series."""
    server = LyingPacs(shelf, **given)
    try:
        yield server
    finally:
        server.close()


def certificate(folder: Path, *, days: int) -> tuple[ssl.SSLContext, Path]:
    """A server's certificate for localhost that ends in so many days, and the file that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a hospital's PACS")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=400))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, secret = folder / "authority.pem", folder / "server.key"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    no_password = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(pem, form, no_password))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    return context, authority
