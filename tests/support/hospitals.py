"""One hospital on disk: an images folder, a node's folder, and private plans for it."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folders import Line, lines_of, write_folder
from hospital_node.operator import approve_plan, opened, take_cohort
from hospital_node.records import Records
from hospital_node.settings import Node, NodeSettings, Policy
from medveil.identity import Identity
from medveil.plan import Plan
from world import make_plan, make_study

PEOPLE = [Identity.generate(f"hospital-{i}") for i in range(1, 5)]
LOCAL: dict[str, Any] = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 4.0,
    "evaluation_multiplier": 3.0,
    "epsilon": 3.0,
}


def plan_of(name: str = "films", **changes: Any) -> Plan:
    """A private plan of two rounds for hospital-1 and three others."""
    content: dict[str, Any] = {"privacy": LOCAL, "evaluation": {"bins": 16, "every_round": False}}
    return make_plan(PEOPLE, make_study(**(content | {"name": name} | changes)))


@dataclass
class Hospital:
    """A node's folder and its images; every method is what a process of its own would do."""

    node: Node
    identity: Identity

    @property
    def images(self) -> Path:
        return self.node.settings.data

    def named(self, dataset: str) -> Hospital:
        """The same folder, after somebody has edited ``dataset`` in node.json."""
        changed = self.node.settings.model_copy(update={"dataset": dataset})
        node = Node(self.node.folder, changed)
        node.save()
        return Hospital(node, self.identity)

    def write(self, lines: list[Line]) -> None:
        """Another manifest, with the files that it names."""
        write_folder(self.images, lines)

    def approve(self, plan: Plan, **options: Any) -> None:
        approve_plan(self.node, plan, **options)

    def take(self, plan: Plan, **options: Any) -> None:
        take_cohort(self.node, plan, **options)

    @contextmanager
    def works(self) -> Iterator[Records]:
        """The records, as the process that works has them."""
        with (
            opened(self.node) as journal,
            closing(Records.open(self.node, self.identity, journal)) as records,
        ):
            yield records

    def runs(self, plan: Plan, *rounds: int) -> None:
        """Register a plan and charge rounds of it, each to its end."""
        with self.works() as records:
            records.register(plan)
            for number in rounds:
                charge(records, plan, number)

    def copied(self, name: str) -> Hospital:
        """A second folder with the same identity."""
        target = self.node.folder.with_name(name)
        shutil.copytree(self.node.folder, target)
        return Hospital(Node(target, self.node.settings), self.identity)


def charge(records: Records, plan: Plan, number: int) -> None:
    """One round that was released."""
    one = records.ledger.charge(plan.study, plan_id=plan.lineage, round_number=number, attempt=1)
    one.begin()
    one.end()


def make_hospital(folder: Path, lines: list[Line] | None = None, **policy: Any) -> Hospital:
    """A node with films of 12, 4 and 4 patients, or of these lines."""
    images = write_folder(folder / "images", lines_of() if lines is None else lines)
    values = NodeSettings(
        name="hospital-1",
        aggregator="https://here",
        data=images,
        dataset="films",
        policy=Policy(**policy),
    )
    node = Node(folder / "node", values)
    node.save()
    PEOPLE[0].save(node.key)
    return Hospital(node, PEOPLE[0])


def as_of_version_0_1(hospital: Hospital, splits: dict[str, str], key: bytes = b"k" * 32) -> None:
    """``splits.json`` as the first version wrote it, for the data set's name of the day."""
    known = {
        hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:32]: split for name, split in splits.items()
    }
    book = {"key": key.hex(), "datasets": {hospital.node.settings.dataset: known}}
    hospital.node.splits.write_text(json.dumps(book))
