"""What this node has seen of the aggregator's work: its own copies of the models, heads of the audit log.

As :mod:`hospital_node.operator`, and apart from it, since nothing here looks at patients or budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hospital_node.audit_witness import AuditWitness
from hospital_node.journal import Alarm, Journal
from hospital_node.lineage import load_version, version_path
from hospital_node.seen_heads import SeenHead
from hospital_node.settings import Node
from medveil.errors import Error
from medveil.plan import Plan
from medveil.spoken import means


class NoSuchModel(Error):
    """The operator named a plan that was never approved here."""

    code = "no-such-model"

    def __init__(self) -> None:
        super().__init__(
            what="No approved plan has this fingerprint.",
            meaning="Nothing was changed.",
            remedy="Run 'medveil node lineage' without it to see the plans.",
        )


@dataclass(frozen=True)
class OwnModel:
    """How far this node's own copy of a plan's model has come."""

    plan: Plan
    version: int | None
    """The last version that it has made itself; None if there is none yet."""
    model: str
    """That version's hash."""
    alarm: Alarm | None
    """What it has refused, until the operator takes it away."""
    waits_for: tuple[str, ...]
    """Attempts whose masked vector is out, and whose sum is neither published nor given up."""


def own_models(node: Node) -> list[OwnModel]:
    """The own model of every plan that was approved here."""
    with closing(Journal(node.journal)) as journal:
        return [_own_model(node, journal, plan) for plan, _ in journal.approved()]


def _own_model(node: Node, journal: Journal, plan: Plan) -> OwnModel:
    found = load_version(version_path(node.models, plan), plan.study)
    unsettled = journal.unsettled(plan.id, 0 if found is None else found.round)
    return OwnModel(
        plan,
        None if found is None else found.version,
        "" if found is None else found.model.hex(),
        journal.alarm(plan.id),
        tuple(str(start.key) for start in unsettled),
    )


def start_again(node: Node, typed: Sequence[str]) -> None:
    """The operator's word: take a plan's alarm away and check its models from the first.

    Raises: NoSuchModel, NotAFingerprint.
    """
    with closing(Journal(node.journal)) as journal:
        chosen = [plan for plan, _ in journal.approved() if means(typed, plan.hash)]
        if not chosen:
            raise NoSuchModel()
        version_path(node.models, chosen[0]).unlink(missing_ok=True)
        for plan in chosen[0].epochs:
            journal.clear_alarm(plan.id)


@dataclass(frozen=True)
class SeenLog:
    """What this node has seen of the aggregator's audit log."""

    kept: int
    """How many heads are kept."""
    newest: SeenHead | None
    alarm: SeenHead | None
    """The head that contradicted the others, until the operator accepts one."""
    key_history: tuple[tuple[float, str], ...]
    """How the admin key came about that is pinned: Unix seconds, and what happened."""


def seen_log(node: Node) -> SeenLog:
    """What the node's journal holds of it."""
    with closing(Journal(node.journal)) as journal:
        heads, history = journal.heads, AuditWitness(journal).key_history()
        return SeenLog(len(heads.all()), heads.newest(), heads.alarm(), tuple(history))


def accept_head(node: Node, typed: str, *, new_key: str = "") -> None:
    """The operator's word: the log goes on from this head (NUMBER:HASH). Raises: NotAccepted."""
    with closing(Journal(node.journal)) as journal:
        AuditWitness(journal).accept(typed, new_key=new_key)


def export_heads(node: Node, file: Path) -> None:
    """Write all heads that are kept into a file, for the admin or the auditor."""
    with closing(Journal(node.journal)) as journal:
        file.write_text(AuditWitness(journal).export(node.settings.name))
