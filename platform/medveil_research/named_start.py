"""What ``medveil study new --from`` names: a file or folder here, or a version at the consortium."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from medveil.errors import Error
from medveil.shown import plain
from medveil_imaging.weight_files import WeightFile, read_weights
from medveil_research.consortium import Consortium

LEAST_DIGITS = 8
"""Of a version's hash, by which it may be named."""


class NoSuchStart(Error):
    """What a study is to start from is nowhere."""

    code = "no-such-start"

    def __init__(self, *, typed: str, problem: str) -> None:
        super().__init__(
            what=f"There is nothing to start from by the name '{plain(typed, 80)}': {problem}.",
            meaning="No study was written.",
            remedy="Name a folder of 'medveil research fetch', a file of weights, or a version's hash.",
        )


def weights_named(typed: str, folder: Path) -> WeightFile:
    """The weights that a name stands for.

    Args:
        typed: a path, or the first digits of a model version's hash, 8 of them or more.
        folder: of the enrolled researcher, who asks the consortium for a version.
    Raises: NoSuchStart; BadStartWeights; NotEnrolled, NoAnswer, FetchBroken, BadModelFile.
    """
    if Path(typed).exists():
        return read_weights(Path(typed))
    if not re.fullmatch(f"[0-9a-f]{{{LEAST_DIGITS},64}}", typed):
        raise NoSuchStart(typed=typed, problem="there is no such file, and it is no hash of a version")
    with Consortium(folder) as consortium, tempfile.TemporaryDirectory(prefix="medveil-start-") as place:
        found = {
            version.model: (study, version)
            for study in consortium.studies()
            for version in study.versions
            if version.model.startswith(typed)
        }
        if len(found) != 1:
            many = f"{len(found)} versions begin so" if found else "no version that is open to you begins so"
            raise NoSuchStart(typed=typed, problem=many)
        ((study, version),) = found.values()
        return read_weights(study.fetch(version.model, Path(place) / f"{study.name}-{version.number}").folder)
