"""What a hospital's operator does, as functions that return values; commands and pages show them.

A plan is signed in two steps. :func:`remember_shown` writes down, byte for byte, what the operator is about
to see. :func:`shown_plan` and :func:`approve_plan` take it from there: whatever the aggregator says
meanwhile, what is signed is what was shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from cryptography import x509

from hospital_node.cli_ledger import copied_ledger
from hospital_node.governance import check_plan, read_offer, register
from hospital_node.heads import Heads
from hospital_node.ledger import Ledger
from hospital_node.settings import Node, NodeSettings
from hospital_node.store import Journal, Shown
from hospital_node.transport import Transport
from medveil.errors import BadFile, Error
from medveil.handed import read_whole
from medveil.identity import Identity
from medveil.messages import PlanOffer
from medveil.plan import Plan, sign_approval, valid_approvals
from medveil.shown import plain
from medveil.spoken import means

AUTHORITY_BYTES = 2**20
PATIENCE_S = 5.0
"""How long a command that a person waits for tries to reach the aggregator."""


class NoSuchPlan(Error):
    """The operator named a plan that this node has never shown."""

    code = "no-such-plan"

    def __init__(self) -> None:
        super().__init__(
            what="No plan with this fingerprint was shown here.",
            meaning="Nothing was approved. Another fingerprint is another plan, or another roster.",
            remedy="Run 'medveil node approve' without it to see the plans; telephone the admin.",
        )


class NotConfirmed(Error):
    """A signature needs a person's yes."""

    code = "not-confirmed"

    def __init__(self) -> None:
        super().__init__(
            what="The approval was not confirmed.",
            meaning="Nothing was signed.",
            remedy="Answer 'yes' at the terminal; a script that has compared the fingerprint adds --yes.",
        )


class State(StrEnum):
    """Where a plan on offer stands, seen from this hospital."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    APPROVED = "approved"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True)
class Standing:
    """A plan and where it stands."""

    plan: Plan
    state: State
    refusal: Error | None = None
    """Why this hospital does not take part, if it does not."""
    approvals: int = 0
    """Valid signatures of hospitals under it, as far as is known."""
    round: int = 0
    """The newest round that this node has joined."""
    offer: PlanOffer | None = None
    """What the aggregator sent, if it did just now."""


@dataclass(frozen=True)
class Unreadable:
    """An offer without a plan that could be shown."""

    number: int
    """Its place among the offers, from 1."""
    refusal: Error


def set_up_node(folder: Path, settings: NodeSettings, authority: Path) -> Node:
    """What ``init`` does. Raises: BadFile, KeyFileExists."""
    node = Node(folder, settings)
    certificate = read_whole(authority, AUTHORITY_BYTES)
    try:
        x509.load_pem_x509_certificates(certificate)
    except ValueError as error:
        raise BadFile(name=plain(authority.name), problem="it holds no certificate (PEM)") from error
    if not settings.data.is_dir():
        raise BadFile(name="--data", problem=f"there is no folder '{plain(settings.data)}'")
    Identity.generate(settings.name).save(node.key)
    node.authority.write_bytes(certificate)
    node.save()
    return node


@contextmanager
def opened(node: Node) -> Iterator[Journal]:
    """The node's journal, closed at the end."""
    journal = Journal(node.journal)
    try:
        yield journal
    finally:
        journal.close()


async def offers(node: Node) -> tuple[tuple[PlanOffer, ...], bytes | None]:
    """What the aggregator offers, and the admin key that must have signed it.

    Raises: AggregatorProblem, Unreachable, AuditKeyChanged, AuditForked.
    """
    identity = Identity.load(node.settings.name, node.key)
    line = Transport(node.settings.aggregator, node.authority, identity, patience_s=PATIENCE_S)
    async with line as transport:
        answer = await transport.offers()
    with opened(node) as journal:
        return answer.offers, Heads(journal).key_after(answer.head)


async def on_offer(node: Node) -> list[Standing | Unreadable]:
    """Every plan on offer. One bad offer hides no other.

    Raises: what :func:`offers` raises.
    """
    found, pinned = await offers(node)
    return [_taken(node, offer, pinned, number) for number, offer in enumerate(found, 1)]


def _taken(node: Node, offer: PlanOffer, pinned: bytes | None, number: int) -> Standing | Unreadable:
    try:
        plan = read_offer(offer, pinned)
    except Error as error:
        return Unreadable(number, error)
    return replace(standing(node, plan, offer.approvals), offer=offer)


def remember_shown(node: Node, one: Standing) -> None:
    """Write down, byte for byte, the plan that is about to be shown: it alone can be approved."""
    if one.offer is not None:
        kept = Shown(one.plan.id, one.offer.plan, one.offer.admin_key, one.offer.admin_signature)
        with opened(node) as journal:
            journal.show(kept)


def standing(node: Node, plan: Plan, approvals: dict[str, bytes] | None = None) -> Standing:
    """Where a plan stands here."""
    with opened(node) as journal:
        own = [signature for one, signature in journal.approved() if one.id == plan.id]
        joined = journal.progress(plan.id)
    approved, known = bool(own), dict(approvals or {})
    if approved:
        known[node.settings.name] = own[0]
    valid = valid_approvals(plan, known)
    if approved and joined is None:
        return Standing(plan, State.FINISHED, approvals=valid)
    try:
        allowed(node, plan)
    except Error as error:
        return Standing(plan, State.REFUSED, error, valid, joined or 0)
    if approved:
        return Standing(plan, State.RUNNING if joined else State.APPROVED, None, valid, joined or 0)
    return Standing(plan, State.ALLOWED, None, valid)


def shown_plan(node: Node, typed: Sequence[str]) -> Plan:
    """The plan that was shown under a fingerprint, from this node's own disk.

    Raises: NotAFingerprint, NoSuchPlan; PlanRefused if the admin key that signed it is not pinned any more.
    """
    with opened(node) as journal:
        kept, pinned, retired = journal.shown(), Heads(journal).key, journal.head_keys()
    chosen = [one for one in kept if means(typed, bytes.fromhex(one.plan))]
    if len(chosen) != 1:
        raise NoSuchPlan()
    (one,) = chosen
    offer = PlanOffer(
        plan=one.text, admin_key=one.admin_key, admin_signature=one.admin_signature, approvals={}
    )
    # A key that was never pinned here has followed the pinned one by its word; else it was not shown.
    plan = read_offer(offer, pinned if one.admin_key in retired else None)
    if plan.id != one.plan:  # somebody has edited the journal
        raise NoSuchPlan()
    return plan


def allowed(node: Node, plan: Plan) -> None:
    """Hold a plan against the policy by itself, and against the budget together with every study before.

    Raises: PlanRefused, UnderstatedEpsilon, BudgetExceeded, LedgerDamaged, LedgerUnreadable.
    """
    check_plan(plan, node.settings, Identity.load(node.settings.name, node.key))
    with copied_ledger(node) as path, Ledger.open(path) as book:
        register(book, plan, node.settings)


def approve_plan(node: Node, plan: Plan) -> None:
    """Check a plan against this hospital's policy and budget, sign it and keep it; the node hands it in.

    Raises: what :func:`allowed` raises.
    """
    identity = Identity.load(node.settings.name, node.key)
    allowed(node, plan)
    with opened(node) as journal:
        journal.approve(plan, sign_approval(plan, identity))
