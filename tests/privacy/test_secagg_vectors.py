"""The stored vectors: byte for byte what this version makes, and what it makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from linked import STEPS
from medveil.identity import Secret
from medveil.rounds import Phase
from privacy.secagg import server
from privacy.secagg.checkword import AlteredSum, verify_sum
from privacy.secagg.masks import Mask, add_masks
from privacy.secagg.messages import MESSAGES
from secagg_vectors import FOLDER, PARAMS, VIEWS, build, fixed_consortium, refusal

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


@pytest.mark.parametrize("name", RUNS)
def test_a_stored_sum_passes_its_check_word(name: str) -> None:
    stored = _stored(name)
    key = Secret(bytes.fromhex(stored["check key"]))
    verify_sum(_words(stored["sum"]), key, PARAMS, survivors=stored["survivors"])


def test_stored_check_words_pass_and_every_altered_sum_is_refused() -> None:
    stored = _stored("check_words.json")
    key, survivors = Secret(bytes.fromhex(stored["key"])), stored["survivors"]
    for bits, case in stored["lanes"].items():
        params = replace(PARAMS, lane_bits=int(bits))
        verify_sum(_words(case["sum"]), key, params, survivors=survivors)
        for altered in case["altered"]:
            with pytest.raises(AlteredSum):
                verify_sum(_words(altered["sum"]), key, params, survivors=altered["survivors"])


def test_every_tampered_message_is_refused_as_it_was() -> None:
    cases = _stored("secagg_tampered.json")
    assert {(c["phase"], c["side"]) for c in cases} == {
        *((p, "view") for p in VIEWS),
        *((p, "answer") for p in STEPS),
    }
    for case in cases:
        assert case["error"] is not None
        assert refusal(case) == case["error"]
