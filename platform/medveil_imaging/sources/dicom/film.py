"""Films: a radiograph of one frame, bright = dense, turned as the patient stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medveil_imaging.sources.dicom.blanking import BLANKED, blanked, rules_for
from medveil_imaging.sources.dicom.header import numbers, parse, text, texts, whole
from medveil_imaging.sources.dicom.identity import patient_mark
from medveil_imaging.sources.dicom.padding import FOUND, filled, undeclared_padding
from medveil_imaging.sources.dicom.scale import as_shown, is_inverted, rescaled
from medveil_imaging.sources.dicom.stored import Stored, check_is_image, frame_count, stored_values
from medveil_imaging.sources.raw import MAX_PIXELS, Film, Float32, Note, Unusable

FILM_MODALITIES = frozenset({"CR", "DX", "RG", "MG", "PX", "IO", "RF", "XA"})
"""Computed, digital and digitised radiography, mammography, dental films, single pictures of fluoroscopy."""
OPPOSITE = {"L": "R", "R": "L", "F": "H", "H": "F", "A": "P", "P": "A"}
UPRIGHT = {"R": "L", "H": "F"}
"""Directions that are turned about: a film runs to the patient's left and to the feet."""
SQUARE = 0.05
"""By how much of its width a pixel may be longer before somebody should know."""
UNCLEAR = Note(
    "modality-unclear", "The header does not say that this is a radiograph.", "Look at the picture."
)
TURNED = Note(
    "film-turned",
    "The film is stored mirrored, lying or upside down and was turned as its header says.",
    "Look at the picture as stored: if it is in order, the header is wrong; correct it.",
)
NO_DIRECTION = Note(
    "orientation-unclear",
    "The header's patient orientation makes no sense; the film was used as it is stored.",
    "Check that left and right are right.",
)
NOT_SQUARE = Note(
    "pixels-not-square",
    "The film's pixels are not square; it was used as it is stored.",
    "Export the film with square pixels.",
)


FOR_PROCESSING = Note(
    "film-for-processing",
    "The header says that the film is raw, for processing and not for looking at.",
    "Export the film for presentation, if there is one.",
)


def read_dicom_film(data: bytes) -> Film:
    """A film from the bytes of a DICOM file: modality LUT or rescale, a sane window, bright = dense, upright.

    Raises:
        Unusable: no image, not a radiograph, colour, several frames, cut short, or writing in the picture.
    """
    header, notes = parse(data)
    check_is_image(header)
    modality = text(header, "Modality")
    if modality not in FILM_MODALITIES | {"OT", ""}:
        raise Unusable("wrong-modality", "This is not a radiograph (CR or DX).", "List radiographs only.")
    if frame_count(header) != 1:
        raise Unusable("several-frames", "The file holds several frames.", "Export one film per file.")
    rules = rules_for(header, (whole(header, "Rows", 0), whole(header, "Columns", 0)))
    if text(header, "BurnedInAnnotation") == "YES" and not rules:
        raise Unusable(
            "burned-in", "The header says that writing is part of the picture.", "Export a film without it."
        )
    stored = stored_values(header, MAX_PIXELS)
    pixels, said = _grey(stored, header)
    if rules and pixels.ndim == 2:
        pixels, said = blanked(pixels, rules), (*said, BLANKED)
    pixels, turned = upright(pixels, header)
    notes += stored.notes + said + turned + _shape_notes(header) + _kind_notes(header)
    return Film(pixels, notes, patient_mark(header), turned=TURNED in turned)


def _grey(stored: Stored, header: Dataset) -> tuple[Float32, tuple[Note, ...]]:
    """The grey scale of a film, dense tissue bright, padding dark."""
    values, padding = stored.values[0], stored.padding[0]
    if not stored.grey:
        return values.astype(np.float32), ()
    notes: tuple[Note, ...] = ()
    if values.dtype.kind in "iu" and not padding.any():
        bits = whole(header, "BitsStored", 8 * values.itemsize)
        padding = undeclared_padding(values, bits, is_film=True)
        notes = (FOUND,) if padding.any() else ()
    pixels, said = rescaled(values, header, header)
    pixels, hinted = as_shown(pixels, header, ~padding)
    inverted, polarity = is_inverted(header)
    return filled(-pixels if inverted else pixels, padding), notes + said + hinted + polarity


def upright(pixels: Float32, header: Dataset) -> tuple[Float32, tuple[Note, ...]]:
    """A film turned so that it runs to the patient's left and to the feet (PS3.3 C.7.6.1.1.1, L\\F).

    What runs to the front or the back (films from the side) stays so. Without a direction nothing is turned.
    """
    written = [part for part in texts(header, "PatientOrientation") if part]
    if not written or text(header, "AnatomicalOrientationType") == "QUADRUPED":
        return pixels, ()
    if len(written) != 2 or any(part[0] not in OPPOSITE for part in written):
        return pixels, (NO_DIRECTION,)
    across, down = (part[0] for part in written)  # the first letter is the main direction of an oblique film
    if across in (down, OPPOSITE[down]):
        return pixels, (NO_DIRECTION,)
    turned: NDArray[np.float32] = pixels
    if across in "FH":
        turned, across, down = turned.T, down, across
    if across in UPRIGHT:
        turned = turned[:, ::-1]
    if down in UPRIGHT:
        turned = turned[::-1]
    return (pixels, ()) if turned is pixels else (np.ascontiguousarray(turned), (TURNED,))


def _kind_notes(header: Dataset) -> tuple[Note, ...]:
    is_raw = text(header, "PresentationIntentType") == "FOR PROCESSING"
    return (FOR_PROCESSING,) * is_raw + (UNCLEAR,) * (text(header, "Modality") not in FILM_MODALITIES)


def _shape_notes(header: Dataset) -> tuple[Note, ...]:
    for name in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        edges = numbers(header, name)
        if len(edges) == 2 and min(edges) > 0:
            return (NOT_SQUARE,) if max(edges) > (1 + SQUARE) * min(edges) else ()
    return ()
