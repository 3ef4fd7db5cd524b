"""What a node keeps of its PACS: de-identified instances, sealed, under names that tell nothing.

``records/NAME.sealed`` says of each series whether it is here, or why not; ``images/`` has a folder for each
series and the ``manifest.csv`` by which the reader of sites finds them. Files are not synced: what a
power cut takes does not open, and is fetched again. A record is written after its files, the manifest from
records.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from hospital_node.images import PACS_LABEL
from hospital_node.pacs.keyed import KeyedNames
from hospital_node.pacs.lists import OptedOut
from hospital_node.patients_key import patients_key
from hospital_node.sealed import SealedFile
from hospital_node.settings import Node
from medveil.files import PART, new_private, replace_durably
from medveil.identity import Identity, Secret
from medveil.values import Frozen
from medveil_imaging.sources.sealed import seal

RECORDS_LABEL = "pacs-records"
"""What the key of records is derived for."""
FOLDER = "pacs"
"""In the node's folder."""
COLUMNS = ("image", "patient_id", "split")
OUTLINE = "label_map"
"""The manifest's column of outlines, if there are any."""
REFUSED, DONE = "refused", "done"


class Record(Frozen):
    """What became of one series."""

    state: str
    code: str = ""
    """Why it was refused."""
    patient: str = ""
    """The pseudonym."""
    accession: str = ""
    """A keyed hash of the accession number."""
    modality: str = ""
    of: str = ""
    """Of outlines: the name of the series that they were drawn on."""
    films: bool = False
    """Whether each instance is an image by itself; else the series is one."""
    count: int = 0
    folder: str = ""
    files: Mapping[str, int] = Field(default_factory=dict)
    """Name → bytes on the disk."""
    codes: tuple[str, ...] = ()
    """How it was de-identified, in the codes of DICOM PS3.16, context group 7050."""
    cells: Mapping[str, str] = Field(default_factory=dict)
    """What the hospital's list says of it."""
    when: int = 0


class Arriving:
    """A series on its way in: nothing of it counts before :meth:`keep`."""

    def __init__(self, folder: Path, key: Secret) -> None:
        self.folder, self._key = folder, key
        self.files: dict[str, int] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)

    def add(self, name: str, content: bytes) -> None:
        """One de-identified instance. Raises: OSError."""
        sealed = seal(content, self._key)
        file = f"{name}.dcm"
        handle = new_private(self.folder / file)
        with os.fdopen(handle, "wb") as stream:
            stream.write(sealed)
        self.files[file] = len(sealed)

    def abandon(self) -> None:
        """Nothing of it is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Store:
    """One node's images of its PACS.

    Args:
        folder: of mode 0700, made if it is not there.
        names: what stands for patients, series and instances.
        identity: of the node, whose key the seals are derived from.
    """

    def __init__(self, folder: Path, names: KeyedNames, identity: Identity) -> None:
        self.images, self._records, self._arriving = (
            folder / "images",
            folder / "records",
            folder / "arriving",
        )
        for one in (folder, self.images, self._records):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.names, self._key = names, identity.secret_for(PACS_LABEL)
        self._record_key = identity.secret_for(RECORDS_LABEL)

    def record(self, name: str) -> Record | None:
        """What became of a series; None if it was never asked for, or the record is damaged."""
        content = self._file(name).read()
        try:
            return None if content is None else Record.model_validate_json(content)
        except ValidationError:
            return None

    def records(self) -> Iterator[tuple[str, Record]]:
        """Every series' name and record, by name."""
        for path in sorted(self._records.glob("*.sealed")):
            record = self.record(path.stem)
            if record is not None:
                yield path.stem, record

    def is_whole(self, record: Record) -> bool:
        """Whether all files of a series are here in full length."""
        folder = self.images / record.folder
        try:
            return all((folder / name).stat().st_size == size for name, size in record.files.items())
        except OSError:
            return False

    def arriving(self, name: str) -> Arriving:
        """Begin to take in a series."""
        return Arriving(self._arriving / name, self._key)

    def keep(self, name: str, arrived: Arriving, record: Record) -> None:
        """A series is here whole. Raises: OSError, and then what was there before is still there."""
        old = self.record(name)
        folder = f"{name}-{self.names.instance(' '.join(sorted(arrived.files)))[:6]}"
        if (self.images / folder).exists():
            shutil.rmtree(self.images / folder)
        arrived.folder.rename(self.images / folder)
        now = int(time.time())
        self.write(name, record.model_copy(update={"folder": folder, "files": arrived.files, "when": now}))
        if old is not None and old.folder not in ("", folder):
            shutil.rmtree(self.images / old.folder, ignore_errors=True)

    def refuse(self, name: str, code: str) -> None:
        """Note why a series is not here; what was kept of it before is removed."""
        self._drop(self.record(name))
        self.write(name, Record(state=REFUSED, code=code, when=int(time.time())))

    def forget(self, name: str) -> None:
        """As if the series had never been asked for."""
        self._drop(self.record(name))
        (self._records / f"{name}.sealed").unlink(missing_ok=True)

    def write(self, name: str, record: Record) -> None:
        """Replace a record."""
        self._file(name).write(record.model_dump_json(exclude_defaults=True).encode(), synced=False)

    def remove_opted_out(self, opted_out: OptedOut, code: str) -> int:
        """Remove what is here of those who have said no since. Returns: series that were removed."""
        patients = {self.names.patient(one) for one in opted_out.patients}
        accessions = {self.names.accession(one) for one in opted_out.accessions}
        gone = [
            name
            for name, one in self.records()
            if one.state == DONE and (one.patient in patients or one.accession in accessions)
        ]
        for name in gone:
            self.refuse(name, code)
        return len(gone)

    def relabel(self, cells: Mapping[str, Mapping[str, str]]) -> None:
        """Take over what the hospital's list says now of examinations that are here.

        Args:
            cells: accession number → its line.
        """
        said = {self.names.accession(number): dict(line) for number, line in cells.items()}
        for name, record in self.records():
            if record.state == DONE and said.get(record.accession, record.cells) != record.cells:
                self.write(name, record.model_copy(update={"cells": said[record.accession]}))

    def write_manifest(self) -> int:
        """Write ``images/manifest.csv`` from the records, and remove what no record knows.

        A patient has one split: what the hospital's list says of any of the examinations, else
        :meth:`KeyedNames.split`. Whom the list puts in several is taught, never tested. Returns: lines.
        """
        here = [(name, record) for name, record in self.records() if record.state == DONE]
        done = [record for _, record in here if not record.of]
        outlines = {record.of: record for _, record in here if record.of}
        outlined = {record.folder: outlines[name] for name, record in here if name in outlines}
        told: dict[str, set[str]] = defaultdict(set)
        for record in done:
            told[record.patient] |= {record.cells.get("split", "")} - {""}
        columns = list(dict.fromkeys(c for record in done for c in record.cells if c != "split"))
        columns += [OUTLINE] * (bool(outlined) and OUTLINE not in columns)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow((*COLUMNS, *columns))
        count = 0
        for record in sorted(done, key=lambda one: (one.patient, one.folder)):
            split = _split_of(told[record.patient]) or self.names.split(record.patient)
            cells = dict(record.cells)
            if record.folder in outlined:
                cells[OUTLINE] = "/".join((outlined[record.folder].folder, *outlined[record.folder].files))
            for image in images_of(record):
                table.writerow((image, record.patient, split, *(cells.get(c, "") for c in columns)))
                count += 1
        replace_durably(self.images / "manifest.csv", text.getvalue().encode(), private=True)
        self._sweep({record.folder for _, record in here})
        return count

    def _sweep(self, known: set[str]) -> None:
        shutil.rmtree(self._arriving, ignore_errors=True)
        for path in self.images.iterdir():
            if path.is_dir() and path.name not in known:
                shutil.rmtree(path, ignore_errors=True)
        for path in self._records.glob(f"*{PART}"):
            path.unlink(missing_ok=True)

    def _drop(self, record: Record | None) -> None:
        if record is not None and record.folder:
            shutil.rmtree(self.images / record.folder, ignore_errors=True)

    def _file(self, name: str) -> SealedFile:
        return SealedFile(self._records / f"{name}.sealed", self._record_key, name.encode())


def _split_of(told: set[str]) -> str:
    """One split of those that a list names for a patient; empty if it names none."""
    return next((split for split in ("train", "val", "test") if split in told), "")


def folder_in(node: Path) -> Path:
    """Where the images of a PACS lie, with their manifest, in a node's folder."""
    return node / FOLDER / "images"


def store_of(node: Node) -> Store:
    """What a node keeps of its PACS. Raises: PatientsKeyDamaged."""
    names = KeyedNames(patients_key(node.folder)[0])
    return Store(node.folder / FOLDER, names, Identity.load(node.settings.name, node.key))


def images_of(record: Record) -> Sequence[str]:
    """What a manifest calls the images of a series: each film, or the folder of a volume."""
    if record.films:
        return [f"{record.folder}/{name}" for name in sorted(record.files)]
    return [record.folder]
