"""The bytes of a DICOM file → the bytes of a clean one, with a new preamble and new file meta information."""

from __future__ import annotations

import hashlib
import io

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from medveil_imaging.deidentification.datasets import Deidentified, Options, deidentified
from medveil_imaging.deidentification.pseudonyms import WELL_KNOWN, Pseudonyms
from medveil_imaging.sources.dicom.header import begins_like_dicom, parse
from medveil_imaging.sources.raw import Unusable, quiet

WRITER = UID("2.25.270695996208404427912706011640513110512")
"""Of everything that is written here, whichever node it is."""
NAME = "MEDVEIL"


def deidentified_file(
    data: bytes, pseudonyms: Pseudonyms, options: Options | None = None
) -> tuple[bytes, Deidentified]:
    """A whole file. What stood in the preamble, in the file meta group and behind the data set is gone.

    The way of storing (transfer syntax) stays, so the pixels are not compressed anew.

    Raises:
        Unusable: it is no DICOM file, it cannot be read, or as :func:`deidentified`.
    """
    with quiet():
        try:
            if not begins_like_dicom(data):
                raise Unusable("unknown-format", "This is no DICOM file.", "Give DICOM files only.")
            header, _ = parse(data)
            clean = deidentified(header, pseudonyms, options)
            return _written(header, clean.dataset, pseudonyms), clean
        except Unusable:
            raise
        except Exception as error:  # the library raises nearly everything on damaged files
            raise Unusable(
                "unreadable-image", "The file is damaged or contradicts itself.", "Export it again."
            ) from error


def _written(header: Dataset, clean: Dataset, pseudonyms: Pseudonyms) -> bytes:
    if not clean.get("SOPInstanceUID"):
        told = header.file_meta.get("MediaStorageSOPInstanceUID") or _digest(header)
        clean.SOPInstanceUID = UID(pseudonyms.uid(str(told)))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _class_of(header)
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    meta.TransferSyntaxUID = _syntax_of(header)
    meta.ImplementationClassUID, meta.ImplementationVersionName = WRITER, NAME
    file = FileDataset("", clean, preamble=b"\0" * 128, file_meta=meta)
    file.set_original_encoding(*header.original_encoding, header.original_character_set)
    out = io.BytesIO()
    dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()


def _digest(header: Dataset) -> str:
    """Of a file without a UID: what its pixels are."""
    element = header.get_item("PixelData")
    return hashlib.sha256(bytes(element.value or b"") if element is not None else b"").hexdigest()


def _class_of(header: Dataset) -> UID:
    for told in (header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")):
        if told and WELL_KNOWN.fullmatch(str(told)):
            return UID(str(told))
    return SecondaryCaptureImageStorage


def _syntax_of(header: Dataset) -> UID:
    """As the header says, unless the data set turned out to be written otherwise."""
    said = UID(header.file_meta.TransferSyntaxUID)
    implicit, little = header.original_encoding
    if (said.is_implicit_VR, said.is_little_endian) == (implicit, little):
        return said
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
