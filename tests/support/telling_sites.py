"""A hospital's images folder that tells fictional identities wherever it can: files, names, manifest."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from canaries import DATES, NAMES, NUMBERS
from dicom_files import header_of, save

SPLITS = ("train", "train", "train", "train", "val", "test")


def told(number: int) -> tuple[str, str, str]:
    """Name, number and date of birth of a patient."""
    return NAMES[number % len(NAMES)], f"{NUMBERS[number % 3]}-{number}", DATES[number % len(DATES)]


def telling_film(path: Path, number: int, **tags: str) -> Path:
    """A film whose header tells who it is in plain, nested and private elements, and in the preamble."""
    name, mrn, born = told(number)
    pixels = np.random.default_rng(number).integers(0, 4000, (48, 40), dtype=np.uint16)
    header = header_of(pixels, SpecificCharacterSet="ISO_IR 192", **tags)
    header.PatientName, header.PatientID, header.PatientBirthDate = name, mrn, born
    header.StudyDescription, header.ImageComments = f"Chest of {name}", f"{name}, {mrn}"
    item = Dataset()
    item.PatientName, item.PatientID = name, mrn
    header.OtherPatientIDsSequence = Sequence([item])
    header.add_new(0x00990010, "LO", "EXAMPLE")
    header.add_new(0x00991001, "UN", name.encode())
    save(path, header)
    data = path.read_bytes()
    path.write_bytes(f"{name};{mrn}".encode()[:128].ljust(128, b"\0") + data[128:])
    return path


def telling_site(folder: Path, *, patients: int = 12, first: int = 0) -> Path:
    """Films of patients whose pseudonyms and file names are their names and numbers, and four bad lines.

    Not used are: a film with writing in it, one that is damaged, one that is not there, and one in colour.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[tuple[str, str, str, str]] = []
    for number in range(first, first + patients):
        name, mrn, _ = told(number)
        file = f"{name.replace('^', '_')}_{number}.dcm"
        telling_film(folder / file, number)
        lines.append((file, f"{mrn} {name}", SPLITS[number % len(SPLITS)], str(number % 2)))
    name, mrn, _ = told(0)
    telling_film(folder / f"{name}-writing.dcm", 900, BurnedInAnnotation="YES")
    damaged = telling_film(folder / f"{name}-damaged.dcm", 901)
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    telling_film(folder / f"{name}-colour.dcm", 902, PhotometricInterpretation="RGB")
    for what in ("writing", "damaged", "colour", "missing"):
        lines.append((f"{name}-{what}.dcm", f"{mrn} {name} {what}", "train", "0"))
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file_:
        writer = csv.writer(file_)
        writer.writerow(("image", "patient_id", "split", "label"))
        writer.writerows(lines)
    return folder
