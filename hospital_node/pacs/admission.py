"""One received instance → its data set, if it is what was asked for. Nothing of it is on any disk yet."""

from __future__ import annotations

from collections.abc import Collection

from pydicom.dataset import Dataset

from hospital_node.pacs.lists import OptedOut
from hospital_node.pacs.peer import Series
from hospital_node.pacs.problems import AnotherPatient, AnotherSeries, NoPatient, NotDicom
from hospital_node.pacs.problems import OptedOut as Refused
from medveil_imaging.sources.dicom.header import parse
from medveil_imaging.sources.dicom.identity import patient_mark
from medveil_imaging.sources.raw import Unusable, quiet

PICTURES = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def admitted(data: bytes, asked: Series, opted_out: OptedOut, known: Collection[str] = ()) -> Dataset:
    """The data set of one instance.

    Guarantees: it is a DICOM file with a picture, of the series, examination and patient that were asked for,
        whose own header names a patient who has not said no, and is none of ``known``.
    Args:
        known: SOPInstanceUIDs that came before it.
    Raises: NotDicom, AnotherSeries, AnotherPatient, NoPatient, OptedOut.
    """
    if data[128:132] != b"DICM":
        raise NotDicom(reason="it does not begin as a DICOM file does.")
    try:
        with quiet():
            header, _ = parse(data)
            uids = [text_of(header, name) for name in ("StudyInstanceUID", "SeriesInstanceUID")]
            patient, accession = text_of(header, "PatientID"), text_of(header, "AccessionNumber")
            named, instance = patient_mark(header) is not None, text_of(header, "SOPInstanceUID")
            pictured = any(name in header for name in PICTURES)
    except Unusable as error:
        raise NotDicom(reason=error.what) from error
    except Exception as error:  # the library raises nearly everything on damaged files
        raise NotDicom(reason="its header is damaged or contradicts itself.") from error
    if uids != [asked.examination, asked.uid]:
        raise AnotherSeries()
    if not named:
        raise NoPatient()
    if asked.patient and patient != asked.patient:
        raise AnotherPatient()
    if opted_out.names(patient=patient, accession=accession):
        raise Refused()
    if not pictured:
        raise NotDicom(reason="it holds no picture.")
    if not instance or instance in known:
        raise NotDicom(reason="an image has no number of its own, or came twice.")
    return header


def text_of(header: Dataset, name: str) -> str:
    """An element as text without padding; empty where there is none."""
    return str(header.get(name) or "").strip(" \0")
