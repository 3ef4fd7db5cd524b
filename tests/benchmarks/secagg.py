"""What hiding an update costs: the fourteen targets of secure aggregation, from one command.

Run: python tests/benchmarks/secagg.py [--only PART] [--quick] [--simulation] [--plots docs] [--write FILE]

Times are CPU time; ratios are medians of ratios taken side by side in one loop. The yardstick of the vector
work is the time of 11 bare AES-256 keystreams of 4 bytes per parameter (ten neighbours and the own mask),
through the same fastest call, whatever the lane width. A hospital's step makes every segment of its masked
vector, one after the other in one place, as a node does that sends them. Other projects are measured beside
ours where they are installed (requirements/peers.txt); otherwise their rows are skipped by name.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import cryptography
import numpy as np

import growth
from compiled import using
from crowd import SharedWork, Traffic, crowd, random_update, watched_round
from linked import NEVER
from medveil.identity import Secret
from medveil.tensors import Update
from peers import FLOWER, ckks_step, flower, flower_step, missing
from privacy.encoding import EncodingParams, decode
from privacy.secagg.kernel import kernel, passes_in_use
from privacy.secagg.keystream import call_in_use
from privacy.secagg.shamir import combine, lagrange_at_zero, split
from rows import Row, Skipped, arguments, publish
from secagg_page import page
from timing import Case, interleaved, median, ratio
from vector_work import (
    LANES,
    NEIGHBOURS,
    keystreams,
    masked,
    params_of,
    pieces,
    plain_keystreams,
    some_masks,
    some_update,
    step,
)

KEYSTREAMS = {32: ("1", 1.7), 21: ("2", 1.4), 16: ("3", 1.1)}
WIRE = {32: 4.0, 21: 2.67, 16: 2.0}
FLOWER_FASTER, TENSEAL_FASTER = {32: ">= 14"}, {32: ">= 150"}
AGGREGATOR = {"removal": "7", "absorb": "8", "memory for the sum": "8", "event loop": "10"}
"""Words in the names of the other script's rows, and the target they belong to."""
UPLOAD = 0.0025
"""Share of a vector of 25 million parameters (2x16) that all other messages may be."""
DROPPING = 0.05

Found = list[Row | Skipped]
PARTS = ("vector", "messages")


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="without the 25 million parameters; 50 hospitals"
    )
    parser.add_argument("--only", choices=PARTS, help="this part alone; a page keeps its other rows")
    parser.add_argument(
        "--simulation", type=int, nargs="?", const=1000, metavar="N", help="a round of N hospitals (1000)"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="measure and draw secagg-growth.svg there"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the targets as a Markdown page")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"cryptography {cryptography.__version__}; NumPy {np.__version__}; one thread; medians")
    print(f"keystreams by the {call_in_use()} call; passes over the vector: {passes_in_use()}")
    found: Found = []
    if options.only in (None, "vector"):
        found += vector(quick=options.quick)
    if options.only in (None, "messages"):
        found += messages(quick=options.quick)
    if options.only is None:
        found += rounds(options.simulation)
    found.append(Row("peak resident memory of this run", _resident_mb(), "MB"))
    publish(found, options.json)
    if options.plots:
        growth.draw(growth.measure(quick=options.quick), options.plots / "secagg-growth.svg")
    if options.write:
        before = options.write.read_text() if options.only else ""
        method = __doc__ or ""
        options.write.write_text(page(found, method=method, load=load, only=options.only, before=before))


def vector(*, quick: bool) -> Found:
    """1 to 6 and 12: what a hospital does with its vector, some two minutes."""
    found: Found = []
    for parameters, repeats in ((10**6, 31), (10**7, 9)) + (() if quick else ((25 * 10**6, 15),)):
        found += vector_work(parameters, repeats)
    for parameters, repeats in ((10**6, 5),) + (() if quick else ((25 * 10**6, 7),)):
        found += beside_flower(parameters, repeats)
    return found + beside_tenseal(10**6) + wire(10**6) + memory(25 * 10**6)


def messages(*, quick: bool) -> Found:
    """6 to 11: what a hospital does beside its vector, and the aggregator's side, some three minutes."""
    hospitals = 50 if quick else 200
    return protocol_work(hospitals) + unmasking(quick=quick) + sharing(hospitals)


def rounds(simulated: int | None) -> Found:
    """13 and 14: whole rounds."""
    found = exactness(10**5)
    if simulated:
        return found + simulation(simulated)
    return [*found, Skipped("13 simulation", "--simulation")]


def vector_work(parameters: int, repeats: int) -> Found:
    """1-3: a node's whole vector work, interleaved with the keystreams alone."""
    update = some_update(parameters)
    masks = some_masks()
    params = {bits: params_of(parameters, bits) for bits in LANES}
    cases: dict[str, Case] = {
        "yardstick": lambda: keystreams(masks, -(-parameters // 2)),
        "plain": lambda: plain_keystreams(masks, -(-parameters // 2)),
    }
    cases |= {f"step {bits}": step(update, masks, params[bits]) for bits in LANES}
    if kernel() is not None:
        cases |= {f"numpy {bits}": _by_numpy(step(update, masks, params[bits])) for bits in LANES}
    cases |= {f"own {bits}": (lambda bits=bits: keystreams(masks, params[bits].words)) for bits in LANES}
    for bits in LANES:
        cases |= {f"{name} {bits}": case for name, case in pieces(update, masks, params[bits]).items()}
    times = interleaved(cases, repeats)
    size, found = f"{parameters // 10**6}M", list[Row | Skipped]()
    found.append(Row(f"  {size}: 11 keystreams of 4 bytes", 1e3 * median(times["yardstick"]), "ms"))
    for bits, (number, target) in KEYSTREAMS.items():
        name = f"{size} {LANES[bits]}"
        whole = times[f"step {bits}"]
        found.append(
            Row(
                f"{number} {name}: to the 11 keystreams",
                ratio(whole, times["yardstick"]),
                "x",
                f"<= {target}",
            )
        )
        if bits == 32 and call_in_use() == "GCM":
            plain = ratio(whole, times["plain"])
            found.append(Row(f"{number} {name}: to 11 plain CTR keystreams", plain, "x", "<= 1.0"))
        if f"numpy {bits}" in times:
            alone = ratio(times[f"numpy {bits}"], times["yardstick"])
            found.append(Row(f"  {name}: by NumPy alone, to the 11 keystreams", alone, "x"))
        found += [
            Row(f"  {name}: encode, check word, masks", 1e3 * median(whole), "ms"),
            *(
                Row(f"  {name}: {piece} alone, in cache", 1e3 * median(times[f"{piece} {bits}"]), "ms")
                for piece in ("encode", "check word", "masks")
            ),
            Row(f"  {name}: to keystreams of its own size", ratio(whole, times[f"own {bits}"]), "x"),
        ]
    return found


def _by_numpy(case: Case) -> Case:
    def run() -> object:
        with using(None):
            return case()

    return run


def beside_flower(parameters: int, repeats: int) -> Found:
    """4: the same vector, ten neighbours and the own mask, as many quantisation steps."""
    size = f"{parameters // 10**6}M"
    if missing(*FLOWER):
        return [Skipped(f"4 {size}: beside Flower's client step", missing(*FLOWER))]
    update, masks = some_update(parameters), some_masks()
    params = {bits: params_of(parameters, bits) for bits in LANES}
    seeds = [secrets.token_bytes(32) for _ in range(NEIGHBOURS + 1)]
    theirs = flower_step(update.values, seeds, clip=0.1, steps=2 * params[32].steps)
    cases: dict[str, Case] = {f"{bits}": step(update, masks, params[bits]) for bits in LANES}
    times = interleaved({"flower": theirs, **cases}, repeats)
    found: Found = [Row(f"  {size}: Flower's client step", 1e3 * median(times["flower"]), "ms")]
    for bits, lanes in LANES.items():
        faster = ratio(times["flower"], times[f"{bits}"])
        target = FLOWER_FASTER.get(bits, "") if parameters > 10**7 else ""
        found.append(Row(f"4 {size} {lanes}: faster than Flower's client step", faster, "x", target))
    return found


def beside_tenseal(parameters: int) -> Found:
    """5: encryption of the same vector with CKKS."""
    if missing("tenseal"):
        return [Skipped("5 1M: beside TenSEAL's CKKS client", missing("tenseal"))]
    update, masks = some_update(parameters), some_masks()
    encrypt, settings = ckks_step(update.values)
    cases: dict[str, Case] = {f"{bits}": step(update, masks, params_of(parameters, bits)) for bits in LANES}
    times = interleaved({"ckks": encrypt, **cases}, 5)
    found: Found = [
        Row(f"  1M: TenSEAL's client ({settings})", 1e3 * median(times["ckks"]), "ms"),
        Row("  1M: TenSEAL's bytes per parameter", len(encrypt()) / parameters, "B"),
    ]
    for bits, lanes in LANES.items():
        faster = ratio(times["ckks"], times[f"{bits}"])
        found.append(
            Row(f"5 1M {lanes}: faster than TenSEAL's client", faster, "x", TENSEAL_FASTER.get(bits, ""))
        )
    return found


def wire(parameters: int) -> Found:
    """6: bytes of a masked vector per parameter."""
    return [
        Row(f"6 {lanes}: bytes per parameter", _bytes(parameters, bits), "B", f"<= {WIRE[bits] + 0.005}")
        for bits, lanes in LANES.items()
    ]


def protocol_work(hospitals: int) -> Found:
    """6 and 11: everything beside the vector, for one hospital in a round of all."""
    world = crowd(hospitals, EncodingParams(64, 0, 16, clip=0.1, max_weight=100, cohort=hospitals))
    watched = (1, hospitals // 4, hospitals // 2, 3 * hospitals // 4, hospitals)
    traffic = list(watched_round(world, watched).values())
    middle = sorted(traffic, key=lambda t: sum(t.cpu_s.values()))[len(traffic) // 2]
    total, vector = max(t.total for t in traffic), _bytes(10**6, 16) * 25e6
    found: Found = [
        Row(f"6 n={hospitals}: all other messages of a hospital", total / 1000, "kB", "<= 120"),
        Row(f"6 n={hospitals}: of a 25M 2x16 vector", 100 * total / vector, "%", f"<= {100 * UPLOAD}"),
        Row(f"11 n={hospitals}: CPU beside the vector", 1e3 * sum(middle.cpu_s.values()), "ms", "<= 100"),
    ]
    return found + [_of_a_phase(middle, phase) for phase in middle.cpu_s]


def _of_a_phase(traffic: Traffic, phase: str) -> Row:
    up, down = traffic.up[phase] / 1000, traffic.down[phase] / 1000
    return Row(f"  {phase} ({up:.1f} kB up, {down:.1f} kB down)", 1e3 * traffic.cpu_s[phase], "ms")


def unmasking(*, quick: bool) -> Found:
    """7, 8 and 10: the aggregator's side, which has a script of its own; its rows under their numbers."""
    script = Path(__file__).with_name("unmasking.py")
    with tempfile.TemporaryDirectory(prefix="medveil-secagg-") as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, str(script), *(["--quick"] if quick else []), "--json", str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = json.loads(file.read_text())
    found: Found = []
    for row in rows:
        number = next((n for words, n in AGGREGATOR.items() if words in row["name"]), "")
        name = f"{number} {row['name']}" if row["target"] else f"  {row['name']}"
        found.append(Row(name, row["value"], row["unit"], row["target"]))
    return found


def sharing(hospitals: int) -> Found:
    """9: dealing and rebuilding a 32-byte secret, t two thirds of all and one."""
    threshold, secret = 2 * hospitals // 3 + 1, Secret(secrets.token_bytes(32))
    shares = split(secret, threshold, range(1, hospitals + 1), secrets.token_bytes)
    coefficients = lagrange_at_zero(range(1, threshold + 1))
    assert combine(shares, coefficients) == secret
    cases: dict[str, Case] = {
        "deal": lambda: split(secret, threshold, range(1, hospitals + 1), secrets.token_bytes),
        "coefficients, once per set of holders": lambda: lagrange_at_zero(range(1, threshold + 1)),
        "rebuild": lambda: combine(shares, coefficients),
    }
    if missing(*FLOWER):
        times = interleaved(cases, 15)
        beside: Found = [Skipped("9 Shamir beside Flower's", missing(*FLOWER))]
    else:
        theirs = flower("common.secure_aggregation.crypto.shamir")
        dealt = theirs.create_shares(secret.reveal(), threshold, hospitals)[:threshold]
        cases["Flower deals"] = lambda: theirs.create_shares(secret.reveal(), threshold, hospitals)
        cases["Flower rebuilds"] = lambda: theirs.combine_shares(dealt)
        times = interleaved(cases, 3)
        whole = [
            once / hospitals + each
            for once, each in zip(
                times["coefficients, once per set of holders"], times["rebuild"], strict=True
            )
        ]
        beside = [
            Row(
                f"9 n={hospitals}: dealing, faster than Flower",
                ratio(times["Flower deals"], times["deal"]),
                "x",
                ">= 100",
            ),
            Row(
                f"9 n={hospitals}: rebuilding, faster than Flower",
                ratio(times["Flower rebuilds"], whole),
                "x",
                ">= 100",
            ),
        ]
    return beside + [
        Row(f"  Shamir n={hospitals}: {name}", 1e3 * median(t), "ms") for name, t in times.items()
    ]


def memory(parameters: int) -> Found:
    """12: peak memory of the vector work beyond the update and the segment that is on its way."""
    update = Update(np.zeros(parameters, np.float32))
    masks, found = some_masks(), list[Row | Skipped]()
    for bits, lanes in LANES.items():
        params = params_of(parameters, bits)
        tracemalloc.start()
        segment = max(map(len, masked(update, masks, params).segments()))
        peak = tracemalloc.get_traced_memory()[1] - segment
        tracemalloc.stop()
        name = f"12 {parameters // 10**6}M {lanes}: memory beside update and segment"
        found.append(Row(name, peak / 2**20, "MiB", "<= 4"))
    return found


def exactness(parameters: int, hospitals: int = 10) -> Found:
    """14: a whole round; its sum against integers, its mean against averaging in float64."""
    found: Found = []
    for bits, lanes in LANES.items():
        params = EncodingParams(parameters, 0, bits, clip=0.1, max_weight=100, cohort=hospitals)
        world = crowd(hospitals, params)
        total = world.run({})
        different = int(np.count_nonzero(total != world.plain_sum()))
        updates = [random_update(params, i).values.astype(np.float64) for i in world.hospitals]
        study: Any = None  # it is asked for metrics only, and there are none
        error = decode(total, params, hospitals=hospitals, study=study).mean - np.mean(updates, axis=0)
        bound = params.clip / (2 * params.steps * np.sqrt(hospitals))
        found += [
            Row(f"14 {lanes}: words that differ from the integer sum", different, "", "<= 0"),
            Row(
                f"14 {lanes}: rms error to C / (2 L sqrt U)",
                float(np.sqrt(np.mean(error**2)) / bound),
                "x",
                "<= 1",
            ),
        ]
    return found


def simulation(hospitals: int, parameters: int = 10**5) -> Found:
    """13: one round of very many, some of whom drop out between commit and upload, played by one core."""
    params = EncodingParams(parameters, 0, 21, clip=0.1, max_weight=100, cohort=hospitals)
    world = crowd(hospitals, params, graph="hidden")
    dropping = secrets.SystemRandom().sample(range(1, hospitals + 1), int(DROPPING * hospitals))
    start, cpu = time.perf_counter(), time.process_time()
    with SharedWork():
        total = world.run(dict.fromkeys(dropping, NEVER // 2))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    different = int(np.count_nonzero(total != world.plain_sum()))
    masks = [len(world.hospitals[i].state.committed.masks) for i in world.server.survivors]
    name = f"13 n={hospitals}, hidden graph, d={parameters}, {len(dropping)} dropped"
    return [
        Row(f"{name}: seconds of one core", cpu, "s", "<= 300"),
        Row("  of the simulation, from start to end", wall, "s"),
        Row("  mean number of neighbours", float(np.mean(masks)) - 1, ""),
        Row(f"{name}: words that differ from the integer sum", different, "", "<= 0"),
    ]


def _bytes(parameters: int, bits: int) -> float:
    return 8 * params_of(parameters, bits).words / parameters


def _resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
