"""Whether a received instance is what was asked for. Nothing of it is on any disk yet."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from pydicom.dataset import Dataset

from hospital_node.pacs.lists import OptedOut
from hospital_node.pacs.peer import Series
from hospital_node.pacs.problems import AnotherPatient, AnotherSeries, NoPatient, NotDicom
from hospital_node.pacs.problems import OptedOut as Refused
from medveil_imaging.sources.dicom.header import parse
from medveil_imaging.sources.dicom.identity import patient_mark
from medveil_imaging.sources.dicom.layout import Elements, elements_of, value_of
from medveil_imaging.sources.raw import Unusable, quiet

ASKED = (0x00080005, 0x00080050, 0x00100020, 0x00100021, 0x0020000D, 0x0020000E)
"""Letters, accession number, patient, who gave the patient's number, examination, series."""
INSTANCE, PIXELS = 0x00080018, 0x7FE00010
UID = re.compile(rb"[0-9.]{1,64}")
PICTURES = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True)
class Admitted:
    """An instance that may come in, and whose it is."""

    uid: str = field(repr=False)
    patient: str = field(repr=False)


class Admission:
    """The door for the instances of one series.

    Args:
        asked: the series, as the PACS told of it.
    """

    def __init__(self, asked: Series, opted_out: OptedOut) -> None:
        self._asked, self._opted_out = asked, opted_out
        self._known: set[str] = set()
        self._first: tuple[Elements, Admitted] | None = None

    def admitted(self, data: bytes) -> Admitted:
        """Look at one instance.

        Guarantees: it is a DICOM file with a picture, of the series, examination and patient that were asked
            for (of one patient, if the PACS named none), whose own header names a patient who has not said
            no; and it has not come before.
        Raises: NotDicom, AnotherSeries, AnotherPatient, NoPatient, OptedOut.
        """
        elements = elements_of(data)
        one = self._like_the_first(elements)
        if one is None:
            one = self._looked_at(data)
            if elements is not None and self._first is None:
                self._first = elements, one
        if not one.uid or one.uid in self._known:
            raise NotDicom(reason="an image has no number of its own, or came twice.")
        if self._asked.patient and one.patient != self._asked.patient:
            raise AnotherPatient()
        self._asked = replace(self._asked, patient=one.patient)
        self._known.add(one.uid)
        return one

    @property
    def count(self) -> int:
        """Instances that may come in."""
        return len(self._known)

    @property
    def patient(self) -> str:
        """The number of the patient whose series it is."""
        return self._asked.patient

    def _like_the_first(self, elements: Elements | None) -> Admitted | None:
        """An instance that says the same as the first, byte for byte, wherever one was asked."""
        if elements is None or self._first is None:
            return None
        before, one = self._first
        if (
            any(elements.rest.get(tag) != before.rest.get(tag) for tag in ASKED)
            or PIXELS not in elements.rest
        ):
            return None
        uid = value_of(elements.rest.get(INSTANCE, b""))
        return Admitted(uid.decode("ascii"), one.patient) if UID.fullmatch(uid) else None

    def _looked_at(self, data: bytes) -> Admitted:
        if data[128:132] != b"DICM":
            raise NotDicom(reason="it does not begin as a DICOM file does.")
        try:
            with quiet():
                header, _ = parse(data)
                uids = [text_of(header, name) for name in ("StudyInstanceUID", "SeriesInstanceUID")]
                patient, accession = text_of(header, "PatientID"), text_of(header, "AccessionNumber")
                named, uid = patient_mark(header) is not None, text_of(header, "SOPInstanceUID")
                pictured = any(name in header for name in PICTURES)
        except Unusable as error:
            raise NotDicom(reason=error.what) from error
        except Exception as error:  # the library raises nearly everything on damaged files
            raise NotDicom(reason="its header is damaged or contradicts itself.") from error
        if uids != [self._asked.examination, self._asked.uid]:
            raise AnotherSeries()
        if not named:
            raise NoPatient()
        if self._asked.patient and patient != self._asked.patient:
            raise AnotherPatient()
        if self._opted_out.names(patient=patient, accession=accession):
            raise Refused()
        if not pictured:
            raise NotDicom(reason="it holds no picture.")
        return Admitted(uid, patient)


def text_of(header: Dataset, name: str) -> str:
    """An element as text without padding; empty where there is none."""
    return str(header.get(name) or "").strip(" \0")
