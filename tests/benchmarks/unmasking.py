"""What the aggregator does with 25 million parameters: absorb, unmask, make the model, and go on answering.

Run: python tests/benchmarks/unmasking.py [--quick] [--json FILE]

Hospitals with the real machines bring an attempt to the point where every answer of the last phase is
stored, one of them gone after the commit, so that its pair masks must come off as well. Then the real
application is started over copies of that folder, with one and with two worker processes in turn, and
publishes the model while a task of its event loop notes how late it is woken, from the start of the process
on, so that reading the dashboard's templates on another thread is in it. Medians; what is compared is
measured in turns, work of one thread in processor time. Rows "without waiting for a core" leave out the time
in which the loop could have run but another process had the core: on a busy machine an idle loop is late too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import numpy as np

from aggregator.rounds.coordinator import Coordinator
from aggregator.settings import Settings
from aggregator.storage.blobs import Blobs
from aggregator.storage.store import Store
from aggregator.work.unmasking import Summing, sum_segment
from aggregator.work.versions import first_version, stand_by
from aggregator.work.workers import Inline, Workers
from medveil.identity import Identity, Secret
from medveil.log import set_up
from medveil.plan import sign_approval
from medveil.rounds import RoundKind
from medveil.tensors import Float32, ModelSpec, TensorSpec, model_hash, to_safetensors
from privacy.encoding import params_for
from privacy.secagg.keystream import stream
from privacy.secagg.masks import CHUNK_WORDS, SEGMENT_WORDS, Mask, add_masks
from rows import Row, arguments, publish
from world import Clock, World, make_plan, make_sites, make_study, play

PARAMETERS = 25_000_000
REPEATS = 5
TICK_S = 0.001


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the parameters, fewer hospitals")
    parser.add_argument("--serve", type=Path, help="(inner) publish what lies in this folder")
    parser.add_argument("--workers", type=int, default=0, help="(inner) most worker processes")
    options = parser.parse_args()
    set_up("error")
    if options.serve:
        print(json.dumps(asyncio.run(_serve(options.serve, options.workers))))
        return
    size = PARAMETERS // 10 if options.quick else PARAMETERS
    rows = [*_keystream(18), *_keystream(100)]
    with tempfile.TemporaryDirectory(prefix="medveil-unmasking-") as temporary:
        folder = Path(temporary)
        rows += _absorb(folder / "absorb")
        for bits in (21, 16):
            prepared = folder / f"{bits}"
            _prepare(prepared, size, bits, hospitals=10, dropped=1)
            name = f"{size / 1e6:g}M {64 // bits}x{bits}"
            rows += [*_one_core(prepared, name), *_publication(prepared, name)]
            shutil.rmtree(prepared)
        for hospitals in (5, 20) if options.quick else (5, 20, 50):
            prepared = folder / f"n{hospitals}"
            vector = _prepare(prepared, size, 21, hospitals=hospitals, dropped=0)
            rows += _memory(prepared, hospitals, vector)
            shutil.rmtree(prepared)
    publish(rows, options.json)


def _keystream(masks: int) -> list[Row]:
    """Masks taken from one segment, beside the bare keystreams that they are made of."""
    removal = [Mask(Secret(secrets.token_bytes(32)), -1) for _ in range(masks)]
    total = np.zeros(SEGMENT_WORDS, np.uint64)

    def bare() -> None:
        zeros, out = memoryview(bytes(8 * CHUNK_WORDS)), bytearray(8 * CHUNK_WORDS + 16)
        streams = [stream(m.seed.reveal()) for m in removal]
        for _ in range(0, SEGMENT_WORDS, CHUNK_WORDS):
            for each in streams:
                each.update_into(zeros, out)

    times = _in_turns({"unmask": lambda: add_masks(total, removal), "bare": bare}, 9)
    rate = 8e-9 * SEGMENT_WORDS * masks
    return [
        Row(f"{masks} bare keystreams, one core", rate / statistics.median(times["bare"]), "GB/s"),
        Row(f"{masks} masks removed, one core", rate / statistics.median(times["unmask"]), "GB/s"),
        Row(f"{masks} masks: removal to keystream", _ratio(times["bare"], times["unmask"]), "x", ">= 0.6"),
    ]


def _absorb(folder: Path, hospitals: int = 9) -> list[Row]:
    """Stored uploads added up, beside np.add and SHA-256 on arrays that lie in memory."""
    blobs = Blobs(folder)
    data = [secrets.token_bytes(8 * SEGMENT_WORDS) for _ in range(hospitals)]
    for hospital, segment in enumerate(data):
        blobs.put_segment("attempt", hospital, 0, segment)
    digests = {hospital: (hashlib.sha256(segment).digest(),) for hospital, segment in enumerate(data)}
    job = Summing(blobs, "attempt", "1", SEGMENT_WORDS, digests, ())
    none = replace(job, uploads={})
    total = np.zeros(SEGMENT_WORDS, np.uint64)

    def add() -> None:
        for segment in data:
            np.add(total, np.frombuffer(segment, "<u8"), out=total)

    def check() -> None:
        for segment in data:
            hashlib.sha256(segment).digest()

    cases: dict[str, Callable[[], object]] = {"add": add, "hash": check}
    cases |= {"absorb": lambda: sum_segment(job, 0), "write": lambda: sum_segment(none, 0)}
    times = _in_turns(cases, 15)
    added = [a - h - w for a, h, w in zip(times["absorb"], times["hash"], times["write"], strict=True)]
    floor = [a + h for a, h in zip(times["add"], times["hash"], strict=True)]
    whole = [a - w for a, w in zip(times["absorb"], times["write"], strict=True)]
    rate = 8e-9 * SEGMENT_WORDS * hospitals
    return [
        Row("absorb: np.add in memory", rate / statistics.median(times["add"]), "GB/s"),
        Row("absorb: uploads from files, checked and added", rate / statistics.median(whole), "GB/s"),
        Row("absorb: to SHA-256 and np.add in memory", _ratio(floor, whole), "x", ">= 0.8"),
        Row("absorb: without the time of SHA-256, to np.add", _ratio(times["add"], added), "x", ">= 0.8"),
    ]


def _prepare(folder: Path, size: int, bits: int, *, hospitals: int, dropped: int) -> int:
    """An attempt with all answers of its last phase; the bytes of its vector."""
    spec = ModelSpec((TensorSpec(name="weights", shape=(size,)),))
    start = np.zeros(size, np.float32)
    study = make_study(
        model={"name": "none", "tensors": spec, "initial_model": model_hash(start, spec).hex()},
        secure_aggregation={"update_clip": 0.02, "max_weight": 100, "lane_bits": bits},
        evaluation={"every_round": False},
        cohort={"max_hospitals": hospitals},
    )
    identities = [Identity.generate(f"hospital-{i}") for i in range(1, hospitals + 1)]
    admin, plan = Identity.generate("admin"), make_plan(identities, study)
    folder.mkdir(parents=True)
    admin.save(folder / "admin.key")
    store, blobs = Store(folder / "aggregator.db", admin), Blobs(folder)
    first = first_version(plan, to_safetensors(start, spec), blobs, now=1.0)
    store.plans.add(plan, admin.sign("create-plan", plan.hash), first, 1.0)
    for one in identities:
        store.plans.add_approval(plan.id, one.name, sign_approval(plan, one))
    store.close()
    world = World(folder, plan, identities, admin, Clock(), folder / "aggregator.db")
    update: Float32 = np.random.default_rng(0).uniform(-0.01, 0.01, size).astype(np.float32)
    sites = make_sites(world, update=lambda index, number: update)
    play(world, sites, until=lambda: world.phase == "upload")
    staying = sites[: hospitals - dropped]
    for site in staying:
        site.act()
        site.segments.clear()
    world.clock.now += study.deadlines.silence_s + 1
    for site in staying:
        world.coordinator.runs.touch(site.name)
    world.coordinator.tick()
    play(world, staying, until=lambda: world.phase == "unmask")
    for site in staying:
        site.act()
    world.store.close()
    return 8 * params_for(study, RoundKind.TRAIN, hospitals).words


def _publication(prepared: Path, name: str) -> list[Row]:
    """One worker and two in turns: seconds from the last answer to the published model, and the stalls."""
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(REPEATS):
        for workers, results in found.items():
            results.append(_published(prepared, workers))
    seconds = {w: [r["seconds"] for r in results] for w, results in found.items()}
    rows = [
        Row(f"{name}: sum to model, {w} worker(s)", statistics.median(s), "s") for w, s in seconds.items()
    ]
    rows.append(Row(f"{name}: two workers to one", _ratio(seconds[1], seconds[2]), "x"))
    idle = [v for results in found.values() for r in results for v in r["idle_ms"]]
    rows.append(Row(f"{name}: event loop late, idle, p99", _quantile(idle, 0.99), "ms"))
    for workers, results in found.items():
        late = [v for r in results for v in r["late_ms"]]
        own = [v for r in results for v in r["own_ms"]]
        label = f"{name}: event loop late, {workers} worker(s)"
        rows += [
            Row(f"{label}, p50", _quantile(late, 0.5), "ms"),
            Row(f"{label}, p99", _quantile(late, 0.99), "ms", "<= 5"),
            Row(f"{label}, longest", max(late), "ms"),
            Row(f"{label}, p99 without waiting for a core", _quantile(own, 0.99), "ms", "<= 5"),
        ]
    return rows


class _Timed(Inline):
    """Notes the processor time of each kind of job."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        started = time.process_time()
        future = super().submit(job, *args, **kwargs)
        self.seconds[args[0].__name__] += time.process_time() - started
        return future


def _one_core(prepared: Path, name: str) -> list[Row]:
    """The same jobs in this thread, in processor time."""
    found = []
    for _ in range(REPEATS):
        with _copied(prepared) as folder:
            admin, timed = Identity.load("admin", folder / "admin.key"), _Timed()
            store = Store(folder / "aggregator.db", admin)
            assert store.transactions.lead()
            Coordinator(store, Blobs(folder), workers=timed).tick()
            store.close()
            found.append(timed.seconds)
    names = {"sum_segment": "check, add, unmask", "make": "decode, step, hash, write"}
    names["sum_and_make"] = "a short vector's only job"
    return [
        Row(f"{name}: {names[job]}, one core", statistics.median(f[job] for f in found), "s")
        for job in found[0]
    ]


def _memory(prepared: Path, hospitals: int, vector: int) -> list[Row]:
    """Peaks of the server and its two workers above what they hold before the sum, in vectors."""
    found = [_published(prepared, 2) for _ in range(3)]
    limit = "<= 2" if vector > 8 * SEGMENT_WORDS else ""  # of a short one the fixed buffers are most
    above, server, workers = (
        statistics.median(r[name] for r in found) for name in ("above_mb", "server_mb", "workers_mb")
    )
    return [
        Row(f"n={hospitals}: memory for the sum, in vectors", above * 1e6 / vector, "x", limit),
        Row(f"n={hospitals}: resident at most, server", server, "MB"),
        Row(f"n={hospitals}: resident at most, workers", workers, "MB"),
    ]


def _published(prepared: Path, workers: int) -> dict[str, Any]:
    """Publish a copy of the prepared folder in a fresh process; what it measured."""
    with _copied(prepared) as folder:
        command = [sys.executable, __file__, "--serve", str(folder), "--workers", str(workers)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        result: dict[str, Any] = json.loads(answer.stdout)
        return result


@contextmanager
def _copied(prepared: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="copy-", dir=prepared.parent) as name:
        folder = Path(name) / "aggregator"
        shutil.copytree(prepared, folder, copy_function=_link)
        yield folder


def _link(source: str, target: str) -> None:
    """Uploads and models never change; the database does."""
    if source.endswith(".db"):
        shutil.copyfile(source, target)
    else:
        os.link(source, target)


async def _serve(folder: Path, count: int) -> dict[str, Any]:
    """The application over a folder, until the attempt that lies there is published."""
    from aggregator.web.app import create_app
    from aggregator.web.connections import settle_down

    probe = Workers(1)
    probe.submit(stand_by).result()  # a worker with everything loaded
    bare_worker = _status_mb("VmRSS", probe.pids[0])
    probe.shutdown()
    app = create_app(Settings(folder, workers=count))
    settle_down()
    idle: list[float] = []
    late: list[float] = []
    own: list[float] = []
    await _watch(idle, [], until=lambda: len(idle) >= 500)
    async with app.router.lifespan_context(app):
        before = _status_mb("VmRSS")
        coordinator = app.state.service.coordinator
        (run,) = coordinator.runs.all()
        await _watch(late, own, until=lambda: run.ended > 0)
        (attempt,) = coordinator.runs.store.plans.attempts(run.plan.id)
        assert attempt.done, attempt
        workers = [_status_mb("VmHWM", pid) for pid in coordinator._publishing._workers.pids]
        server = _status_mb("VmHWM")
    return {
        "seconds": attempt.phases["aggregate"],
        "late_ms": late,
        "own_ms": own,
        "idle_ms": idle,
        "server_mb": server,
        "workers_mb": sum(workers),
        "above_mb": server - before + sum(max(0.0, w - bare_worker) for w in workers),
    }


async def _watch(late_ms: list[float], own_ms: list[float], *, until: Callable[[], bool]) -> None:
    """Note how much later than asked for the loop wakes a sleeper, with and without waiting for a core."""
    while not until():
        asked, waited = time.perf_counter(), _waited_for_a_core_s()
        await asyncio.sleep(TICK_S)
        late = time.perf_counter() - asked - TICK_S
        late_ms.append(1e3 * late)
        own_ms.append(1e3 * (late - (_waited_for_a_core_s() - waited)))


def _waited_for_a_core_s() -> float:
    """Seconds in which this thread could have run but had no core (Linux)."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def _status_mb(field: str, pid: int | str = "self") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def _in_turns(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):  # the first one warms up
        for name, case in cases.items():
            start = time.process_time()
            case()
            if repeat:
                times[name].append(time.process_time() - start)
    return times


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    main()
