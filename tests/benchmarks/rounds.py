"""Whole masked rounds over HTTPS without training: every message, every durable commit, nothing else.

An aggregator process and five hospital agents (in this process) run rounds of 55 thousand, 1 and 7 million
parameters over loopback. Training is left out, so this is what the protocol itself costs.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import numpy as np

from aggregator.cli import create_plan, new_token, set_up_aggregator
from aggregator.settings import Settings
from hospital_node.agent import PlanAgent
from hospital_node.cli import approve_plan, set_up_node
from hospital_node.desk import Contribution
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.store import Journal
from hospital_node.transport import Transport
from medveil.identity import Identity
from medveil.log import set_up
from medveil.metrics import empty
from medveil.plan import Plan
from medveil.rounds import RoundKind
from medveil.study import Study
from medveil.tensors import ModelSpec, TensorSpec, Update, model_hash, to_safetensors
from medveil_research.client import Client
from medveil_research.consortium import rounds_of
from medveil_research.processes import Process
from medveil_research.study_file import write_study
from rows import Row, arguments, publish

HOSPITALS = 5
ROUNDS = 8
SIZES = {"55 k": 55_000, "1 M": 1_000_000, "7 M": 7_000_000}


class InstantDesk:
    """Contributions without work: a random update, drawn once."""

    def __init__(self, study: Study, index: int) -> None:
        size = study.model.tensors.size
        values = np.random.default_rng(index).uniform(-0.01, 0.01, size).astype(np.float32)
        self._study, self._update = study, Update(values)

    def prepare(
        self, number: int, attempt: int, kind: RoundKind, model: bytes, vector: Any
    ) -> asyncio.Future[Contribution]:
        """See :class:`hospital_node.desk.Desk`."""
        done: asyncio.Future[Contribution] = asyncio.get_running_loop().create_future()
        update = self._update if kind is RoundKind.TRAIN else Update(np.empty(0, np.float32))
        done.set_result(Contribution(update, empty(self._study), 10))
        return done


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


async def take_part(node: Node, plan: Plan) -> None:
    """One hospital's agent from the first round to the last."""
    identity = Identity.load(node.settings.name, node.key)
    journal, member = Journal(node.journal), plan.member(node.settings.name)
    assert member is not None
    async with Transport(node.settings.aggregator, node.authority, identity) as transport:
        for one, signature in journal.approved():
            await transport.approve(one.id, signature)
        desk: Any = InstantDesk(plan.study, member.index)
        await PlanAgent(plan, node, identity, journal, desk, transport).follow()
    journal.close()


async def enrol(node: Node, token: str) -> None:
    """Make a node known."""
    identity = Identity.load(node.settings.name, node.key)
    async with Transport(node.settings.aggregator, node.authority, identity) as transport:
        await transport.enrol(token)


def measure(size: int, folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Run one study; its rounds as the aggregator reports them, and its seconds from first to last."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = Settings(folder / "aggregator", port=port, names=("127.0.0.1",))
    set_up_aggregator(settings)
    command = ["aggregator", "serve", "--folder", str(settings.folder)]
    process = Process("aggregator", command, folder / "log", lambda who, event: None)
    authority = settings.folder / "tls" / "ca.pem"
    try:
        with Client(settings.url, authority, Identity.generate("researcher")) as client:
            while not client.is_up():
                time.sleep(0.1)
            client.enrol(new_token(settings, "researcher", "researcher"))
            nodes = [_node(folder, settings, authority, f"hospital-{i}") for i in range(1, HOSPITALS + 1)]
            study, initial = study_of(size)
            write_study(folder / "study", study, initial)
            files = (folder / "study" / "study.toml", folder / "study" / "initial.safetensors")
            plan = create_plan(settings, *files, [n.settings.name for n in nodes])
            for node in nodes:
                approve_plan(node, plan)

            async def everybody() -> None:
                await asyncio.gather(*(take_part(node, plan) for node in nodes))

            started = time.perf_counter()
            asyncio.run(everybody())
            wall = time.perf_counter() - started
            return rounds_of(client.status(plan.id)), wall
    finally:
        process.stop()
        process.wait()


def _node(folder: Path, settings: Settings, authority: Path, name: str) -> Node:
    values = NodeSettings(
        name=name,
        aggregator=settings.url,
        data=folder,
        dataset=name,
        policy=Policy(allow_no_privacy=True),
    )
    node = set_up_node(folder / name, values, authority)
    asyncio.run(enrol(node, new_token(settings, name, "hospital")))
    return node


def main() -> None:
    """Run, print, write."""
    given = arguments(__doc__).parse_args()
    set_up("error")
    rows = []
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="medveil-rounds-") as folder:
            rounds, wall = measure(size, Path(folder))
        steady = [r for r in rounds[1:ROUNDS] if len(r["survivors"]) == HOSPITALS]
        up = statistics.median(v for r in steady for v in r["bytes_up"].values())
        target = ">= 2" if size == 1_000_000 else ""
        rows.append(
            Row(f"{name}: rounds per second, {HOSPITALS} hospitals", len(rounds) / wall, "1/s", target)
        )
        limit = {"55 k": "<= 0.16", "1 M": "<= 2.7", "7 M": "<= 18.8"}[name]
        rows.append(Row(f"{name}: upload per hospital and round", up / 1e6, "MB", limit))
        for phase in ("advertise", "share", "commit", "upload", "agree", "unmask", "aggregate"):
            rows.append(Row(f"{name}: {phase}", statistics.median(r["phases"][phase] for r in steady), "s"))
    publish(rows, given.json)


if __name__ == "__main__":
    main()
