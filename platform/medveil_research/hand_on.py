"""A model handed on: from the folder it was fetched into to one with a signed manifest, and read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from medveil.files import NameTaken, whole_folder
from medveil.handed import read_json, read_whole
from medveil.identity import Identity
from medveil.parent import CARD, STUDY, WEIGHTS
from medveil.reports import Amount, Count, Figures
from medveil.study import Study, read_study
from medveil.tensors import BadModelFile, from_safetensors, largest_file, model_hash
from medveil.values import Frozen, Sha256
from medveil_research.export import EXPORTS, export
from medveil_research.fetching import TargetExists
from medveil_research.finished import Finished
from medveil_research.manifests import (
    MANIFEST,
    Manifest,
    SignedManifest,
    file_of,
    manifest_of,
    read_export,
    signed,
)
from medveil_research.results import Result, read_result
from medveil_research.study_file import to_toml

CARD_BYTES = 2**20


class _Paid(Frozen, extra="ignore"):
    epsilon_spent: Amount | None = None


class _Version(Frozen, extra="ignore"):
    """What is read of a fetched model's card; what else it says is not used here."""

    plan: Sha256 | None = None
    model: Sha256 | None = None
    number: Count | None = None
    """Successful train rounds."""
    privacy: _Paid = _Paid()
    figures: Figures = Field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """A folder that was handed on, after everything in it was held against its manifest."""

    folder: Path
    signed: SignedManifest
    study: Study

    @property
    def manifest(self) -> Manifest:
        """What is said of it."""
        return self.signed.manifest

    def data(self, ending: str) -> bytes:
        """Its one file with this ending. Raises: BadExport."""
        return file_of(self.folder, self.manifest, ending)


def finished_model(folder: Path, result: Path | None = None) -> Finished:
    """A model from its folder: ``study.toml``, ``model.safetensors`` and, where it is there, its card.

    Where nothing says what the rounds so far have cost, it is the epsilon of the whole study: no patient can
    have spent more.

    Args: result: a study's result (JSON), for plan and figures.
    Raises:
        BadFile: a file is missing or not what it should be.
        BadModelFile: the weights are not those of the study, of the card, or of the result.
    """
    study = read_study(folder / STUDY)
    spec = study.model.tensors
    weights = from_safetensors(read_whole(folder / WEIGHTS, largest_file(spec)), spec)
    card = _Version()
    if (folder / CARD).is_file():
        card = read_json(folder / CARD, _Version, CARD_BYTES)
    own = model_hash(weights, spec).hex()
    if (card.model or own) != own:
        raise BadModelFile(problem="its weights are not those that the card beside it names")
    told = None if result is None else read_result(result)
    if told is not None and (told.federated.model, told.study) != (own, study.name):
        raise BadModelFile(problem="the result is of another model")
    spent = None
    if study.privacy.kind != "none":
        spent = study.privacy.epsilon if card.privacy.epsilon_spent is None else card.privacy.epsilon_spent
    return Finished(
        study,
        plan=card.plan or (told.plan if told else ""),
        weights=weights,
        epsilon=spent,
        rounds=_rounds(told) or card.number,
        figures=dict(told.federated.figures) if told else dict(card.figures),
    )


def _rounds(told: Result | None) -> int | None:
    if told is None:
        return None
    return sum(one.kind == "train" and one.outcome == "done" for one in told.rounds)


def hand_on(form: str, finished: Finished, target: Path, identity: Identity | None) -> Exported:
    """Write a model with its study and a signed manifest; the folder is there whole, or not at all.

    Args: identity: whose key signs the manifest; None: nobody's.
    Raises:
        TargetExists: the folder is there. UnknownName: no such format. NotExportable: see the format.
    """
    EXPORTS[form]
    try:
        with whole_folder(target) as part:
            export(form, finished, part)
            (part / STUDY).write_text(to_toml(finished.study), encoding="utf-8")
            told = signed(manifest_of(finished, form, part), identity)
            (part / MANIFEST).write_text(told.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except NameTaken as error:
        raise TargetExists(path=target) from error
    return Exported(target, told, finished.study)


def read_handed(folder: Path, *, key: bytes | None = None) -> Exported:
    """An exported model: every file and the signature are held against its manifest first.

    Args: key: the public key that must have signed it.
    Raises: BadFile, BadExport: see :func:`medveil_research.manifests.read_export`.
    """
    told = read_export(folder, key=key)
    study = read_study(folder / STUDY)
    if study.hash.hex() != told.manifest.study_hash:
        raise BadModelFile(problem="the study beside it is another one")
    return Exported(folder, told, study)
