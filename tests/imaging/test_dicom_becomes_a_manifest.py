"""A tree of DICOM files becomes a manifest: series by their headers, patients by pseudonym, junk left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from dicom_files import header_of, picture, save
from medveil.errors import BadOption
from medveil.keyed import keyed_pseudonym
from medveil_imaging.sources.dicom.elements import first_elements
from medveil_imaging.sources.lists import read_list
from medveil_imaging.sources.proposed import manifest_text
from trees import KEY, dicom, left_out, proposal_of

LIST = "ACCESSION;finding;split\nA-00000;0;test\n'A-00001;1;\nA-00002;;\nA-77777;1;\n"
MR = {"Modality": "MR", "SOPClassUID": MRImageStorage}


def slices(folder: Path, patient: str, series: str, count: int = 3, **tags: str) -> Path:
    for number in range(count):
        dicom(folder / f"IM{number:04}", patient, SeriesInstanceUID=series, **(MR | tags))
    return folder


def test_films_are_listed_by_pseudonym_and_no_identity_is_written(tmp_path: Path) -> None:
    for number, patient in enumerate(("PAT-4711", "PAT-4711", "PAT-4712")):
        dicom(tmp_path / f"E{number}/IM000{number}", patient, AccessionNumber=f"ACC-{number}")
    found = proposal_of(tmp_path)
    assert [one.patient for one in found.images] == [
        keyed_pseudonym(KEY, name) for name in ("PAT-4711", "PAT-4711", "PAT-4712")
    ]
    text = manifest_text(found)
    assert not any(secret in text for secret in ("4711", "4712", "ACC", "Quillfeather", "QUILLFEATHER"))


def test_mr_series_are_listed_by_folder_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    slices(tmp_path / "PA0/ST0/SE0", "A", "1.1")
    slices(tmp_path / "PA1/ST0/SE0", "B", "1.2")
    slices(tmp_path / "PA1/ST0/SE1", "B", "1.3", 1)
    slices(tmp_path / "mixed", "C", "1.4")
    dicom(tmp_path / "mixed/other", "C", SeriesInstanceUID="1.5", **MR)
    slices(tmp_path / "scout", "A", "1.6", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    dicom(tmp_path / "report", "A", Modality="SR")
    dicom(tmp_path / "ct", "A", Modality="CT")
    (tmp_path / "autorun.inf").write_bytes(b"[autorun]")
    (tmp_path / "cut").write_bytes(bytes(128) + b"DICM")
    found = proposal_of(tmp_path)
    assert [one.places for one in found.images] == [("PA0/ST0/SE0",), ("PA1/ST0/SE0",)]
    assert left_out(found) == {
        "an MR series of one slice": 1,
        "an MR series whose folder holds other series as well": 4,
        "a localizer": 3,
        "a report, a presentation or the like: no picture": 1,
        "modality CT, which is not read here": 1,
        "no DICOM": 1,
        "the index of a disc (DICOMDIR), or DICOM whose header cannot be read": 1,
    }


def test_labels_come_from_a_list_by_accession_number(tmp_path: Path) -> None:
    for number in range(4):
        dicom(tmp_path / f"in/{number}", f"PAT-{number}", AccessionNumber=f"A-{number:05}")
    (tmp_path / "list.csv").write_text(LIST)
    found = proposal_of(tmp_path / "in", labels=read_list(tmp_path / "list.csv"), label_column="finding")
    assert [(one.places, one.label) for one in found.images] == [(("0",), "0"), (("1",), "1")]
    assert found.images[0].split == "test"
    assert any("accession number in its column ACCESSION" in said for _, said in found.told)
    assert any("1 lines of the list name nothing" in note for note in found.notes)


def test_a_list_may_name_patients_by_their_number_and_give_own_pseudonyms(tmp_path: Path) -> None:
    for number in range(3):
        dicom(tmp_path / f"in/{number}", f"PAT-{number}")
    (tmp_path / "list.csv").write_text("mrn,study_id,label\nPAT-0,S1,yes\nPAT-1,S2,no\n")
    listed = read_list(tmp_path / "list.csv")
    assert {one.patient for one in proposal_of(tmp_path / "in", labels=listed).images} == {
        keyed_pseudonym(KEY, name) for name in ("PAT-0", "PAT-1")
    }
    own = proposal_of(tmp_path / "in", labels=listed, patient_column="study_id")
    assert [(one.patient, one.label) for one in own.images] == [("S1", "yes"), ("S2", "no")]


def test_who_is_named_by_nobody_is_left_out(tmp_path: Path) -> None:
    for number, patient in enumerate(("ANONYMOUS", "", "PAT-3")):
        dicom(tmp_path / str(number), patient)
    found = proposal_of(tmp_path)
    assert [one.places for one in found.images] == [("2",)]
    assert sum(left_out(found).values()) == 2


def test_paths_that_tell_who_it_is_are_warned_of(tmp_path: Path) -> None:
    dicom(tmp_path / "Quillfeather/1", "PAT-4711")
    dicom(tmp_path / "pat-4712/2", "PAT-4712")
    dicom(tmp_path / "x/3", "PAT-4713")
    assert any(note.startswith("2 paths hold the number or the name") for note in proposal_of(tmp_path).notes)


def test_age_sex_and_scanner_are_written_when_they_are_asked_for(tmp_path: Path) -> None:
    dicom(
        tmp_path / "1",
        "A",
        PatientAge="061Y",
        PatientSex="F",
        Manufacturer="ACME",
        ManufacturerModelName="X1",
    )
    dicom(tmp_path / "2", "B", PatientBirthDate="19800615", StudyDate="20200614", PatientAge=None)
    found = proposal_of(tmp_path, columns=("age", "sex", "scanner"))
    assert [dict(one.more) for one in found.images] == [
        {"age": "61", "sex": "F", "scanner": "ACME X1"},
        {"age": "39", "sex": "", "scanner": ""},
    ]
    assert found.images[0].source == "ACME X1"


def test_an_age_of_a_list_is_a_number_of_years(tmp_path: Path) -> None:
    dicom(tmp_path / "in/1", "A")
    dicom(tmp_path / "in/2", "B")
    (tmp_path / "list.csv").write_text("PatientID,age,label\nA,070Y,0\nB,018M,1\n")
    found = proposal_of(tmp_path / "in", labels=read_list(tmp_path / "list.csv"), columns=("age",))
    assert [one.more["age"] for one in found.images] == ["70", "1.5"]


def test_the_head_is_enough_however_the_file_is_stored(tmp_path: Path) -> None:
    header = header_of(
        picture(200, 200), AccessionNumber="A1", PatientID="Ä-1", SpecificCharacterSet="ISO_IR 192"
    )
    header.add_new(0x00091010, "OB", bytes(40_000))  # a private element before what is looked for
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        path = save(tmp_path / syntax, header, syntax)
        head = first_elements(str(path))
        assert head is not None
        assert (head.patient, head.accession, head.modality) == ("Ä-1", "A1", "CR")
    whole = path.read_bytes()
    bare = tmp_path / "bare"
    bare.write_bytes(
        save(tmp_path / "plain", header_of(picture()), ImplicitVRLittleEndian).read_bytes()[132:]
    )
    assert first_elements(str(bare)) is not None
    path.write_bytes(whole[:300])
    cut = first_elements(str(path))
    assert cut is None or not cut.patient


def test_only_the_head_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dicom(tmp_path / "large", "A", Rows=16)
    with path.open("ab") as file:
        file.truncate(2**30)
    monkeypatch.setattr("medveil_imaging.sources.raw.read_bytes", lambda _: pytest.fail("read whole"))
    assert len(proposal_of(tmp_path).images) == 1


def test_modality_and_series_can_be_chosen(tmp_path: Path) -> None:
    dicom(tmp_path / "film1", "A")
    dicom(tmp_path / "film2", "B")
    slices(tmp_path / "t1", "A", "1.1", SeriesDescription="t1_mprage")
    slices(tmp_path / "t2", "A", "1.2", SeriesDescription="t2_tse")
    assert len(proposal_of(tmp_path).images) == 2
    assert [one.places for one in proposal_of(tmp_path, modality="mr", series="t1").images] == [("t1",)]
    with pytest.raises(BadOption, match="modality CT are not read"):
        proposal_of(tmp_path, modality="CT")


def test_class_folders_of_dicom_films_take_the_patient_from_the_header(tmp_path: Path) -> None:
    for number in range(4):
        dicom(tmp_path / ("normal", "sick")[number % 2] / str(number), f"PAT-{number // 2}")
    found = proposal_of(tmp_path, "classes")
    assert sorted(one.label for one in found.images) == ["normal", "normal", "sick", "sick"]
    assert len({one.patient for one in found.images}) == 2
