"""PNG and JPEG films through Pillow: every stored level, upright, nothing see-through."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medveil_imaging.sources.formats import FORMATS, Format
from medveil_imaging.sources.raw import MAX_PIXELS, Film, Note, Unusable, check_pixel_count

ORIENTATION = 0x0112
"""EXIF's tag of how a camera or an editor wants the stored rows and columns turned."""
GREY_TOLERANCE = 4 / 255
"""Share of the range by which the channels of a grey picture stored as colour may differ (JPEG rounding)."""
SPLIT = {"RGB;16B": ("RGB;16B", "RGB;16L"), "RGBA;16B": ("RGBA;16B", "RGBA;16L"), "LA;16B": ("RGBA",)}
"""How Pillow is asked for all 16 bits of a PNG with several channels, of which it gives the upper 8 by
itself: for the upper bytes and again for the lower, or for the four bytes of grey and opacity as channels."""
SAMPLE_BITS = {"1": 1, "L;2": 2, "L;4": 4}
SCANS = frozenset({0xC0, 0xC1, 0xC2})
"""Markers of JPEG frames that libjpeg reads: baseline, extended and progressive, with Huffman codes."""

Levels = NDArray[Any]
"""Stored levels, shape (rows, columns, channels), channels last as pictures have them."""


def read_picture(data: bytes) -> Film:
    """A grey film from the bytes of a PNG or JPEG file, turned as its EXIF orientation says.

    All stored levels are kept, 16 bits also where grey is stored as colour or beside an opacity. A picture
    stored in colour is accepted when its three channels are equal, as exports often write it. What is
    transparent is laid over black, with a note.

    Raises:
        Unusable: damaged, too large, animated, truly coloured, or a JPEG of a kind that only archives have.
    """
    levels, turn, notes = _read(data)
    return Film(_turned(_grey(levels), turn), notes, turned=turn != 1)


def read_colour_picture(data: bytes) -> Film:
    """A picture with channels red, green and blue from 0 to 255, also of 16 bits; equal ones if it is grey.

    Else as :func:`read_picture`. No colour profile is applied: the stored values are taken for sRGB.
    """
    levels, turn, notes = _read(data)
    scaled = levels.astype(np.float32) / (1 if levels.dtype == np.uint8 else np.float32(257))
    layers = [_turned(scaled[:, :, channel], turn) for channel in range(levels.shape[2])]
    return Film(np.stack(layers * (3 // len(layers))), notes, turned=turn != 1)


def read_label_picture(data: bytes) -> Film:
    """The label map of a film from the bytes of a PNG: samples as stored, of a palette the index.

    Else as :func:`read_picture`.

    Raises:
        Unusable: as there; or a JPEG, which changes numbers at every edge.
    """
    if data[:2] == b"\xff\xd8":
        raise Unusable(
            "label-map-values", "The label map is a JPEG, which blurs its numbers.", "Save it as PNG."
        )
    levels, turn, notes = _read(data, samples=True)
    if notes:
        raise Unusable(
            "label-map-values", "The label map is transparent in parts.", "Save it without transparency."
        )
    if levels.shape[2] > 1 and bool((levels != levels[:, :, :1]).any()):
        raise Unusable(
            "label-map-values",
            "The label map is painted in colours.",
            "Save the numbers of the classes, or a picture with a palette.",
        )
    return Film(_turned(levels[:, :, 0].astype(np.float32), turn), turned=turn != 1)


def _read(data: bytes, *, samples: bool = False) -> tuple[Levels, int, tuple[Note, ...]]:
    """Levels of one channel or three, EXIF's orientation, and notes.

    Args:
        samples: as they are stored: few bits are not spread over 255 levels, and a palette is not looked up.
    """
    if data[:2] == b"\xff\xd8":
        _check_jpeg(data)
    with _opened(data) as picture:
        check_pixel_count(picture.size, MAX_PIXELS)
        if getattr(picture, "n_frames", 1) != 1:
            raise Unusable("several-frames", "The picture has several frames.", "Export one film per file.")
        if picture.mode == "CMYK":
            raise Unusable(
                "colour-image",
                "The picture is stored in printing colours (CMYK).",
                "Export the original in grey or RGB.",
            )
        packing = str(picture.tile[0].args)
        picture.load()
        turn = _orientation(picture)
        if samples and picture.mode in {"1", "L", "P"}:
            spread = 255 // (2 ** SAMPLE_BITS.get(packing, 8) - 1) if picture.mode != "P" else 1
            grey = picture.convert("L") if picture.mode == "1" else picture
            levels, opacity = np.asarray(grey)[:, :, None] // np.uint8(spread), None
        else:
            levels, opacity = _levels(data, picture, packing)
    levels, notes = _over_black(levels, opacity)
    return levels, turn, notes


def _opened(data: bytes) -> Any:
    return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))


def _check_jpeg(data: bytes) -> None:
    """Refuse by name what libjpeg does not read: 12 bits, lossless, arithmetic codes."""
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in SCANS or data[place + 4] != 8:
                raise Unusable(
                    "no-decoder",
                    "This JPEG is lossless, arithmetic or of more than 8 bits, which is not read here.",
                    "Export the original as DICOM, or as PNG with 16 bits.",
                )
            return
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")


def _levels(data: bytes, picture: Any, packing: str) -> tuple[Levels, Levels | None]:
    """All stored levels and the opacity from 0 to 1, shape (rows, columns); None where all is opaque."""
    key: Any = picture.info.get("transparency")
    if packing in SPLIT:
        levels = _sixteen(data, packing)
    elif picture.mode in {"P", "PA"}:
        levels, key = np.asarray(picture.convert("RGBA")), None  # Pillow looks the opacities up as well
    else:
        levels = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
        levels = levels if levels.ndim == 3 else levels[:, :, None]
        bits = SAMPLE_BITS.get(packing, 8)
        if isinstance(key, int) and picture.mode == "L":  # the key is a stored sample, levels go up to 255
            key = key * 255 // (2**bits - 1)
    if levels.shape[2] in (2, 4):
        opacity = levels[:, :, -1] / np.float32(np.iinfo(levels.dtype).max)
        return levels[:, :, :-1], None if bool((opacity == 1).all()) else opacity
    if key is None:
        return levels, None
    return levels, (levels != np.array(key, levels.dtype)).any(2).astype(np.float32)


def _sixteen(data: bytes, packing: str) -> Levels:
    halves = []
    for wanted in SPLIT[packing]:
        with _opened(data) as picture:
            picture.tile = [picture.tile[0]._replace(args=wanted)]
            picture.load()
            halves.append(np.asarray(picture, np.uint16))
    if len(halves) == 1:
        return halves[0][:, :, 0::2] << 8 | halves[0][:, :, 1::2]
    return halves[0] << 8 | halves[1]


def _over_black(levels: Levels, opacity: Levels | None) -> tuple[Levels, tuple[Note, ...]]:
    if opacity is None:
        return levels, ()
    seen = np.rint(levels * opacity[:, :, None]).astype(levels.dtype)
    if np.array_equal(seen, levels):
        return levels, ()
    note = Note(
        "see-through",
        "Parts of the picture are transparent; they were laid over black.",
        "Look at the picture; export it without transparency.",
    )
    return seen, (note,)


def _grey(levels: Levels) -> NDArray[np.float32]:
    """One channel of a grey picture. Raises: Unusable: its channels differ."""
    if levels.shape[2] == 1:
        return levels[:, :, 0].astype(np.float32)
    top = 255 if levels.dtype == np.uint8 else float(levels.max())
    red, green, blue = (levels[:, :, channel].astype(np.float32) for channel in range(3))
    if max(float(np.abs(red - green).max()), float(np.abs(blue - green).max())) > GREY_TOLERANCE * top:
        raise Unusable(
            "colour-image", "The image is in colour, so it is no X-ray.", "Export the grey original."
        )
    return green


def _orientation(picture: Any) -> int:
    """1 to 8 as EXIF counts; 1, as stored, where nothing is said or nothing that can be understood."""
    try:
        turn = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # spoiled EXIF says nothing; viewers show such a picture as it is stored
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _turned(pixels: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """Upright: 2 to 4 mirror or turn over, 5 to 8 exchange rows and columns first."""
    upright = pixels.T if turn >= 5 else pixels
    if turn in (3, 4, 7, 8):
        upright = upright[::-1]
    if turn in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    return np.ascontiguousarray(upright)


FORMATS.register("picture")(
    Format(
        what="a flat picture",
        begins=lambda data: data[:8] == b"\x89PNG\r\n\x1a\n" or data[:3] == b"\xff\xd8\xff",
        film=read_picture,
        colour=read_colour_picture,
        label_film=read_label_picture,
    )
)
