"""Whole masked rounds over HTTPS: every message, every durable commit.

Run: python tests/benchmarks/rounds.py [--training --data FOLDER [--write FILE]] [--json FILE]

Without training an aggregator process and five hospital agents, each in a process of its own, run rounds of
55 thousand, 1 and 7 million parameters over loopback: what the protocol itself costs. The rate counts from
the opening of the first round to the end of the last train round. The seconds of a CPU that a round takes, of
all processes together, are the median from the end of one round to the end of the next, and the aggregator's
commits are counted by itself (``medveil_database_write_seconds`` of its metrics): both say more than a rate
on a machine that others use as well.

``--training`` does the work that other projects were measured with: five hospitals as real processes over
TLS, everything pinned to one core, the films of pneumonia28 (from ``--data``), one epoch of SGD a round, a
network of 55,137 weights, alone and with its vector padded to 1 and 7 million. As there, each hospital has a
port of its own where bytes are counted (TLS and idle polling too), resident sets are sampled every .3 s, and
the seconds of a round go from the opening of the first to the end of the last, divided by their number. The
CPU time of all processes together says what one core needs at least, whoever else uses it. A node's resident
set is that of one that trains; one that waits holds a third of it (size-benchmarks.md).
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import httpx2 as httpx
import numpy as np

from aggregator.admin import add_person, create_plan, new_token, set_up_aggregator
from aggregator.settings import Settings
from aggregator.storage.register import Role
from hospital_node.enrolment import set_up_node
from hospital_node.operator import approve_plan
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.transport import Transport
from medveil.identity import Identity
from medveil.log import set_up
from medveil.plan import Plan
from medveil.reports import PlanStatus
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tensors import ModelSpec, TensorSpec, model_hash, to_safetensors
from medveil_imaging.models import ModelShape, initial_vector
from medveil_research.client import Client
from medveil_research.local_consortium import DEADLINES
from medveil_research.ports import free_port
from medveil_research.processes import Process
from medveil_research.results import RoundFacts, rounds_of
from medveil_research.study_file import write_study
from peers_network import NAME, WEIGHTS
from pneumonia import write_hospitals
from processes_watched import MemoryWatch, Peak, Relays, cpu_seconds
from rounds_page import page
from rows import Row, Skipped, arguments, publish

HOSPITALS = 5
ROUNDS = 8
PHASES = ("advertise", "share", "commit", "upload", "agree", "unmask", "aggregate")
SUPPORT = Path(__file__).resolve().parents[1] / "support"
WORK = (
    ("55 k", 0, 5),
    ("1 M", 1_000_000 - WEIGHTS, 3),
    ("7 M", 7_000_000 - WEIGHTS, 3),
)
"""Name, unused weights, rounds."""
TARGETS: dict[str, tuple[float, float, str, tuple[str, str]]] = {
    "55 k": (0.9, 0.16, "", ("<= 600", "<= 250")),
    "1 M": (1.2, 2.7, "", ("", "")),
    "7 M": (3.0, 18.8, "", ("", "")),
}
"""Seconds, MB up, MB down, MiB of a node and of the aggregator."""
SIZES = {"55 k": 55_000, "1 M": 1_000_000, "7 M": 7_000_000}


def study_of(size: int) -> tuple[Study, bytes]:
    """A study whose model is one vector."""
    spec = ModelSpec((TensorSpec(name="weights", shape=(size,)),))
    start = np.zeros(size, np.float32)
    study = Study.model_validate(
        {
            "name": "rounds",
            "task": "classification",
            "classes": ("no", "yes"),
            "model": {"name": "none", "tensors": spec, "initial_model": model_hash(start, spec).hex()},
            "transforms": {"profile": "xray", "size": (16, 16)},
            "training": {"rounds": ROUNDS, "local_steps": 1, "learning_rate": 1.0},
            "privacy": {"kind": "none"},
            "secure_aggregation": {"update_clip": 0.02, "max_weight": 100},
        }
    )
    return study, to_safetensors(start, spec)


async def enrol(node: Node, token: str) -> None:
    """Make a node known."""
    identity = Identity.load(node.settings.name, node.key)
    async with Transport(node.settings.aggregator, node.authority, identity) as transport:
        await transport.enrol(token)


@dataclass
class Marks:
    """When the rounds of a study opened and closed, as the aggregator's log tells it."""

    rounds: int
    opened: float = 0.0
    closed: list[float] = field(default_factory=list)
    bytes_opened: tuple[float, float] = (0.0, 0.0)
    bytes_closed: tuple[float, float] = (0.0, 0.0)
    cpu_opened: float = 0.0
    cpu_closed: list[float] = field(default_factory=list)
    own_cpu: float = 0.0
    relays: Relays | None = None

    def heard(self, who: str, event: dict[str, Any]) -> None:
        """Take a line of the log."""
        if event.get("event") == "round.opened" and event["round"] == 1 and not self.opened:
            self.opened, self.bytes_opened = time.monotonic(), self._bytes()
            self.cpu_opened, self.own_cpu = cpu_seconds([os.getpid()]), -time.process_time()
        if event.get("event") == "round.done" and event["round"] <= self.rounds:
            self.closed.append(time.monotonic())
            self.bytes_closed = self._bytes()
            self.cpu_closed.append(cpu_seconds([os.getpid()]))
            if event["round"] == self.rounds:
                self.own_cpu += time.process_time()

    def _bytes(self) -> tuple[float, float]:
        return (0.0, 0.0) if self.relays is None else self.relays.bytes


class Ground:
    """An aggregator process in a folder, and what it takes to bring hospitals to it."""

    def __init__(self, folder: Path, heard: Any = lambda who, event: None) -> None:
        self.port, self.folder = free_port(), folder
        self.settings = Settings(folder / "aggregator", port=self.port, names=("127.0.0.1",))
        set_up_aggregator(self.settings)
        self.authority = self.settings.folder / "tls" / "ca.pem"
        command = ["aggregator", "serve", "--folder", str(self.settings.folder)]
        self.process = Process("aggregator", command, folder / "log", heard)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A researcher's connection, once the aggregator answers; its process ends with it."""
        try:
            with Client(self.settings.url, self.authority, Identity.generate("researcher")) as client:
                while not client.is_up():
                    time.sleep(0.1)
                client.enrol(new_token(self.settings, "researcher", "researcher"))
                yield client
        finally:
            self.process.stop()
            self.process.wait()

    def node(self, name: str, *, url: str | None = None, data: Path | None = None) -> Node:
        """An enrolled hospital."""
        values = NodeSettings(
            name=name,
            aggregator=url or self.settings.url,
            data=data or self.folder,
            dataset=name,
            policy=Policy(allow_no_privacy=True),
        )
        node = set_up_node(self.folder / name, values, self.authority)
        asyncio.run(enrol(node, new_token(self.settings, name, "hospital")))
        return node

    def plan(self, study: Study, initial: bytes, nodes: list[Node]) -> Plan:
        """A plan that all of them have approved."""
        write_study(self.folder / "study", study, initial)
        files = (self.folder / "study" / "study.toml", self.folder / "study" / "initial.safetensors")
        plan = create_plan(self.settings, *files, [n.settings.name for n in nodes], None)
        for node in nodes:
            approve_plan(node, plan)
        return plan


@dataclass(frozen=True)
class Seen:
    """One study without training, as it was seen."""

    rounds: tuple[RoundFacts, ...]
    """As the aggregator reports them."""
    rate: float
    """Train rounds that end in a second."""
    cpu: float
    """Seconds of all processes in a round, the median after the first."""
    commits: float
    """Of the aggregator, in a round."""


def commits_so_far(ground: Ground, token: str) -> float:
    """Durable changes that the aggregator has made, by its own count."""
    context = ssl.create_default_context(cafile=str(ground.authority))
    headers = {"authorization": f"Bearer {token}"}
    answer = httpx.get(f"{ground.settings.url}/metrics", headers=headers, verify=context, timeout=60)
    count = re.search(r"^medveil_database_write_seconds_count(?:{.*})? (\S+)$", answer.text, re.MULTILINE)
    assert count is not None, answer.text[:200]
    return float(count[1])


def measure(size: int, folder: Path) -> Seen:
    """Run one study."""
    marks = Marks(ROUNDS)
    ground = Ground(folder, marks.heard)
    with ground.client() as client:
        nodes = [ground.node(f"hospital-{i}") for i in range(1, HOSPITALS + 1)]
        plan = ground.plan(*study_of(size), nodes)
        watcher = add_person(ground.settings, "watcher", Role.MONITOR, days=1)
        before = commits_so_far(ground, watcher) + HOSPITALS  # each hands in its approval
        command = [sys.executable, str(SUPPORT / "instant_hospital.py")]
        hospitals = [subprocess.Popen([*command, str(node.folder), plan.id]) for node in nodes]
        if sum(hospital.wait() != 0 for hospital in hospitals):
            raise RuntimeError("a hospital has ended with an error")
        return Seen(
            rounds_of(client.status(plan.id)),
            rate=ROUNDS / (marks.closed[-1] - marks.opened),
            cpu=statistics.median(b - a for a, b in pairwise(marks.cpu_closed)),
            commits=(commits_so_far(ground, watcher) - before) / (ROUNDS + 1),
        )


def training_study(padding: int, rounds: int) -> tuple[Study, bytes]:
    """One epoch a round of SGD .02 with momentum .9 and batches of 32, as the others ran it."""
    options: dict[str, Any] = {"padding": padding} if padding else {}
    spec, start = initial_vector(NAME, ModelShape((28, 28), 1), options, seed=0)
    study = Study.model_validate(
        {
            "name": "peers-work",
            "task": "classification",
            "classes": ("normal", "pneumonia"),
            "model": {
                "name": NAME,
                "options": options,
                "tensors": spec,
                "initial_model": model_hash(start, spec).hex(),
            },
            "transforms": {"profile": "xray", "size": (28, 28)},
            "training": {
                "rounds": rounds,
                "local_epochs": 1,
                "batch_images": 32,
                "optimizer": "sgd",
                "learning_rate": 0.02,
                "momentum": 0.9,
            },
            "privacy": {"kind": "none"},
            "secure_aggregation": {"update_clip": 0.5, "max_weight": 1024},
            "cohort": {"min_hospitals": HOSPITALS},
            "evaluation": {"every_round": False},
            "deadlines": DEADLINES,
        }
    )
    return study, to_safetensors(start, spec)


def train(padding: int, rounds: int, data: Path, folder: Path) -> tuple[Marks, dict[str, Peak], PlanStatus]:
    """One study with training in real processes; what was seen from outside, and its status at the end."""
    sites = write_hospitals(data, folder / "films")
    marks = Marks(rounds)
    ground = Ground(folder, marks.heard)
    with ExitStack() as stack:
        client = stack.enter_context(ground.client())
        marks.relays = stack.enter_context(Relays(ground.port, len(sites)))
        nodes = [
            ground.node(site.name, url=f"https://127.0.0.1:{relay.port}", data=site)
            for site, relay in zip(sites, marks.relays.each, strict=True)
        ]
        plan = ground.plan(*training_study(padding, rounds), nodes)
        running = [stack.enter_context(_running(node)) for node in nodes]
        pids = {"aggregator": ground.process._process.pid}
        pids |= {site.name: one.pid for site, one in zip(sites, running, strict=True)}
        watch = stack.enter_context(MemoryWatch(pids))
        status = client.status(plan.id)
        while not status.finished:
            time.sleep(1.0)
            if any(one.poll() is not None for one in running):
                raise RuntimeError(f"a node has ended; see {folder}")
            status = client.status(plan.id)
    return marks, watch.peaks, status


@contextmanager
def _running(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """``medveil node run`` with the peers' network."""
    command = [sys.executable, str(SUPPORT / "peers_network.py"), "node", "run", "--folder", str(node.folder)]
    with open(node.folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def training_rows(name: str, padding: int, rounds: int, data: Path) -> list[Row]:
    """The rows of one size."""
    with tempfile.TemporaryDirectory(prefix="medveil-rounds-") as folder:
        marks, peaks, status = train(padding, rounds, data, Path(folder))
    trained = [r for r in rounds_of(status) if r.kind is RoundKind.TRAIN]
    seconds, up, down, memory = TARGETS[name]
    each = (marks.closed[-1] - marks.opened) / rounds
    steady = [b - a for a, b in pairwise(marks.closed)]
    busy = [b - a for a, b in pairwise(marks.cpu_closed)]
    cpu = (marks.cpu_closed[-1] - marks.cpu_opened) / rounds
    sent, received = (
        (after - before) / rounds / 1e6
        for before, after in zip(marks.bytes_opened, marks.bytes_closed, strict=True)
    )
    hospitals = [peak for who, peak in peaks.items() if who != "aggregator"]
    aggregator = peaks["aggregator"]
    whole = all(len(r.survivors) == HOSPITALS for r in trained) and len(trained) == rounds
    rows = [
        Row(f"{name}: seconds per round of {rounds}, with training", each, "s", f"<= {seconds}"),
        *(
            [Row(f"{name}: of them, the median after the first", statistics.median(steady), "s")]
            if steady
            else []
        ),
        Row(f"{name}: CPU of all processes per round of {rounds}", cpu, "s"),
        *([Row(f"{name}: of it, the median after the first", statistics.median(busy), "s")] if busy else []),
        Row(f"{name}: of it, counting bytes and memory", marks.own_cpu / rounds, "s"),
        Row(f"{name}: rounds with all five hospitals in the sum", rounds if whole else 0, "", f">= {rounds}"),
        Row(f"{name}: upload per hospital and round", sent, "MB", f"<= {up}"),
        Row(f"{name}: download per hospital and round", received, "MB", down),
        Row(f"{name}: one node, resident", max(p.resident for p in hospitals), "MiB", memory[0]),
        Row(f"{name}: one node, proportional", max(p.proportional for p in hospitals), "MiB"),
        Row(f"{name}: aggregator and its workers, resident", aggregator.resident, "MiB", memory[1]),
        Row(f"{name}: aggregator and its workers, proportional", aggregator.proportional, "MiB"),
        Row(f"{name}: AUROC on all test films", rounds_of(status)[-1].metric or 0.0, ""),
    ]
    for phase in PHASES:
        rows.append(Row(f"{name}: phase {phase}", statistics.median(r.phases[phase] for r in trained), "s"))
    return rows


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--training", action="store_true", help="with training, on one core; wants --data")
    parser.add_argument(
        "--core", type=int, default=max(os.sched_getaffinity(0)), help="where --training runs"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="with --training: write a Markdown page")
    given = parser.parse_args()
    set_up("error")
    if not given.training:
        publish(protocol_rows(), given.json)
    elif given.data is None:
        publish([Skipped("rounds with training", "--data FOLDER with pneumonia28")], given.json)
    else:
        os.sched_setaffinity(0, {given.core})
        load, rows = os.getloadavg()[0], list[Row]()
        for name, padding, rounds in WORK:
            rows += training_rows(name, padding, rounds, given.data)
        publish(rows, given.json)
        if given.write:
            given.write.write_text(page(rows, method=__doc__ or "", load=load))


def protocol_rows() -> list[Row]:
    """Rounds without training."""
    rows = []
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="medveil-rounds-") as folder:
            seen = measure(size, Path(folder))
        steady = [r for r in seen.rounds[1:ROUNDS] if len(r.survivors) == HOSPITALS]
        up = statistics.median(v for r in steady for v in r.bytes_up.values())
        target = ">= 3" if size == 1_000_000 else ""
        rows.append(Row(f"{name}: rounds per second, {HOSPITALS} hospitals", seen.rate, "1/s", target))
        rows.append(Row(f"{name}: CPU of all processes per round", seen.cpu, "s"))
        rows.append(Row(f"{name}: commits of the aggregator per round", seen.commits, "", "<= 25"))
        limit = {"55 k": "<= 0.16", "1 M": "<= 2.7", "7 M": "<= 18.8"}[name]
        rows.append(Row(f"{name}: upload per hospital and round", up / 1e6, "MB", limit))
        for phase in PHASES:
            rows.append(Row(f"{name}: {phase}", statistics.median(r.phases[phase] for r in steady), "s"))
    return rows


if __name__ == "__main__":
    main()
