"""Which library decodes which transfer syntax.

It is one for each: what a node reads does not depend on the order in which libraries are found, and no second
library makes something of a frame that the first has refused.

imagecodecs is an extra (``medveil[jpeg12]``): it alone reads JPEG of 12 bits.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders import JPEGExtended12BitDecoder

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder, DecodeRunner

READ_BY = {
    uid.JPEGBaseline8Bit: ("pillow", "gdcm"),
    uid.JPEGExtended12Bit: ("imagecodecs",),
    uid.JPEGLossless: ("gdcm",),
    uid.JPEGLosslessSV1: ("gdcm",),
    uid.JPEGLSLossless: ("gdcm",),
    uid.JPEGLSNearLossless: ("gdcm",),
    uid.JPEG2000Lossless: ("pylibjpeg", "gdcm"),
    uid.JPEG2000: ("pylibjpeg", "gdcm"),
    uid.HTJ2KLossless: ("pylibjpeg",),
    uid.HTJ2KLosslessRPCL: ("pylibjpeg",),
    uid.HTJ2K: ("pylibjpeg",),
    uid.RLELossless: ("pydicom",),
}
"""pydicom's names of the libraries, the preferred first; those that are not installed are passed over."""
EIGHT_BITS = ("pillow", "gdcm")
"""Who reads a JPEG of the 12-bit syntax that has 8 bits."""
END_OF_IMAGE = b"\xff\xd9"
DECODER_DEPENDENCIES = {uid.JPEGExtended12Bit: ("imagecodecs>=2026.3",)}
"""For pydicom: what its plugin below needs."""


def is_available(syntax: str) -> bool:
    """For pydicom: whether its plugin below reads a transfer syntax."""
    return syntax in DECODER_DEPENDENCIES and importlib.util.find_spec("imagecodecs") is not None


def decode_twelve_bits(frame: bytes, runner: DecodeRunner) -> bytes:
    """For pydicom: a frame of JPEG, 8 or 12 bits a value, through imagecodecs.

    Raises: ValueError, and whatever imagecodecs raises on a damaged frame.
    """
    import imagecodecs  # an extra, and slow to load

    if not frame.rstrip(b"\0").endswith(END_OF_IMAGE):  # libjpeg would fill up what is cut off with grey
        raise ValueError("the frame is cut short")
    pixels: bytes = imagecodecs.jpeg8_decode(frame).tobytes()
    return pixels


def decoder_of(syntax: uid.UID, bits: int) -> tuple[Decoder, dict[str, Any]] | None:
    """What decodes a transfer syntax, and how it is told which library to take; None if nothing does.

    Args:
        bits: that a value of the compressed frames has.
    """
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:  # video and others that are no pictures
        return None
    if not syntax.is_encapsulated:
        return decoder, {}
    wanted = READ_BY.get(syntax, ())
    if syntax == uid.JPEGExtended12Bit and bits <= 8:
        wanted = (*EIGHT_BITS, *wanted)
    found = next((name for name in wanted if name in decoder.available_plugins), None)
    return None if found is None else (decoder, {"decoding_plugin": found})


def _set_up() -> None:
    """Files the plugin with pydicom; libraries keep what they have to say of a frame to themselves."""
    JPEGExtended12BitDecoder.add_plugin("imagecodecs", (__name__, decode_twelve_bits.__name__))
    if importlib.util.find_spec("gdcm") is not None:
        trace = importlib.import_module("gdcm").Trace
        trace.DebugOff()
        trace.WarningOff()
        trace.ErrorOff()


_set_up()
