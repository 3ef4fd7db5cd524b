"""Every transfer syntax is read to the very value or refused by name, and DCMTK reads the same values."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import UID

from dicom_files import Pixels, block, dcmtk, film_file, header_of, picture, refusal, save, slice_header
from medveil_imaging.sources.dicom.decoders import READ_BY, decoder_of
from medveil_imaging.sources.read import read_film, read_volume

imagecodecs = pytest.importorskip(
    "imagecodecs", reason="imagecodecs is not installed: pip install 'medveil[jpeg12]'"
)

FILM = picture()
SMALL = (FILM // 16).astype(np.uint8)
SIGNED = FILM.astype(np.int16) - 2000


def jpeg2000(pixels: Pixels, **how: Any) -> bytes:
    made: bytes = imagecodecs.jpeg2k_encode(
        pixels, codecformat="j2k", **({"level": 0, "reversible": True} | how)
    )
    return made


def baseline(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=98)
    return out.getvalue()


def rle(pixels: Pixels) -> bytes:
    made: bytes = RLELosslessEncoder.encode(
        pixels,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        bits_allocated=8 * pixels.itemsize,
        bits_stored=8 * pixels.itemsize,
        pixel_representation=int(pixels.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )
    return made


def lossless(pixels: Pixels) -> bytes:
    made: bytes = imagecodecs.ljpeg_encode(pixels, bitspersample=12)
    return made


LOSSLESS: dict[str, tuple[UID, Pixels, bytes]] = {
    "JPEG 2000": (uid.JPEG2000Lossless, FILM, jpeg2000(FILM, bitspersample=12)),
    "JPEG 2000 of 16 bits": (uid.JPEG2000, FILM, jpeg2000(FILM)),
    "JPEG 2000 of 8 bits": (uid.JPEG2000Lossless, SMALL, jpeg2000(SMALL)),
    "JPEG 2000 with a sign": (uid.JPEG2000Lossless, SIGNED, jpeg2000(SIGNED)),
    "HTJ2K": (uid.HTJ2KLossless, FILM, imagecodecs.htj2k_encode(FILM, reversible=True)),
    "HTJ2K, general": (uid.HTJ2K, FILM, imagecodecs.htj2k_encode(FILM, reversible=True)),
    "JPEG-LS": (uid.JPEGLSLossless, FILM, imagecodecs.jpegls_encode(FILM)),
    "JPEG-LS with a sign": (uid.JPEGLSLossless, SIGNED, imagecodecs.jpegls_encode(SIGNED.view(np.uint16))),
    "JPEG lossless": (uid.JPEGLosslessSV1, FILM, lossless(FILM)),
    "JPEG lossless, any predictor": (uid.JPEGLossless, FILM, lossless(FILM)),
    "JPEG lossless with a sign": (
        uid.JPEGLosslessSV1,
        SIGNED,
        lossless((SIGNED & 0xFFF).astype(np.uint16)),
    ),
    "RLE": (uid.RLELossless, FILM, rle(FILM)),
}
LOSSY: dict[str, tuple[UID, Pixels, bytes, int]] = {
    "JPEG baseline": (uid.JPEGBaseline8Bit, SMALL, baseline(SMALL), 3),
    "JPEG of 12 bits": (
        uid.JPEGExtended12Bit,
        FILM,
        imagecodecs.jpeg8_encode(FILM, level=98, bitspersample=12),
        16,
    ),
    "JPEG of 8 bits as extended": (uid.JPEGExtended12Bit, SMALL, baseline(SMALL), 3),
    "JPEG-LS near lossless": (uid.JPEGLSNearLossless, FILM, imagecodecs.jpegls_encode(FILM, level=3), 3),
    "JPEG 2000 lossy": (uid.JPEG2000, FILM, jpeg2000(FILM, level=60, reversible=False, bitspersample=12), 60),
}


def written(path: Path, pixels: Pixels, syntax: UID, frame: bytes, **of: Any) -> Path:
    stored = 8 if pixels.itemsize == 1 else 12
    return film_file(path, pixels, syntax=syntax, frames=[frame], **({"stored": stored} | of))


@pytest.mark.parametrize("name", LOSSLESS)
def test_what_was_compressed_without_loss_is_read_to_the_very_value(tmp_path: Path, name: str) -> None:
    syntax, pixels, frame = LOSSLESS[name]
    film = read_film(written(tmp_path / "a.dcm", pixels, syntax, frame))
    assert np.array_equal(film.pixels, pixels)
    assert film.notes == ()


@pytest.mark.parametrize("name", LOSSY)
def test_what_was_compressed_with_loss_is_read_as_near_as_it_was_stored(tmp_path: Path, name: str) -> None:
    syntax, pixels, frame, near = LOSSY[name]
    film = read_film(written(tmp_path / "a.dcm", pixels, syntax, frame))
    assert np.abs(film.pixels - pixels).max() <= near
    assert film.notes == ()


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_a_frame_that_is_cut_short_is_never_filled_up(tmp_path: Path, name: str) -> None:
    syntax, pixels, frame = (LOSSLESS | LOSSY)[name][:3]  # type: ignore[operator]
    for share in (0.5, 0.95):
        path = written(tmp_path / "a.dcm", pixels, syntax, frame[: int(share * len(frame))])
        assert refusal(read_film, path).code in {"unreadable-image", "contradiction"}


@pytest.mark.parametrize("name", [name for name in [*LOSSLESS, *LOSSY] if name != "RLE"])
def test_a_frame_of_another_shape_than_its_header_says_is_a_contradiction(tmp_path: Path, name: str) -> None:
    syntax, pixels, frame = (LOSSLESS | LOSSY)[name][:3]  # type: ignore[operator]
    swapped = {"Rows": pixels.shape[1], "Columns": pixels.shape[0]}
    assert (
        refusal(read_film, written(tmp_path / "a.dcm", pixels, syntax, frame, **swapped)).code
        == "contradiction"
    )


def test_a_sign_that_the_frame_denies_is_a_contradiction(tmp_path: Path) -> None:
    for pixels, frame in ((SIGNED, jpeg2000(FILM)), (FILM, jpeg2000(SIGNED))):
        path = written(tmp_path / "a.dcm", pixels, uid.JPEG2000Lossless, frame)
        assert refusal(read_film, path).code == "contradiction"


def test_fewer_frames_than_announced_are_refused(tmp_path: Path) -> None:
    header = slice_header(block(40, 48, 3), 0, NumberOfFrames=3)
    header.PerFrameFunctionalGroupsSequence = [header_of(FILM) for _ in range(3)]
    path = save(tmp_path / "a.dcm", header, uid.JPEG2000Lossless, [jpeg2000(FILM)])
    assert refusal(read_volume, path).code in {"contradiction", "unreadable-image", "bad-geometry"}


def test_overlays_inside_a_compressed_frame_are_cut_off(tmp_path: Path) -> None:
    overlay = FILM | (np.uint16(1) << np.uint16(12))
    for syntax, frame in (
        (uid.JPEG2000Lossless, jpeg2000(overlay)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode(overlay)),
    ):
        film = read_film(written(tmp_path / "a.dcm", FILM, syntax, frame))
        assert np.array_equal(film.pixels, FILM)
        assert [note.code for note in film.notes] == ["spare-bits"]


def test_a_high_bit_inside_a_compressed_frame_is_obeyed_where_the_frame_has_it(tmp_path: Path) -> None:
    shifted = written(tmp_path / "a.dcm", FILM, uid.JPEG2000Lossless, jpeg2000(FILM << 4), high=15)
    assert np.array_equal(read_film(shifted).pixels, FILM)
    plain = written(tmp_path / "b.dcm", FILM, uid.JPEG2000Lossless, jpeg2000(FILM, bitspersample=12), high=15)
    assert np.array_equal(read_film(plain).pixels, FILM)


def test_what_lossy_compression_overshoots_is_the_end_of_the_scale(tmp_path: Path) -> None:
    bright = np.zeros((64, 64), np.uint16)
    bright[:, 30:] = 4095
    frame = jpeg2000(bright, level=40, reversible=False)
    assert imagecodecs.jpeg2k_decode(frame).max() > 4095
    film = read_film(written(tmp_path / "a.dcm", bright, uid.JPEG2000, frame)).pixels
    assert film.max() == 4095
    assert film[:, 40:].min() > 3000  # what wrapped around would be dark


def test_padding_that_lossy_compression_blurred_sets_no_scale(tmp_path: Path) -> None:
    tall = picture(128, 96)
    words = tall.copy()
    words[:, 60:] = 65535
    frame = jpeg2000(words, level=60, reversible=False)
    assert len(np.unique(imagecodecs.jpeg2k_decode(frame)[:, 70:])) > 1
    path = written(tmp_path / "a.dcm", words, uid.JPEG2000, frame, stored=16, PixelPaddingValue=65535)
    film = read_film(path).pixels
    assert np.corrcoef(film[:, :50].ravel(), tall[:, :50].ravel())[0, 1] > 0.99
    assert film.max() < 6000


def test_grey_stored_as_colour_is_grey_through_compression_too(tmp_path: Path) -> None:
    three = np.repeat(SMALL[..., None], 3, 2)
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL_422"}
    for syntax, frame, kind in (
        (uid.JPEGBaseline8Bit, baseline(three), "YBR_FULL_422"),
        (uid.JPEGBaseline8Bit, baseline(three), "RGB"),
        (uid.JPEG2000Lossless, jpeg2000(three), "YBR_RCT"),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode(three), "RGB"),
    ):
        path = written(
            tmp_path / "a.dcm", SMALL, syntax, frame, **(colour | {"PhotometricInterpretation": kind})
        )
        assert np.abs(read_film(path).pixels - SMALL).max() <= 4


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.113619.5.2",
        "1.3.46.670589.33.1.4.1",
        uid.MPEG2MPML,
        uid.HEVCMP51,
        "1.2.840.10008.1.2.4.94",
        "1.2.840.10008.1.2.6.1",
    ],
)
def test_private_syntaxes_and_those_of_films_that_move_are_named(tmp_path: Path, syntax: str) -> None:
    header = header_of(FILM, PixelData=encapsulate([b"\0" * 20]))
    path = save(tmp_path / "a.dcm", header, uid.JPEG2000Lossless)
    data = path.read_bytes()
    old, new = uid.JPEG2000Lossless.encode(), syntax.encode()
    path.write_bytes(data.replace(old, new.ljust(len(old), b"\0")[: len(old)]))
    assert refusal(read_film, path).code == "no-decoder"


def test_one_library_reads_each_syntax_and_the_preferred_one_is_here() -> None:
    for syntax, names in READ_BY.items():
        found = decoder_of(syntax, 12)
        assert found is not None
        assert found[1] == {"decoding_plugin": names[0]}
    assert decoder_of(uid.MPEG2MPML, 8) is None


def test_jpeg_of_12_bits_without_its_library_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READ_BY, uid.JPEGExtended12Bit, ())
    syntax, pixels, frame, _ = LOSSY["JPEG of 12 bits"]
    refused = refusal(read_film, written(tmp_path / "a.dcm", pixels, syntax, frame))
    assert refused.code == "no-decoder"
    assert "medveil[jpeg12]" in refused.remedy
    syntax, pixels, frame, _ = LOSSY["JPEG of 8 bits as extended"]
    assert read_film(written(tmp_path / "b.dcm", pixels, syntax, frame)).notes == ()


NATIVE: dict[str, dict[str, Any]] = {
    "plain": {},
    "implicit": {"syntax": uid.ImplicitVRLittleEndian},
    "big endian": {"syntax": uid.ExplicitVRBigEndian},
    "deflated": {"syntax": uid.DeflatedExplicitVRLittleEndian},
    "eight bits": {"pixels": SMALL, "stored": 8},
    "high bit": {"pixels": FILM << 4, "high": 15},
    "sign": {"pixels": SIGNED},
    "sign without its upper bits": {"pixels": (SIGNED & 0xFFF).astype(np.int16)},
    "rescale": {"RescaleSlope": 2, "RescaleIntercept": -100, "RescaleType": "US"},
    "falling rescale": {"RescaleSlope": -1, "RescaleIntercept": 4095, "RescaleType": "US"},
    "dense is small": {"PhotometricInterpretation": "MONOCHROME1"},
    "inverse": {"PresentationLUTShape": "INVERSE"},
    "both": {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
    "they disagree": {"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"},
    "no window": {"WindowCenter": 0, "WindowWidth": 0},
}


def as_dcmtk_sees_it(tool: str, path: Path, *options: str) -> Pixels:
    """The picture on a scale of 0 to 65535."""
    out = path.with_suffix(".png")
    subprocess.run([dcmtk(tool), *options, "+on2", str(path), str(out)], check=True, capture_output=True)
    return np.asarray(Image.open(out), np.float64)


def full_scale(pixels: Pixels) -> Pixels:
    low, high = float(pixels.min()), float(pixels.max())
    return (pixels.astype(np.float64) - low) / (high - low) * 65535


@pytest.mark.parametrize("name", NATIVE)
def test_values_are_those_that_dcmtk_reads(tmp_path: Path, name: str) -> None:
    of = {"pixels": FILM, "stored": 12} | NATIVE[name]
    path = film_file(tmp_path / "a.dcm", of.pop("pixels"), **of)
    seen = as_dcmtk_sees_it("dcm2pnm", path, "--min-max-window")
    assert np.abs(full_scale(read_film(path).pixels) - seen).max() <= 2


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
@pytest.mark.parametrize("begin", [-2048, 65536 - 2048])
def test_a_modality_table_gives_what_dcmtk_looks_up(tmp_path: Path, syntax: UID, begin: int) -> None:
    order = "<u2" if syntax.is_little_endian else ">u2"
    item = Dataset()
    item.add_new(0x00283002, "SS" if begin < 0 else "US", [4096, begin, 16])
    item.add_new(0x00283006, "OW", (np.arange(4096) ** 1.1).astype(order).tobytes())
    path = film_file(tmp_path / "a.dcm", SIGNED, stored=12, syntax=syntax, ModalityLUTSequence=[item])
    seen = as_dcmtk_sees_it("dcm2pnm", path, "--min-max-window")
    assert np.abs(full_scale(read_film(path).pixels) - seen).max() <= 2


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("JPEG lossless", "dcmj2pnm"),
        ("JPEG lossless, any predictor", "dcmj2pnm"),
        ("JPEG-LS", "dcml2pnm"),
        ("RLE", "dcm2pnm"),
    ],
)
def test_compressed_values_are_those_that_dcmtk_reads(tmp_path: Path, name: str, tool: str) -> None:
    syntax, pixels, frame = LOSSLESS[name]
    path = written(tmp_path / "a.dcm", pixels, syntax, frame)
    seen = as_dcmtk_sees_it(tool, path, "--min-max-window")
    assert np.abs(full_scale(read_film(path).pixels) - seen).max() <= 2


def test_a_window_cuts_where_dcmtk_cuts(tmp_path: Path) -> None:
    path = film_file(tmp_path / "a.dcm", FILM, stored=12, WindowCenter=2000, WindowWidth=2001)
    ours = (read_film(path).pixels.astype(np.float64) - 999.5) / 2000 * 65535
    assert np.abs(ours - as_dcmtk_sees_it("dcm2pnm", path, "+Wi", "1")).max() <= 2 * 65535 / 2000
