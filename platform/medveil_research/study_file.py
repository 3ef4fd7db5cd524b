"""A study as a file that people read, comment on and keep under version control."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medveil.errors import Error
from medveil.study import Study
from medveil.tensors import from_safetensors, model_hash

COMMENTS = {
    "": "A MedVeil study. Hospitals approve exactly these values; changing one makes it another study.",
    "target": "The number that is learned: its column in the manifest, its unit, its public range.",
    "model": "The network, its trained tensors in wire order, and the SHA-256 of where training starts.",
    "transforms": "How an image becomes a tensor: edges in pixels (xray) or voxels (mri), spacing in mm.",
    "training": "One hospital's work in one round, and the number of rounds.",
    "privacy": "What bounds how much anybody can learn about one patient; epsilon is for the whole study.",
    "strategy": "How the aggregator turns the mean update into the next model. It sees the sum only.",
    "compression": "How much of an update a round sends; what is not sent stays in the hospital for a while.",
    "secure_aggregation": "The masked sum: bits per coordinate, largest coordinate, largest weight; weights: "
    "what a hospital counts, the patients it declares or as much as any other ('equal').",
    "cohort": "Fewest and most hospitals in one sum; a sum over fewer than the minimum is never revealed.",
    "evaluation": "What is counted inside the masked sum, bounded per patient.",
    "deadlines": "Longest seconds per phase; a phase ends early when everybody in reach has answered.",
}


class FolderTaken(Error):
    """A study is written once; hospitals may already have approved the one in this folder."""

    code = "folder-taken"

    def __init__(self, *, name: str) -> None:
        super().__init__(
            what=f"There is already a study in the folder '{name}'.",
            meaning="Overwriting it could change what hospitals have approved, so nothing was written.",
            remedy="Choose another folder with -o, or move the old one away on purpose.",
        )


def write_study(folder: Path, study: Study, initial: bytes) -> None:
    """Write ``study.toml`` and ``initial.safetensors``.

    Guarantees: :func:`medveil.study.read_study` reads a study of the same hash; nothing is overwritten.
    Raises:
        FolderTaken: the folder holds a study already.
        BadModelFile: ``initial`` is not a model of this study.
        ValueError: it is another model than the one the study names.
    """
    if (
        model_hash(from_safetensors(initial, study.model.tensors), study.model.tensors).hex()
        != study.model.initial_model
    ):
        raise ValueError("the initial model is not the one whose hash the study holds")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "study.toml").exists():
        raise FolderTaken(name=folder.name)
    (folder / "initial.safetensors").write_bytes(initial)
    (folder / "study.toml").write_text(to_toml(study), encoding="utf-8")


def to_toml(study: Study) -> str:
    """The study as TOML, one commented section for each of its parts."""
    whole = study.model_dump(mode="json")
    whole["secure_aggregation"].setdefault("weights", study.secure_aggregation.weights)
    lines = [f"# {COMMENTS['']}"]
    lines += [_line(key, value) for key, value in whole.items() if not isinstance(value, dict)]
    for name, part in whole.items():
        if isinstance(part, dict):
            lines += ["", f"# {COMMENTS[name]}", *_section(name, part)]
    return "\n".join(lines) + "\n"


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    lines = [f"[{name}]"]
    for key, value in values.items():
        if (name, key) == ("model", "tensors"):
            rows = [f"  {{ name = {_value(t['name'])}, shape = {_value(t['shape'])} }}," for t in value]
            lines += ["tensors = [", *rows, "]"]
        elif value is not None and not isinstance(value, dict):  # TOML has no null: absent says the same
            lines.append(_line(key, value))
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += _section(f"{name}.{key}", value)
    return lines


def _line(key: str, value: Any) -> str:
    name = key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)
    return f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, except that TOML also wants the delete character written out.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
