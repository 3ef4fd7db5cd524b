"""Outlines that lie in the PACS as DICOM SEG come in as label maps of their series, and without a text."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from dicom_files import block, save, slice_header
from dicom_segs import framed, item, outlined, seg
from hospital_node.cli import app
from hospital_node.images import PACS_LABEL
from hospital_node.pacs import settings
from hospital_node.pacs.cleaning import cleaner
from hospital_node.pacs.fetching import Fetching, Outcome, Wanted
from hospital_node.pacs.lists import OptedOut
from hospital_node.pacs.outlines import Outlines, classes_of, reduced
from hospital_node.pacs.peer import Examination, Query, Series
from hospital_node.pacs.problems import SegmentsUnclear
from hospital_node.pacs.store import Store, store_of
from hospital_node.settings import Node
from medveil.errors import BadOption
from medveil.identity import Identity
from medveil_imaging.sources.read import read_label_map, read_volume
from medveil_imaging.sources.sealed import MAGIC, open_with


def bytes_of(header: Dataset, folder: Path) -> bytes:
    return save(folder / "one.dcm", header).read_bytes()


@dataclass
class Archive:
    """A PACS in memory with one examination: series UID → modality and instances."""

    series: dict[str, tuple[str, list[bytes]]] = field(default_factory=dict)

    def check(self) -> None: ...

    def close(self) -> None: ...

    def examinations(self, query: Query, accession: str | None = None) -> Iterator[Examination]:
        yield Examination(uid="1.2.9", patient="4711", accession="ACC1", day="20240131")

    def series_of(self, examination: Examination) -> Sequence[Series]:
        return [
            Series(examination.uid, uid, modality=kind, description=f"drawn {uid}", count=len(files))
            for uid, (kind, files) in self.series.items()
        ]

    def count(self, series: Series) -> int:
        return len(self.series[series.uid][1])

    def instances(self, series: Series) -> Iterator[bytes]:
        yield from self.series[series.uid][1]

    def add_seg(self, number: int, folder: Path, **of: Any) -> None:
        header = seg(outlined())
        header.SeriesInstanceUID, header.SOPInstanceUID = f"1.2.5.{number}", f"1.2.6.{number}"
        for name, value in of.items():
            setattr(header, name, value)
        self.series[header.SeriesInstanceUID] = "SEG", [bytes_of(header, folder)]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    slices = []
    for number in range(6):
        header = slice_header(block(), number)
        framed(header, number)
        slices.append(bytes_of(header, tmp_path))
    return Archive({"1.2.4": ("MR", slices)})


@pytest.fixture
def store(node: Node) -> Iterator[Store]:
    identity = Identity.generate("st-marys")
    identity.save(node.key)
    open_with(identity.secret_for(PACS_LABEL))
    yield store_of(node)
    open_with(None)


def fetched(archive: Archive, store: Store, outlines: Outlines, said_no: OptedOut | None = None) -> Outcome:
    wanted = Wanted(outlines=outlines, opted_out=said_no or OptedOut())
    return Fetching(archive, store, wanted, cleaner(store.names)).run()


def lines(store: Store) -> list[dict[str, str]]:
    with (store.images / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def test_an_outline_comes_in_as_the_label_map_of_its_series_and_no_text_of_it_does(
    archive: Archive, store: Store, tmp_path: Path
) -> None:
    archive.add_seg(1, tmp_path, SeriesDescription="by Dr Quillfeather", ContentLabel="QUILLFEATHER")
    outcome = fetched(archive, store, Outlines("drawn"))
    assert (outcome.fetched, outcome.outlines, outcome.refusals) == (1, 1, [])
    (line,) = lines(store)
    image, label_map = store.images / line["image"], store.images / line["label_map"]
    assert label_map.read_bytes().startswith(MAGIC)
    read = read_label_map(label_map, image)
    assert np.array_equal(read.voxels, outlined())
    assert np.array_equal(read.affine, read_volume(image).affine)
    again = fetched(archive, store, Outlines("drawn"))
    assert (again.kept, again.outlines) == (1, 1)
    assert lines(store) == [line]


def test_what_is_kept_of_a_segmentation_is_numbers(tmp_path: Path) -> None:
    header = seg(outlined())
    header.SegmentSequence[0].SegmentDescription = "seen by Quillfeather"
    header.PerFrameFunctionalGroupsSequence[0].FrameContentSequence = [item(FrameComments="Quillfeather")]
    content, series = reduced(bytes_of(header, tmp_path), {})
    assert series == "1.2.4"
    assert b"Quillfeather" not in content
    assert b"part" not in content


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_become_the_classes_that_are_named(kind: str, tmp_path: Path) -> None:
    header = seg(outlined(), kind)
    content, _ = reduced(bytes_of(header, tmp_path), classes_of(["Part 2=1", "part 1 = 2"]))
    both = series_folder_labels(content, tmp_path / "both")
    assert np.array_equal(both, np.array([0, 2, 1])[outlined()])
    content, _ = reduced(bytes_of(header, tmp_path), classes_of(["part 2=7"]))
    assert np.array_equal(series_folder_labels(content, tmp_path / "one"), 7 * (outlined() == 2))


def series_folder_labels(content: bytes, folder: Path) -> Any:
    for number in range(6):
        header = slice_header(block(), number)
        framed(header, number)
        save(folder / "series" / f"{number}.dcm", header)
    (folder / "a.dcm").write_bytes(content)
    return read_label_map(folder / "a.dcm", folder / "series").voxels


def test_names_of_segments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    content = bytes_of(seg(outlined()), tmp_path)
    with pytest.raises(SegmentsUnclear):
        reduced(content, classes_of(["part 1=1", "part 3=2"]))
    for told in (["part 1"], ["=1"], ["part 1=0"], ["a=1", "A=2"]):
        with pytest.raises(BadOption):
            classes_of(told)


@pytest.mark.parametrize(
    ("of", "code"),
    [
        ({"SegmentationType": "FRACTIONAL"}, "segmentation-kind"),
        ({"PatientID": "4712"}, "pacs-another-patient"),
        ({"ReferencedSeriesSequence": [item(SeriesInstanceUID="1.2.77")]}, "pacs-outline-elsewhere"),
        ({"ReferencedSeriesSequence": []}, "segmentation-series"),
        ({"PixelData": b"\1\1"}, "contradiction"),
    ],
)
def test_an_outline_that_cannot_be_used_leaves_its_series_without_one(
    of: dict[str, Any], code: str, archive: Archive, store: Store, tmp_path: Path
) -> None:
    archive.add_seg(1, tmp_path, **of)
    outcome = fetched(archive, store, Outlines())
    assert [one.problem.code for one in outcome.refusals] == [code]
    assert (outcome.fetched, outcome.outlines) == (1, 0)
    assert [line.get("label_map", "") for line in lines(store)] == [""]


def test_of_several_outlines_somebody_chooses(archive: Archive, store: Store, tmp_path: Path) -> None:
    archive.add_seg(1, tmp_path)
    assert fetched(archive, store, Outlines()).outlines == 1
    archive.add_seg(2, tmp_path)
    outcome = fetched(archive, store, Outlines())
    assert [one.problem.code for one in outcome.refusals] == ["pacs-several-outlines"]
    assert "label_map" not in lines(store)[0]
    assert fetched(archive, store, Outlines("*5.2")).outlines == 1
    assert lines(store)[0]["label_map"]
    assert fetched(archive, store, Outlines("final")).outlines == 0
    assert "label_map" not in lines(store)[0]
    assert len(list(store.images.iterdir())) == 2  # the series and the manifest


def test_status_counts_outlines_apart_from_series(
    archive: Archive, store: Store, node: Node, tmp_path: Path
) -> None:
    archive.add_seg(1, tmp_path)
    fetched(archive, store, Outlines())
    settings.save(node.folder, settings.PacsSettings(address="https://here/dicom-web"))
    told = CliRunner().invoke(app, ["pacs", "status", "--folder", str(node.folder)]).output
    assert "1 series of 1 patients" in told
    assert "6 images" in told
    assert "1 of them with an outline" in told


def test_who_said_no_leaves_no_outline_behind(archive: Archive, store: Store, tmp_path: Path) -> None:
    archive.add_seg(1, tmp_path)
    fetched(archive, store, Outlines())
    fetched(archive, store, Outlines(), OptedOut(patients=frozenset({"4711"})))
    assert lines(store) == []
    assert [path.name for path in store.images.iterdir()] == ["manifest.csv"]
