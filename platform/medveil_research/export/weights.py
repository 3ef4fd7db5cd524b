"""The trained tensors as safetensors, and beside them a card in JSON that says what they are.

Every library that reads safetensors gets the tensors by the names and shapes that the study's model gives
them; fixed parts of a model, which its file computes or loads, are not among them. The card lists them in
the order of the wire (:class:`medveil.tensors.ModelSpec`), so the version can be made again from the file.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medveil.tensors import to_safetensors
from medveil_research.export import EXPORTS
from medveil_research.finished import Finished
from medveil_research.preprocessing import steps_of


@EXPORTS.register("weights")
def weights(finished: Finished, folder: Path) -> list[Path]:
    """``<stem>.safetensors`` and ``<stem>.json``."""
    tensors, card = (folder / f"{finished.stem}.{ending}" for ending in ("safetensors", "json"))
    tensors.write_bytes(to_safetensors(finished.weights, finished.study.model.tensors))
    text = json.dumps(card_of(finished), indent=2, ensure_ascii=False)
    card.write_text(text + "\n", encoding="utf-8")
    return [tensors, card]


def card_of(finished: Finished) -> dict[str, Any]:
    """What somebody must know to use the weights, and to find out where they come from."""
    study = finished.study
    said = study.model_dump(mode="json", include={"task", "classes", "transforms"})
    privacy: dict[str, Any] = {"kind": study.privacy.kind}
    if study.privacy.kind != "none":
        privacy |= {
            "epsilon_spent": finished.epsilon,
            "epsilon_of_the_study": study.privacy.epsilon,
            "delta": study.privacy.delta,
        }
    card = {
        "medveil": version("medveil"),
        "study": study.name,
        "study_hash": study.hash.hex(),
        "plan": finished.plan or None,
        "version": finished.version,
        **said,
        "model": {"name": study.model.name, "options": study.model.options},
        "tensors": study.model.tensors.model_dump(mode="json"),
        "preprocessing": steps_of(study),
        "privacy": privacy,
    }
    kept = {"not_published": list(study.model.personal)}
    return card | _where_known(kept | {"rounds": finished.rounds, "evaluation": dict(finished.figures)})


def _where_known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
