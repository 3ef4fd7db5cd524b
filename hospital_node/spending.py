"""What this hospital's patients have spent of their privacy budget, as its operator looks at the ledger."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from hospital_node.journal import Journal
from hospital_node.ledger import Ledger
from hospital_node.operator import viewed
from hospital_node.settings import Node
from privacy.dp.ledger import OPEN, PROMISED, Entry, Row, State, charges, total


@dataclass(frozen=True)
class Promise:
    """A plan's whole schedule for the patients of one split, and what of it was charged."""

    plan: str
    study: str
    """Its name; "?" if the plan was never approved here."""
    split: str
    charged: int
    """Charges so far."""
    schedule: int | None
    """Charges of the whole schedule; None as long as there is none to tell by."""
    restored: bool
    """Whether all of it counts as spent since newer files were lost."""
    noise: tuple[float, ...]
    """Own noise multipliers of its rounds, each once."""
    epsilon: float
    """Spent so far."""
    epsilon_of_all: float
    """If the whole schedule runs."""


@dataclass(frozen=True)
class Paid:
    """Epsilon of the patient who pays most, at one delta."""

    spent: float
    promised: float
    """To approved plans, what is spent of it included."""


@dataclass(frozen=True)
class Spending:
    """The ledger, study by study and in all."""

    promises: tuple[Promise, ...]
    rows: tuple[Row, ...]
    most: Paid
    alone: Paid
    """The same if no other hospital adds its noise."""
    cap: float
    delta: float
    """At which all of it is counted."""
    room: float
    """Epsilon of one more study that the cap leaves room for; 0 or less: none."""
    unsettled: int
    """Charges that are being used, or were left open by a crash and are taken up again."""


def spending(node: Node) -> Spending:
    """What was promised and spent, and what the cap leaves. Raises: what opening the ledger raises."""
    cap = node.settings.policy.epsilon_cap
    with viewed(node) as records:
        book, limit = records.ledger, records.delta_limit()
        rows = tuple(book.rows())
        return Spending(
            promises=tuple(_promises(book, _study_names(node), limit)),
            rows=rows,
            most=Paid(book.spent(delta=limit), book.committed(delta=limit)),
            alone=Paid(book.spent(joint=False, delta=limit), book.committed(joint=False, delta=limit)),
            cap=cap,
            delta=book.delta(delta=limit),
            room=book.room(None, cap, delta=limit),
            unsettled=sum(entry.state in OPEN for entry in charges(rows)),
        )


def _study_names(node: Node) -> dict[str, str]:
    """First plan of a lineage → name of its study, of every plan that was approved here."""
    with closing(Journal(node.journal)) as journal:
        return {plan.lineage: plan.study.name for plan, _ in journal.approved()}


def _promises(book: Ledger, names: dict[str, str], limit: float) -> list[Promise]:
    taken = charges(book.rows())
    registered = [row.entry for row in book.rows() if row.entry.state is State.REGISTERED]
    return [
        _promise(e, [c for c in taken if (c.plan, c.split) == (e.plan, e.split)], names, limit)
        for e in registered
    ]


def _promise(entry: Entry, own: list[Entry], names: dict[str, str], limit: float) -> Promise:
    delta = min(entry.delta, limit)
    return Promise(
        plan=entry.plan,
        study=names.get(entry.plan, "?"),
        split=entry.split.value,
        charged=len(own),
        schedule=sum(e.steps for e in entry.events) // max(1, own[0].event.steps) if own else None,
        restored=bool(own) and own[0].state in PROMISED,
        noise=tuple(event.noise_multiplier for event in entry.events),
        epsilon=total(own, delta, joint=True),
        epsilon_of_all=total([entry], delta, joint=True),
    )
