"""A study of films whose model has four weights: for tests that count and never train."""

from __future__ import annotations

from typing import Any

from medveil.study import Study

CONTENT: dict[str, Any] = {
    "name": "films",
    "task": "classification",
    "classes": ["normal", "abnormal"],
    "model": {
        "name": "wavelet_head",
        "tensors": [{"name": "w", "shape": [4]}],
        "initial_model": "0" * 64,
    },
    "transforms": {"profile": "xray", "size": [64, 64]},
    "training": {"rounds": 10, "local_steps": 3, "learning_rate": 1.0},
    "secure_aggregation": {"update_clip": 1.0, "max_weight": 100},
}


def four_weights(privacy: dict[str, Any], **changes: Any) -> Study:
    """Ten rounds of three steps, but for the changes."""
    return Study.model_validate(CONTENT | {"privacy": privacy} | changes)
