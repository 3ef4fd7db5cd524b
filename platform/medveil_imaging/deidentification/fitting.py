"""What an element that the table does not name may hold and stay: a value of its own kind, nobody's name.

A scanner, a gateway or a person may write anything anywhere: a name where a number belongs, a patient's
number in a model's name. What cannot be read as what the standard's dictionary says of its tag goes, and so
does what repeats a name or a number by which the same file calls its patient.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pydicom.datadict import tag_for_keyword

from medveil_imaging.sources.raw import Unusable

FREE = frozenset({"AE", "LT", "OB", "OD", "OF", "OL", "OV", "OW", "PN", "ST", "UC", "UN", "UR", "UT"})
"""Kinds of value that may hold anything: they go unless the table or :data:`PICTURE` says what they are."""
DATES = frozenset({"DA", "DT", "TM"})
SHORT = frozenset({"LO", "SH"})
"""Short texts: they go unless :data:`DEVICE` names them."""
TABLES = frozenset({0x00283006, *range(0x00281201, 0x00281204), *range(0x00281221, 0x00281224)})
"""Tables of grey values and colours: whatever bytes there are, some of them are letters."""
PICTURE = frozenset(
    {
        0x7FE00001,  # where compressed frames begin, and how long they are
        0x7FE00002,
        0x7FE00008,  # pixels as floating-point numbers
        0x7FE00009,
        0x7FE00010,
        *TABLES,
    }
)
PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


def _tags(names: str) -> frozenset[int]:
    found = {tag_for_keyword(name) for name in names.split()}
    return frozenset(tag for tag in found if tag is not None)


DEVICE = _tags(
    "Manufacturer ManufacturerModelName SecondaryCaptureDeviceManufacturer "
    "SecondaryCaptureDeviceManufacturerModelName SoftwareVersions CodeValue CodingSchemeDesignator "
    "CodingSchemeVersion CodeMeaning ImagedNucleus SequenceName PulseSequenceName ConvolutionKernel "
    "FilterType ReceiveCoilName TransmitCoilName StackID RescaleType ModalityLUTType"
)
"""Short texts that say how an image came about."""
NEEDED = _tags(
    "Rows Columns SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames "
    "BitsAllocated BitsStored HighBit PixelRepresentation PixelSpacing ImagerPixelSpacing "
    "NominalScannedPixelSpacing PixelAspectRatio PixelPaddingValue PixelPaddingRangeLimit "
    "FloatPixelPaddingValue DoubleFloatPixelPaddingValue FloatPixelPaddingRangeLimit "
    "DoubleFloatPixelPaddingRangeLimit RescaleSlope RescaleIntercept WindowCenter WindowWidth "
    "VOILUTFunction PresentationLUTShape LUTDescriptor LUTData RedPaletteColorLookupTableDescriptor "
    "GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor "
    "RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData "
    "ImagePositionPatient ImageOrientationPatient SliceThickness SpacingBetweenSlices Modality ImageType "
    "PatientOrientation AnatomicalOrientationType BurnedInAnnotation PresentationIntentType EchoTime "
    "EffectiveEchoTime EchoNumbers DiffusionBValue TemporalPositionIndex TemporalPositionIdentifier "
    "TriggerTime StackID ComplexImageComponent SpecificCharacterSet"
)
"""Elements without which the picture would be another one: where they do not fit, the file is refused."""
NAMES = _tags(
    "PatientName OtherPatientNames PatientBirthName PatientMotherBirthName ReferringPhysicianName "
    "PerformingPhysicianName OperatorsName"
)
NUMBERS = _tags("PatientID OtherPatientIDs AccessionNumber PatientBirthDate")
TELLING = NAMES | NUMBERS
"""Where a file says who its patient is."""
TERMS = frozenset(
    b"original derived mixed primary secondary axial localizer volume projection angio cardiac perfusion "
    b"diffusion none phase magnitude real imaginary other single biplane screening chest head".split()
)
"""Words that the standard itself gives for kinds of image: they are nobody's, even of a patient called so."""
WIDTHS = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "AT": 4, "FL": 4, "FD": 8, "UV": 8, "SV": 8}
DIGITS = 9
"""Most digits before the point: numbers of telephones and insurances are longer, measures are not."""
SHORTEST, SHORTEST_IN_BYTES = 4, 6
"""Letters of a patient's name or number that are looked for: in texts, and in bytes like it by chance."""
_NUMBER = re.compile(
    rb"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d{1,3})?|[+-]?(?:nan|inf)", re.IGNORECASE
)
_WHOLE = re.compile(rb"[+-]?(\d*)")
_CODE = re.compile(rb"[A-Z0-9_ ]{0,16}")
_CODE_IN_ANY_LETTERS = re.compile(rb"[\w ./-]{0,32}", re.IGNORECASE | re.ASCII)
_AGE = re.compile(rb"\d{3}[DWMY]")
_READS_AS_TEXT = re.compile(rb"(?:[A-Za-z]\0?){6}|(?:\0[A-Za-z]){6}")
_SEPARATORS = re.compile(rb"[\^=\\,;.\s\0]+")


def always_goes(tag: int, kind: str, said: str) -> bool:
    """Whether an element that the table does not name goes whatever it holds.

    Args:
        kind: by the standard's dictionary; said: as it stands in the file, "" where none stands there.
    """
    if tag in PICTURE:
        return False
    if kind in SHORT:
        return tag not in DEVICE
    return kind in FREE or said in FREE - {"UN"} or kind in DATES


def telling_words(value_of: Callable[[int], bytes]) -> frozenset[bytes]:
    """By what a file calls its patient, and who saw the patient, in small letters.

    Args:
        value_of: an element's value as it is stored; empty where there is none.
    """
    words = {word for tag in NAMES for word in _SEPARATORS.split(value_of(tag).lower())}
    for tag in NUMBERS:
        whole = [one.strip(b" \0") for one in value_of(tag).lower().split(b"\\")]
        words |= {*whole, *(run for one in whole for run in re.findall(rb"\d{6,}", one))}
    return frozenset(word for word in words if len(word) >= SHORTEST) - TERMS


def fits(tag: int, kind: str, said: str, value: bytes, words: frozenset[bytes]) -> bool:
    """Whether a value is one of its kind, and repeats none of the words.

    Args:
        kind, said: as for :func:`always_goes`.
        value: as it is stored.
        words: of :func:`telling_words`.

    Raises:
        Unusable: it does not fit, and the picture needs it.
    """
    if tag in PIXELS:
        return True
    if _is_one(tag, kind, said, value) and not _repeats(kind, value, words):
        return True
    if tag in NEEDED:
        raise Unusable(
            "odd-value",
            "A place of the header that the picture needs holds something else.",
            "Look at the header in a viewer, have it mended where it was made, and export the image again.",
        )
    return False


def _is_one(tag: int, kind: str, said: str, value: bytes) -> bool:
    stored = said if said in WIDTHS and (kind in WIDTHS or kind in ("DS", "IS")) else kind
    if said in ("DS", "IS") and kind in WIDTHS:  # some write small numbers as text
        stored = said
    if stored in WIDTHS:
        return len(value) % WIDTHS[stored] == 0 and (tag in TABLES or not _READS_AS_TEXT.search(value))
    parts = [one.strip(b" \0") for one in value.split(b"\\")]
    if stored in ("DS", "IS"):
        return all(not one or _is_number(one) for one in parts)
    if stored == "CS":
        shape = _CODE_IN_ANY_LETTERS if tag in NEEDED else _CODE
        return all(shape.fullmatch(one) for one in parts)
    if stored == "AS":
        return all(not one or _AGE.fullmatch(one) for one in parts)
    return all(len(one) <= 64 and one.isascii() for one in parts) if stored in SHORT else tag in PICTURE


def _is_number(text: bytes) -> bool:
    whole = _WHOLE.match(text)
    return _NUMBER.fullmatch(text) is not None and whole is not None and len(whole[1]) <= DIGITS


def _repeats(kind: str, value: bytes, words: frozenset[bytes]) -> bool:
    small = value.lower()
    if kind in ("DS", "IS"):
        return any(run in words for run in re.findall(rb"\d+", small) if len(run) >= SHORTEST_IN_BYTES)
    least = SHORTEST if kind in ("CS", "LO", "SH", "AS") else SHORTEST_IN_BYTES
    return any(word in small for word in words if len(word) >= least)
