"""Where a hospital says that a device writes into its films they are black, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dicom_files import film_file
from medveil.errors import BadFile
from medveil_imaging.sources.dicom.blanking import BLANKED, Device, blank_with, read_rectangles, rules_in_use
from medveil_imaging.sources.raw import Film, Unusable
from medveil_imaging.sources.read import Wanted, read_film
from medveil_imaging.sources.rules import WRITING, Rules
from medveil_imaging.sources.workers import Workers

ROWS, COLUMNS = 256, 320
BANNER = (10, 8, 200, 40)
DEVICE = {"modality": "CR", "manufacturer": "Maker & Sons", "model": "Reader 7"}


@pytest.fixture(autouse=True)
def _no_rules_afterwards() -> Iterator[None]:
    yield
    blank_with(())


def rule(**changes: Any) -> Device:
    return Device(**({"rows": ROWS, "columns": COLUMNS, "rectangles": (BANNER,), **DEVICE} | changes))


def written_film(path: Path, **tags: Any) -> Path:
    """Soft noise with a name in the banner's place."""
    image = Image.fromarray((120 + 20 * np.sin(np.arange(ROWS * COLUMNS) / 900)).reshape(ROWS, COLUMNS))
    image = image.convert("L")
    ImageDraw.Draw(image).text((16, 14), "QUILLFEATHER OTTOLINE 7718204", fill=255, font_size=12)
    told = {"Manufacturer": "MAKER  & sons", "ManufacturerModelName": "Reader 7", **tags}
    return film_file(path, np.asarray(image, np.uint16) << 4, **told)


def test_the_rectangle_of_the_device_is_black_and_the_rest_untouched(tmp_path: Path) -> None:
    path = written_film(tmp_path / "film.dcm", BurnedInAnnotation="NO")
    before = read_film(path)
    assert WRITING in before.notes
    blank_with([rule()])
    after = read_film(path)
    assert WRITING not in after.notes
    assert BLANKED in after.notes
    left, top, width, height = BANNER
    inside = np.zeros((ROWS, COLUMNS), bool)
    inside[top : top + height, left : left + width] = True
    assert np.array_equal(after.pixels[~inside], before.pixels[~inside])
    assert (after.pixels[inside] == before.pixels[~inside].min()).all()


def test_the_place_is_that_of_the_picture_as_it_is_stored(tmp_path: Path) -> None:
    path = written_film(tmp_path / "film.dcm", PatientOrientation=["R", "F"])  # it is turned for looking at
    blank_with([rule()])
    assert WRITING not in read_film(path).notes


@pytest.mark.parametrize(
    "change",
    [{"modality": "DX"}, {"manufacturer": "Maker"}, {"model": "Reader 70"}, {"rows": 512}, {"columns": 640}],
)
def test_another_device_or_size_keeps_its_pixels(tmp_path: Path, change: dict[str, Any]) -> None:
    path = written_film(tmp_path / "film.dcm")
    before = read_film(path).pixels
    blank_with([rule(**change)])
    assert np.array_equal(read_film(path).pixels, before)


def test_a_header_that_says_yes_is_believed_unless_a_rectangle_is_named(tmp_path: Path) -> None:
    path = written_film(tmp_path / "film.dcm", BurnedInAnnotation="YES")
    with pytest.raises(Unusable, match="writing"):
        read_film(path)
    blank_with([rule()])
    assert BLANKED in read_film(path).notes


def test_what_shows_writing_all_the_same_is_not_used() -> None:
    with pytest.raises(Unusable, match=r"rectangles\.toml"):
        Rules(writing="blank").judged((BLANKED, WRITING))
    assert Rules(writing="blank").judged((BLANKED,)) == (BLANKED,)


@pytest.mark.slow
def test_confined_readers_go_by_the_rules_of_who_asks_at_each_file(tmp_path: Path) -> None:
    path, workers = written_film(tmp_path / "film.dcm"), Workers(1)
    try:
        seen = []
        for rules in ((), (rule(),), ()):
            blank_with(rules)
            [(_, read)] = workers([path], lambda p: [Wanted("film", p)])
            assert not isinstance(read, Unusable)
            [film] = read
            assert isinstance(film, Film)
            seen.append(BLANKED in film.notes)
    finally:
        workers.close()
    assert seen == [False, True, False]


def test_rules_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "rectangles.toml"
    path.write_text(
        '[[device]]\nmodality = "CR"\nrows = 256\ncolumns = 320\nrectangles = [[0, 0, 320, 30]]\n'
    )
    blank_with(read_rectangles(path))
    assert '"modality": "CR"' in rules_in_use()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "device = 3",
        "[[device]]\nrows = 10\ncolumns = 10",
        "[[device]]\nrows = 10\ncolumns = 10\nrectangles = [[0, 0, 11, 1]]",
        "[[device]]\nrows = 10\ncolumns = 10\nrectangles = [[0, 0, 10, 9]]",
        "[[device]]\nrows = 10\ncolumns = 10\nrectangles = [[-1, 0, 5, 1]]",
        "[[device]]\nrows = 10\ncolumns = 10\nrectangles = [[0, 0, 5, 1]]\nmaker = 'x'",
        "[[device]\nrows",
        "\x00",
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rectangles.toml"
    path.write_text(text)
    with pytest.raises(BadFile, match=r"rectangles\.toml"):
        read_rectangles(path)
    with pytest.raises(BadFile, match="not there"):
        read_rectangles(tmp_path / "none.toml")
