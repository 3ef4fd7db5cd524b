"""A PACS that speaks DICOMweb: QIDO-RS to look, WADO-RS by series to fetch (PS3.18). Only GET is sent."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient

from hospital_node.pacs.peer import Examination, Query, Series
from hospital_node.pacs.problems import (
    NotAPacs,
    PacsCertificate,
    PacsLogin,
    PacsUnreachable,
    SeriesTooLarge,
)
from hospital_node.pacs.throttle import Throttle
from medveil.errors import Error
from medveil.identity import Secret
from medveil.muted import muted
from medveil.reachability import why

PAGE = 500
MOST_JSON = 2**26
"""Longest answer to a question."""
MOST_INSTANCE = 2**30
MOST_SERIES = 2**34
HEAD = 4096
"""Longest head of one part of an answer."""
TIMEOUT_S = (10.0, 60.0)
LOOKING = ("PatientID", "AccessionNumber", "StudyDate", "StudyDescription")
LOOKING_AT_SERIES = tuple(
    "Modality BodyPartExamined SeriesDescription NumberOfSeriesRelatedInstances".split()
)
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
REFUSED = {
    401: "user or password is wrong",
    403: "this user may not do that",
    407: "the proxy wants a password",
}
UID = re.compile(r"[0-9.]{1,64}")


class _Session(requests.Session):  # type: ignore[misc]
    """A session that takes nothing from the environment, sends GET only, and reads no endless answer."""

    def __init__(self, throttle: Throttle) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Accept-Encoding"] = "identity"  # packed answers are slow to make, and bombs to unpack
        self._throttle = throttle

    def send(self, request: requests.PreparedRequest, **given: Any) -> requests.Response:
        """As the library's, of answers that are not streamed at most 64 MiB."""
        if request.method != "GET":
            raise NotImplementedError("nothing is ever written to a PACS")
        streamed = bool(given.get("stream"))
        given |= {"stream": True, "allow_redirects": False}
        answer = super().send(request, **given)
        if answer.is_redirect:
            answer.close()
            raise NotAPacs(reason="it leads to another address")
        if not streamed:
            data = bytearray()
            for piece in self.pieces(answer):
                data += piece
                if len(data) > MOST_JSON:
                    answer.close()
                    raise NotAPacs(reason="an answer takes no end")
            answer._content = bytes(data)
        return answer

    def pieces(self, answer: requests.Response) -> Iterator[bytes]:
        """The body as it comes over the line, no faster than allowed."""
        for piece in answer.iter_content(self._throttle.piece):
            self._throttle.took(len(piece))
            yield piece


class DicomWeb:
    """See :class:`hospital_node.pacs.peer.Pacs`.

    Args:
        url: where QIDO-RS and WADO-RS begin, e.g. ``https://pacs.example.org/dicom-web``.
        login: user and password, for HTTP's basic authentication.
        authority: certificates (PEM) of the hospital's own authority; the system's without it.
        proxy: address of a proxy; what the environment says of one is never followed.
    """

    def __init__(
        self,
        url: str,
        *,
        login: tuple[str, Secret] | None = None,
        authority: Path | None = None,
        proxy: str = "",
        throttle: Throttle | None = None,
    ) -> None:
        self._session = _Session(throttle or Throttle())
        if login is not None:
            self._session.auth = (login[0].encode(), login[1].reveal())
        if authority is not None:
            self._session.verify = str(authority)
        if proxy:
            self._session.proxies = {"http": proxy, "https": proxy}
        self._url = url.rstrip("/")
        self._client = DICOMwebClient(
            self._url, session=self._session, timeout=TIMEOUT_S, permissive_uid=True
        )
        self._client.set_http_retry_params(retry=False)

    def check(self) -> None:
        """One question that any PACS can answer."""
        with _named():
            self._client.search_for_studies(limit=1)

    def examinations(self, query: Query, accession: str | None = None) -> Iterator[Examination]:
        """Page by page; a PACS that sends a page twice is not followed for ever."""
        filters: dict[str, str] = {"AccessionNumber": accession} if accession is not None else {}
        if query.days:
            filters["StudyDate"] = query.days
        if query.modality:
            filters["ModalitiesInStudy"] = query.modality.upper()
        seen: set[str] = set()
        while True:
            with _named():
                page = self._client.search_for_studies(
                    fields=list(LOOKING), search_filters=filters, limit=PAGE, offset=len(seen)
                )
            new = [one for one in map(_examination, _rows(page)) if one.uid not in seen]
            seen |= {one.uid for one in new}
            yield from new
            if len(page) < PAGE or not new:
                return

    def series_of(self, examination: Examination) -> Sequence[Series]:
        """All in one answer."""
        with _named():
            told = self._client.search_for_series(examination.uid, fields=list(LOOKING_AT_SERIES))
        return [_series(row, examination.uid) for row in _rows(told)]

    def count(self, series: Series) -> int:
        """By the index; where that does not say, by the instances that it lists."""
        with _named():
            told = self._client.search_for_series(
                series.examination,
                fields=["NumberOfSeriesRelatedInstances"],
                search_filters={"SeriesInstanceUID": series.uid},
            )
            for row in _rows(told):
                number = _number(row, "00201209")
                if _text(row, "0020000E") == series.uid and number is not None:
                    return number
            return len(_rows(self._client.search_for_instances(series.examination, series.uid)))

    def instances(self, series: Series) -> Iterator[bytes]:
        """One answer for the whole series."""
        path = f"{self._url}/studies/{_uid(series.examination)}/series/{_uid(series.uid)}"
        with _named():
            answer = self._session.get(path, headers={"Accept": AS_STORED}, stream=True, timeout=TIMEOUT_S)
            with answer:
                answer.raise_for_status()
                kind = answer.headers.get("content-type", "")
                if kind.lower().startswith("application/dicom") and "json" not in kind.lower():
                    yield b"".join(_bounded(self._session.pieces(answer), MOST_INSTANCE))
                    return
                yield from parts(_bounded(self._session.pieces(answer), MOST_SERIES), boundary_in(kind))

    def close(self) -> None:
        """End every connection."""
        self._session.close()


def boundary_in(kind: str) -> bytes:
    """What stands between the parts of an answer of this Content-Type. Raises: NotAPacs."""
    found = re.search(r';\s*boundary="?([^";]{1,200})"?', kind, re.IGNORECASE)
    if not kind.lower().startswith("multipart/related") or not found:
        what = "a web page" if "html" in kind.lower() else "no DICOM"
        raise NotAPacs(reason=f"it sent {what} instead of images")
    return found[1].strip().encode("latin-1", "replace")


def parts(pieces: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    """The contents of a multipart answer (RFC 2046), one after the other, while it comes.

    Raises: PacsUnreachable: it ends before its end; NotAPacs; SeriesTooLarge.
    """
    mark = b"\r\n--" + boundary
    data, looked = bytearray(b"\r\n"), 0  # the first mark has no line before it
    begun = ended = False
    for piece in pieces:
        if ended:
            continue  # read to its end, so that the connection serves the next series
        data += piece
        while not ended:
            place = data.find(mark, looked)
            end = place + len(mark)
            if place < 0 or len(data) < end + 2:  # whether it is the last mark stands in the next two bytes
                looked = place if place >= 0 else max(0, len(data) - len(mark))
                break
            if begun:
                yield _content(bytes(data[:place]))
            ended = data[end : end + 2] == b"--"
            del data[:end]
            begun, looked = True, 0
        if len(data) > MOST_INSTANCE:
            raise SeriesTooLarge(limit="1 GiB in one image")
    if not ended:
        raise PacsUnreachable(reason="it stopped in the middle of a series")


def _content(part: bytes) -> bytes:
    place = part.find(b"\r\n\r\n", 0, HEAD)
    if place < 0:
        raise NotAPacs(reason="a part of its answer has no head")
    return part[place + 4 :]


def _bounded(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > most:
            raise SeriesTooLarge(limit=f"{most // 2**30} GiB")
        yield piece


@contextmanager
def _named() -> Iterator[None]:
    """What the HTTP client raises becomes one of our errors. No log line of a library gets out: they quote
    addresses with patients' numbers."""
    with muted("dicomweb_client", "urllib3", "requests"):
        try:
            yield
        except Error:
            raise
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in REFUSED:
                raise PacsLogin(reason=REFUSED[status]) from error
            raise PacsUnreachable(reason=f"it answered with status {status}") from error
        except requests.JSONDecodeError as error:
            raise NotAPacs(reason="it sent a page that is no DICOM JSON") from error
        except (requests.RequestException, OSError) as error:
            for cause in _causes(error):
                if isinstance(cause, ssl.SSLCertVerificationError):
                    raise PacsCertificate(reason=cause.verify_message) from error
            raise PacsUnreachable(reason=why(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotAPacs(reason="its answer has another form") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from (one for one in error.args if isinstance(one, BaseException))
        error = error.__cause__ or error.__context__


def _rows(page: object) -> list[Mapping[str, Any]]:
    if not isinstance(page, list) or not all(isinstance(row, Mapping) for row in page):
        raise NotAPacs(reason="its list has another form")
    return page


def _examination(row: Mapping[str, Any]) -> Examination:
    return Examination(
        uid=_uid(_text(row, "0020000D")),
        patient=_text(row, "00100020"),
        accession=_text(row, "00080050"),
        day=_text(row, "00080020"),
        description=_text(row, "00081030"),
    )


def _series(row: Mapping[str, Any], examination: str) -> Series:
    return Series(
        examination=examination,
        uid=_uid(_text(row, "0020000E")),
        modality=_text(row, "00080060").upper(),
        body_part=_text(row, "00180015"),
        description=_text(row, "0008103E"),
        count=_number(row, "00201209"),
    )


def _text(row: Mapping[str, Any], tag: str) -> str:
    """The first value of an element; empty without one. Raises: NotAPacs: it is neither text nor number."""
    values = row.get(tag, {}).get("Value") or [""]
    if not isinstance(values[0], str | int | float | None):
        raise NotAPacs(reason="its list has another form")
    return str(values[0] if values[0] is not None else "").strip(" \0")


def _number(row: Mapping[str, Any], tag: str) -> int | None:
    text = _text(row, tag)
    return int(text) if text.isascii() and text.isdigit() else None


def _uid(text: str) -> str:
    """A UID that may stand in an address. Raises: NotAPacs."""
    if not UID.fullmatch(text):
        raise NotAPacs(reason="it names something that is no UID")
    return text


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
