"""A whole prediction: every case is read, judged and written down; one that cannot be used is listed."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image

from medveil.files import NameTaken, replace_durably, whole_folder
from medveil.profiles import PROFILES
from medveil.progress import tell
from medveil.shown import plain
from medveil.study import Study
from medveil.tasks import TASKS
from medveil_imaging.patches import by_windows
from medveil_imaging.sources.dicom.header import begins_like_dicom
from medveil_imaging.sources.raw import Float64, Unusable
from medveil_imaging.sources.readers import Raw, Readers
from medveil_imaging.sources.workers import workers
from medveil_research.fetching import TargetExists
from medveil_research.prediction.cases import FIRST_BYTES, Case
from medveil_research.prediction.dicom_objects import About, Number
from medveil_research.prediction.dicom_process import ObjectMaker
from medveil_research.prediction.findings import Said, check_finite, columns_of, said_of, sizes_of
from medveil_research.prediction.networks import Judging
from medveil_research.prediction.shaping import Labels, Placed, Shaper

AT_ONCE = 16
"""Images (slices of one volume) that the network sees together."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Predicted:
    """What became of one case."""

    case: Case
    said: Said | None = None
    problem: Unusable | None = None
    files: tuple[str, ...] = ()
    """What was written of it, below the folder."""
    missing: tuple[str, ...] = ()
    """Why a DICOM object was not written, though the rest was."""


@dataclass(frozen=True)
class Wish:
    """What is asked for."""

    threshold: float = 0.5
    dicom: bool = False
    """Whether images that are DICOM get a SEG or SR beside the rest."""


def predict(
    model: Judging, cases: Sequence[Case], output: Path, wish: Wish, *, readers: Readers | None = None
) -> list[Predicted]:
    """Judge every case and write ``predictions.csv``, ``predictions.json`` and what was outlined.

    Guarantees: the folder is there whole or not at all, with files of mode 0600; files are called by the
        case's number. Nothing raises on account of an image: it is listed with the reason.
    Raises: TargetExists. Stopped between two images; ReadersMissing.
    """
    try:
        with whole_folder(output, private=True) as part:
            with ObjectMaker() as maker:
                writer = _Writer(model, part, wish, maker)
                done = []
                for one in _each(model, cases, writer, readers or workers()):
                    done.append(one)
                    tell("images judged", len(done), len(cases))
            done.sort(key=lambda one: one.case.number)
            replace_durably(part / "predictions.csv", table(model.study, done), private=True)
            replace_durably(part / "predictions.json", document(model, done, wish), private=True)
    except NameTaken as error:
        raise TargetExists(path=output) from error
    return done


def _each(model: Judging, cases: Sequence[Case], writer: _Writer, readers: Readers) -> Iterator[Predicted]:
    shaper = Shaper(model.study)
    for case in cases:
        if case.problem is not None:
            yield Predicted(case, problem=case.problem)
    for case, read in readers([case for case in cases if case.problem is None], shaper.wanted):
        try:
            yield _one(model, shaper, case, read, writer)
        except Unusable as error:
            yield Predicted(case, problem=error)


def _one(model: Judging, shaper: Shaper, case: Case, read: Raw | Unusable, writer: _Writer) -> Predicted:
    if isinstance(read, Unusable):
        raise read
    seen = shaper.seen(read)
    logits = logits_of(model, seen)
    if not TASKS[model.study.task].outlines:
        return writer.judged(case, said_of(model.study, logits, writer.wish.threshold))
    check_finite(logits)
    return writer.outlined(case, seen, seen.back(logits.argmax(1)))


def logits_of(model: Judging, seen: Placed) -> torch.Tensor:
    """Logits of a case's images: (k, outputs, …); of a volume seen by windows (1, outputs, \\*shape)."""
    if model.study.transforms.patches:
        return by_windows(model.judge, seen.images, model.study.transforms.size, CPU)
    return torch.cat([model.judge(part) for part in torch.split(seen.images, AT_ONCE)])


class _Writer:
    """What is written of each case."""

    def __init__(self, model: Judging, folder: Path, wish: Wish, maker: ObjectMaker) -> None:
        study = model.study
        self.wish = wish
        self._study, self._folder, self._maker = study, folder, maker
        self._about = About(study.name, model.version, version("medveil"), study.classes[1:])

    def judged(self, case: Case, said: Said) -> Predicted:
        """A classification, findings or a number."""
        numbers = [Number(name, value, said.units.get(name, "")) for name, value in said.values.items()]
        verdicts = list(said.verdicts.items())
        files, missing = self._object(
            case, "sr", lambda: self._maker.report(case.paths, numbers, verdicts, self._about)
        )
        return Predicted(case, said, files=files, missing=missing)

    def outlined(self, case: Case, seen: Placed, labels: Labels) -> Predicted:
        """A label map on the grid of what was read."""
        if seen.affine is None:
            name, data, voxel_ml = f"outlines/{case.number:04}.png", _png(labels), None
        else:
            name, data = f"outlines/{case.number:04}.nii.gz", _nifti(labels, seen.affine)
            voxel_ml = abs(float(np.linalg.det(seen.affine[:3, :3]))) / 1000
        self._write(name, data)
        affine = np.eye(4) if seen.affine is None else seen.affine
        files, missing = self._object(
            case, "seg", lambda: self._maker.outline(case.paths[:1], labels, affine, self._about)
        )
        return Predicted(case, sizes_of(self._study, labels, voxel_ml), files=(name, *files), missing=missing)

    def _object(
        self, case: Case, kind: str, make: Callable[[], bytes]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """A DICOM object of a case whose image is DICOM; a refusal does not spoil the rest."""
        if not (self.wish.dicom and is_dicom(case)):
            return (), ()
        name = f"dicom/{case.number:04}-{kind}.dcm"
        try:
            self._write(name, make())
        except Unusable as error:
            return (), (error.what,)
        return (name,), ()

    def _write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_durably(path, data, private=True)


def is_dicom(case: Case) -> bool:
    """Whether a case's image lies here as DICOM: its first bytes say so."""
    path = case.paths[0]
    try:
        if path.is_dir():
            return True  # no other volume is a folder
        with path.open("rb") as file:
            return begins_like_dicom(file.read(FIRST_BYTES))
    except OSError:
        return False


def _nifti(labels: Labels, affine: Float64) -> bytes:
    image = nibabel.Nifti1Image(labels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1, strip_shears=True)
    return gzip.compress(image.to_bytes(), 6, mtime=0)


def _png(labels: Labels) -> bytes:
    data = io.BytesIO()
    Image.fromarray(labels).save(data, "PNG")
    return data.getvalue()


def table(study: Study, done: Sequence[Predicted]) -> bytes:
    """All cases as CSV; a case that could not be used has its reason in the last column."""
    names = columns_of(study)
    questions = sorted({question for one in done if one.said for question in one.said.verdicts})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("number", "image", *(_with_unit(study, name) for name in names), *questions, "files", "problem")
    )
    for one in done:
        values = one.said.values if one.said else {}
        verdicts = one.said.verdicts if one.said else {}
        writer.writerow(
            (
                one.case.number,
                _cell(one.case.name),
                *(f"{values[name]:.6g}" if name in values else "" for name in names),
                *(verdicts.get(question, "") for question in questions),
                " ".join(one.files),
                f"{one.problem.what} [{one.problem.code}]" if one.problem else " ".join(one.missing),
            )
        )
    return text.getvalue().encode()


def _with_unit(study: Study, name: str) -> str:
    if study.target is not None and study.target.unit:
        return f"{name} ({study.target.unit})"
    if TASKS[study.task].outlines:
        return f"{name} ({'ml' if PROFILES[study.transforms.profile].reads_volumes else 'pixels'})"
    return name


def _cell(name: str) -> str:
    """A file's name as a cell: a spreadsheet shall show it, and compute nothing."""
    shown = plain(name)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown


def document(model: Judging, done: Sequence[Predicted], wish: Wish) -> bytes:
    """The same for programs, with the model that said it."""
    cases = [
        {
            "number": one.case.number,
            "image": one.case.name,
            **(
                {
                    "values": dict(one.said.values),
                    "units": dict(one.said.units),
                    "verdicts": dict(one.said.verdicts),
                    "images": one.said.images,
                    "files": list(one.files),
                    "missing": list(one.missing),
                }
                if one.said
                else {}
            ),
            **({"problem": {"code": one.problem.code, "what": one.problem.what}} if one.problem else {}),
        }
        for one in done
    ]
    told = {
        "medveil": version("medveil"),
        "study": model.study.name,
        "version": model.version,
        "engine": model.engine,
        "threshold": wish.threshold,
        "research_only": True,
        "cases": cases,
    }
    return json.dumps(told, indent=1).encode() + b"\n"
