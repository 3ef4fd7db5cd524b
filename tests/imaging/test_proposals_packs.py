"""Manifests proposed from the real packs say what the packs' own manifests say.

The packs lie under the folder that the variable ``MEDVEIL_DATA`` names; without them these tests are skipped.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import pytest

from medveil.keyed import keyed_pseudonym
from medveil_imaging.sources.lists import read_list
from medveil_imaging.sources.tree import File, Tree
from trees import KEY, proposal_of

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")


def rows_of(site: str) -> list[dict[str, str]]:
    """The lines of a pack's own manifest."""
    path = DATA / site / "manifest.csv"
    if not path.exists():
        pytest.skip(f"{site} is not there: set MEDVEIL_DATA to the folder of the data packs")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_names_of_the_public_chest_films_tell_the_patients_that_the_pack_has() -> None:
    rows = rows_of("xray-chest/guangzhou-c")
    source = {row["source_id"].partition(":")[2]: row for row in rows}
    files = tuple(File(name, number, "picture") for number, name in enumerate(sorted(source), 1))
    found = proposal_of(Tree(DATA, files))
    assert {one.label for one in found.images} == {"NORMAL", "PNEUMONIA"}
    meant, told = defaultdict(set), defaultdict(set)
    for one in found.images:
        meant[source[one.places[0]]["patient_id"]].add(one.patient)
        told[one.patient].add(source[one.places[0]]["patient_id"])
        assert (one.label == "PNEUMONIA") == (source[one.places[0]]["label"] == "1")
    assert max(map(len, [*meant.values(), *told.values()])) == 1
    assert any("41 patients have images in several of the given splits" in note for note in found.notes)


@pytest.mark.parametrize(("site", "modality"), [("pacs-a", "MR"), ("pacs-b", "CR"), ("pacs-r", "MR")])
def test_a_pacs_on_disk_gives_each_series_to_its_patient(site: str, modality: str) -> None:
    rows = [row for row in rows_of(f"dicom-pacs/{site}") if row["modality"] == modality]
    listed = read_list(DATA / "dicom-pacs" / site / "manifest.csv")
    found = proposal_of(DATA / "dicom-pacs" / site, labels=listed, label_column="kind", modality=modality)
    assert {one.places[0].split("/")[0]: (one.patient, one.split) for one in found.images} == {
        row["series"]: (keyed_pseudonym(KEY, row["patient_id_in_file"]), row["split"]) for row in rows
    }


@pytest.mark.parametrize("site", ["mri-hippocampus/hippo-a", "mri-brain/brain-a"])
def test_volumes_get_their_label_maps_and_with_a_list_their_patients(site: str) -> None:
    rows = rows_of(site)
    found = proposal_of(DATA / site, labels=read_list(DATA / site / "manifest.csv"))
    assert [(one.places[0], one.label_map, one.patient, one.split) for one in found.images] == sorted(
        (row["image"], row["label_map"], row["patient_id"], row["split"]) for row in rows
    )
