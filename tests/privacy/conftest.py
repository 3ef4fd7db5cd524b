"""Fixtures of the privacy room."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
import pytest

from linked import Consortium, Hospital
from medveil.identity import Identity
from medveil.rounds import RoundKind
from privacy.secagg import node, server
from privacy.secagg.keys import Context, Setting


@pytest.fixture(scope="session")
def identities() -> dict[int, Identity]:
    return {i: Identity.generate(f"hospital-{i}") for i in range(1, 13)}


@pytest.fixture
def consortium(identities: dict[int, Identity]) -> Callable[..., Consortium]:
    def build(
        hospitals: int,
        *,
        words: int = 5,
        colluders: int = 0,
        model: bytes = b"m" * 32,
        min_hospitals: int = 3,
        context: Context | None = None,
    ) -> Consortium:
        roster = {i: identities[i].public_key for i in range(1, hospitals + 1)}
        context = context or Context(b"p" * 32, 7, 1, RoundKind.TRAIN, model)
        setting = Setting(context, roster, min_hospitals=min_hospitals, colluders=colluders)
        members = {}
        for i in roster:
            values = np.frombuffer(secrets.token_bytes(8 * words), np.uint64)
            members[i] = Hospital(node.Party(setting, i, identities[i]), values)
        return Consortium(members, server.ServerState(setting))

    return build
