"""Whatever stands in one patient's lines of a manifest, every other patient is read as without them.

Or nobody is read, and the line is named: that is so where a line's cells cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medveil.study import Study
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources import findings
from medveil_imaging.sources.site import SiteData, read_site
from tries import tries

MakeStudy = Callable[..., Study]
LISTED = 300
"""So many problems are listed here; ten thousand, otherwise."""
HEADER = b"image,patient_id,split,label,note"
SPLITS = ("train", "val", "test")
OTHERS = [
    f"{2 * patient + film}.png,P{patient},{SPLITS[patient % 3]},{patient % 2},"
    for patient in range(6)
    for film in range(2)
]


@pytest.fixture(autouse=True)
def _few_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MAX_PROBLEMS", LISTED)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for number in range(14):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def read(films: Path, study: Study, lines: list[bytes], end: bytes = b"\n") -> SiteData:
    (films / "manifest.csv").write_bytes(end.join([HEADER, *lines, b""]))
    return read_site(films, study)


def people(site: SiteData) -> dict[str, tuple[str, PatientImages]]:
    """Everybody but the newcomer, whose pseudonym begins with x."""
    splits = {"train": site.train, "val": site.val, "test": site.test}
    return {
        p.patient: (split, p)
        for split, patients in splits.items()
        for p in patients
        if not p.patient.startswith("x")
    }


def assert_alike(site: SiteData, other: SiteData) -> None:
    mine, theirs = people(site), people(other)
    assert mine.keys() == theirs.keys()
    for name, (split, patient) in mine.items():
        assert theirs[name][0] == split
        assert torch.equal(theirs[name][1].images, patient.images)
        assert torch.equal(theirs[name][1].labels, patient.labels)


ENDS = {"unix": b"\n", "windows": b"\r\n", "old mac": b"\r"}
TELLING = ((0, "unix"), (5, "windows"), (12, "old mac"))
"""Each place and each line end once; how all of them meet is for `make test-all`."""
by_place_and_end = pytest.mark.parametrize(
    ("place", "end"),
    [
        pytest.param(
            place, end, id=f"{name}-{place}", marks=[pytest.mark.slow] * ((place, name) not in TELLING)
        )
        for place in (0, 5, 12)
        for name, end in ENDS.items()
    ],
)
NEWCOMERS = {
    "a Latin-1 byte that nobody reads": ["12.png,X,train,0,M\u00fcller".encode("latin-1")],
    "a Latin-1 byte in the path": ["M\u00fcller.png,X,test,0,".encode("latin-1")],
    "a zero byte": [b"12.png,X\0,train,0,"],
    "nothing but separators": [b",,,,", b";;;;", b"   ", b"\x1a", b"\xef\xbb\xbf"],
    "a header": [HEADER, b"\xef\xbb\xbf" + HEADER],
    "an encoding and a separator": [b"encoding=gbk,,,,", b"sep=;,,,,"],
    "a path in other capitals": [b"12.PNG,X,train,0,"],
    "a class's name": [b"12.png,X,train,abnormal,"],
    "others' images": [f"{i}.png,X,train,1,".encode() for i in range(12)],
    "others' images in test": [f"{i}.png,X,test,{i % 2},".encode() for i in range(12)],
    "others' images in train and in test": [f"{i}.png,X,{SPLITS[i % 3]},1,".encode() for i in range(12)],
    "others' images by other paths": [f"./{i}.png,X,train,1,".encode() for i in range(12)],
    "hundreds of lines": [f"12.png,X,train,0,{i}".encode() for i in range(500)],
    "more bad lines than are listed": [b"12.png,X,trian,0,"] * (LISTED + 10),
    "a look-alike of another": [b"12.png,x1,train,0,", b"13.png,X01,test,1,"],
    "too many empty cells": [b"12.png,X,train,0,,,,,"],
}
UNREADABLE = {
    "a Latin-1 byte": ["12.png,X-M\u00fcller,train,0,".encode("latin-1")],
    "a Latin-1 byte in the test split": ["12.png,X-M\u00fcller,test,0,".encode("latin-1")],
    "a quotation mark at the beginning": [b'"12.png,X,train,0,'],
    "a quotation mark at the end": [b'12.png,X,train,0,"'],
    "a quotation mark inside": [b'12.png,"X"X,train,0,'],
    "a quoted line break": [b'12.png,X,train,0,"first', b'second"'],
    "a cell over 131 kB": [b"12.png,X,train,0," + b"a" * 140_000],
    "a line of a megabyte": [b"a" * 2**20],
    "the other byte order's mark": [b"\xff\xfe1\0,\0"],
    "too few cells": [b"12.png,X"],
    "too many cells": [b"12.png,X,train,0,,,more"],
}


ALONE: dict[bytes, SiteData] = {}
"""The others by themselves, for each line end; read once."""


@by_place_and_end
@pytest.mark.parametrize("newcomer", NEWCOMERS.values(), ids=NEWCOMERS.keys())
def test_a_newcomers_lines_change_nobody_else(
    films: Path, make_study: MakeStudy, newcomer: list[bytes], place: int, end: bytes
) -> None:
    study, lines = make_study(), [line.encode() for line in OTHERS]
    before = ALONE[end] = ALONE.get(end) or read(films, study, lines, end)
    assert len(people(before)) == 6
    assert_alike(before, read(films, study, [*lines[:place], *newcomer, *lines[place:]], end))


@by_place_and_end
@pytest.mark.parametrize("newcomer", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_with_a_line_that_cannot_be_read_nobody_is_used_and_it_is_named(
    films: Path, make_study: MakeStudy, newcomer: list[bytes], place: int, end: bytes
) -> None:
    lines = [line.encode() for line in OTHERS]
    site = read(films, make_study(), [*lines[:place], *newcomer, *lines[place:]], end)
    assert people(site) == {}
    named = [problem.row for problem in site.problems if problem.row]
    assert named == [place + 2 + i for i in range(len(newcomer))]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
@pytest.mark.parametrize("odd", [1, 2, 3])
def test_bytes_too_many_in_two_lines_of_one_patient_do_not_swallow_what_is_between(
    films: Path, make_study: MakeStudy, encoding: str, end: str, odd: int
) -> None:
    lines = [*OTHERS[:4], "12.png,X", *OTHERS[4:8], ",train,0,", *OTHERS[8:]]
    data = [(line + end).encode(encoding) for line in [HEADER.decode(), *lines]]
    tail = len(end.encode(encoding))
    data[5] = data[5][:-tail] + b"a" * odd + data[5][-tail:]
    data[10] = b"a" * (4 - odd) + data[10]  # with it the cells between are one: 12.png, X and more, train, 0
    (films / "manifest.csv").write_bytes(b"".join(data))
    site = read_site(films, make_study())
    assert people(site) == {}
    assert "half-manifest" in {problem.code for problem in site.problems}


ANY_BYTES = st.binary(max_size=40).filter(lambda line: b"\n" not in line and b"\r" not in line)
CELLS = st.tuples(
    st.sampled_from([b'"', b"", *(f"{i}.png".encode() for i in range(14)), b"/etc/passwd", b"..", b"\xfc"]),
    st.sampled_from(
        [b"X", b"x", b" X\xc2\xa0", b'"X"', b'"X', b"X\xfc", b"", b"x1", b"'X", b"X\xe2\x80\x8b"]
    ),
    st.sampled_from([b"train", b"val", b"test", b"TRAIN ", b"", b'"']),
    st.sampled_from([b"0", b"1", b"7", b"", b'"', b"-1"]),
    st.sampled_from([b"", b'"', b"\0", b"\xff", b"a" * 140_000]),
)
LINES = st.lists(st.tuples(st.integers(0, 12), st.one_of(ANY_BYTES, CELLS.map(b",".join))), max_size=12)


@settings(deadline=None, max_examples=tries(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_no_lines_of_one_patient_change_another(
    films: Path, make_study: MakeStudy, added: list[tuple[int, bytes]]
) -> None:
    study, lines = make_study(), [line.encode() for line in OTHERS]
    before = read(films, study, lines)
    for place, line in sorted(added, reverse=True):
        lines.insert(place, line)
    after = read(films, study, lines)
    if "half-manifest" in {problem.code for problem in after.problems}:
        assert people(after) == {}
    else:
        assert_alike(before, after)


def test_each_patient_can_be_taken_out_alone(films: Path, make_study: MakeStudy) -> None:
    study, shared = make_study(), [f"{i}.png,P{(i + 1) % 6},train,1," for i in range(12)]
    lines = [line.encode() for line in [*OTHERS, *shared]]
    whole = people(read(films, study, lines))
    for name in [f"P{i}".encode() for i in range(6)]:
        rest = people(read(films, study, [line for line in lines if line.split(b",")[1] != name]))
        for other in rest.keys() - {name.decode().lower()}:
            assert torch.equal(rest[other][1].images, whole[other][1].images)


def test_spellings_of_one_patient_count_as_one_and_the_operator_is_told(
    films: Path, make_study: MakeStudy
) -> None:
    lines = ["0.png,P1,train,0,", "1.png, p1\u200b,train,1,", "2.png,P 1,train,0,", "3.png,P2,train,0,"]
    site = read(films, make_study(), [line.encode() for line in lines])
    assert [(p.patient, len(p)) for p in site.train] == [("p 1", 1), ("p1", 2), ("p2", 1)]
    assert [(p.row, p.code, p.severity) for p in site.problems] == [
        (3, "spelled-differently", "warning"),
        (4, "look-alike", "warning"),
    ]


def test_one_patient_in_two_splits_by_two_spellings_is_not_used(films: Path, make_study: MakeStudy) -> None:
    lines = [b"0.png,P1,train,0,", b"1.png,p1,test,1,", b"2.png,P2,train,0,"]
    site = read(films, make_study(), lines)
    assert [p.patient for p in (*site.train, *site.val, *site.test)] == ["p2"]
    assert [p.code for p in site.problems if p.severity == "error"] == ["patient-in-two-splits"] * 2


def test_an_image_of_two_patients_is_used_by_both_and_shown(films: Path, make_study: MakeStudy) -> None:
    site = read(films, make_study(), [b"0.png,A,train,0,", b"0.png,B,train,1,", b"1.png,C,train,1,"])
    assert [p.patient for p in site.train] == ["a", "b", "c"]
    assert [(p.row, p.code, p.severity) for p in site.problems] == [
        (2, "shared-image", "warning"),
        (3, "shared-image", "warning"),
    ]


def test_an_operator_reads_the_first_problems_and_how_many_more_there_are(
    films: Path, make_study: MakeStudy
) -> None:
    site = read(films, make_study(), [b"0.png,A,train,0,", *[b"0.png,A,bad,0,"] * (LISTED + 7)])
    assert len(site.problems) == LISTED + 2
    assert [p.code for p in site.problems[:2]] == ["one-class", "more-problems"]
    assert site.problems[1].reason.startswith("There are 7 more problems")
    assert len(site.train) == 1
