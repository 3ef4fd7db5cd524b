"""A model version, from the aggregator to a folder: resumed where a line broke, checked, whole or absent."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medveil.errors import Error
from medveil.files import NameTaken, name_folder, replace_durably, sync
from medveil.handed import read_whole
from medveil.parent import CARD, STUDY, WEIGHTS
from medveil.progress import tell
from medveil.reports import Figures
from medveil.rounds import ModelVersion
from medveil.shown import plain
from medveil.study import Study, read_study
from medveil.tensors import BadModelFile, Float32, from_safetensors, largest_file, model_hash
from medveil_research.client import Client, NoAnswer
from medveil_research.study_file import to_toml

PATIENCE_S, PAUSE_S = 60.0, 2.0
"""How long a fetch goes on while no byte comes, and how long it waits between two tries."""


class TargetExists(Error):
    """A file or folder that is to be written is there already."""

    code = "target-exists"

    def __init__(self, *, path: Path, option: str = "") -> None:
        also = f", or say {option}" if option else ""
        super().__init__(
            what=f"'{plain(path)}' is there already.",
            meaning="It may be somebody's work, so it was left as it is and nothing was written.",
            remedy=f"Name another one with -o{also}.",
        )


class FetchBroken(Error):
    """A model that did not come whole before patience ran out."""

    code = "fetch-broken"

    def __init__(self, *, reason: str, have: int, part: Path) -> None:
        super().__init__(
            what=f"The connection was lost after {have:,} bytes of the model and stayed away: {reason}.",
            meaning=f"No model was written. What has come is kept in '{plain(part)}'.",
            remedy="Run the same command again: it goes on from there.",
        )


@dataclass(frozen=True)
class Fetched:
    """A model on this machine."""

    folder: Path
    version: ModelVersion

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.folder / WEIGHTS

    @property
    def study(self) -> Path:
        """The study file, whose ``[model]`` names the tensors: :func:`medveil.study.read_study` reads it."""
        return self.folder / STUDY

    def read(self) -> tuple[Study, Float32]:
        """The study and the weights, float32, shape (d,), as evaluation takes them. Raises: BadModelFile."""
        study = read_study(self.study)
        spec = study.model.tensors
        return study, from_safetensors(read_whole(self.weights, largest_file(spec)), spec)

    @property
    def card(self) -> Path:
        """JSON: plan, version, hash, round, survivors, epsilon, figures."""
        return self.folder / CARD


def fetch(
    client: Client, study: Study, version: ModelVersion, folder: Path, *, figures: Figures | None = None
) -> Fetched:
    """Save a model; see :meth:`medveil_research.shared_study.SharedStudy.fetch`.

    Raises: TargetExists, FetchBroken, BadModelFile, NoAnswer.
    """
    if folder.exists() or folder.is_symlink():
        raise TargetExists(path=folder)
    part = folder.with_name(f".{folder.name}-{version.model[:12]}.part")
    part.mkdir(mode=0o700, parents=True, exist_ok=True)
    weights = part / WEIGHTS
    resumed = weights.exists() and weights.stat().st_size > 0
    try:
        _bring(client, study, version, weights)
    except BadModelFile:
        weights.unlink(missing_ok=True)
        if not resumed:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _bring(client, study, version, weights)  # what an earlier call had left may have been damaged
    replace_durably(part / STUDY, to_toml(study).encode())
    replace_durably(part / CARD, _card(study, version, figures or {}))
    try:
        name_folder(part, folder)
    except NameTaken as error:  # somebody was faster
        raise TargetExists(path=folder) from error
    return Fetched(folder, version)


def _bring(client: Client, study: Study, version: ModelVersion, path: Path) -> None:
    """Fill the file and check it against the version's hash. Raises: BadModelFile, FetchBroken, NoAnswer."""
    spec = study.model.tensors
    limit = largest_file(spec)
    last, pause = time.monotonic(), PAUSE_S
    with open(path, "a+b") as file:
        while True:
            before = file.seek(0, os.SEEK_END)
            if before >= limit:
                file.truncate(0)
            try:
                client.read_model(version.plan, version.model, file, limit=limit)
                break
            except NoAnswer as error:
                if not error.lost:
                    raise
                have = file.seek(0, os.SEEK_END)
                last = time.monotonic() if have > before else last
                if time.monotonic() - last > PATIENCE_S:
                    file.flush()
                    raise FetchBroken(reason=error.reason, have=have, part=path) from error
                tell("model, waiting for the aggregator", have, limit)
                time.sleep(pause)
        file.flush()
        sync(path)
    vector = from_safetensors(read_whole(path, limit), spec)
    if model_hash(vector, spec).hex() != version.model:
        raise BadModelFile(problem="its weights are not those of the version that was asked for")


def _card(study: Study, version: ModelVersion, figures: Figures) -> bytes:
    privacy: dict[str, Any] = {"kind": study.privacy.kind, "epsilon_spent": version.epsilon}
    if study.privacy.kind != "none":
        privacy |= {"epsilon_of_the_study": study.privacy.epsilon, "delta": study.privacy.delta}
    card = {
        "medveil": importlib.metadata.version("medveil"),
        "study": study.name,
        "study_hash": study.hash.hex(),
        **version.model_dump(mode="json", exclude={"epsilon"}),
        **({"not_published": list(study.model.personal)} if study.model.personal else {}),
        "privacy": privacy,
        "figures": dict(figures),
    }
    return json.dumps(card, indent=1).encode() + b"\n"
