"""Real DICOM files: each is read or refused as its manifest says, and a PACS gives what went into it.

The packs lie under the folder that the variable ``MEDVEIL_DATA`` names; without them these tests are skipped.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from dicom_files import codes
from medveil_imaging.sources.raw import Unusable
from medveil_imaging.sources.read import read_film, read_volume

DATA = Path(os.environ.get("MEDVEIL_DATA") or "no such folder")
SITES = ("pacs-a", "pacs-b", "pacs-c", "pacs-r")
FILMS = {
    "good/RG3_J2KR.dcm": (1760, 1760),
    "good/RG1_J2KI.dcm": (1955, 1841),
    "good/CR-modality-lut.dcm": (1576, 1976),
    "phi/phi-standard-tags.dcm": (419, 512),
    "phi/phi-private-tags.dcm": (419, 512),
    "phi/phi-sequences-and-comments.dcm": (419, 512),
    "phi/phi-burned-in-says-no.dcm": (438, 512),
    "phi/phi-file-meta.dcm": (419, 512),
    "good/image_dfl.dcm": (512, 512),
    "good/vlut_04.dcm": (512, 512),
    "good/mlut_18.dcm": (512, 512),
} | {f"good/chr{name}.dcm": (32, 32) for name in ("H31", "X1", "I2", "Hbrw", "Greek")}
"""The films among the files, with rows and columns; nothing else there is one."""
VOLUMES = {"good/MR-bruker-multiframe.dcm": (256, 128, 4)}
REFUSED = {
    "phi/phi-burned-in.dcm": "burned-in",
    "good/test-SR.dcm": "no-pixels",
    "good/rtplan.dcm": "no-pixels",
    "good/rtstruct.dcm": "no-pixels",
    "good/waveform_ecg.dcm": "no-pixels",
    "good/philips_mprage.dcm.gz": "constant-image",
    "good/siemens_dwi_0.dcm.gz": "mosaic",
    "good/siemens_dwi_1000.dcm.gz": "mosaic",
    "broken/meta_missing_tsyntax.dcm": "no-transfer-syntax",
    "broken/not-dicom.dcm": "unknown-format",
    "broken/empty.dcm": "empty-file",
}
IDENTITIES = ("quillfeather", "mbeki", "zzyzx", "ravensbourne", "øxenholm")


def pack(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not there: set MEDVEIL_DATA to the folder of the data packs")
    return folder


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def outcome(reader: Any, path: Path) -> tuple[str, Any]:
    try:
        return "", reader(path)
    except Unusable as error:
        told = str(error).lower()
        return "tells a name" if any(name in told for name in IDENTITIES) else error.code, None


@pytest.mark.slow
def test_each_file_is_read_or_refused_as_its_manifest_says() -> None:
    folder, films, volumes = pack("dicom-files"), {}, {}
    for line in lines(folder):
        name = line["file"]
        if line["group"] == "series":
            continue
        no_film, film = outcome(read_film, folder / name)
        no_volume, volume = outcome(read_volume, folder / name)
        assert "tells a name" not in (no_film, no_volume), name
        assert name not in REFUSED or REFUSED[name] in (no_film, no_volume), name
        if film is not None:
            films[name] = film.pixels.shape
            assert ("modality-unclear" in codes(film)) == (line["modality"] == "OT"), name
        if volume is not None:
            volumes[name] = volume.voxels.shape
    assert films == FILMS
    assert volumes == VOLUMES


@pytest.mark.slow
def test_slices_of_the_single_file_pack_make_a_volume_or_are_refused_by_name() -> None:
    folder = pack("dicom-files") / "series"
    assert read_volume(folder / "brain-mr").voxels.shape == (256, 256, 20)
    assert outcome(read_volume, folder / "nih-ge" / "mr_0004")[0] == "repeated-slices"
    for run in ("mr_0003", "mr_0004", "mr_0005", "mr_0006"):
        assert outcome(read_volume, folder / "nih-siemens" / run)[0] == "mosaic"


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
def test_series_of_a_pacs_are_the_images_they_were_made_from(site: str) -> None:
    folder = pack("dicom-pacs") / site
    for line in lines(folder):
        origin = DATA / line["pack_image"] if line["pack_image"] else None
        if line["modality"] == "CR":
            (path,) = (folder / line["series"]).iterdir()
            assert origin is not None
            assert np.array_equal(read_film(path).pixels, np.asarray(Image.open(origin).convert("L")))
            continue
        volume = read_volume(folder / line["series"])
        assert volume.voxels.shape[2] == int(line["files"])
        assert codes(volume) == []
        if origin is not None:
            ours = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.voxels, volume.affine))
            theirs = nibabel.as_closest_canonical(nibabel.load(origin))
            assert np.allclose(ours.affine, theirs.affine, atol=1e-3)
            assert np.array_equal(ours.get_fdata(), theirs.get_fdata())
