"""Phantom hospitals as real files: for tests, demonstrations and tuning that costs no patient anything.

The hospitals differ on purpose. Each sees mainly its own kind of finding, in its own share of patients,
through its own scanner, so a model trained in one house does badly on the others' patients.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from numpy.random import Generator
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from medveil_imaging.sources.phantom_film import (
    FINDINGS,
    HEART_MM,
    KINDS,
    Scanner,
    draw_film,
    draw_patient,
)
from medveil_imaging.sources.phantom_volume import MrScanner, draw_volume
from medveil_imaging.sources.raw import Float32

FILM_PATIENTS, VOLUME_PATIENTS = 200, 30
OWN_KIND = 0.85
"""Share of a hospital's abnormal patients with its own kind of opacity."""
ABNORMAL = (0.35, 0.55, 0.45, 0.65)
"""Share of abnormal patients, hospital by hospital (and again from the fifth)."""
SCANNERS = (
    Scanner(1.0, 0.02, 0.6),
    Scanner(0.7, 0.03, 0.8),
    Scanner(1.4, 0.02, 0.4),
    Scanner(1.1, 0.04, 1.0),
)
THINNING = 0.6
"""Radius of a diseased tube against a healthy one."""
AGES = (20.0, 90.0)
SKEWS = (2.0, 1.0, 0.5, 1.0)
"""Which numbers a hospital sees: above 1 mainly small ones, below 1 mainly large ones."""
WIDEST = (0.16, 0.42)
"""Between what the semi-axis of a heart lies where its width is learned."""
BLANK = 0.1
"""Share of findings that the manifest does not say."""
SPLITS = (("train", 0.7), ("val", 0.8), ("test", 1.0))
ORIENTATIONS = ("RAS", "LPS", "PIR")

Line = dict[str, Any]
Task = Literal["classification", "findings", "regression", "segmentation"]
PHANTOMS = (
    ("xray", "classification"),
    ("xray", "findings"),
    ("xray", "regression"),
    ("xray", "segmentation"),
    ("mri", "classification"),
    ("mri", "regression"),
    ("mri", "segmentation"),
)


def write_phantom_sites(
    folder: Path,
    *,
    profile: Literal["xray", "mri"],
    hospitals: int = 4,
    patients: int | None = None,
    seed: int = 0,
    task: Task | None = None,
) -> tuple[Path, ...]:
    """Write ``hospital-1`` … with images and a ``manifest.csv`` each; return their folders.

    xray: 16-bit DICOM films, 1 to 3 a patient. Classification (the usual task): normal and abnormal.
    Findings: each of :data:`FINDINGS` by itself; each hospital has one that it never sees, and one cell in
    ten is blank. Segmentation: the two lungs, as PNG. Regression: ``heart_mm``, the width of the heart, from
    61 to 161 mm.

    mri: NIfTI volumes, for segmentation (the usual task) with label maps (anterior, posterior), 1 or 2 a
    patient. Otherwise one a patient, and every second hospital has folders of DICOM slices. Classification:
    1 is atrophy. Regression: ``age``, 20 to 90, by which the structure thins.

    Args:
        patients: a hospital; default 200 (xray) or 30 (mri). At least 10, so that every split has some.
        seed: the same seed writes the same pixels.
    Raises:
        ValueError: too few hospitals or patients, or there is no such phantom.
    """
    task = task or ("classification" if profile == "xray" else "segmentation")
    if (profile, task) not in PHANTOMS:
        raise ValueError(f"there is no phantom for {task} of {profile} images")
    count = patients or (FILM_PATIENTS if profile == "xray" else VOLUME_PATIENTS)
    if hospitals < 1 or count < 10:
        raise ValueError("a phantom needs one hospital and ten patients a hospital at least")
    sites = []
    for hospital in range(hospitals):
        site = folder / f"hospital-{hospital + 1}"
        random = np.random.default_rng([seed, hospital])
        if profile == "xray":
            lines = _films(site, hospital, count, random, task)
        else:
            lines = _volumes(site, hospital, hospitals, count, random, task)
        with (site / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        sites.append(site)
    return tuple(sites)


def _films(site: Path, hospital: int, patients: int, random: Generator, task: Task) -> list[Line]:
    lines: list[Line] = []
    for patient, (split, abnormal) in enumerate(_draw_patients(hospital, patients, random)):
        body = draw_patient(random)
        own = random.random() < OWN_KIND
        kind = hospital % KINDS if own else int(random.integers(KINDS))
        kinds: set[int] = {kind} if abnormal else set()
        label: Line = {"label": int(abnormal)}
        if task == "findings":
            kinds, label = _draw_findings(hospital, random)
        elif task == "regression":
            place = random.random() ** SKEWS[hospital % len(SKEWS)]
            body = replace(body, heart=WIDEST[0] + (WIDEST[1] - WIDEST[0]) * place)
            label = {"heart_mm": f"{HEART_MM * body.heart:.1f}"}
        for _ in range(int(random.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
            film, lungs = draw_film(body, kinds, SCANNERS[hospital % len(SCANNERS)], random)
            name = f"images/film-{len(lines) + 1:04d}.dcm"
            _write_film(site / name, film, _pseudonym(hospital, patient), hospital, random)
            if task == "segmentation":
                label = {"label_map": f"labels/film-{len(lines) + 1:04d}.png"}
                (site / "labels").mkdir(exist_ok=True)
                Image.fromarray(lungs).save(site / label["label_map"])
            lines.append(_line(site, hospital, patient, split, name) | label)
    return lines


def _draw_findings(hospital: int, random: Generator) -> tuple[set[int], Line]:
    """A patient's kinds of opacity, and what the manifest says of them: nothing, where the cell is blank."""
    shares = np.full(KINDS, 0.25)
    shares[hospital % KINDS], shares[(hospital + 1) % KINDS] = 0.5, 0.0
    there, blank = random.random(KINDS) < shares, random.random(KINDS) < BLANK
    cells = {n: "" if b else int(t) for n, t, b in zip(FINDINGS, there, blank, strict=True)}
    return set(np.flatnonzero(there).tolist()), cells


def _volumes(
    site: Path, hospital: int, hospitals: int, patients: int, random: Generator, task: Task
) -> list[Line]:
    scale = 100.0 * 100.0 ** (hospital / max(1, hospitals - 1))  # a hundredfold from first to last
    scanner = MrScanner(scale, grey=(0.62, 0.56, 0.68, 0.6)[hospital % 4], noise=0.03 + 0.01 * (hospital % 3))
    lines: list[Line] = []
    for patient, (split, abnormal) in enumerate(_draw_patients(hospital, patients, random)):
        for _ in range(int(random.integers(1, 3)) if task == "segmentation" else 1):
            thinning = THINNING if abnormal else 1.0
            label: Line = {"label": int(abnormal)}
            if task == "segmentation":
                thinning = 1.0
            elif task == "regression":
                share = random.random() ** SKEWS[hospital % len(SKEWS)]
                thinning = 1.0 - (1.0 - THINNING) * share + random.normal(0, 0.02)
                label = {"age": f"{AGES[0] + (AGES[1] - AGES[0]) * share:.1f}"}
            voxels, labels = draw_volume(scanner, thinning, random)
            stem = f"volume-{len(lines) + 1:04d}"
            if task != "segmentation" and hospital % 2:
                name = f"images/{stem}"
                _write_series(site / name, voxels, _pseudonym(hospital, patient), random)
            else:
                name = f"images/{stem}.nii.gz"
                orientation = str(random.choice(ORIENTATIONS)) if hospital % 2 else "RAS"
                _write_nifti(site / name, voxels, orientation)
            line = _line(site, hospital, patient, split, name)
            if task == "segmentation":
                outline = f"labels/{stem}.nii.gz"
                _write_nifti(site / outline, labels, orientation)
                label = {"label_map": outline}
            lines.append(line | label)
    return lines


def _draw_patients(hospital: int, patients: int, random: Generator) -> list[tuple[str, bool]]:
    """Split and finding of each patient; both classes are in every split of ten patients or more."""
    share = ABNORMAL[hospital % len(ABNORMAL)]
    drawn, start = [], 0
    for split, end in SPLITS:
        size = round(end * patients) - start
        diseased = np.arange(size) < np.clip(round(share * size), 1, max(1, size - 1))
        drawn += [(split, bool(flag)) for flag in random.permutation(diseased)]
        start += size
    return [drawn[index] for index in random.permutation(patients)]


def _line(site: Path, hospital: int, patient: int, split: str, name: str) -> Line:
    return {"image": name, "patient_id": _pseudonym(hospital, patient), "split": split, "site": site.name}


def _pseudonym(hospital: int, patient: int) -> str:
    return f"PH{hospital + 1}-{patient + 1:04d}"


def _write_nifti(path: Path, voxels: Any, orientation: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = voxels if voxels.dtype == np.uint8 else np.rint(voxels).astype(np.int16)
    affine = np.eye(4)
    affine[:3, 3] = [-edge / 2 for edge in voxels.shape]
    image = nibabel.Nifti1Image(stored, affine)
    target = nibabel.orientations.axcodes2ornt(orientation)
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), target)
    nibabel.save(image.as_reoriented(turn), path)


def _write_film(path: Path, film: Float32, pseudonym: str, hospital: int, random: Generator) -> None:
    """CR or DX, 12 or 16 bits, one scanner in two with MONOCHROME1 (dense tissue stored as small numbers)."""
    bits = 12 if hospital % 2 else 16
    top = 2**bits - 1
    stored = np.rint(film * (0.9 * top)).astype(np.uint16)
    inverse = random.random() < (0.5 if hospital % 2 else 0.1)
    kind = DigitalXRayImageStorageForPresentation if hospital % 2 else ComputedRadiographyImageStorage
    header = _header(kind, "DX" if hospital % 2 else "CR", pseudonym, random)
    header.BodyPartExamined, header.ViewPosition = "CHEST", "PA"
    header.WindowCenter, header.WindowWidth = 0.5 * top, float(top)
    header.PixelSpacing = [3.0, 3.0]
    _save(path, header, top - stored if inverse else stored, bits, inverse=inverse)


def _write_series(folder: Path, voxels: Float32, pseudonym: str, random: Generator) -> None:
    """Axial slices, named in an order that says nothing about their place, with a rescale slope."""
    series = _uid(random)
    count = voxels.shape[2]
    slope = float(max(voxels.max() / 4000, 0.01))
    for number, index in enumerate(random.permutation(count), start=1):
        header = _header(MRImageStorage, "MR", pseudonym, random)
        header.SeriesInstanceUID, header.InstanceNumber = series, number
        # DICOM axes point to the left and to the back: turn the first two by half a circle.
        plane = voxels[::-1, ::-1, index].T
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.ImagePositionPatient = [-voxels.shape[0] / 2, -voxels.shape[1] / 2, float(index)]
        header.PixelSpacing, header.SliceThickness = [1.0, 1.0], 1.0
        header.RescaleSlope, header.RescaleIntercept = round(slope, 6), 0.0
        stored = np.rint(plane / round(slope, 6)).astype(np.uint16)
        _save(folder / f"slice-{number:03d}.dcm", header, stored, 12, inverse=False)


def _header(kind: UID, modality: str, pseudonym: str, random: Generator) -> Dataset:
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = kind, _uid(random)
    header.StudyInstanceUID, header.SeriesInstanceUID = _uid(random), _uid(random)
    header.Modality, header.PatientID, header.PatientName = modality, pseudonym, "Phantom^Synthetic"
    header.PatientBirthDate, header.PatientSex, header.StudyDate = "", "O", ""
    return header


def _save(path: Path, header: Dataset, stored: Any, bits: int, *, inverse: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header.Rows, header.Columns = stored.shape
    header.SamplesPerPixel, header.PixelRepresentation = 1, 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, bits, bits - 1
    header.PhotometricInterpretation = "MONOCHROME1" if inverse else "MONOCHROME2"
    header.PixelData = np.ascontiguousarray(stored, "<u2").tobytes()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    file = FileDataset(str(path), header, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(path, enforce_file_format=True)


def _uid(random: Generator) -> UID:
    """A DICOM identifier (form 2.25, a 128-bit number) that the seed decides."""
    return UID(f"2.25.{int.from_bytes(hashlib.sha256(random.bytes(16)).digest()[:16], 'big')}")
