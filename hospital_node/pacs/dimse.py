"""A PACS that speaks DIMSE: C-ECHO, C-FIND and C-GET (PS3.4). It needs the extra ``dimse``.

C-GET sends instances over the association that this node has opened, so nothing listens here. This side only
takes them: no storage class is ever offered as a sender.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydicom.dataset import Dataset

from hospital_node.pacs.admission import text_of
from hospital_node.pacs.peer import Examination, Query, Series
from hospital_node.pacs.problems import (
    DimseMissing,
    NotAPacs,
    PacsBusy,
    PacsCertificate,
    PacsLacks,
    PacsLogin,
    PacsUnreachable,
    SeriesIncomplete,
    SeriesTooLarge,
)
from hospital_node.pacs.throttle import Throttle
from medveil.errors import BadOption, Error
from medveil.muted import muted
from medveil_imaging.sources.raw import quiet

try:
    from pynetdicom import AE, _config, evt
    from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
    from pynetdicom.presentation import build_role
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelFind as FIND,
    )
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelGet as GET,
    )
    from pynetdicom.sop_class import (
        Verification,
    )

    _config.LOG_HANDLER_LEVEL = "none"  # nothing of it is logged, and what it writes fails at odd answers
except ImportError:  # the extra is not installed; who asks is told so by name
    AE = None

TIMEOUT_S, HANDSHAKE_S = 60.0, 5.0
TLS_PORT = 2762
"""The port of DICOM over TLS by the standard."""
MOST_SERIES = 2**32
"""Bytes of one series, which wait in memory until they are taken."""
PENDING = (0xFF00, 0xFF01)
SERVICES = {
    "1.2.840.10008.1.1": "C-ECHO",
    "1.2.840.10008.5.1.4.1.2.2.1": "C-FIND",
    "1.2.840.10008.5.1.4.1.2.2.3": "C-GET",
}
TRANSIENT, BY_PRESENTATION = 2, 3
"""Of a rejection (PS3.8, table 9-21): its result, and its source where the line itself has no room."""
ENDED = "it ended the association"
REASONS = {3: "it does not know this node's title", 7: "it has another title than the address says"}
PICTURES = (  # what is fetched: an association has room for 128 kinds of objects in all
    "1.2.840.10008.5.1.4.1.1.1",  # computed radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # digital x-ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.2",  # mammography
    "1.2.840.10008.5.1.4.1.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.1.3",  # intra-oral
    "1.2.840.10008.5.1.4.1.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.12.1",  # x-ray angiography
    "1.2.840.10008.5.1.4.1.1.12.2",
    "1.2.840.10008.5.1.4.1.1.128",  # PET
    "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",
)
SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.5",
)


class Dimse:
    """See :class:`hospital_node.pacs.peer.Pacs`.

    Args:
        address: ``dimse://TITLE@host:port``; ``dimse-tls:`` for one that is encrypted (PS3.15 B.12).
        title: this node's own title, as the PACS knows it.
        authority: certificates that may vouch for the PACS, in place of the system's.
        certificate: this node's own with its key (PEM), for a PACS that asks for one.
    """

    def __init__(
        self,
        address: str,
        *,
        title: str,
        throttle: Throttle | None = None,
        authority: Path | None = None,
        certificate: Path | None = None,
    ) -> None:
        if AE is None:
            raise DimseMissing()
        parts = urlsplit(address)
        try:
            encrypted = parts.scheme == "dimse-tls"
            port = parts.port or (TLS_PORT if encrypted else 104)
            self._host, self._port, self._theirs = parts.hostname, port, parts.username
        except ValueError as error:
            raise BadOption(problem="the address's port is none") from error
        if not self._host or not self._theirs:
            raise BadOption(problem="a DIMSE address is written like dimse://TITLE@pacs.example.org:104")
        self._title, self._throttle = title, throttle or Throttle()
        self._tls = _context(authority, certificate) if encrypted else None

    def check(self) -> None:
        """C-ECHO."""
        with self._associated([Verification]) as line:
            status = line.send_c_echo()
            if not status or status.Status != 0:
                raise PacsUnreachable(reason="it did not answer an echo")

    def examinations(self, query: Query, accession: str | None = None) -> Iterator[Examination]:
        """C-FIND at the level of studies."""
        asked = _identifier("STUDY", "StudyInstanceUID PatientID StudyDescription ModalitiesInStudy".split())
        asked.StudyDate, asked.AccessionNumber = query.days, accession or ""
        asked.ModalitiesInStudy = query.modality.upper()
        for told in self._find(asked):
            yield Examination(
                uid=text_of(told, "StudyInstanceUID"),
                patient=text_of(told, "PatientID"),
                accession=text_of(told, "AccessionNumber"),
                day=text_of(told, "StudyDate"),
                description=text_of(told, "StudyDescription"),
            )

    def series_of(self, examination: Examination) -> Sequence[Series]:
        """C-FIND at the level of series."""
        return self._series(examination.uid, "")

    def count(self, series: Series) -> int:
        """By the index; where that does not say, by the instances that it lists."""
        for one in self._series(series.examination, series.uid):
            if one.uid == series.uid and one.count is not None:
                return one.count
        asked = _identifier("IMAGE", ["SOPInstanceUID"])
        asked.StudyInstanceUID, asked.SeriesInstanceUID = series.examination, series.uid
        return len(self._find(asked))

    def instances(self, series: Series) -> Iterator[bytes]:
        """C-GET of one series; the other side waits while an instance is looked at."""
        asked = _identifier("SERIES", [])
        asked.StudyInstanceUID, asked.SeriesInstanceUID = series.examination, series.uid
        came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        total, too_large = 0, threading.Event()

        def take(event: Any) -> int:
            nonlocal total
            data = _file(event)
            total += len(data)
            if total > MOST_SERIES:
                too_large.set()
                return 0xA700  # out of resources: the PACS ends
            self._throttle.took(len(data))
            came.put(data)
            return 0x0000

        roles = [build_role(kind, scp_role=True) for kind in PICTURES]
        with self._associated([GET], PICTURES, roles, [(evt.EVT_C_STORE, take)]) as line:
            for status, _ in line.send_c_get(asked, GET):
                if too_large.is_set():
                    line.abort()
                    raise SeriesTooLarge(limit=f"{MOST_SERIES // 2**30} GiB")
                yield from _all_of(came)
                if not status or "Status" not in status:
                    raise PacsUnreachable(reason="it stopped in the middle of a series")
                if status.Status not in (0, *PENDING):
                    missing = int(status.get("NumberOfFailedSuboperations") or 0)
                    done = int(status.get("NumberOfCompletedSuboperations") or 0)
                    raise SeriesIncomplete(came=done, told=done + missing)
            yield from _all_of(came)

    def _shake_hands(self) -> None:
        """Find out why nothing came about over TLS: the library does not say. Raises: PacsCertificate,
        PacsUnreachable."""
        if self._tls is None:
            return
        try:
            with (
                socket.create_connection((self._host or "", self._port), HANDSHAKE_S) as plain,
                self._tls.wrap_socket(plain, server_hostname=self._host) as line,
            ):
                line.settimeout(HANDSHAKE_S)
                line.recv(1)  # in TLS 1.3 a refusal of this node's certificate comes with the first answer
        except ssl.SSLCertVerificationError as error:
            raise PacsCertificate(reason=error.verify_message) from error
        except ssl.SSLError as error:
            asked = "CERTIFICATE" in str(error.reason) or "UNKNOWN_CA" in str(error.reason)
            why = "it wants a certificate of this node that it knows" if asked else "it speaks no TLS"
            raise PacsUnreachable(reason=why) from error
        except OSError:
            return  # as it is said of a port where nobody answers

    def close(self) -> None:
        """Nothing: each question has an association of its own."""

    def _series(self, examination: str, uid: str) -> list[Series]:
        wanted = "Modality BodyPartExamined SeriesDescription NumberOfSeriesRelatedInstances".split()
        asked = _identifier("SERIES", wanted)
        asked.StudyInstanceUID, asked.SeriesInstanceUID = examination, uid
        return [
            Series(
                examination=examination,
                uid=text_of(told, "SeriesInstanceUID"),
                modality=text_of(told, "Modality").upper(),
                body_part=text_of(told, "BodyPartExamined"),
                description=text_of(told, "SeriesDescription"),
                count=_number(told),
            )
            for told in self._find(asked)
        ]

    def _find(self, asked: Dataset) -> list[Dataset]:
        found = []
        with self._associated([FIND]) as line:
            for status, told in line.send_c_find(asked, FIND):
                if not status or "Status" not in status:
                    raise PacsUnreachable(reason="it stopped in the middle of a list")
                if status.Status in PENDING and told is not None:
                    found.append(told)
                elif status.Status != 0:
                    raise NotAPacs(reason=f"it refused a question with status {status.Status:04X}")
        return found

    @contextmanager
    def _associated(
        self, kinds: Sequence[str], pictures: Sequence[str] = (), roles: Any = None, handlers: Any = None
    ) -> Iterator[Any]:
        """An association, released at the end. Raises: PacsUnreachable, PacsLogin, PacsBusy, PacsLacks."""
        heard: list[Error | None] = []

        def hear(event: Any) -> None:
            if not heard:
                heard.append(_refusal(event.pdu))

        entity = AE(ae_title=self._title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        entity.connection_timeout = TIMEOUT_S
        for kind in kinds:
            entity.add_requested_context(kind)
        for kind in pictures:
            entity.add_requested_context(kind, list(SYNTAXES))
        with muted("pynetdicom", "pynetdicom.assoc", "pynetdicom.acse"), quiet():
            line = entity.associate(
                self._host,
                self._port,
                ae_title=self._theirs,
                ext_neg=roles,
                evt_handlers=[(evt.EVT_PDU_RECV, hear), *(handlers or [])],
                tls_args=None if self._tls is None else (self._tls, self._host),
            )
            try:
                # What was answered counts, not what the library makes of it: its one thread may have closed
                # the line after a rejection before the other looks, which takes it for one that never was.
                if heard and heard[0] is not None:
                    raise heard[0]
                done = {str(one.abstract_syntax) for one in line.accepted_contexts}
                if (done or line.rejected_contexts) and not done.issuperset(kinds):
                    raise PacsLacks(services=[SERVICES[kind] for kind in kinds if kind not in done])
                if not line.is_established:
                    if heard:
                        raise PacsUnreachable(reason=ENDED)
                    self._shake_hands()
                    raise PacsUnreachable(reason="no association came about")
                yield line
            except RuntimeError as error:
                if line.is_established:
                    raise
                raise PacsUnreachable(reason=ENDED) from error
            finally:
                with suppress(RuntimeError):
                    line.release() if line.is_established else line.abort()
                left = line.dul.socket and line.dul.socket.socket
                if left is not None:
                    left.close()  # the library leaves it open where the handshake failed


def _refusal(answer: Any) -> Error | None:
    """What the first answer to a question for an association says against it."""
    if isinstance(answer, A_ABORT_RQ):
        return PacsUnreachable(reason="it broke the association off before it began")
    if not isinstance(answer, A_ASSOCIATE_RJ):
        return None
    result, source, reason = answer.result, answer.source, answer.reason_diagnostic
    # The library's thread dies of numbers that are in no table, and whoever waits for it waits a minute.
    answer.result, answer.source, answer.reason_diagnostic = 1, 1, 1
    if result == TRANSIENT or source == BY_PRESENTATION:
        return PacsBusy()
    unsaid = "it does not say why; it may not know one of the two titles, or this machine"
    return PacsLogin(reason=REASONS.get(reason, unsaid) if source == 1 else unsaid)


def _context(authority: Path | None, certificate: Path | None) -> ssl.SSLContext:
    """Raises: BadOption: a file is none of certificates, or lacks its key."""
    try:
        context = ssl.create_default_context(cafile=None if authority is None else str(authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        raise BadOption(
            problem="what --pacs-ca or --pacs-certificate names is no file of certificates (and key)"
        ) from error
    return context


def _identifier(level: str, empty: Sequence[str]) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for name in empty:
        setattr(asked, name, "" if name != "NumberOfSeriesRelatedInstances" else None)
    return asked


def _number(told: Dataset) -> int | None:
    text = text_of(told, "NumberOfSeriesRelatedInstances")
    return int(text) if text.isascii() and text.isdigit() else None


def _file(event: Any) -> bytes:
    """The instance as a DICOM file, its data set as it came over the line."""
    data: bytes = event.encoded_dataset()
    return data


def _all_of(came: queue.SimpleQueue[bytes]) -> Iterator[bytes]:
    while True:
        try:
            yield came.get_nowait()
        except queue.Empty:
            return
