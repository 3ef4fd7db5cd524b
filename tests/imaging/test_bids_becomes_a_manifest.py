"""A BIDS dataset becomes a manifest: subjects, sessions, tables with gaps, maps among the derivatives."""

from __future__ import annotations

from pathlib import Path

import pytest

from medveil.errors import BadOption
from trees import left_out, proposal_of, volume

TABLE = (
    "\ufeffparticipant_id\tage\tsex\tdiagnosis\r\nsub-01\t61.5\tF\tcontrol\r\n02\tn/a\tM\tMS\r\n"
    "sub-03\t44\tn/a\tMS\r\nsub-09\t50\tF\tcontrol\r\n"
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three subjects with T1w, two of them with FLAIR, one with two sessions, label maps of two programs."""
    for number, name in enumerate(
        (
            "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
            "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
            "sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz",
            "sub-02/anat/sub-02_T1w.nii.gz",
            "sub-02/anat/sub-02_FLAIR.nii.gz",
            "sub-03/anat/sub-03_run-1_T1w.nii",
            "sub-03/anat/sub-03_run-2_T1w.nii",
            "sub-03/func/sub-03_task-rest_bold.nii.gz",
            "derivatives/fmriprep/sub-02/anat/sub-02_space-MNI_desc-preproc_T1w.nii.gz",
        )
    ):
        volume(tmp_path / name, number)
    maps = "derivatives/seg/sub-{0}/{1}anat/sub-{0}_{2}desc-lesion_mask.nii.gz"
    for name in (
        maps.format("01", "ses-a/", "ses-a_"),
        maps.format("02", "", ""),
        maps.format("03", "", "run-2_"),
        "derivatives/fs/sub-02/anat/sub-02_desc-aseg_dseg.nii.gz",
        "derivatives/fs/sub-02/anat/sub-02_space-MNI_desc-aseg_dseg.nii.gz",
    ):
        volume(tmp_path / name, labels=True)
    (tmp_path / "participants.tsv").write_bytes(TABLE.encode())
    (tmp_path / "dataset_description.json").write_text("{}")
    return tmp_path


def test_every_image_of_a_suffix_with_its_label_map_is_a_line(dataset: Path) -> None:
    found = proposal_of(dataset, maps="lesion")
    assert [(one.patient, one.places[0].rpartition("/")[2]) for one in found.images] == [
        ("sub-01", "sub-01_ses-a_T1w.nii.gz"),
        ("sub-02", "sub-02_T1w.nii.gz"),
        ("sub-03", "sub-03_run-2_T1w.nii"),
    ]
    assert all("lesion_mask" in one.label_map for one in found.images)
    told = left_out(found)
    assert told["no label map that belongs to it"] == 2
    assert told["an image of another kind than is asked for"] == 3
    assert any("1 subjects of participants.tsv have no image" in note for note in found.notes)


def test_the_maps_that_most_images_have_are_taken_and_the_others_named(dataset: Path) -> None:
    found = proposal_of(dataset)
    assert (
        "outlines",
        "label maps seg/desc-lesion_mask; also here: fs/desc-aseg_dseg (--label-map WORD)",
    ) in found.told
    with pytest.raises(BadOption, match="no label map is called tumour"):
        proposal_of(dataset, maps="tumour")


def test_labels_and_columns_come_from_participants(dataset: Path) -> None:
    found = proposal_of(dataset, label_column="Diagnosis")
    assert {one.patient: one.label for one in found.images} == {
        "sub-01": "control",
        "sub-02": "MS",
        "sub-03": "MS",
    }
    assert {one.patient: dict(one.more) for one in found.images} == {
        "sub-01": {"age": "61.5", "sex": "F"},
        "sub-02": {"age": "", "sex": "M"},
        "sub-03": {"age": "44", "sex": ""},
    }
    assert len(found.images) == 5
    with pytest.raises(BadOption, match="no column 'dx'; it has participant_id, age, sex, diagnosis"):
        proposal_of(dataset, label_column="dx")


def test_a_table_of_sessions_counts_before_that_of_participants(dataset: Path) -> None:
    (dataset / "sub-01/sub-01_sessions.tsv").write_text("session_id\tage\nses-b\t63\nses-a\tn/a\n")
    found = proposal_of(dataset, label_column="diagnosis")
    assert [one.more["age"] for one in found.images if one.patient == "sub-01"] == ["61.5", "63"]


def test_several_suffixes_are_channels_of_one_line(dataset: Path) -> None:
    found = proposal_of(dataset, suffixes=("FLAIR", "T1w"), label_column="diagnosis")
    assert found.channels == ("flair", "t1w")
    assert [one.places for one in found.images] == [
        ("sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz", "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"),
        ("sub-02/anat/sub-02_FLAIR.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz"),
    ]
    with pytest.raises(BadOption, match="no image here is a PDw; there are FLAIR, T1w, bold"):
        proposal_of(dataset, suffixes=("PDw",))


def test_what_the_table_offers_is_told(dataset: Path) -> None:
    told = dict(proposal_of(dataset).told)
    assert "age (a number, of 3)" in told["offered"]
    assert "diagnosis (control 2, MS 2)" in told["offered"]


def test_a_table_that_cannot_be_read_is_named_and_counts_as_empty(dataset: Path) -> None:
    (dataset / "participants.tsv").write_bytes(b"PK\x03\x04 a workbook")
    found = proposal_of(dataset)
    assert found.images
    assert any("participants.tsv" in note and "counts as empty" in note for note in found.notes)


def test_splits_of_the_table_are_kept(dataset: Path) -> None:
    (dataset / "participants.tsv").write_text(
        "participant_id\tsplit\nsub-01\tTest\nsub-02\tvalidation\nsub-03\t\n"
    )
    found = proposal_of(dataset)
    assert {one.patient: one.split for one in found.images if one.patient != "sub-03"} == {
        "sub-01": "test",
        "sub-02": "val",
    }
