"""The operator's word at the page: the same verbs as the commands, and the aggregator is told."""

from __future__ import annotations

from contextlib import suppress

from hospital_node import consent, live
from hospital_node.operator import NoSuchPlan, opened, shown_plan
from hospital_node.page.asking import Asking
from hospital_node.settings import Node
from medveil.errors import Error
from medveil.plan import Plan


def refuse(node: Node, asking: Asking, plan: str, reason: str) -> None:
    """Refuse a plan that was shown. Raises: NoSuchPlan; as :func:`hospital_node.consent.refuse_plan`."""
    if asking.card(plan) is None:
        raise NoSuchPlan()
    consent.refuse_plan(node, shown_plan(node, [plan]), reason)
    asking.now_stands(plan, "left")
    _tell(node)


def leave(node: Node, plan: str, reason: str, *, at_once: bool) -> None:
    """Take an approval back, after the round in hand or at once.

    Raises: NoSuchPlan and what :mod:`hospital_node.consent` raises.
    """
    chosen = _approved(node, plan)
    if at_once:
        consent.withdraw_plan(node, chosen, reason)
    else:
        consent.leave_after_round(node, chosen, reason)
    _tell(node)


def _approved(node: Node, plan: str) -> Plan:
    with opened(node) as journal:
        found = journal.plan(plan)
    if found is None:
        raise NoSuchPlan()
    return found


def _tell(node: Node) -> None:
    """A node that runs tells the aggregator by itself; the word stands here in any case."""
    told = live.read(node)
    if told is None or not told.running:
        with suppress(Error, OSError):
            consent.tell_aggregator(node)
