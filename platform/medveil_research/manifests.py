"""The signed manifest beside an exported model: what it is, where from, what it has cost, who says so.

Whoever gets the folder can tell three things: that no file of it was changed, who made it, and which study,
plan, rounds, privacy and figures stand behind the weights.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from medveil.errors import Error
from medveil.handed import read_json, read_whole
from medveil.identity import BadSignature, Identity, verify
from medveil.ids import canonical
from medveil.reports import Amount, Count, Figures, Label, Text
from medveil.shown import plain
from medveil.study import Target, TaskName, Transforms
from medveil.values import Frozen, Name, PrivacyKind, Sha256

if TYPE_CHECKING:
    from medveil_research.finished import Finished

MANIFEST = "manifest.json"
LABEL = "export-manifest"
MANIFEST_BYTES = 8 * 2**20
LARGEST_FILE = 8 * 2**30
PIECE = 2**20
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")]


class BadExport(Error):
    """An exported model is not what its manifest says, or nobody stands behind it."""

    code = "bad-export"

    def __init__(self, *, name: str, problem: str) -> None:
        super().__init__(
            what=f"The exported model in '{plain(name, 80)}' was refused: {problem}.",
            meaning="It may have been changed after it was written, so nothing of it was used.",
            remedy="Get the folder again from whoever made it, and compare their key with them.",
        )


class FileFacts(Frozen):
    """A file of the folder."""

    sha256: Sha256
    bytes: Count


class PrivacyPaid(Frozen):
    """What the model has cost a patient who was in every round."""

    kind: PrivacyKind
    epsilon: Amount | None = None
    delta: Amount | None = None
    epsilon_of_the_study: Amount | None = None


class Manifest(Frozen):
    """What is signed."""

    format: Literal["medveil-export-1"] = "medveil-export-1"
    form: Label
    """Name of the export format."""
    medveil: Text
    study: Name
    study_hash: Sha256
    plan: Sha256 | None = None
    """None: the model was not fetched with its plan."""
    version: Sha256
    """Of the weights with their names and shapes, as aggregator and hospitals call it."""
    rounds: Count | None = None
    """Train rounds behind it."""
    task: TaskName
    classes: tuple[Label, ...] = ()
    target: Target | None = None
    model: Label
    transforms: Transforms
    """With the profile, the hash of its code and what it makes of a phantom."""
    preprocessing: tuple[Text, ...]
    privacy: PrivacyPaid
    evaluation: Figures = Field(default_factory=dict)
    """Pooled figures of the study's test patients; empty where it was not evaluated."""
    files: dict[FileName, FileFacts]


class Signature(Frozen):
    """Who says so: Ed25519 over the name and the manifest's canonical form."""

    name: Name
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class SignedManifest(Frozen):
    """The file."""

    manifest: Manifest
    signature: Signature | None = None
    """None: nobody stands behind it; the hashes show damage only."""


def manifest_of(finished: Finished, form: str, folder: Path) -> Manifest:
    """Of all files in a folder that was just written."""
    from importlib.metadata import version

    from medveil_research.preprocessing import steps_of

    study = finished.study
    paid = PrivacyPaid(kind=study.privacy.kind)
    if study.privacy.kind != "none":
        paid = PrivacyPaid(
            kind=study.privacy.kind,
            epsilon=finished.epsilon,
            delta=study.privacy.delta,
            epsilon_of_the_study=study.privacy.epsilon,
        )
    return Manifest(
        form=form,
        medveil=version("medveil"),
        study=study.name,
        study_hash=study.hash.hex(),
        plan=finished.plan or None,
        version=finished.version,
        rounds=finished.rounds,
        task=study.task,
        classes=study.classes,
        target=study.target,
        model=study.model.name,
        transforms=study.transforms,
        preprocessing=tuple(steps_of(study)),
        privacy=paid,
        evaluation=dict(finished.figures),
        files=files_in(folder),
    )


def files_in(folder: Path) -> dict[str, FileFacts]:
    """Every file below a folder but its manifest, by name."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): _facts(path) for path in found}


def _facts(path: Path) -> FileFacts:
    hasher, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            hasher.update(piece)
            size += len(piece)
    return FileFacts(sha256=hasher.hexdigest(), bytes=size)


def signed(manifest: Manifest, identity: Identity | None) -> SignedManifest:
    """With the signature of whoever exports; of nobody, if None."""
    if identity is None:
        return SignedManifest(manifest=manifest)
    signature = identity.sign(LABEL, identity.name.encode(), canonical(manifest.model_dump(mode="json")))
    return SignedManifest(
        manifest=manifest,
        signature=Signature(
            name=identity.name,
            public_key=identity.public_key.hex(),
            signature=base64.b64encode(signature).decode(),
        ),
    )


def read_export(folder: Path, *, key: bytes | None = None) -> SignedManifest:
    """The manifest of an exported model, after every file and the signature were held against it.

    Args: key: the public key that must have signed it; None: whichever is in it, or none.
    Guarantees: the folder holds the files that the manifest lists and no other, byte for byte.
    Raises:
        BadFile: there is no manifest, or it is none.
        BadExport: a file is missing, changed or not listed; a wrong signature, or another's.
    """
    told = read_json(folder / MANIFEST, SignedManifest, MANIFEST_BYTES)
    _check_signature(folder, told, key)
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir()}
    there.pop(MANIFEST, None)
    listed = told.manifest.files
    if missing := sorted(listed.keys() - there.keys()):
        raise BadExport(name=folder.name, problem=f"'{plain(missing[0], 80)}' is missing")
    if more := sorted(there.keys() - listed.keys()):
        raise BadExport(name=folder.name, problem=f"'{plain(more[0], 80)}' is not in its manifest")
    for name, facts in listed.items():
        path = there[name]
        whole = not path.is_symlink() and path.stat().st_size == facts.bytes <= LARGEST_FILE
        if not whole or _facts(path) != facts:
            raise BadExport(
                name=folder.name, problem=f"'{plain(name, 80)}' is not the file that was exported"
            )
    return told


def _check_signature(folder: Path, told: SignedManifest, key: bytes | None) -> None:
    signature = told.signature
    if signature is None:
        if key is not None:
            raise BadExport(name=folder.name, problem="nobody has signed it")
        return
    if key is not None and signature.public_key != key.hex():
        raise BadExport(name=folder.name, problem="somebody else has signed it")
    try:
        verify(
            bytes.fromhex(signature.public_key),
            base64.b64decode(signature.signature),
            LABEL,
            signature.name.encode(),
            canonical(told.manifest.model_dump(mode="json")),
        )
    except BadSignature as error:
        raise BadExport(name=folder.name, problem="its signature does not fit") from error


def file_of(folder: Path, told: Manifest, ending: str) -> bytes:
    """The one file with this ending, after :func:`read_export`. Raises: BadExport: none, or several."""
    names = [name for name in told.files if name.endswith(ending)]
    if len(names) != 1:
        raise BadExport(name=folder.name, problem=f"it has no file '*{ending}'")
    data = read_whole(folder / names[0], told.files[names[0]].bytes)
    if hashlib.sha256(data).hexdigest() != told.files[names[0]].sha256:
        raise BadExport(name=folder.name, problem=f"'{names[0]}' has changed just now")
    return data
