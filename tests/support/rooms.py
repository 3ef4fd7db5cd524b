"""Where the code stands: every package with its folder, from the shared words upward."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "medveil": "platform/medveil",
    "medveil_imaging": "platform/medveil_imaging",
    "medveil_research": "platform/medveil_research",
    "privacy": "privacy",
    "hospital_node": "hospital_node",
    "aggregator": "aggregator",
}
