"""A DICOM film comes out with the values, the polarity and the direction that its header means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from dicom_files import codes, film_file, header_of, picture, refusal, save
from medveil_imaging.sources.dicom.scale import as_shown
from medveil_imaging.sources.label_maps import checked_label_film
from medveil_imaging.sources.raw import Film, Unusable
from medveil_imaging.sources.read import read_film

FILM = picture()
OVERLAY = np.zeros_like(FILM)
OVERLAY[10:20, 5:30] = 1
GREY = np.rint(FILM / 4000 * 255).astype(np.uint8)


def test_values_lie_in_the_stored_bits_below_the_high_bit(tmp_path: Path) -> None:
    high = film_file(tmp_path / "a.dcm", FILM << 4, stored=12, high=15)
    assert np.array_equal(read_film(high).pixels, FILM)
    middle = film_file(tmp_path / "b.dcm", FILM << 2, stored=12, high=13)
    assert np.array_equal(read_film(middle).pixels, FILM)
    assert codes(read_film(high)) == codes(read_film(middle)) == []


@pytest.mark.parametrize(
    ("words", "where"),
    [(FILM | (OVERLAY << 12), {"stored": 12}), ((FILM << 4) | OVERLAY * 15, {"stored": 12, "high": 15})],
)
def test_what_lies_outside_the_stored_bits_is_cut_off_and_told_of(
    tmp_path: Path, words: Any, where: dict[str, int]
) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", words, **where))
    assert np.array_equal(film.pixels, FILM)
    assert codes(film) == ["spare-bits"]


def test_a_few_pixels_above_the_announced_bits_cost_themselves_and_many_cost_the_film(tmp_path: Path) -> None:
    words = (FILM.astype(np.int64) * 4095 // FILM.max()).astype(np.uint16)
    places = np.argsort(words, axis=None)[
        -15:
    ]  # the brightest, as if the header had one bit too few for them
    words.ravel()[places] += 120
    assert 0 < (words > 4095).sum() <= 0.01 * words.size
    film = read_film(film_file(tmp_path / "a.dcm", words, stored=12))
    assert np.array_equal(film.pixels, words & 0xFFF)
    assert codes(film) == ["spare-bits"]
    assert refusal(read_film, film_file(tmp_path / "b.dcm", words, stored=11)).code == "contradiction"


def test_an_announced_overlay_in_spare_bits_needs_no_word(tmp_path: Path) -> None:
    header = header_of(FILM | (OVERLAY << 12), stored=12)
    for tag, value in {0x60000010: 48, 0x60000011: 40, 0x60000100: 16, 0x60000102: 12}.items():
        header.add_new(tag, "US", value)
    film = read_film(save(tmp_path / "a.dcm", header))
    assert np.array_equal(film.pixels, FILM)
    assert codes(film) == []


def test_negative_values_of_fewer_bits_than_their_words_keep_their_sign(tmp_path: Path) -> None:
    signed = FILM.astype(np.int16) - 2000
    for name, words in (("a", signed), ("b", (signed & 0xFFF).astype(np.int16)), ("c", signed << 4)):
        high = 15 if name == "c" else 11
        film = read_film(film_file(tmp_path / f"{name}.dcm", words.astype(np.int16), stored=12, high=high))
        assert np.array_equal(film.pixels, signed)
        assert codes(film) == []


@pytest.mark.parametrize(
    "tags",
    [
        {"stored": 17},
        {"stored": 12, "high": 9},
        {"stored": 11, "high": 16},
        {"BitsAllocated": 12},
        {"stored": 0, "high": 0},
        {"stored": 8},
        {"stored": 10},
    ],
)
def test_bits_that_cannot_be_are_a_contradiction(tmp_path: Path, tags: dict[str, int]) -> None:
    assert refusal(read_film, film_file(tmp_path / "a.dcm", FILM, **tags)).code == "contradiction"


def test_a_high_bit_that_cannot_be_is_no_matter_where_it_makes_no_difference(tmp_path: Path) -> None:
    for bits in ({"stored": 12, "high": 16}, {"stored": 14, "high": 12}):
        assert np.array_equal(read_film(film_file(tmp_path / "a.dcm", FILM, **bits)).pixels, FILM)


def test_a_film_that_does_not_say_whether_it_is_grey_is_refused(tmp_path: Path) -> None:
    path = film_file(tmp_path / "a.dcm", FILM, PhotometricInterpretation=None)
    assert refusal(read_film, path).code == "bad-header"


def padded(value: int) -> Any:
    words = FILM.copy()
    words[:, 28:] = value
    return words


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        (padded(65535), {"PixelPaddingValue": 65535}),
        (padded(65000), {"PixelPaddingValue": 64990, "PixelPaddingRangeLimit": 65010}),
        (padded(65000), {"PixelPaddingValue": 65010, "PixelPaddingRangeLimit": 64990}),
        (padded(0), {"PixelPaddingValue": 0}),
        (padded(0xF800).view(np.int16), {"PixelPaddingValue": -2048}),
        (padded(0xF800), {"PixelPaddingValue": 0xF800, "stored": 12}),
        (padded(65535), {}),
        (padded(60000), {}),
    ],
)
def test_padding_becomes_as_dark_as_the_darkest_pixel_of_the_picture(
    tmp_path: Path, words: Any, tags: dict[str, Any]
) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", words, **tags))
    assert np.array_equal(film.pixels[:, :28], FILM[:, :28])
    assert set(film.pixels[:, 28:].ravel().tolist()) == {float(FILM[:, :28].min())}
    assert codes(film) == ([] if tags else ["padding-undeclared"])


def test_padding_may_be_written_with_the_other_sign(tmp_path: Path) -> None:
    header = header_of(padded(0xF800).view(np.int16))
    header.add_new(0x00280120, "US", 0xF800)  # where the pixels have a sign, -2048 is meant
    film = read_film(save(tmp_path / "a.dcm", header))
    assert film.pixels[:, 28:].max() == film.pixels[:, :28].min() == FILM[:, :28].min()


def test_padding_of_a_film_that_stores_dense_as_small_is_dark_too(tmp_path: Path) -> None:
    words = (4095 - FILM).astype(np.uint16)
    words[:, 28:] = 65535
    for tags in ({"PixelPaddingValue": 65535}, {}):
        film = read_film(
            film_file(tmp_path / "a.dcm", words, PhotometricInterpretation="MONOCHROME1", **tags)
        )
        assert np.array_equal(film.pixels[:, :28] + 4095, FILM[:, :28])
        assert film.pixels[:, 28:].max() == film.pixels[:, :28].min()


def test_a_film_of_nothing_but_padding_is_blank(tmp_path: Path) -> None:
    path = film_file(tmp_path / "a.dcm", np.full_like(FILM, 9), PixelPaddingValue=9)
    assert refusal(read_film, path).code == "constant-image"


@pytest.mark.parametrize(
    ("kind", "shape", "inverted", "said"),
    [
        ("MONOCHROME2", None, False, []),
        ("MONOCHROME2", "IDENTITY", False, []),
        ("MONOCHROME2", "INVERSE", True, ["polarity-unclear"]),
        ("MONOCHROME1", None, True, []),
        ("MONOCHROME1", "INVERSE", True, []),
        ("MONOCHROME1", "IDENTITY", False, ["polarity-unclear"]),
    ],
)
def test_polarity_follows_the_lut_shape_and_then_the_photometric_interpretation(
    tmp_path: Path, kind: str, shape: str | None, inverted: bool, said: list[str]
) -> None:
    film = read_film(
        film_file(tmp_path / "a.dcm", FILM, PhotometricInterpretation=kind, PresentationLUTShape=shape)
    )
    assert np.array_equal(film.pixels, -FILM.astype(np.float32) if inverted else FILM)
    assert codes(film) == said


@pytest.mark.parametrize(
    ("direction", "stored"),
    [
        ("L\\F", FILM),
        ("R\\F", FILM[:, ::-1]),
        ("L\\H", FILM[::-1]),
        ("R\\H", FILM[::-1, ::-1]),
        ("F\\L", FILM.T),
        ("H\\L", FILM[::-1].T),
        ("F\\R", FILM[:, ::-1].T),
        ("H\\R", FILM[::-1, ::-1].T),
        ("RAF\\FL", FILM[:, ::-1]),
        ("A\\F", FILM),
        ("P\\F", FILM),
        ("P\\H", FILM[::-1]),
        ("L\\P", FILM),
        ("", FILM),
    ],
)
def test_a_film_is_turned_to_the_patients_left_and_feet(tmp_path: Path, direction: str, stored: Any) -> None:
    path = film_file(
        tmp_path / "a.dcm", np.ascontiguousarray(stored), written={"PatientOrientation": direction}
    )
    film = read_film(path)
    assert np.array_equal(film.pixels, FILM)
    assert codes(film) == ([] if stored is FILM else ["film-turned"])
    assert film.turned == (stored is not FILM)


@pytest.mark.parametrize("direction", ["L", "L\\R", "F\\H", "X\\F", "L\\F\\A", "LEFT"])
def test_a_direction_that_makes_no_sense_is_told_of_and_turns_nothing(tmp_path: Path, direction: str) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", FILM, written={"PatientOrientation": direction}))
    assert np.array_equal(film.pixels, FILM)
    assert codes(film) == ["orientation-unclear"]


@pytest.mark.parametrize(
    "written",
    [
        {"WindowCenter": "0", "WindowWidth": "0"},
        {"WindowCenter": "0", "WindowWidth": "1"},
        {"WindowCenter": "NaN", "WindowWidth": "NaN"},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": "2047,5", "WindowWidth": "4095,0"},
        {"WindowCenter": "2048", "WindowWidth": "4096", "VOILUTFunction": ""},
        {"WindowCenter": "2048\\1000", "WindowWidth": "4096"},
        {"WindowCenter": "100\\2048", "WindowWidth": "20\\4096"},
        {"WindowCenter": "2048", "WindowWidth": "-4096"},
    ],
)
def test_odd_windows_leave_the_film_as_it_is(tmp_path: Path, written: dict[str, str]) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", FILM, written=written))
    assert np.array_equal(film.pixels, FILM)
    assert codes(film) == []


@pytest.mark.parametrize(("offset", "centre", "width"), [(0, 127, 255), (12000, 3174, 2426), (0, 3990, 100)])
def test_a_window_that_hides_most_of_a_film_is_not_applied(
    tmp_path: Path, offset: int, centre: int, width: int
) -> None:
    pixels = FILM + np.uint16(offset)
    film = read_film(film_file(tmp_path / "a.dcm", pixels, WindowCenter=centre, WindowWidth=width))
    assert np.array_equal(film.pixels, pixels)
    assert codes(film) == ["window-ignored"]


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [("LINEAR", 1000.5, 2999.5), ("LINEAR_EXACT", 1000, 3000), ("", 1000.5, 2999.5)],
)
def test_a_sane_window_cuts_the_range_and_nothing_else(
    tmp_path: Path, function: str, low: float, high: float
) -> None:
    path = film_file(
        tmp_path / "a.dcm",
        FILM,
        WindowCenter=2000.5 if function != "LINEAR_EXACT" else 2000,
        WindowWidth=2000,
        VOILUTFunction=function,
    )
    assert np.array_equal(read_film(path).pixels, np.clip(FILM, low, high))


def test_a_sigmoid_window_bends_the_range_and_keeps_its_order(tmp_path: Path) -> None:
    path = film_file(tmp_path / "a.dcm", FILM, WindowCenter=2000, WindowWidth=3000, VOILUTFunction="SIGMOID")
    pixels = read_film(path).pixels
    order = np.argsort(FILM.ravel(), kind="stable")
    assert (np.diff(pixels.ravel()[order]) >= 0).all()
    assert np.allclose(pixels, 500 + 3000 / (1 + np.exp(-4 * (FILM - 2000.0) / 3000)), atol=1e-2)


def test_a_window_below_one_suits_a_film_of_small_numbers(tmp_path: Path) -> None:
    path = film_file(
        tmp_path / "a.dcm", FILM, RescaleSlope=1 / 4096, RescaleIntercept=0, WindowCenter=0.5, WindowWidth=0.9
    )
    assert np.allclose(read_film(path).pixels, np.clip(FILM / 4096, 0.05, 0.95))


def table(entries: Any, begin: int = 0, bits: int = 16, count: int | None = None) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", [len(entries) if count is None else count, begin, bits])
    item.add_new(0x00283006, "OW", np.asarray(entries, "u1" if bits == 8 else "<u2").tobytes())
    return item


def test_a_sane_table_for_viewing_is_applied(tmp_path: Path) -> None:
    path = film_file(tmp_path / "a.dcm", FILM, VOILUTSequence=[table(np.arange(4096) * 16)])
    assert np.array_equal(read_film(path).pixels, FILM * 16.0)
    falling = film_file(tmp_path / "b.dcm", FILM, VOILUTSequence=[table(4095 - np.arange(4096))])
    assert np.array_equal(read_film(falling).pixels, 4095.0 - FILM)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (table([], count=4096), []),
        (table(np.arange(100), count=4096), []),
        (table(np.zeros(4096)), ["window-ignored"]),
        (table(np.arange(4096) % 7), ["window-ignored"]),
        (table(np.arange(256)), ["window-ignored"]),
    ],
)
def test_a_table_that_hides_most_of_a_film_is_not_applied(
    tmp_path: Path, item: Dataset, said: list[str]
) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", FILM, VOILUTSequence=[item]))
    assert np.array_equal(film.pixels, FILM)
    assert codes(film) == said
    both = {"VOILUTSequence": [item], "WindowCenter": 2048, "WindowWidth": 4096}
    assert np.array_equal(read_film(film_file(tmp_path / "b.dcm", FILM, **both)).pixels, FILM)


def test_a_table_that_cannot_be_read_is_none() -> None:
    item, header = table(np.arange(4096)), header_of(FILM)
    tag = BaseTag(0x00283006)
    item._dict[tag] = RawDataElement(tag, "US", 5, b"12345", 0, False, True)
    header.VOILUTSequence = [item]
    shown, notes = as_shown(FILM.astype(np.float32), header, np.ones(FILM.shape, bool))
    assert np.array_equal(shown, FILM)
    assert notes == ()


@pytest.mark.parametrize(
    ("written", "expected", "said"),
    [
        ({"RescaleSlope": "2,5", "RescaleIntercept": "-5,0"}, FILM * 2.5 - 5, []),
        ({"RescaleSlope": "-1", "RescaleIntercept": "4095"}, 4095.0 - FILM, []),
        ({"RescaleSlope": "0", "RescaleIntercept": "7"}, FILM, ["rescale-ignored"]),
        ({"RescaleSlope": "abc", "RescaleIntercept": "7"}, FILM, ["rescale-ignored"]),
        ({"RescaleSlope": "2", "RescaleIntercept": "abc"}, FILM, ["rescale-ignored"]),
        ({"RescaleIntercept": "7"}, FILM + 7.0, []),
    ],
)
def test_the_rescale_is_applied_unless_it_makes_no_sense(
    tmp_path: Path, written: dict[str, str], expected: Any, said: list[str]
) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", FILM, written=written))
    assert np.array_equal(film.pixels, expected.astype(np.float32))
    assert codes(film) == said


def test_tables_of_eight_bits_may_be_packed(tmp_path: Path) -> None:
    entries = np.arange(4096) // 16
    path = film_file(tmp_path / "a.dcm", FILM, ModalityLUTSequence=[table(entries, bits=8)])
    assert np.array_equal(read_film(path).pixels, FILM // 16)


def test_a_modality_table_is_looked_up_from_its_first_value_on(tmp_path: Path) -> None:
    entries = (np.arange(3000) ** 1.2).astype(np.uint16)
    path = film_file(tmp_path / "a.dcm", FILM, ModalityLUTSequence=[table(entries, begin=500)])
    assert np.array_equal(read_film(path).pixels, entries[np.clip(FILM.astype(int) - 500, 0, 2999)])


def colours(kind: str, channels: Any, planar: int = 0) -> dict[str, Any]:
    data = channels if planar == 0 else np.moveaxis(channels, 2, 0)
    return {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": kind,
        "PlanarConfiguration": planar,
        "PixelData": np.ascontiguousarray(data).tobytes(),
    }


def palette(**data: Any) -> dict[str, Any]:
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        entries = np.asarray(data.get(name, np.arange(256) * 257), "<u2")
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    return tags


EQUAL = np.repeat(GREY[..., None], 3, 2)
NEUTRAL = np.stack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)], 2)
HALVED = np.stack(
    [GREY[:, ::2], GREY[:, 1::2], np.full_like(GREY[:, ::2], 128), np.full_like(GREY[:, ::2], 128)], 2
)


@pytest.mark.parametrize(
    "tags",
    [
        colours("RGB", EQUAL),
        colours("RGB", EQUAL, planar=1),
        colours("YBR_FULL", NEUTRAL),
        colours("YBR_FULL", NEUTRAL, planar=1),
        colours("YBR_FULL_422", HALVED),
        palette(),
    ],
)
def test_a_grey_film_stored_as_colour_is_grey(tmp_path: Path, tags: dict[str, Any]) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", GREY, **tags))
    assert np.array_equal(film.pixels, GREY)
    assert codes(film) == []


@pytest.mark.parametrize(
    "tags",
    [
        colours("RGB", np.stack([GREY, GREY, GREY[::-1]], 2)),
        colours("YBR_FULL", np.stack([GREY, GREY[::-1], np.full_like(GREY, 128)], 2)),
        palette(Blue=np.arange(256)[::-1] * 257),
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PhotometricInterpretation": "HSV"},
    ],
)
def test_a_film_with_colour_in_it_is_refused(tmp_path: Path, tags: dict[str, Any]) -> None:
    assert refusal(read_film, film_file(tmp_path / "a.dcm", GREY, **tags)).code == "colour-image"


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "MG", "PX", "IO", "RF", "XA"])
def test_every_kind_of_radiograph_is_a_film(tmp_path: Path, modality: str) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", FILM, Modality=modality, written={"NumberOfFrames": " 1"}))
    assert np.array_equal(film.pixels, FILM)


def test_exchanged_rows_and_columns_are_a_contradiction(tmp_path: Path) -> None:
    for pixels in (FILM, picture(40, 90), GREY):
        swapped = {"Rows": pixels.shape[1], "Columns": pixels.shape[0]}
        assert refusal(read_film, film_file(tmp_path / "a.dcm", pixels, **swapped)).code == "contradiction"


def test_pixels_beyond_those_announced_are_left_out_and_told_of(tmp_path: Path) -> None:
    for more in (2048, FILM.nbytes):
        film = read_film(film_file(tmp_path / "a.dcm", FILM, PixelData=FILM.tobytes() + b"\0" * more))
        assert np.array_equal(film.pixels, FILM)
        assert codes(film) == ["longer-than-said"]


def test_raw_films_are_told_of(tmp_path: Path) -> None:
    film = read_film(film_file(tmp_path / "a.dcm", FILM, PresentationIntentType="FOR PROCESSING"))
    assert codes(film) == ["film-for-processing"]


def test_metal_with_soft_edges_and_a_black_background_are_no_padding(tmp_path: Path) -> None:
    blurred = FILM // 8
    for value, columns in ((4095, slice(20, 30)), (0, slice(0, 12))):
        pixels = blurred + np.uint16(0)
        pixels[:, columns] = value
        for edge, weight in ((columns.start - 1, 3), (columns.stop, 2)):
            if edge >= 0:
                pixels[:, edge] = (pixels[:, edge] * (4 - weight) + value * weight) // 4
        film = read_film(film_file(tmp_path / "a.dcm", pixels, stored=12))
        assert np.array_equal(film.pixels, pixels)
        assert codes(film) == []


def test_pixels_that_are_not_square_are_told_of(tmp_path: Path) -> None:
    for tags in ({"PixelAspectRatio": [2, 1]}, {"ImagerPixelSpacing": [0.2, 0.1]}):
        assert codes(read_film(film_file(tmp_path / "a.dcm", FILM, **tags))) == ["pixels-not-square"]
    assert codes(read_film(film_file(tmp_path / "a.dcm", FILM, ImagerPixelSpacing=[0.143, 0.143]))) == []


def test_a_label_map_of_a_film_that_its_header_turned_is_refused(tmp_path: Path) -> None:
    labels = Film(np.zeros(FILM.shape, np.float32))
    for direction, code in (("R\\F", "label-map-place"), ("L\\F", "")):
        path = film_file(tmp_path / "a.dcm", FILM, written={"PatientOrientation": direction})
        if code:
            with pytest.raises(Unusable) as caught:
                checked_label_film(read_film(path), labels, 2)
            assert caught.value.code == code
        else:
            assert checked_label_film(read_film(path), labels, 2)[0].pixels.shape == FILM.shape
