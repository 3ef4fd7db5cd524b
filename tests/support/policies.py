"""Privacy policies of studies that tests make."""

from __future__ import annotations

LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 5.0,
    "epsilon": 8.0,
    "evaluation_multiplier": 0.6,
}
"""Noise of each hospital, and of the evaluation."""
