"""The header of a DICOM file: read with the slips that real archives hold, or refused by name.

Numbers are taken from an element's own bytes, so that a decimal comma, a wrong type or an empty element
spoils that element and not the file. No text of a header goes into an error.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from typing import Any, cast

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from medveil_imaging.sources.raw import MAX_FILE_BYTES, Note, Unusable

NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
BINARY = frozenset({"FD", "FL", "SL", "SS", "UL", "US", "US or SS", "US or OW"})
TYPES = frozenset(
    (b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OW PN SH SL SQ SS ST TM UC UI UL UN UR US UT").split()
)
FIRST_ELEMENTS = 0x20
"""A data set without a preamble begins with an element of group 0002 or 0008 below this number."""
NO_PREAMBLE = Note(
    "no-preamble",
    "The file lacks the preamble or the file meta group of DICOM; its first bytes told how it is stored.",
    "Look at the picture, or export it again.",
)
DECIMAL_COMMA = Note(
    "decimal-comma",
    "Numbers of the header are written with a comma, which was read as the decimal point.",
    "Check the voxel size in a viewer.",
)
WITH_COMMA = (
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
)


def begins_like_dicom(data: bytes) -> bool:
    """Whether bytes are a DICOM file, also without preamble or file meta group, as old exports write them."""
    if data[128:132] == b"DICM":
        return True
    if len(data) < 64:
        return False
    for order in ("little", "big"):
        group, element = int.from_bytes(data[:2], order), int.from_bytes(data[2:4], order)
        if group in (0x0002, 0x0008) and element < FIRST_ELEMENTS:
            explicit = data[4:6] in TYPES
            length = int.from_bytes(data[4:8], "little")
            return explicit or (order == "little" and length < 256 and length % 2 == 0)
    return False


def parse(data: bytes) -> tuple[Dataset, tuple[Note, ...]]:
    """The data set of a file with its transfer syntax in ``file_meta``, and what the reader should say of it.

    Raises:
        Unusable: no transfer syntax or one that cannot be read, too large when inflated, a disc's index.
    """
    whole_file = data[128:132] == b"DICM"
    stream = io.BytesIO(data)
    read_preamble(stream, force=not whole_file)
    meta = _read_file_meta_info(stream)
    syntax = meta.get("TransferSyntaxUID")
    if not syntax and whole_file:
        raise Unusable(
            "no-transfer-syntax", "The header does not say how the image is stored.", "Export it again."
        )
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise Unusable("disc-index", "This is the index of a disc (DICOMDIR).", "List the images themselves.")
    if syntax and UID(syntax).is_private:
        raise no_decoder("The image is stored in a way that is private to a manufacturer.")
    if (
        syntax == DeflatedExplicitVRLittleEndian
    ):  # pydicom inflates in one go; find out first how large it gets
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        if len(engine.decompress(data[stream.tell() :], MAX_FILE_BYTES)) == MAX_FILE_BYTES:
            raise Unusable("too-large", "The file is larger than 1 GiB.", "Export one image per file.")
    header = pydicom.dcmread(io.BytesIO(data), force=not whole_file)
    if not syntax:
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = _syntax_of(data)
    return header, () if whole_file else (NO_PREAMBLE,)


def _syntax_of(data: bytes) -> UID:
    """How a bare data set is stored, by its first element: one that is compressed has a file meta group."""
    if data[0] == 0:
        return ExplicitVRBigEndian
    return ExplicitVRLittleEndian if data[4:6] in TYPES else ImplicitVRLittleEndian


def no_decoder(reason: str) -> Unusable:
    """The refusal of a transfer syntax that cannot be read."""
    return Unusable(
        "no-decoder", reason, "Export the image uncompressed (Explicit VR Little Endian) or as JPEG 2000."
    )


def text(header: Dataset, name: str) -> str:
    """A text in capitals, "" where there is none; the first of several."""
    return next(iter(texts(header, name)), "")


def texts(header: Dataset, name: str) -> list[str]:
    """All texts of an element, in capitals, as they are written."""
    if name not in header:
        return []
    written = _written(header, name)
    value = value_of(header, name) if written is None else written.strip(" \0").split("\\")
    if value is None or value == "":
        return []
    several = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
    return [str(one).strip(" \0").upper() for one in several]


def first(header: Dataset | None, name: str) -> Dataset | None:
    """The first item of a sequence."""
    items = None if header is None else header.get(name)
    return items[0] if items else None


def value_of(header: Dataset, name: str) -> Any:
    """An element as pydicom reads it; None if it is missing or its bytes are none of its type."""
    try:
        return header.get(name)
    except (ValueError, NotImplementedError, BytesLengthException):
        return None


def numbers(header: Dataset | None, name: str) -> tuple[float, ...]:
    """The numbers of an element; none if it is missing or empty, or a value is not a finite number."""
    if header is None or name not in header:
        return ()
    written = _written(header, name)
    if written is None:
        value = value_of(header, name)
        several = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
        values = [_number(str(one)) for one in several if one is not None]
    else:
        values = [_number(part) for part in written.split("\\")] if written.strip(" \0") else []
    return () if any(v is None for v in values) else tuple(v for v in values if v is not None)


def whole(header: Dataset, name: str, missing: int) -> int:
    """A whole number; ``missing`` where there is none.

    Raises:
        Unusable: it is not whole.
    """
    found = numbers(header, name)
    if not found:
        if header.get_item(_tag(name)) is not None and _written(header, name):
            raise contradiction()
        return missing
    if not found[0].is_integer():
        raise contradiction()
    return int(found[0])


def comma_notes(*headers: Dataset | None) -> tuple[Note, ...]:
    """The note that numbers of these data sets are written with a decimal comma, if some are."""
    pairs = [(h, name) for h in headers if h is not None for name in WITH_COMMA if name in h]
    return (DECIMAL_COMMA,) if any("," in (_written(h, name) or "") for h, name in pairs) else ()


def contradiction() -> Unusable:
    """The refusal of a header that contradicts itself or its image."""
    return Unusable(
        "contradiction", "Header and image disagree about the pixels.", "Export it again, uncompressed."
    )


def _tag(name: str) -> BaseTag:
    return BaseTag(cast(int, tag_for_keyword(name)))


def _written(header: Dataset, name: str) -> str | None:
    """An element's own bytes as text; None where it is stored in binary or has been read before."""
    tag = _tag(name)
    element = header.get_item(tag)
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return None
    kind = element.VR if element.VR not in (None, "UN") else dictionary_VR(tag)
    return None if kind in BINARY else element.value.decode("ascii", "replace")


def _number(part: str) -> float | None:
    part = part.strip(" \0")
    if not NUMBER.fullmatch(part):
        return None
    value = float(part.replace(",", "."))
    return value if math.isfinite(value) else None
