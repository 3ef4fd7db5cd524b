"""What hiding an update costs: encode and mask against the bare keystreams, unmasking, Shamir, bytes.

Run: python tests/benchmarks/masking.py [--quick] [--json FILE]

Every ratio is the median of ratios measured side by side in one loop, so a busy machine slows both sides. The
yardstick of the specification is the time of 11 bare AES-256 keystreams of 4 bytes per parameter by the same
fastest call, whatever the lane width; the stricter ratio to keystreams of the vector's own size is shown too.
"""

from __future__ import annotations

import resource
import secrets
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import cryptography
import numpy as np

from medveil.identity import Secret
from medveil.tensors import Update
from privacy.encoding import EncodedUpdate, EncodingParams, encode
from privacy.secagg.checkword import CheckedUpdate, with_check_word
from privacy.secagg.keystream import stream
from privacy.secagg.masks import CHUNK_WORDS, Mask, add_masks, mask
from privacy.secagg.shamir import combine, lagrange_at_zero, split
from rows import Row, arguments, publish

SEEDS = 11
"""Ten neighbours and the hospital's own mask."""
TARGETS = {32: 2.0, 21: 1.8, 16: 1.4}
NO_METRICS = np.zeros(0, np.uint64)


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="without the 25 million parameters")
    options = parser.parse_args()
    print(f"cryptography {cryptography.__version__}; NumPy {np.__version__}; one thread; medians")
    rows: list[Row] = []
    for parameters, repeats in ((10**6, 31), (10**7, 9)) + (() if options.quick else ((25 * 10**6, 7),)):
        rows += _client(parameters, repeats)
    rows += [*_unmask(), *_shamir(200), _memory(5 * 10**6)]
    rows.append(Row("peak resident memory of this run", _resident_mb(), "MB"))
    publish(rows, options.json)


def _client(parameters: int, repeats: int) -> list[Row]:
    """A node's whole vector work, interleaved with the keystreams alone."""
    update = Update(np.random.default_rng(0).uniform(-0.1, 0.1, parameters).astype(np.float32))
    masks = [Mask(Secret(secrets.token_bytes(32)), 1 if i % 2 else -1) for i in range(SEEDS)]
    key = Secret(secrets.token_bytes(32))
    params = {
        bits: EncodingParams(parameters, 0, bits, clip=0.1, max_weight=100, cohort=11) for bits in TARGETS
    }

    def step(bits: int) -> Callable[[], object]:
        return lambda: mask(_checked(update, params[bits], key), masks, in_place=True)

    def bare(words: int) -> Callable[[], object]:
        return lambda: _keystreams(masks, words)

    cases = {"yardstick": bare(-(-parameters // 2))}
    cases |= {f"step {bits}": step(bits) for bits in TARGETS}
    cases |= {f"own {bits}": bare(params[bits].words) for bits in TARGETS}
    cases |= {f"encode {bits}": (lambda bits=bits: _encode(update, params[bits])) for bits in TARGETS}
    cases |= {f"checked {bits}": (lambda bits=bits: _checked(update, params[bits], key)) for bits in TARGETS}
    times = _interleaved(cases, repeats)
    million, rows = parameters // 10**6, []
    rows.append(Row(f"{million}M: 11 keystreams of 4 bytes", 1e3 * _median(times["yardstick"]), "ms"))
    for bits, target in TARGETS.items():
        name = f"{million}M {64 // bits}x{bits}"
        ratio = _ratio(times[f"step {bits}"], times["yardstick"])
        rows += [
            Row(f"{name}: encode and mask", 1e3 * _median(times[f"step {bits}"]), "ms"),
            Row(f"{name}: of it, encode", 1e3 * _median(times[f"encode {bits}"]), "ms"),
            Row(
                f"{name}: of it, check word",
                1e3
                * statistics.median(
                    a - b for a, b in zip(times[f"checked {bits}"], times[f"encode {bits}"], strict=True)
                ),
                "ms",
            ),
            Row(f"{name}: to the 11 keystreams of 4 bytes", ratio, "x", f"<= {target}"),
            Row(
                f"{name}: to 11 keystreams of its own size",
                _ratio(times[f"step {bits}"], times[f"own {bits}"]),
                "x",
            ),
        ]
        if parameters == 10**6:
            size = 8 * params[bits].words / parameters
            wanted = {32: 4.0, 21: 2.67, 16: 2.0}[bits]
            rows.append(Row(f"{name}: bytes per parameter", size, "B", f"<= {wanted + 0.001}"))
    return rows


def _encode(update: Update, params: EncodingParams) -> EncodedUpdate:
    return encode(update, params, weight=100, metrics=NO_METRICS, random_bytes=secrets.token_bytes)


def _checked(update: Update, params: EncodingParams, key: Secret) -> CheckedUpdate:
    return with_check_word(_encode(update, params), key, params, index=1)


def _keystreams(masks: list[Mask], words: int) -> None:
    """The same bytes in the same order as masking, added to nothing."""
    zeros, out = memoryview(bytes(8 * CHUNK_WORDS)), bytearray(8 * CHUNK_WORDS + 16)
    streams = [stream(m.seed.reveal()) for m in masks]
    for start in range(0, words, CHUNK_WORDS):
        size = 8 * min(CHUNK_WORDS, words - start)
        for each in streams:
            each.update_into(zeros[:size], out)


def _unmask(seeds: int = 40, words: int = 2**20) -> list[Row]:
    """What the aggregator does per segment: take many masks from one sum."""
    masks = [Mask(Secret(secrets.token_bytes(32)), -1) for _ in range(seeds)]
    total = np.zeros(words, np.uint64)
    cases = {"unmask": lambda: add_masks(total, masks), "bare": lambda: _keystreams(masks, words)}
    times = _interleaved(cases, 9)
    share = 1 / _ratio(times["unmask"], times["bare"])
    rate = 8e-9 * seeds * words / _median(times["unmask"])
    return [
        Row("unmask, one process: mask bytes", rate, "GB/s"),
        Row("unmask against the bare keystream rate", share, "x", ">= 0.6"),
    ]


def _shamir(hospitals: int) -> list[Row]:
    threshold, secret = 2 * hospitals // 3 + 1, Secret(secrets.token_bytes(32))
    shares = split(secret, threshold, range(1, hospitals + 1), secrets.token_bytes)
    coefficients = lagrange_at_zero(range(1, threshold + 1))
    assert combine(shares, coefficients) == secret
    cases: dict[str, Callable[[], object]] = {
        "deal": lambda: split(secret, threshold, range(1, hospitals + 1), secrets.token_bytes),
        "coefficients, once per set of holders": lambda: lagrange_at_zero(range(1, threshold + 1)),
        "rebuild one secret": lambda: combine(shares, coefficients),
    }
    times = _interleaved(cases, 15)
    return [Row(f"Shamir n={hospitals}: {name}", 1e3 * _median(t), "ms") for name, t in times.items()]


def _memory(parameters: int) -> Row:
    """Peak memory of encode and mask beyond the update and the finished upload."""
    update = Update(np.zeros(parameters, np.float32))
    params = EncodingParams(parameters, 0, 21, clip=0.1, max_weight=100, cohort=11)
    masks = [Mask(Secret(secrets.token_bytes(32)), 1) for _ in range(SEEDS)]
    tracemalloc.start()
    masked = mask(_checked(update, params, masks[0].seed), masks, in_place=True)
    peak = tracemalloc.get_traced_memory()[1] - masked.words.nbytes
    tracemalloc.stop()
    size = peak / 2**20
    return Row(f"{parameters // 10**6}M 3x21: memory beside update and upload", size, "MiB", "<= 4")


def _interleaved(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):  # the first one warms up
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def _median(times: list[float]) -> float:
    return statistics.median(times)


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
