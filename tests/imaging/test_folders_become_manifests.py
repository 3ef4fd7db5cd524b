"""A folder of images becomes a manifest: class folders, label maps, lists; nothing is guessed silently."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from medveil.errors import BadOption
from medveil.keyed import keyed_split
from medveil_imaging.sources.lists import read_list
from medveil_imaging.sources.manifest import usable_rows
from medveil_imaging.sources.proposed import manifest_text
from medveil_imaging.sources.tree import File, Leavings, Tree, tree_of
from trees import KEY, films, left_out, proposal_of, volume


def by_path(folder: Path) -> dict[str, tuple[str, str, str]]:
    return {one.places[0]: (one.patient, one.split, one.label) for one in proposal_of(folder).images}


def test_classes_and_splits_come_from_the_folders_in_either_order(tmp_path: Path) -> None:
    films(
        tmp_path,
        "train/NORMAL/IM-0001-0001.png",
        "train/sick/person1_virus_6.png",
        "test/NORMAL/IM-0002-0001.png",
    )
    films(tmp_path, "sick/Testing/person2_bacteria_4.png")
    (tmp_path / "train/NORMAL/Thumbs.db").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("hello")
    assert by_path(tmp_path) == {
        "train/NORMAL/IM-0001-0001.png": ("IM-0001", "train", "NORMAL"),
        "train/sick/person1_virus_6.png": ("person1", "train", "sick"),
        "test/NORMAL/IM-0002-0001.png": ("IM-0002", "test", "NORMAL"),
        "sick/Testing/person2_bacteria_4.png": ("person2", "test", "sick"),
    }
    assert sum(left_out(proposal_of(tmp_path)).values()) == 2


def test_a_patient_in_the_folders_of_train_and_test_is_taught_and_named(tmp_path: Path) -> None:
    names = (
        "train/SICK/person7_virus_1.png",
        "test/SICK/person7_virus_2.png",
        "test/NORMAL/IM-0003-0001.png",
    )
    found = proposal_of(films(tmp_path, *names, "train/NORMAL/IM-0004-0001.png"))
    assert {one.split for one in found.images if one.patient == "person7"} == {"train"}
    assert any(
        "1 patients have images in several" in note and "1 in train and test" in note for note in found.notes
    )


def test_without_given_splits_a_patient_is_drawn_once_for_life(tmp_path: Path) -> None:
    names = [
        f"{kind}/{number:08}_{image:03}.png" for kind in "ab" for number in range(9) for image in range(2)
    ]
    found = proposal_of(films(tmp_path, *names))
    assert all(one.split == keyed_split(KEY, one.patient) for one in found.images)
    assert len({one.patient for one in found.images}) == 9


def test_the_same_file_in_two_classes_is_used_in_none(tmp_path: Path) -> None:
    films(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    shutil.copy(tmp_path / "a/1.png", tmp_path / "b/copy.png")
    shutil.copy(tmp_path / "b/3.png", tmp_path / "b/again.png")
    found = proposal_of(tmp_path)
    assert {one.places[0] for one in found.images} == {"a/2.png", "b/3.png", "b/4.png"}
    assert sorted(left_out(found).values()) == [1, 2]


def test_images_of_which_nothing_tells_the_patient_are_named_so(tmp_path: Path) -> None:
    found = proposal_of(films(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/3.png"))
    assert len({one.patient for one in found.images}) == 4  # a/1 and b/1 are two
    assert any("each image counts as a patient of its own" in note for note in found.notes)
    assert ("patients", "each image as its own") in found.told


def test_a_pattern_of_the_operator_tells_the_patients(tmp_path: Path) -> None:
    import re

    films(tmp_path, "a/x-11-1.png", "a/x-11-2.png", "b/x-12-1.png", "b/odd.png")
    found = proposal_of(tmp_path, pattern=re.compile(r"x-(\d+)-"))
    assert Counter(one.patient for one in found.images) == {"11": 2, "12": 1}
    assert list(left_out(found).values()) == [1]


def test_label_maps_are_found_by_name(tmp_path: Path) -> None:
    for name in ("imagesTr/h_001_0000.nii.gz", "imagesTr/h_002_0000.nii.gz", "imagesTr/h_003_0000.nii.gz"):
        volume(tmp_path / name)
    for name in ("labelsTr/h_001.nii.gz", "labelsTr/h_002.nii.gz", "labelsTr/h_009.nii.gz"):
        volume(tmp_path / name, labels=True)
    found = proposal_of(tmp_path)
    assert [(one.places, one.label_map) for one in found.images] == [
        (("imagesTr/h_001_0000.nii.gz",), "labelsTr/h_001.nii.gz"),
        (("imagesTr/h_002_0000.nii.gz",), "labelsTr/h_002.nii.gz"),
    ]
    assert sorted(left_out(found)) == ["a label map without its image", "no label map of its name beside it"]


def test_a_list_names_images_patients_labels_and_splits(tmp_path: Path) -> None:
    films(tmp_path, "one.png", "two.png", "three.png", "four.png")
    listed = tmp_path / "list.csv"
    listed.write_text(
        "File name;Patient;Finding;Split\none.png;P1;yes;train\nTWO.PNG;P1;no;train\n"
        "three;P2;;test\nnone.png;P9;no;\n",
        encoding="utf-16",
    )
    found = proposal_of(tmp_path, labels=read_list(listed), label_column="finding")
    listed.unlink()
    assert [(one.places[0], one.patient, one.label, one.split) for one in found.images] == [
        ("one.png", "P1", "yes", "train"),
        ("two.png", "P1", "no", "train"),
    ]
    told = left_out(found)
    assert told["not in the list of labels"] == 1
    assert told["the list says no label for it"] == 1
    with pytest.raises(BadOption, match="no column 'dx'; it has File name"):
        proposal_of(tmp_path, labels=found_list(tmp_path), label_column="dx")


def found_list(folder: Path):  # type: ignore[no-untyped-def]
    path = folder / "again.csv"
    path.write_text("File name,Patient\none.png,P1\n")
    return read_list(path)


def test_lines_of_a_list_that_contradict_each_other_are_used_by_none(tmp_path: Path) -> None:
    films(tmp_path, "one.png", "two.png")
    (tmp_path / "list.csv").write_text("image,patient_id,label\none.png,P1,0\none.png,P1,1\ntwo.png,P2,1\n")
    found = proposal_of(tmp_path, labels=read_list(tmp_path / "list.csv"))
    assert [one.places for one in found.images] == [("two.png",)]
    assert any("different things" in note for note in found.notes)


def test_what_is_written_is_what_the_reader_reads(tmp_path: Path, make_study) -> None:  # type: ignore[no-untyped-def]
    odd = [
        " leading.png",
        "trailing .png",
        "com,ma;semi|bar.png",
        'quo"te.png',
        "späße.png",
        "a=b+c.png",
        "#1.png",
    ]
    names = [f"{kind}/{number}{name}" for kind in ("normal", "abnormal") for number, name in enumerate(odd)]
    names += [f"normal/{name}" for name in odd]
    films(tmp_path, *names)
    found = proposal_of(tmp_path)
    (tmp_path / "manifest.csv").write_text(manifest_text(found), encoding="utf-8", newline="")
    rows = usable_rows(tmp_path, make_study())
    assert len(found.images) == len(names)
    assert {(row.image, row.split) for row in rows} == {(one.places[0], one.split) for one in found.images}


def test_names_that_no_line_can_hold_are_left_out(tmp_path: Path) -> None:
    films(tmp_path, "a/good.png", "a/fine.png", "b/1.png", "b/2.png", "b/new\nline.png")
    shutil.copy(tmp_path / "a/good.png", os.fsencode(tmp_path) + b"/b/\xff\xfe.png")
    (tmp_path / "a/good.png").unlink()
    films(tmp_path, "a/other.png")
    found = proposal_of(tmp_path)
    assert len(found.images) == 4
    assert sum(count for reason, count in left_out(found).items() if "line break" in reason) == 2
    assert "\nline" not in manifest_text(found)


def test_links_pipes_and_hidden_files_harm_nobody(tmp_path: Path) -> None:
    folder = films(tmp_path / "in", "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    films(tmp_path / "out", "secret.png")
    (folder / "a/loop").symlink_to(folder / "b")
    (folder / "b/self").symlink_to(folder / "b/self")
    (folder / "b/out.png").symlink_to(tmp_path / "out/secret.png")
    (folder / "b/gone.png").symlink_to(folder / "nothing.png")
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "a/empty.png").touch()
    os.mkfifo(folder / "a/pipe.png")
    found = proposal_of(folder)
    assert len(found.images) == 4
    told = left_out(found)
    for reason in ("a link to a folder", "a link out of this folder", "empty"):
        assert told[reason] == 1
    assert told["a link to a file that is not there"] == 2
    assert told["no ordinary file (a pipe, a socket, a device)"] == 1


def test_a_file_that_cannot_be_opened_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films(tmp_path, "a/1.png", "a/2.png")
    opened = os.open

    def refuse(path: str, flags: int, *more: int) -> int:
        if str(path).endswith("2.png"):
            raise PermissionError(13, "no")
        return opened(path, flags, *more)

    monkeypatch.setattr("os.open", refuse)
    leavings = Leavings()
    assert [file.path for file in tree_of(tmp_path, leavings).files] == ["a/1.png"]
    assert [(one.reason.what, one.count) for one in leavings.listed()] == [("this user may not read it", 1)]


@pytest.mark.slow
def test_a_hundred_thousand_files_are_no_matter(tmp_path: Path) -> None:
    names = [
        f"{kind}/person{i}_virus_{k}.png" for kind in ("a", "b") for i in range(10_000) for k in range(5)
    ]
    files = tuple(File(name, 1000 + number, "picture") for number, name in enumerate(sorted(names)))
    found = proposal_of(Tree(tmp_path, files))
    assert len(found.images) == 100_000
    assert len({one.patient for one in found.images}) == 10_000
