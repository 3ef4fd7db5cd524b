"""Finished trainings on disk, so that a comparison that was stopped goes on where it was.

A training is found again by what it came from: study, patients' tensors, seed and version. Its files hold
counts of single patients; they lie in a folder that only its owner may enter.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse

from medveil.errors import BadFile
from medveil.files import replace_durably
from medveil.handed import read_json
from medveil.ids import digest, digester
from medveil_imaging.patients import Patient
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison.arms import Training
from medveil_research.comparison.paired import Judged
from medveil_research.comparison.result import RunFacts

KEY_DIGITS = 24


@dataclass(frozen=True)
class Finished:
    """A training that is over, and how its model did."""

    facts: RunFacts
    judged: Judged


class Runs:
    """The folder of finished trainings of one set of patients.

    Args:
        folder: made if it is not there. fingerprint: of the patients (:func:`fingerprint`).
    """

    def __init__(self, folder: Path, fingerprint: bytes) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._fingerprint = folder, fingerprint

    def find(self, training: Training) -> Finished | None:
        """What was kept of it; None if nothing was, or nothing that can be read."""
        path = self._path(training)
        try:
            facts = read_json(path.with_suffix(".json"), RunFacts)
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
                parts = (stored["data"], stored["indices"], stored["indptr"])
                table = scipy.sparse.csr_matrix(parts, shape=tuple(stored["shape"]))
                return Finished(facts, Judged(table, tuple(int(n) for n in stored["counts"])))
        except (BadFile, OSError, ValueError, KeyError):
            return None

    def keep(self, training: Training, finished: Finished) -> None:
        """Write it down; its JSON comes last, so half a training is none."""
        path, table, buffer = self._path(training), finished.judged.table, io.BytesIO()
        np.savez_compressed(
            buffer,
            data=table.data,
            indices=table.indices,
            indptr=table.indptr,
            shape=np.asarray(table.shape),
            counts=np.asarray(finished.judged.counts),
        )
        replace_durably(path.with_suffix(".npz"), buffer.getvalue(), private=True)
        text = finished.facts.model_dump_json(indent=1)
        replace_durably(path.with_suffix(".json"), text.encode(), private=True)

    def _path(self, training: Training) -> Path:
        start = hashlib.sha256(np.ascontiguousarray(training.initial, "<f4").tobytes()).digest()
        parts = (
            training.study.hash,
            start,
            self._fingerprint,
            f"{training.arm} {training.site} {training.seed}".encode(),
            importlib.metadata.version("medveil").encode(),
        )
        return self._folder / digest("comparison", *parts).hex()[:KEY_DIGITS]


def fingerprint(sites: Sequence[SiteData]) -> bytes:
    """SHA-256 over every site's patients, splits, images and labels as training sees them."""
    hasher = digester("compared-sites")
    for site in sites:
        for split, patients in (("train", site.train), ("val", site.val), ("test", site.test)):
            hasher.update(f"{site.name} {split} {len(patients)};".encode())
            for patient in patients:
                hasher.update(_of_patient(patient))
    return hasher.digest()


def _of_patient(patient: Patient) -> bytes:
    hasher = digester("compared-patient", patient.patient.encode())
    for which in range(len(patient)):
        for tensor in patient.take([which]):
            hasher.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
            hasher.update(tensor.contiguous().numpy().tobytes())
    return hasher.digest()
