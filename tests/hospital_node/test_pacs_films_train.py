"""Chest films that went through a PACS are the films of the files: the same tensors, the same AUROC."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import orthanc
from dicom_files import header_of, save
from hospital_node.images import PACS_LABEL
from hospital_node.pacs.cleaning import cleaner
from hospital_node.pacs.dicomweb import DicomWeb
from hospital_node.pacs.fetching import Fetching, Wanted
from hospital_node.pacs.lists import read_labels
from hospital_node.pacs.store import Store, store_of
from hospital_node.settings import Node
from hospital_node.training import choose_device, evaluate, run
from medveil.identity import Identity, Secret
from medveil.metrics import summarise
from medveil.pseudonyms import one_spelling
from medveil.study import Study
from medveil.tensors import from_safetensors
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.readers import in_this_process
from medveil_imaging.sources.sealed import open_with
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.comparison.against_alone import train_alone
from medveil_research.studies import StudyOptions, new_study

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")
SITE = DATA / "xray-chest" / "guangzhou-c"
EVERY = 4
"""Every fourth patient: enough to train, and four times as fast."""
SPLITS = ("train", "val", "test")


def lines() -> list[dict[str, str]]:
    with (SITE / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = set(sorted({row["patient_id"] for row in rows})[::EVERY])
    return [row for row in rows if row["patient_id"] in chosen]


def dicom(folder: Path, number: int, row: dict[str, str]) -> bytes:
    """The film as a scanner would send it, one examination each."""
    pixels = np.asarray(Image.open(SITE / row["image"]).convert("L"))
    uid = f"1.2.9.{number}"
    told = {
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.1",
        "SOPInstanceUID": f"{uid}.1.1",
        "PatientID": row["patient_id"],
        "AccessionNumber": f"ACC{number}",
    }
    return save(folder / "one.dcm", header_of(np.ascontiguousarray(pixels), **told)).read_bytes()


def from_files(folder: Path, study: Study, rows: list[dict[str, str]]) -> SiteData:
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "patient_id", "split", "label"))
        for row in rows:
            name = Path(row["image"]).name
            (folder / name).write_bytes((SITE / row["image"]).read_bytes())
            writer.writerow((name, row["patient_id"], row["split"], row["label"]))
    return read_site(folder, study, readers=in_this_process)


def through_a_pacs(folder: Path, store: Store, study: Study, rows: list[dict[str, str]]) -> SiteData:
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("accession_number", "label", "split"))
        writer.writerows((f"ACC{n}", row["label"], row["split"]) for n, row in enumerate(rows))
    films = (dicom(folder, number, row) for number, row in enumerate(rows))
    with orthanc.running(folder / "orthanc", films) as server:
        pacs = DicomWeb(server.url, login=(orthanc.USER, Secret(orthanc.PASSWORD.encode())))
        wanted = Wanted(labels=read_labels(folder / "labels.csv"))
        outcome = Fetching(pacs, store, wanted, cleaner(store.names)).run()
        assert (outcome.fetched, outcome.refusals) == (len(rows), [])
    return read_site(store.images, study, readers=in_this_process)


def in_the_order_of(files: SiteData, pacs: SiteData, store: Store) -> SiteData:
    """The patients of a PACS as the files have them: pseudonyms and names of files sort otherwise.

    Each film of the PACS must be, bit for bit, one film of the same patient.
    """
    splits = {}
    for split in SPLITS:
        known = {one.patient: one for one in getattr(pacs, split)}
        assert len(known) == len(getattr(files, split))
        sorted_alike = []
        for one in getattr(files, split):
            other = known[one_spelling(store.names.patient(one.patient))]
            assert isinstance(other, PatientImages)
            order = [
                next(k for k, film in enumerate(other.images) if torch.equal(film, wanted))
                for wanted in one.images
            ]
            images, labels = other.take(order)
            assert torch.equal(labels, one.labels)
            sorted_alike.append(PatientImages(one.patient, images, labels))
        splits[split] = tuple(sorted_alike)
    return replace(pacs, **splits)


@pytest.mark.slow
@pytest.mark.skipif(not orthanc.installed(), reason=f"Orthanc is not here: {orthanc.INSTALL}")
def test_films_through_a_pacs_train_to_the_auroc_of_the_files(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not SITE.is_dir():
        pytest.skip("xray-chest is not there: set MEDVEIL_DATA to the folder of the data packs")
    identity = Identity.generate("st-marys")
    identity.save(node.key)
    monkeypatch.setattr(run, "_entropy", lambda: torch.Generator().manual_seed(7))
    study, initial = new_study(
        StudyOptions(
            name="films",
            task="classification",
            profile="xray",
            hospitals=3,
            privacy="none",
            model="small_cnn",
            rounds=6,
            size=(64, 64),
            seed=5,
        )
    )
    rows, start = lines(), from_safetensors(initial, study.model.tensors)
    files = from_files(tmp_path / "files", study, rows)
    store = store_of(node)
    open_with(identity.secret_for(PACS_LABEL))
    try:
        pacs = in_the_order_of(files, through_a_pacs(tmp_path, store, study, rows), store)
    finally:
        open_with(None)
    found = []
    for site in (files, pacs):
        torch.manual_seed(3)
        trained = train_alone(study, start, site)
        found.append(summarise(study, evaluate(study, trained, site.test, device=choose_device()))["auroc"])
    assert found[0] > 0.8
    assert abs(found[0] - found[1]) <= 0.002
