"""Load marks of the aggregator: many uploads at once, a thousand polling nodes, a start with long history.

The vectors are random bytes of the right length, so that playing the hospitals costs little; the aggregator's
work is that of a real round, up to the last check, which refuses such a sum. Resident memory is that of the
main process and of its workers together, shared pages counted once. A polling node asks, waits ten seconds
for news and asks again; the share of a core is that of all the aggregator's processes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import httpx2 as httpx
import numpy as np

from aggregator.admin import set_up_aggregator
from aggregator.adminkey import open_store
from aggregator.settings import Settings
from aggregator.storage.blobs import Blobs
from aggregator.storage.store import Store
from aggregator.storage.tables import ATTEMPTS, VERSIONS
from aggregator.work.versions import first_version
from medveil.identity import Identity, sign_request
from medveil.log import set_up
from medveil.messages import Work
from medveil.plan import Plan, sign_approval
from medveil.rounds import ModelVersion, RoundKind
from medveil.tensors import ModelSpec, TensorSpec, model_hash, to_safetensors
from medveil_research.ports import free_port
from medveil_research.processes import Process
from privacy.encoding import params_for
from privacy.secagg.masks import SEGMENT_WORDS
from remote_sites import RemoteCoordinator, RemoteSite, Stage
from rows import Row, arguments, cpu, publish
from world import make_plan, make_study

COMMAND = "python tests/benchmarks/load.py --write docs/load-benchmarks.md"
POLL_S = 10.0
LONG = {"advertise_s": 600.0, "share_s": 600.0, "train_s": 600.0, "upload_s": 600.0, "agree_s": 600.0}


@contextmanager
def aggregator(folder: Path) -> Iterator[tuple[Settings, Store]]:
    """A fresh aggregator's folder and its open store; nothing runs yet."""
    settings = Settings(folder / "aggregator", port=free_port(), names=("127.0.0.1",))
    set_up_aggregator(settings)
    store = open_store(settings)
    try:
        yield settings, store
    finally:
        store.close()


@contextmanager
def serving(settings: Settings, folder: Path) -> Iterator[tuple[Process, float]]:
    """Its process, and the seconds from its start until it was ready."""
    started = time.perf_counter()
    command = ["aggregator", "serve", "--folder", str(settings.folder)]
    process = Process("aggregator", command, folder / "log", lambda who, event: None)
    try:
        with connection(settings) as client:
            while True:
                assert process.running, list(process.last_lines)
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.02)
        yield process, time.perf_counter() - started
    finally:
        process.stop()
        process.wait()


def connection(settings: Settings) -> httpx.Client:
    """A client that pins the aggregator's authority."""
    import ssl

    context = ssl.create_default_context(cafile=str(settings.folder / "tls" / "ca.pem"))
    return httpx.Client(base_url=settings.url, verify=context, timeout=300.0)


def enrolled(store: Store, names: list[str], role: str = "hospital") -> list[Identity]:
    """Identities with these names, known to the aggregator."""
    identities = [Identity.generate(name) for name in names]
    for one in identities:
        token = secrets.token_hex(16)
        store.register.add_token(token, name=one.name, role=role, expires=time.time() + 3600)
        store.register.enrol(token, name=one.name, public_key=one.public_key, now=time.time())
    return identities


def planned(
    settings: Settings, store: Store, identities: list[Identity], size: int, *, approved: bool, **changes: Any
) -> Plan:
    """A plan of these hospitals whose model is one vector."""
    spec = ModelSpec((TensorSpec(name="weights", shape=(size,)),))
    start = np.full(size, secrets.randbelow(2**20) / 2**20, np.float32)  # no two plans start from one model
    model = {"name": "none", "tensors": spec, "initial_model": model_hash(start, spec).hex()}
    cohort = {"max_hospitals": max(3, len(identities))}
    plan = make_plan(identities, make_study(model=model, cohort=cohort, deadlines=LONG, **changes))
    admin = Identity.load("admin", settings.folder / "admin.key")
    first = first_version(plan, to_safetensors(start, spec), Blobs(settings.folder), now=time.time())
    store.plans.add(plan, admin.sign("create-plan", plan.hash), first, time.time())
    for one in identities if approved else ():
        store.plans.add_approval(plan.id, one.name, sign_approval(plan, one))
    return plan


# ---- many uploads


class Remote(RemoteCoordinator):
    """What a :class:`world.Site` asks of its coordinator, over HTTPS; one connection for each thread."""

    def __init__(self, settings: Settings, identities: list[Identity]) -> None:
        super().__init__()
        self._settings = settings
        self._identities = {one.name: one for one in identities}
        self._local = threading.local()
        self.patience: list[float] = []

    def send(self, name: str, method: str, path: str, body: bytes = b"") -> bytes:
        """One signed request, repeated while the aggregator is busy."""
        if not hasattr(self._local, "client"):
            self._local.client = connection(self._settings)
        while True:
            headers = sign_request(self._identities[name], method, path, body).headers()
            answer = self._local.client.request(method, path, content=body, headers=headers)
            if answer.status_code not in (429, 503):
                answer.raise_for_status()
                return bytes(answer.content)
            time.sleep(0.5)


class RandomSite(RemoteSite):
    """A hospital whose masked vector is a piece of noise that all of them share."""

    noise: list[bytes]

    def masked(self, number: int, kind: RoundKind) -> list[bytes]:
        """See :class:`world.Site`."""
        return self.noise


def uploads(folder: Path, nodes: int, megabytes: float) -> list[Row]:
    """All hospitals of one round upload at the same time, while a researcher asks for the status."""
    size = int(megabytes * 1e6 / 4)
    with aggregator(folder) as (settings, store):
        identities = enrolled(store, [f"hospital-{i}" for i in range(1, nodes + 1)])
        (researcher,) = enrolled(store, ["researcher"], "researcher")
        plan = planned(settings, store, identities, size, approved=True)
        store.register.grant(plan.id, "researcher")
    words = params_for(plan.study, RoundKind.TRAIN, nodes).words
    noise = [os.urandom(8 * min(SEGMENT_WORDS, words - i)) for i in range(0, words, SEGMENT_WORDS)]
    remote = Remote(settings, [*identities, researcher])
    stage: Any = Stage(plan, identities, remote)
    sites = [RandomSite(stage, i, lambda _: np.empty(0, np.float32)) for i in range(1, nodes + 1)]
    for site in sites:
        site.noise = noise
    with serving(settings, folder) as (process, _), ThreadPoolExecutor(8) as pool:
        watch = Watch(remote, plan, process)
        while not watch.attempts:
            moved = list(pool.map(lambda site: site.act(), sites))
            if not any(moved):
                time.sleep(0.1)
        watch.stop()
    (attempt, *_) = watch.attempts
    phases = attempt["phases"]
    seconds = attempt["seconds"] - sum(phases.get(p, 0.0) for p in ("advertise", "share", "commit"))
    name = f"{nodes} hospitals x {megabytes:g} MB ({sum(map(len, noise)) / 1e6:.0f} MB masked)"
    slow = float(np.quantile(watch.waits, 0.99))
    return [
        Row(f"{name}: from the first upload to the sum", seconds, "s", "<= 90"),
        Row(f"{name}: upload alone", phases["upload"], "s"),
        Row(f"{name}: most resident, all processes", watch.resident / 1e6, "MB", "<= 600"),
        Row(f"{name}: status meanwhile, p99 of {len(watch.waits)}", 1000 * slow, "ms", "<= 250"),
        Row(f"{name}: in the sum", len(attempt["survivors"]), "hospitals", f">= {nodes}"),
    ]


class Watch:
    """Asks for the status again and again, and looks at the processes' memory."""

    def __init__(self, remote: Remote, plan: Plan, process: Process) -> None:
        self._remote, self._path, self._process = remote, f"/v1/plans/{plan.id}/status", process
        self.waits: list[float] = []
        self.attempts: list[dict[str, Any]] = []
        self.resident = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        import json

        while not self._end.wait(0.1):
            started = time.perf_counter()
            answer = self._remote.send("researcher", "GET", self._path)
            self.waits.append(time.perf_counter() - started)
            self.attempts = json.loads(answer)["attempts"]
            self.resident = max(self.resident, sum(map(resident, family(self._process._process.pid))))

    def stop(self) -> None:
        """No more questions."""
        self._end.set()
        self._thread.join()


def family(pid: int) -> list[int]:
    """A process and everything it started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def resident(pid: int) -> int:
    """Bytes in memory, shared pages divided among their users; 0 once it has gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


# ---- many polls


def polls(folder: Path, nodes: int, seconds: float) -> list[Row]:
    """Every node asks, waits ten seconds for news and asks again, on a connection of its own."""
    with aggregator(folder) as (settings, store):
        identities = enrolled(store, [f"hospital-{i}" for i in range(1, nodes + 1)])
        groups = [identities[i : i + 100] for i in range(0, nodes, 100)]
        plans = [planned(settings, store, g, 12, approved=False, name=f"s{i}") for i, g in enumerate(groups)]
    with serving(settings, folder) as (process, _):
        return asyncio.run(_poll_all(settings, groups, plans, process, seconds))


async def _poll_all(
    settings: Settings, groups: list[list[Identity]], plans: list[Plan], process: Process, seconds: float
) -> list[Row]:
    import ssl

    context = ssl.create_default_context(cafile=str(settings.folder / "tls" / "ca.pem"))
    count = 0
    members = [(one, plan) for group, plan in zip(groups, plans, strict=True) for one in group]

    async def node(one: Identity, plan: str, delay: float) -> None:
        nonlocal count
        await asyncio.sleep(delay)
        seen = ""
        async with httpx.AsyncClient(base_url=settings.url, verify=context, timeout=60) as client:
            while True:
                path = f"/v1/plans/{plan}/work?seen={quote(seen)}&wait_s={POLL_S:g}"
                headers = sign_request(one, "GET", path, b"").headers()
                answer = (await client.get(path, headers=headers)).raise_for_status()
                seen = Work.from_bytes(answer.content).mark
                count += 1

    tasks = [
        asyncio.create_task(node(one, plan.id, POLL_S * i / len(members)))
        for i, (one, plan) in enumerate(members)
    ]
    while count < 2 * len(members):  # every connection is open, and the first answers are out
        await asyncio.sleep(1.0)
    before, first, clock = cpu_seconds(process), count, time.perf_counter()
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - clock
    share, rate = (cpu_seconds(process) - before) / passed, (count - first) / passed
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(e, asyncio.CancelledError) for e in ended), ended
    name = f"{len(members)} nodes polling"
    return [
        Row(f"{name}: polls per second", rate, "1/s", f">= {0.9 * len(members) / POLL_S:g}"),
        Row(f"{name}: share of one core", 100 * share, "%", "<= 15"),
    ]


def cpu_seconds(process: Process) -> float:
    """Processor time of the aggregator and its workers so far."""
    ticks = 0
    for pid in family(process._process.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# ---- long history


def restart(folder: Path, rounds: int) -> list[Row]:
    """From the start of the process to /readyz, with so many rounds behind it."""
    with aggregator(folder) as (settings, store):
        identities = enrolled(store, ["hospital-1", "hospital-2", "hospital-3"])
        training = {"rounds": rounds, "local_steps": 1, "learning_rate": 1.0}
        plan = planned(settings, store, identities, 12, approved=True, training=training)
        write_history(store, plan, rounds)
    with serving(settings, folder) as (_, seconds):
        return [Row(f"{rounds} rounds of history: start to ready", seconds, "s", "<= 5")]


def write_history(store: Store, plan: Plan, rounds: int) -> None:
    """Rows as the coordinator leaves them, without going through the rounds."""
    parent = plan.study.model.initial_model
    attempts, versions = [], []
    for number in range(1, rounds + 1):
        model = hashlib.sha256(number.to_bytes(4, "big")).hexdigest()
        names = tuple(plan.names)
        version = ModelVersion(
            plan=plan.id,
            number=number,
            model=model,
            parent=parent,
            round=number,
            survivors=names,
            epsilon=None,
            created="2026-01-01T00:00:00+00:00",
        )
        report = {
            "seconds": 1.0,
            "phases": dict.fromkeys(("advertise", "share", "commit", "upload", "agree", "unmask"), 0.1),
            "survivors": names,
            "bytes_up": dict.fromkeys(names, 1000),
            "figures": {"auroc": 0.5},
            "sums": {"positives/abnormal": [0.0] * 256, "negatives/abnormal": [0.0] * 256},
        }
        where = {"plan": plan.id, "round": number, "attempt": 1}
        attempts.append(
            {**where, "kind": "train", "model": parent, "opened": 0.0, "outcome": "done", "report": report}
        )
        versions.append(
            {"plan": plan.id, "number": number, "version": version.model_dump(mode="json"), "state": {}}
        )
        parent = model
    with store.transactions._database.write("add_event") as tx:
        tx.execute(ATTEMPTS.insert(), attempts)
        tx.execute(VERSIONS.insert(), versions)


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--nodes", type=int, default=50, help="hospitals that upload at the same time")
    parser.add_argument("--megabytes", type=float, default=100.0, help="size of a model in MB (float32)")
    parser.add_argument("--polling", type=int, default=1000, help="nodes that poll")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long polling is watched")
    parser.add_argument("--rounds", type=int, default=10_000, help="rounds of history")
    parser.add_argument("--write", type=Path, help="write the page (docs/load-benchmarks.md)")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    set_up("error")
    rows: list[Row] = []
    for part in (
        lambda folder: restart(folder, given.rounds),
        lambda folder: polls(folder, given.polling, given.seconds),
        lambda folder: uploads(folder, given.nodes, given.megabytes),
    ):
        with tempfile.TemporaryDirectory(prefix="medveil-aggregator-") as name:
            rows += part(Path(name))
    publish(rows, given.json)
    if given.write:
        given.write.write_text(page(rows, load=load))


def page(rows: list[Row], *, load: float) -> str:
    """What was measured, as Markdown."""
    lines = [
        "# The aggregator under load, measured",
        "",
        f"Written by `{COMMAND}`;",
        f"nothing here is typed by hand. Machine: {cpu()}, {os.cpu_count()} cores, load {load:.1f} at the",
        "start. The aggregator is a process of its own over HTTPS on loopback, with SQLite and a folder of",
        "blobs; the hospitals are played on the same cores.",
        "",
        *(__doc__ or "").split("\n\n")[1].strip().splitlines(),
        "",
        "| what | measured | wanted | met |",
        "|---|---|---|---|",
    ]
    for row in rows:
        met = ("yes" if row.ok else "no") if row.target else ""
        lines.append(f"| {row.name} | {row.value:.4g} {row.unit} | {row.target} | {met} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
