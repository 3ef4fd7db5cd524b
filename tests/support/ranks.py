"""A training job without a process: its one rank is a thread of the test, or the test itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from folders import write_folder
from hospital_node.operator import opened
from hospital_node.ranks.folder import JobFolder
from hospital_node.ranks.job import Job, OpenJob, Order
from hospital_node.ranks.place import Place
from hospital_node.ranks.settings import RanksSettings
from hospital_node.ranks.standing import Standing
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings, Policy
from hospital_node.training.rank import serve
from medveil.identity import Identity
from medveil.plan import Plan
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.models import ModelShape, initial_vector, outputs_for
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.site import SiteData
from world import make_plan

SIZE = (16, 16)
LOCAL = {
    "kind": "local",
    "clip_norm": 0.5,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 50.0,
    "sample_rate": 0.7,
}
HERE = Identity.generate("hospital-1")
QUICK: dict[str, Any] = {"count": 1, "start_s": 300, "step_s": 300, "silent_s": 300}


class NoCrew:
    """Nobody whose end could be noticed, until a test says so."""

    def __init__(self) -> None:
        self.told: tuple[int, int] | None = None
        self.at_once: bool | None = None

    def ended(self) -> tuple[int, int] | None:
        return self.told

    def close(self, *, at_once: bool) -> None:
        self.at_once = at_once


def standing_of(order: Order, settings: RanksSettings) -> Standing:
    """The order as a rank reads it."""
    limits = settings.model_dump(include={"count", "interface", "step_s", "silent_s"})
    return Standing(**vars(order), **limits, gpu=False, gpu_memory_share=None)


def in_a_thread(base: Path, spoil: Callable[[Job], None] = lambda _: None) -> OpenJob:
    """Opens jobs whose one rank is the product's own, in a thread.

    Args:
        spoil: sees each job before its first step.
    """
    settings = RanksSettings(**QUICK)

    @contextmanager
    def opened(order: Order) -> Iterator[Job]:
        folder = JobFolder.make(base)
        rank = threading.Thread(target=serve, args=(folder, Place(0, 1, 0), standing_of(order, settings)))
        rank.start()
        try:
            job = Job(folder, NoCrew(), settings)
            job.await_ready()
            spoil(job)
            yield job
        finally:
            folder.remove()
            rank.join()

    return opened


def study_of(**changes: Any) -> tuple[Study, Float32]:
    """A small network on films of 16 by 16, with local noise, and the weights that it starts from."""
    shape = ModelShape(SIZE, outputs_for("classification", ["a", "b"]))
    spec, vector = initial_vector("small_cnn", shape, {}, seed=3)
    content: dict[str, Any] = {
        "name": "shared",
        "task": "classification",
        "classes": ("a", "b"),
        "model": {"name": "small_cnn", "tensors": spec, "initial_model": "0" * 64},
        "transforms": {"profile": "xray", "size": SIZE},
        "training": {"rounds": 4, "local_steps": 3, "learning_rate": 1.0},
        "privacy": LOCAL,
        "secure_aggregation": {"update_clip": 100.0, "max_weight": 100},
    }
    return Study.model_validate(content | changes), vector


def films(count: int, prefix: str = "p", *, most: int = 3) -> tuple[PatientImages, ...]:
    """Patients with one to ``most`` films each."""
    g = torch.Generator().manual_seed(0)
    found = []
    for i in range(count):
        k = 1 + i % most
        picture = torch.randn(k, 1, *SIZE, generator=g)
        found.append(PatientImages(f"{prefix}{i}", picture, torch.full((k,), i % 2)))
    return tuple(found)


def plan_of(study: Study) -> Plan:
    """The study's plan, with this hospital first."""
    return make_plan([HERE, *(Identity.generate(f"hospital-{i}") for i in range(2, 5))], study)


def site(_: Plan) -> SiteData:
    """The images of a hospital whose folder :func:`worked_on` makes."""
    parts = (films(count, prefix, most=1) for prefix, count in (("t", 6), ("v", 4), ("e", 4)))
    return SiteData("films", *parts, problems=())


@contextmanager
def worked_on(folder: Path, plan: Plan) -> Iterator[Records]:
    """The records of a node that has approved the plan; its images lie beside."""
    counts = (("t", "train", 6), ("v", "val", 4), ("e", "test", 4))
    films = [(f"{p}{i}.png", f"{p}{i}", split, i % 2) for p, split, n in counts for i in range(n)]
    write_folder(folder / "films", films)
    policy = Policy(epsilon_cap=200.0, allow_no_privacy=True)
    settings = NodeSettings(
        name=HERE.name, aggregator="https://here", data=folder / "films", dataset="films", policy=policy
    )
    node = Node(folder / "node", settings)
    node.save()
    with opened(node) as journal, closing(Records.open(node, HERE, journal)) as records:
        records.take(plan, records.frozen(records.reading(plan.study)), 10)
        records.register(plan)
        yield records
