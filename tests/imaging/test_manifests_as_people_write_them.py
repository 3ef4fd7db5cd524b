"""Manifests from spreadsheets, Windows and other disks are read as they are meant, or the cause is named."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.lines import count_lines
from medveil_imaging.sources.manifest import Row, settled_rows
from medveil_imaging.sources.people import compare_people
from medveil_imaging.sources.raw import Problem

MakeStudy = Callable[..., Study]
HEADER = "image,patient_id,split,label"
LINES = [HEADER, "films/0001.png,P-1,train,0", "films/0002.png,P-2,train,1", "films/0003.png,P-3,test,1"]
MEANT = [
    ("films/0001.png", "p-1", "train", 0),
    ("films/0002.png", "p-2", "train", 1),
    ("films/0003.png", "p-3", "test", 1),
]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "films").mkdir(parents=True)
    for number in range(1, 4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "films" / f"{number:04d}.png")
    return folder


def rows(site: Path, study: Study, text: str | bytes) -> tuple[list[Row], list[Problem]]:
    (site / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    findings = Findings()
    settled = settled_rows(site, study, findings)
    compare_people(settled, findings)
    return settled, list(findings.sorted("manifest.csv"))


def meaning(found: list[Row], site: Path) -> list[tuple[str, str, str, object]]:
    return [(r.paths[0].relative_to(site.resolve()).as_posix(), r.patient, r.split, r.label) for r in found]


def changed(old: str, new: str, lines: list[str] = LINES) -> str:
    assert any(old in line for line in lines)
    return "\n".join(line.replace(old, new) for line in lines)


def joined(separator: str) -> str:
    return "\r\n".join(LINES).replace(",", separator)


NOTE = "\n".join([HEADER + ",gr\u00f6\u00dfe", *(line + ",M\u00fcnchen" for line in LINES[1:])])
AS_MEANT: dict[str, str | bytes] = {
    "UTF-8 with a mark": b"\xef\xbb\xbf" + "\n".join(LINES).encode(),
    "UTF-16, Excel's Unicode text": joined("\t").encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + "\n".join(LINES).encode("utf-16-be"),
    "UTF-16 without a mark": "\n".join(LINES).encode("utf-16-le"),
    "UTF-32": "\n".join(LINES).encode("utf-32"),
    "Windows-1252 in a column that nobody reads": NOTE.encode("cp1252"),
    "Mac Roman in a column that nobody reads": NOTE.encode("mac-roman"),
    "two encodings in a column that nobody reads": NOTE.replace("M\u00fcnchen", "ok", 1).encode()[:-8]
    + "M\u00fcnchen".encode("cp1252"),
    "GBK in a column that nobody reads": NOTE.replace("M\u00fcnchen", "\u60a3\u8005")
    .replace("gr\u00f6\u00dfe", "\u6ce8")
    .encode("gbk"),
    "semicolons": joined(";"),
    "tabs": joined("\t"),
    "vertical bars": joined("|"),
    "a separator in the first line": "sep=;\r\n" + joined(";"),
    "a separator in the first line, quoted": '"sep=,"\r\n' + joined(","),
    "semicolons and decimal commas": joined(";").replace("\r\n", ";2,5\r\n").replace("label;2,5", "label;mm")
    + ";3,0",
    "line ends of an old Mac": "\r".join(LINES),
    "everything in quotation marks": "\n".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) for line in LINES
    ),
    "capitals and spaces in the header": changed(HEADER, " Image ,Patient ID,SPLIT,Label"),
    "other columns, and their order": "\n".join(
        f"{n},{','.join(reversed(line.split(',')))}" for n, line in enumerate(LINES)
    ),
    "empty columns at the end": "\n".join(line + ",,," for line in LINES),
    "cells beyond an ordinary header": "\n".join([HEADER, *(line + ",," for line in LINES[1:])]),
    "empty lines of a spreadsheet": "\n".join([*LINES, *[",,,", ";;;;", "  ", ',"",,', "\x1a", "\0\0\0"]]),
    "a blank first line": "\n\n" + "\n".join(LINES),
    "two files one after the other": "\n".join([*LINES[:2], "\ufeff" + HEADER, *LINES[2:]]),
    "backslashes": changed("films/", "films\\"),
    "blanks at the ends of paths": changed(".png", ".png "),
    "blanks at the beginnings of paths": changed("films", "  films"),
    "blanks that nothing shows of": changed(".png", ".png\u200b\u00a0"),
    "a dot before paths": changed("films/", "./films/"),
    "a doubled slash": changed("films/", "films//"),
    "the folder's own name before paths": changed("films/", "site/films/"),
    "quoted paths in quotes": changed("films/0001.png", '"""films/0001.png"""'),
    "a path as a browser writes it": changed("films/", "films%2F"),
    "labels in full width": changed(",1", ",\uff11"),
    "paths in printers' quotation marks": changed("films/0001.png", "\u201cfilms/0001.png\u201d"),
    "labels with decimals": changed(",1", ",1.0"),
    "names of classes": changed(",1", ", Abnormal"),
    "long words for the splits": changed("train", " Training"),
}


@pytest.mark.parametrize("text", AS_MEANT.values(), ids=AS_MEANT.keys())
def test_a_manifest_is_read_as_it_is_meant(site: Path, make_study: MakeStudy, text: str | bytes) -> None:
    found, problems = rows(site, make_study(), text)
    assert meaning(found, site) == MEANT
    assert problems == []
    assert count_lines(site / "manifest.csv", 10**6) in (3, 4)  # a header in the middle counts


@pytest.mark.parametrize("name", ["Manifest.CSV", "manifest.csv.txt", "manifest (1).csv", "manifest.xlsx"])
def test_a_file_called_nearly_so_is_named(site: Path, make_study: MakeStudy, name: str) -> None:
    if (site / "films").exists() and (site / "FILMS").exists():
        pytest.skip("the disk does not tell capitals apart")
    (site / name).write_text("\n".join(LINES), encoding="utf-8")
    findings = Findings()
    assert settled_rows(site, make_study(), findings) == []
    (problem,) = findings.sorted("manifest.csv")
    assert problem.code == "no-manifest"
    assert f"'{name}'" in problem.reason


def test_an_absolute_path_inside_the_folder_is_that_file(site: Path, make_study: MakeStudy) -> None:
    assert meaning(rows(site, make_study(), changed("films", f"{site}/films"))[0], site) == MEANT


@pytest.mark.parametrize("encoding", ["cp1252", "mac-roman", "gbk", "shift_jis", "utf-16"])
def test_the_operator_says_what_the_file_was_saved_in(
    site: Path, make_study: MakeStudy, encoding: str
) -> None:
    names = (
        ("\u60a3\u8005A", "\u60a3\u8005B") if encoding in ("gbk", "shift_jis") else ("M\u00dcLLER", "R\u00f6")
    )
    text = changed("P-2", names[1]).replace("P-1", names[0])
    said = "" if encoding == "utf-16" else f"encoding={encoding}\n"
    found, problems = rows(site, make_study(), (said + text).encode(encoding))
    assert [row.patient for row in found] == [names[0].lower(), names[1].lower(), "p-3"]
    assert problems == []


@pytest.mark.parametrize(
    ("encoding", "name", "likely"),
    [
        ("cp1252", "M\u00fcller", "encoding=windows-1252"),
        ("mac-roman", "M\u00fcller", "encoding=macintosh"),
        ("gbk", "\u60a3\u8005", "encoding=gbk"),
        ("cp1251", "\u0418\u0432\u0430\u043d\u043e\u0432", "encoding=windows-1251"),
    ],
)
def test_pseudonyms_in_an_unknown_encoding_refuse_the_file_and_the_likely_one_is_named(
    site: Path, make_study: MakeStudy, encoding: str, name: str, likely: str
) -> None:
    found, problems = rows(site, make_study(), changed("P-2", name).encode(encoding))
    assert found == []
    assert [(p.row, p.code, p.severity) for p in problems] == [
        (None, "half-manifest", "error"),
        (3, "not-utf-8", "error"),
    ]
    assert likely in problems[0].remedy


@pytest.mark.parametrize("encoding", ["cp1252", "mac-roman", "utf-8", "latin-1"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_a_file_is_found_whatever_its_letters_were_saved_in(
    site: Path, make_study: MakeStudy, encoding: str, stored: str, written: str
) -> None:
    name = "R\u00f6ntgen-\u00c4.png"
    (site / "films" / "0001.png").rename(site / "films" / unicodedata.normalize(stored, name))
    if encoding != "utf-8":
        written = "NFC"
    text = changed("0001.png", unicodedata.normalize(written, name)).replace("/", "\\")
    found, problems = rows(site, make_study(), text.encode(encoding))
    assert problems == []
    assert unicodedata.normalize("NFC", found[0].paths[0].name) == name


def test_a_name_in_other_capitals_is_followed_with_a_warning_and_only_where_one_file_fits(
    site: Path, make_study: MakeStudy
) -> None:
    found, problems = rows(site, make_study(), changed("films/0001.png", "Films/0001.PNG"))
    if (site / "Films").exists():
        pytest.skip("the disk does not tell capitals apart")
    assert meaning(found, site) == MEANT
    assert [(p.row, p.code, p.severity) for p in problems] == [(2, "other-capitals", "warning")]
    (site / "films" / "0001.Png").write_bytes(b"")
    found, problems = rows(site, make_study(), changed("films/0001.png", "films/0001.PNG"))
    assert meaning(found, site) == MEANT[1:]
    assert [(p.row, p.code) for p in problems] == [(2, "missing-file")]


NAMED: dict[str, tuple[str, str, str]] = {
    "another ending": (changed("0001.png", "0001.dcm"), "missing-file", "did you mean '0001.png'"),
    "no ending": (changed("0001.png", "0001"), "missing-file", "did you mean '0001.png'"),
    "zeros a spreadsheet took away": (changed("0001.png", "1"), "missing-file", "did you mean '0001.png'"),
    "a folder that is not there": (changed("films/0001", "film/x"), "missing-file", "the folder 'film'"),
    "a folder of another name": (
        changed("films/0001", "film/0001"),
        "missing-file",
        "did you mean 'films/0001.png'",
    ),
    "a folder too few": (changed("films/0001", "0001"), "missing-file", "did you mean 'films/0001.png'"),
    "folders too many": (
        changed("films/0001", "data/site/films/0001"),
        "missing-file",
        "did you mean 'films/0001.png'",
    ),
    "a path of another machine": (
        changed("films/0001", "D:\\export\\films\\0001"),
        "outside-folder",
        "Did you mean 'films/0001.png'",
    ),
    "a path from the root": (
        changed("films/0001", "/films/0001"),
        "outside-folder",
        "Did you mean 'films/0001.png'",
    ),
    "an address": (changed("films/0001", "file:films/0001"), "missing-file", "did you mean 'films/0001.png'"),
    "lost letters": (changed("0001", "R\ufffdntgen"), "missing-file", "damaged"),
    "letters read in another encoding": (changed("0001", "R\u00c3\u00b6"), "missing-file", "damaged"),
    "a drive of Windows": (changed("films/0001", "C:\\\\films\\\\0001"), "outside-folder", "leads out"),
    "a share of Windows": (
        changed("films/0001", "\\\\\\\\pacs\\\\films\\\\0001"),
        "outside-folder",
        "leads out",
    ),
    "a way up, of Windows": (changed("films/0001", "..\\\\films\\\\0001"), "outside-folder", "leads out"),
    "no label": (changed(",0", ","), "bad-label", "no label"),
    "no value of a program": (changed("P-1", "NaN"), "no-patient", "says that there is none"),
    "no value of a spreadsheet": (changed("P-1", "#NAME?"), "no-patient", "instead of a value"),
    "no room in a column": (changed("P-1", "########"), "no-patient", "instead of a value"),
    "a rounded number": (changed("P-1", "1,23457E+15").replace(",23", ".23"), "no-patient", "rounded"),
}


@pytest.mark.parametrize(("text", "code", "words"), NAMED.values(), ids=NAMED.keys())
def test_a_line_that_is_not_used_says_why(
    site: Path, make_study: MakeStudy, text: str, code: str, words: str
) -> None:
    found, problems = rows(site, make_study(), text)
    assert meaning(found, site) == MEANT[1:]
    assert [(p.row, p.code, p.severity) for p in problems] == [(2, code, "error")]
    assert words in problems[0].reason


REFUSED: dict[str, tuple[str | bytes, str, str]] = {
    "no header": ("\n".join(LINES[1:]), "missing-columns", "line that names the columns is missing"),
    "a column called nearly so": (changed("patient_id", "patient_nr"), "missing-columns", "column 2"),
    "two columns of one name": (changed("label", "label,Label,LABEL"), "bad-line", "6"),
    "a title above": ("Export of 1 March\n\n" + joined(","), "missing-columns", "line 3 does"),
    "an empty file": ("", "missing-columns", "empty"),
    "a workbook": (b"PK\x03\x04" + bytes(100), "not-csv", "workbook"),
    "an old workbook": (b"\xd0\xcf\x11\xe0" + bytes(100), "not-csv", ".xls"),
    "a web page": ("<html><table>", "not-csv", "web page"),
    "an unknown separator": ("sep=#\n" + joined("#"), "unknown-separator", "sep="),
    "an unknown encoding": ("encoding=klingon\n" + joined(","), "unknown-encoding", "encoding="),
    "an encoding that is none of letters": (
        "encoding=base64\n" + joined(","),
        "unknown-encoding",
        "encoding=",
    ),
    "an encoding against the mark": (
        b"\xef\xbb\xbfencoding=gbk\n" + joined(",").encode(),
        "unknown-encoding",
        "mark of another",
    ),
}


@pytest.mark.parametrize(("text", "code", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_is_no_manifest_says_why(
    site: Path, make_study: MakeStudy, text: str | bytes, code: str, words: str
) -> None:
    found, problems = rows(site, make_study(), text)
    assert found == []
    assert code in {p.code for p in problems}
    assert any(words in p.reason for p in problems if p.code == code)


def test_pseudonyms_that_spreadsheets_have_made_are_told_of(site: Path, make_study: MakeStudy) -> None:
    for made in ("1-Mar", "03. Mrz", "Mar-01", "2024-03-01", "01/03/2024", "1234567890120000"):
        found, problems = rows(site, make_study(), changed("P-2", made))
        assert len(found) == 3
        assert [(p.row, p.code, p.severity) for p in problems] == [(3, "doubtful-patient", "warning")]
        assert made not in problems[0].reason
    text = changed("P-2", "12345678901200000").replace("P-3", "1234567890123456")
    assert [(p.row, p.code) for p in rows(site, make_study(), text)[1]] == [(3, "doubtful-patient")]
    for own in ("MAR-0001", "1234567890123450", "P-2024"):
        text = changed("P-2", own).replace("P-3", "1234567890123456")
        assert rows(site, make_study(), text)[1] == []


def test_classes_counted_from_one_are_told_of(site: Path, make_study: MakeStudy) -> None:
    problems = rows(site, make_study(), changed(",1", ",2").replace(",0", ",1"))[1]
    assert [(p.row, p.code) for p in problems] == [
        (None, "labels-from-one"),
        (3, "bad-label"),
        (4, "bad-label"),
    ]


def test_lines_in_two_splits_say_which_line_spells_the_patient_otherwise(
    site: Path, make_study: MakeStudy
) -> None:
    problems = rows(site, make_study(), changed("P-3", "p\u20111"))[1]
    assert [(p.row, p.code) for p in problems] == [(2, "patient-in-two-splits"), (4, "patient-in-two-splits")]
    assert "Line 4 spells" in problems[0].reason
    assert "Line 2 spells" in problems[1].reason


def test_a_study_of_several_channels_has_a_column_for_each_or_one_file(
    site: Path, make_study: MakeStudy
) -> None:
    study = make_study("mri", channels=("t1", "t2"))
    apart = (
        "T1,T2,patient_id,split,label\nfilms/0001.png,films/0002.png,P-1,train,0\nfilms/0003.png,,P-2,train,1"
    )
    found, problems = rows(site, study, apart)
    assert [[path.name for path in row.paths] for row in found] == [["0001.png", "0002.png"]]
    assert found[0].image == "films/0001.png"
    assert [(p.row, p.code) for p in problems] == [(3, "no-path")]
    found, problems = rows(site, study, "\n".join(LINES))
    assert [[path.name for path in row.paths] for row in found] == [["0001.png"], ["0002.png"], ["0003.png"]]
    found, problems = rows(site, study, apart.replace("T2", "t3"))
    assert [p.code for p in problems] == ["missing-columns"]
    assert "image" in problems[0].reason
    assert "t1, t2" in problems[0].reason


def test_the_name_of_a_class_does_not_go_before_its_number(make_study: MakeStudy) -> None:
    study = make_study().model_copy(update={"classes": ("1", "0", "x")})
    task = TASKS["classification"]
    assert [task.read_label(study, {"label": text}) for text in ("0", "1", "2.", "X", "00")] == [
        0,
        1,
        2,
        2,
        0,
    ]


def test_of_several_findings_a_site_need_not_know_all(
    site: Path, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_label(study: Study, cells: dict[str, str]) -> tuple[float | None, ...]:
        return tuple(float(cells[name]) if cells[name] else None for name in study.classes)

    monkeypatch.setattr(TASKS["classification"], "columns", lambda study: study.classes)
    monkeypatch.setattr(TASKS["classification"], "read_label", read_label)
    study = make_study().model_copy(update={"classes": ("Mass", "lung_edema", "nodule")})
    text = changed("label", "MASS,Nodul").replace(",train,0", ",train,0,").replace(",1", ",1,0")
    found, problems = rows(site, study, text.replace("Nodul", "Lung Edema"))
    assert [row.label for row in found] == [(0.0, None, None), (1.0, 0.0, None), (1.0, 0.0, None)]
    assert [(p.row, p.code, p.severity) for p in problems] == [(None, "missing-findings", "warning")]
    assert "no column nodule:" in problems[0].reason
    assert "column 5 to be nodule?" in rows(site, study, text)[1][0].reason
    assert [p.code for p in rows(site, study, "\n".join(LINES))[1]] == ["missing-columns"]
