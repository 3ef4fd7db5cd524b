"""Test vectors of the codec, the generator and whole attempts; every random byte is fixed.

python tests/support/secagg_vectors.py      writes tests/vectors/*.json again (a reviewed change)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from linked import STEPS, Consortium, Hospital
from medveil.errors import RemoteProtocolError
from medveil.identity import Identity, Secret
from medveil.messages import Wire
from medveil.rounds import Phase, RoundKind
from medveil.tensors import Update
from privacy.encoding import EncodingParams
from privacy.secagg import node, server
from privacy.secagg.keys import Context, Setting
from privacy.secagg.keystream import keystream
from privacy.secagg.messages import MESSAGES, Advertised, Committed, Quorum, Survivors
from unmasked import checked, encode

FOLDER = Path(__file__).parents[1] / "vectors"
VIEWS: dict[Phase, type[Wire]] = {
    Phase.SHARE: Advertised,
    Phase.UPLOAD: Committed,
    Phase.AGREE: Survivors,
    Phase.UNMASK: Quorum,
}
PARAMS = EncodingParams(parameters=10, metrics=2, lane_bits=21, clip=0.5, max_weight=100, cohort=4)


def fixed_bytes(label: str) -> Callable[[int], bytes]:
    """A source that gives the same bytes in every run: SHA-256 of a label and a counter. For tests only."""
    counter = itertools.count()

    def draw(size: int) -> bytes:
        blocks: Iterator[bytes] = (
            hashlib.sha256(f"{label}/{next(counter)}".encode()).digest() for _ in range(-(-size // 32))
        )
        return b"".join(blocks)[:size]

    return draw


def fixed_consortium(hospitals: int) -> Consortium:
    """Hospitals with fixed identities, updates and randomness."""
    identities = {
        i: Identity(f"hospital-{i}", Ed25519PrivateKey.from_private_bytes(fixed_bytes(f"identity-{i}")(32)))
        for i in range(1, hospitals + 1)
    }
    context = Context(bytes(range(32)), 7, 1, RoundKind.TRAIN, bytes(range(32, 64)))
    roster = {i: identity.public_key for i, identity in identities.items()}
    setting = Setting(context, roster, min_hospitals=3, colluders=0)
    members = {}
    for i, identity in identities.items():
        members[i] = Hospital(
            node.Party(setting, i, identity),
            encoded_update(i),
            random_bytes=fixed_bytes(f"hospital-{i}"),
            params=PARAMS,
        )
    return Consortium(members, server.ServerState(setting))


def update_of(hospital: int) -> list[float]:
    """Sixteenths between -1/2 and 1/2: exact in float32."""
    return [((3 * hospital + 5 * k) % 17 - 8) / 16 for k in range(PARAMS.parameters)]


def encoded_update(hospital: int, params: EncodingParams = PARAMS) -> np.ndarray:
    """That hospital's encoded update."""
    return encode(
        Update(np.array(update_of(hospital), np.float32)),
        params,
        weight=20 + hospital,
        metrics=np.array([hospital, 1000 * hospital], np.uint64),
        random_bytes=fixed_bytes(f"rounding-{hospital}"),
    )


def _hex(words: np.ndarray) -> list[str]:
    return [f"{int(w):016x}" for w in words]


def codec() -> dict[str, Any]:
    """The generator's first bytes, and one update in every lane width."""
    lanes = {}
    for bits in (16, 21, 32):
        params = EncodingParams(10, 2, bits, 0.5, 100, 4)
        lanes[str(bits)] = {"steps": params.steps, "words": _hex(encoded_update(1, params))}
    streams = {str(s): keystream(bytes(range(32)), 48, s).hex() for s in (0, 1, 2**33)}
    seed = fixed_bytes("rounding-1")(32).hex()
    return {
        "update": update_of(1),
        "weight": 21,
        "seed": seed,
        "lanes": lanes,
        "keystream of 000102..1f": streams,
    }


def run(hospitals: int, silent_from: dict[int, int]) -> dict[str, Any]:
    """Every message and view of an attempt, in order, and what came out of it."""
    world, steps = fixed_consortium(hospitals), []

    def note(phase: Phase, index: int, view: Any) -> Any:
        steps.append({"phase": phase, "hospital": index, "view": view.to_bytes().hex() if view else None})
        return view

    world.tamper = note
    receive = server.receive

    def noted(state: server.ServerState, message: Any) -> server.ServerState:
        steps[-1]["answer"] = message.to_bytes().hex()
        return receive(state, message)

    server.receive = noted
    try:
        total = world.run(silent_from)
    finally:
        server.receive = receive
    removal = server.masks_to_remove(world.server)
    uploads = {str(i): _hex(h.masked.words) for i, h in world.hospitals.items() if h.masked is not None}
    return {
        "roster": {str(i): key.hex() for i, key in world.server.setting.roster.items()},
        "context": world.server.setting.context.bytes.hex(),
        "transcript": world.server.transcript.hex(),
        "steps": steps,
        "survivors": list(world.server.survivors),
        "encoded": {str(i): _hex(h.encoded) for i, h in world.hospitals.items()},
        "uploads": uploads,
        "masks to remove": [{"seed": m.seed.reveal().hex(), "sign": m.sign} for m in removal],
        "sum": _hex(total),
        "check key": _check_key(world).hex(),
    }


def _check_key(world: Consortium) -> bytes:
    keys = {h.state.committed.check_key for i, h in world.hospitals.items() if i in world.server.unmasked}
    (key,) = keys
    return key.reveal()


def check_words() -> dict[str, Any]:
    """Check words of three hospitals in every lane width, their sum, and sums that do not pass."""
    key, survivors = Secret(bytes(range(64, 96))), [1, 2, 4]
    lanes = {}
    for bits in (16, 21, 32):
        params = replace(PARAMS, lane_bits=bits)
        vectors = {}
        for i in survivors:
            vectors[i] = checked(encoded_update(i, params), key, params, index=i)
        total = sum(vectors.values(), start=np.zeros(params.words, np.uint64))
        altered = []
        for place in range(params.words):
            changed = total.copy()
            changed[place] += np.uint64(1)
            altered.append({"survivors": survivors, "sum": _hex(changed)})
        altered += [{"survivors": s, "sum": _hex(total)} for s in ([1, 2], [1, 2, 3], [1, 2, 4, 4])]
        doubled = total + total
        altered.append({"survivors": survivors, "sum": _hex(doubled)})
        lanes[str(bits)] = {
            "check words": {str(i): _hex(words[-1:])[0] for i, words in vectors.items()},
            "sum": _hex(total),
            "altered": altered,
        }
    return {"key": key.reveal().hex(), "survivors": survivors, "lanes": lanes}


def tampered() -> list[dict[str, Any]]:
    """One byte of every view and answer of the complete run changed, in every field; and who refuses how."""
    cases = []
    for number, step in enumerate(run(3, {})["steps"]):
        for side in ("view", "answer"):
            if step[side] is None or step["hospital"] != 1:
                continue
            data = bytes.fromhex(step[side])
            for place in sorted({len(data) // 5 * k for k in (1, 2, 3, 4)} | {len(data) - 1}):
                changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
                case = {"step": number, "phase": step["phase"], "side": side, "bytes": changed.hex()}
                cases.append(case | {"error": refusal(case)})
    return cases


def refusal(case: dict[str, Any]) -> str | None:
    """Feed one tampered view to hospital 1, or its tampered answer to the aggregator; the error's code."""
    phase, data = Phase(case["phase"]), bytes.fromhex(case["bytes"])
    world = fixed_consortium(3).play_until(phase)
    try:
        if case["side"] == "view":
            world.hospitals[1].answer(phase, VIEWS[phase].from_bytes(data))
        else:
            kind = MESSAGES[server.EXPECTS[phase].__name__.lower()]
            server.receive(world.server, kind.from_bytes(data))
    except RemoteProtocolError as error:
        return error.code
    return None


def build() -> dict[str, Any]:
    """File name → content."""
    assert len(STEPS) == 6
    return {
        "codec.json": codec(),
        "secagg_complete.json": run(3, {}),
        "secagg_dropout.json": run(4, {4: 3}),
        "secagg_tampered.json": tampered(),
        "check_words.json": check_words(),
    }


if __name__ == "__main__":
    for name, content in build().items():
        (FOLDER / name).write_text(json.dumps(content, indent=1) + "\n")
        sys.stdout.write(f"wrote {FOLDER / name}\n")
