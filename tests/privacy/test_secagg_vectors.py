"""The stored vectors: byte for byte what this version makes, and what it makes of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from linked import STEPS
from medveil.identity import Secret
from medveil.rounds import Phase
from privacy.secagg import server
from privacy.secagg.masks import Mask, add_masks
from privacy.secagg.messages import MESSAGES
from secagg_vectors import FOLDER, VIEWS, build, fixed_consortium, refusal

RUNS = ("secagg_complete.json", "secagg_dropout.json")


def _stored(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def _words(column: list[str]) -> np.ndarray:
    return np.array([int(w, 16) for w in column], np.uint64)


def test_this_version_makes_the_stored_vectors_byte_for_byte() -> None:
    made = build()
    assert {f.name for f in FOLDER.glob("*.json")} >= set(made)
    for name, content in made.items():
        assert json.loads(json.dumps(content)) == _stored(name), name


@pytest.mark.parametrize("name", RUNS)
def test_a_stored_run_replays_from_its_bytes_alone(name: str) -> None:
    """The aggregator is fed the stored answers; it shows the stored views and finds the stored masks."""
    stored = _stored(name)
    state = fixed_consortium(len(stored["roster"])).server
    for phase in STEPS:
        for step in (s for s in stored["steps"] if s["phase"] == phase):
            view = server.view(state, step["hospital"])
            assert (None if view is None else view.to_bytes().hex()) == step["view"]
            kind = MESSAGES[server.EXPECTS[phase].__name__.lower()]
            state = server.receive(state, kind.from_bytes(bytes.fromhex(step["answer"])))
        if phase is not Phase.UNMASK:
            state = server.close_phase(state)
    assert state.transcript.hex() == stored["transcript"]
    assert list(state.survivors) == stored["survivors"]
    removal = server.masks_to_remove(state)
    assert removal == [Mask(Secret(bytes.fromhex(m["seed"])), m["sign"]) for m in stored["masks to remove"]]
    total = np.zeros(len(stored["sum"]), np.uint64)
    for index in state.survivors:
        total += _words(stored["uploads"][str(index)])
    add_masks(total, removal)
    assert np.array_equal(total, _words(stored["sum"]))
    plain = sum(_words(stored["encoded"][str(i)]) for i in state.survivors)
    assert np.array_equal(total, plain)


def test_every_tampered_message_is_refused_as_it_was() -> None:
    cases = _stored("secagg_tampered.json")
    assert {(c["phase"], c["side"]) for c in cases} == {
        *((p, "view") for p in VIEWS),
        *((p, "answer") for p in STEPS),
    }
    for case in cases:
        assert case["error"] is not None
        assert refusal(case) == case["error"]
