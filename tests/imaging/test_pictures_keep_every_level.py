"""PNG and JPEG: all stored levels, upright as EXIF says, no transparent part unseen, no colour as grey."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import read_film

FILM = np.arange(13 * 11, dtype=np.uint16).reshape(13, 11) * 28 + 50
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Adam7: first row and column of each pass, and the steps between rows and between columns."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    path: Path, levels: Any, colour: int, *, bits: int = 16, interlaced: bool = False, key: Any = ()
) -> Path:
    """A PNG made without any library: levels (rows, columns, channels) of 16 bits, or packed grey."""
    lines = []
    for first, left, down, along in PASSES if interlaced else ((0, 0, 1, 1),):
        for row in levels[first::down, left::along]:
            if bits == 16:
                lines.append(b"\0" + row.astype(">u2").tobytes())
            else:
                places = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]
                lines.append(b"\0" + np.packbits(places.ravel()).tobytes())
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], bits, colour, 0, 0, int(interlaced))
    see_through = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    body = chunk(b"IDAT", zlib.compress(b"".join(lines)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + see_through + body + chunk(b"IEND", b""))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(Unusable) as caught:
        read_film(path)
    return caught.value.code


def channels(*layers: Any) -> Any:
    return np.stack(np.broadcast_arrays(*layers), 2)


OPAQUE = 65535


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "levels"),
    [
        (0, FILM[..., None]),
        (2, channels(FILM, FILM, FILM)),
        (4, channels(FILM, OPAQUE)),
        (6, channels(FILM, FILM, FILM, OPAQUE)),
    ],
)
def test_sixteen_bits_are_kept_in_every_layout(
    tmp_path: Path, colour: int, levels: Any, interlaced: bool
) -> None:
    film = read_film(png(tmp_path / "a.png", levels, colour, interlaced=interlaced))
    assert np.array_equal(film.pixels, FILM)
    assert film.notes == ()


@pytest.mark.parametrize("colour", [2, 6])
def test_faint_colour_in_sixteen_bits_is_colour(tmp_path: Path, colour: int) -> None:
    levels = channels(FILM, FILM[::-1], FILM, *([OPAQUE] if colour == 6 else []))
    assert refusal(png(tmp_path / "a.png", levels, colour)) == "colour-image"


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_few_bits_are_kept_in_their_order(tmp_path: Path, bits: int, interlaced: bool) -> None:
    samples = (FILM // 28 % 2**bits)[..., None]
    film = read_film(png(tmp_path / "a.png", samples, 0, bits=bits, interlaced=interlaced))
    assert np.array_equal(film.pixels * (2**bits - 1), samples[..., 0] * 255)


HALF = np.where(FILM < 1000, OPAQUE // 3, OPAQUE)


@pytest.mark.parametrize("colour", [4, 6])
def test_what_is_transparent_is_laid_over_black_with_a_note(tmp_path: Path, colour: int) -> None:
    levels = channels(*[FILM] * (colour // 2 if colour == 6 else 1), HALF)
    film = read_film(png(tmp_path / "a.png", levels, colour))
    assert np.allclose(film.pixels, np.where(FILM < 1000, np.rint(FILM / 3), FILM))
    assert [note.code for note in film.notes] == ["see-through"]


@pytest.mark.parametrize(
    ("colour", "bits", "levels", "key"),
    [
        (0, 16, FILM[..., None], (1058,)),
        (2, 16, channels(FILM, FILM, FILM), (1058,) * 3),
        (0, 4, (FILM // 28 % 16)[..., None], (7,)),
    ],
)
def test_the_level_that_counts_as_transparent_becomes_black(
    tmp_path: Path, colour: int, bits: int, levels: Any, key: Any
) -> None:
    film = read_film(png(tmp_path / "a.png", levels, colour, bits=bits, key=key))
    scale = 1 if bits == 16 else 17
    assert np.array_equal(film.pixels, np.where(levels[..., 0] == key[0], 0, levels[..., 0]) * scale)
    assert [note.code for note in film.notes] == ["see-through"]


def test_a_palette_of_greys_is_grey_and_its_transparent_entries_are_black(tmp_path: Path) -> None:
    indices = (FILM // 28 % 16).astype(np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette([grey for index in range(16) for grey in [255 - 9 * index] * 3])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_film(tmp_path / "a.png").pixels, 255 - 9 * indices.astype(np.float32))
    picture.save(tmp_path / "b.png", transparency=3)
    shown = read_film(tmp_path / "b.png")
    assert not shown.pixels[indices == 3].any()
    assert [note.code for note in shown.notes] == ["see-through"]


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("turn", range(10))
def test_a_picture_is_turned_as_viewers_turn_it(tmp_path: Path, kind: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    picture = Image.fromarray((FILM % 256).astype(np.uint8))
    picture.save(tmp_path / f"a.{kind}", exif=exif)
    with Image.open(tmp_path / f"a.{kind}") as saved:
        upright = np.asarray(ImageOps.exif_transpose(saved), np.float32)
    assert np.array_equal(read_film(tmp_path / f"a.{kind}").pixels, upright)


def test_spoiled_exif_turns_nothing_and_costs_no_film(tmp_path: Path) -> None:
    Image.fromarray((FILM % 256).astype(np.uint8)).save(tmp_path / "a.png", exif=b"Exif\0\0no such thing")
    assert np.array_equal(read_film(tmp_path / "a.png").pixels, FILM % 256)


def test_a_grey_jpeg_with_a_colour_profile_is_grey(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = Image.fromarray((FILM % 256).astype(np.uint8))
    grey.save(tmp_path / "a.jpg", icc_profile=profile, quality=95)
    with Image.open(tmp_path / "a.jpg") as saved:
        assert np.array_equal(read_film(tmp_path / "a.jpg").pixels, np.asarray(saved))
    grey.convert("CMYK").save(tmp_path / "b.jpg")
    assert refusal(tmp_path / "b.jpg") == "colour-image"


@pytest.mark.parametrize(("frame", "bits"), [(0xC1, 12), (0xC3, 8), (0xC9, 8)])
def test_jpegs_that_only_archives_have_are_named(tmp_path: Path, frame: int, bits: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray((FILM % 256).astype(np.uint8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    place = data.index(b"\xff\xc0")
    data[place + 1], data[place + 4] = frame, bits
    (tmp_path / "a.jpg").write_bytes(data)
    assert refusal(tmp_path / "a.jpg") == "no-decoder"
