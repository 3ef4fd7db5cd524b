"""What a hospital's operator does, as functions that return values; commands and pages show them.

A plan is signed in two steps. :func:`remember_shown` writes down, byte for byte, what the operator is about
to see. :func:`shown_plan` and :func:`approve_plan` take it from there: whatever the aggregator says
meanwhile, what is signed is what was shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from hospital_node.amendments import check_amendment
from hospital_node.audit_witness import AuditWitness
from hospital_node.clearance import check_start
from hospital_node.cohort import Changes, Cohort, CohortDamaged, ImagesFolder, Reading
from hospital_node.enrolment import line_to_aggregator
from hospital_node.frozen import Part
from hospital_node.governance import (
    PlanRefused,
    check_price,
    check_terms,
    declared_patients,
    read_offer,
    well_formed,
)
from hospital_node.journal import Journal, ShownPlan
from hospital_node.orders import Orders, Word
from hospital_node.records import Records
from hospital_node.settings import Node
from hospital_node.transmissions.person import local_user
from medveil.errors import Error
from medveil.identity import Identity, verify
from medveil.messages import LedgerEnd, PlanOffer, PlanOffers
from medveil.plan import Plan, sign_approval, valid_approvals
from medveil.spoken import means
from medveil.study import LEAST_DECLARED
from privacy.dp.policy import Split


class NoSuchPlan(Error):
    """The operator named a plan that this node has never shown."""

    code = "no-such-plan"

    def __init__(self) -> None:
        super().__init__(
            what="No plan with this fingerprint was shown here.",
            meaning="Nothing was changed. Another fingerprint is another plan, or another roster.",
            remedy="Run 'medveil node approve' without it to see the plans; telephone the admin.",
        )


class Stands(StrEnum):
    """Where a plan on offer stands, seen from this hospital."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    APPROVED = "approved"
    RUNNING = "running"
    FINISHED = "finished"
    LEFT = "left"
    """This hospital has refused it, or withdrawn from it. It may be approved again."""


@dataclass(frozen=True)
class Standing:
    """A plan and where it stands."""

    plan: Plan
    stands: Stands
    refusal: Error | None = None
    """Why this hospital does not take part, if it does not."""
    approvals: int = 0
    """Valid signatures of hospitals under it, as far as is known."""
    round: int = 0
    """The newest round that this node has joined."""
    patients: Patients | None = None
    """Whom it would be done with, unless it is refused."""
    offer: PlanOffer | None = None
    """What the aggregator sent, if it did just now."""
    word: Word | None = None
    """That this hospital takes no part, and why, if its operator has said so."""
    before: Plan | None = None
    """The plan of the same study's name that was approved here last, if there is one."""
    parent_known: bool = False
    """Whether this hospital approved the plan that made the model it starts from."""


@dataclass(frozen=True)
class Unreadable:
    """An offer without a plan that could be shown."""

    number: int
    """Its place among the offers, from 1."""
    refusal: Error


def outdated(node: Node) -> dict[str, str]:
    """Approved plan → why this version refuses it: an earlier one took it."""
    with opened(node) as journal:
        return journal.outdated()


@contextmanager
def opened(node: Node) -> Iterator[Journal]:
    """The node's journal, closed at the end."""
    journal = Journal(node.journal)
    try:
        yield journal
    finally:
        journal.close()


async def offers(node: Node) -> tuple[tuple[object, ...], bytes | None]:
    """What the aggregator offers, each still to be judged, and the admin key that must have signed it.

    Raises: AggregatorProblem, Unreachable, AuditKeyChanged, AuditForked.
    """
    answer = await _answer(node)
    with suppress(Error), viewed(node) as records:  # what speaks against a plan is shown with the plan
        records.meet(answer.ledger)
    with opened(node) as journal:
        return answer.offers, AuditWitness(journal).key_after(answer.head)


async def _answer(node: Node) -> PlanOffers:
    async with line_to_aggregator(node) as transport:
        return await transport.offers()


async def on_offer(node: Node) -> list[Standing | Unreadable]:
    """Every plan on offer. One bad offer hides no other.

    Raises: what :func:`offers` raises.
    """
    (found, pinned), images = await offers(node), ImagesFolder()
    return [_taken(node, offer, pinned, number, images) for number, offer in enumerate(found, 1)]


def _taken(
    node: Node, sent: object, pinned: bytes | None, number: int, images: ImagesFolder
) -> Standing | Unreadable:
    try:
        offer = well_formed(sent)
        plan = read_offer(offer, pinned)
    except Error as error:
        return Unreadable(number, error)
    return replace(standing(node, plan, offer.approvals, images=images), offer=offer)


def approved_before(node: Node, plan: Plan) -> Plan | None:
    """The plan of the same study's name, and another one, that was approved here last."""
    with opened(node) as journal:
        found = [p for p, _ in journal.approved() if p.study.name == plan.study.name and p.id != plan.id]
    return found[-1] if found else None


def remember_shown(node: Node, one: Standing) -> None:
    """Write down, byte for byte, the plan that is about to be shown: it alone can be approved."""
    if one.offer is not None:
        kept = ShownPlan(one.plan.id, one.offer.plan, one.offer.admin_key, one.offer.admin_signature)
        with opened(node) as journal:
            journal.keep_shown(kept)


def standing(
    node: Node,
    plan: Plan,
    approvals: dict[str, bytes] | None = None,
    *,
    patients: int | None = None,
    images: ImagesFolder | None = None,
) -> Standing:
    """Where a plan stands here.

    Args:
        approvals: as the aggregator has them.
        patients, images: as for :func:`approve_plan`.
    """
    parent = plan.study.model.parent
    with opened(node) as journal:
        own = [signature for one, signature in journal.approved() if one.id == plan.id]
        joined = journal.progress(plan.id)
        before = parent is not None and journal.plan(parent.plan) is not None
        word = Orders(journal).word(plan.id)
    approved, known = bool(own) and word is None, dict(approvals or {})
    if approved:
        known[node.settings.name] = own[0]
    valid = valid_approvals(plan, known)
    if approved and joined is None:
        return Standing(plan, Stands.FINISHED, approvals=valid, parent_known=before)
    try:
        found = allowed(node, plan, patients=patients, images=images)
    except Error as error:
        return Standing(plan, Stands.REFUSED, error, valid, joined or 0, word=word, parent_known=before)
    if approved:
        stands = Stands.RUNNING if joined else Stands.APPROVED
        return Standing(plan, stands, None, valid, joined or 0, found, parent_known=before)
    stands = Stands.ALLOWED if word is None else Stands.LEFT
    return Standing(plan, stands, None, valid, patients=found, word=word, parent_known=before)


def shown_plan(node: Node, typed: Sequence[str]) -> Plan:
    """The plan that was shown under a fingerprint, from this node's own disk.

    Raises: NotAFingerprint, NoSuchPlan; PlanRefused if the admin key that signed it is not pinned any more.
    """
    with opened(node) as journal:
        kept, pinned, retired = journal.shown(), AuditWitness(journal).key, journal.heads.keys()
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


@dataclass(frozen=True)
class Patients:
    """Whom this hospital would take part in a plan with."""

    cohort: Cohort
    """The images folder as it is now."""
    moved: int
    """Patients who are left out, for an earlier study met them in another split."""
    elsewhere: int
    """Patients who are left out, for the study lets nobody be in two hospitals and they may be."""
    part: Part | None
    """What was frozen for the plan before, if it was."""
    declared: int
    """The number of patients that the plan counts with."""


def allowed(
    node: Node, plan: Plan, *, patients: int | None = None, images: ImagesFolder | None = None
) -> Patients:
    """Hold a plan against the policy by itself, and against the budget of everybody in the images folder.

    Args:
        patients, images: as for :func:`approve_plan`.
    Raises: PlanRefused, UnderstatedEpsilon, BudgetExceeded, CohortDamaged, what opening the ledger raises.
    """
    check_terms(plan, node.settings, Identity.load(node.settings.name, node.key))
    with opened(node) as journal:
        check_amendment(plan, journal)
    with viewed(node) as records:
        return _affordable(node, records, plan, patients, images)


def _affordable(
    node: Node, records: Records, plan: Plan, patients: int | None, images: ImagesFolder | None
) -> Patients:
    found = patients_of(records, plan, patients, images)
    first = plan.since(Identity.load(node.settings.name, node.key).public_key)
    check_price(plan, node.settings.policy, declared=found.declared, first=first)
    records.admit(plan, found.cohort, found.declared)
    return found


@contextmanager
def viewed(node: Node) -> Iterator[Records]:
    """The node's records to look at, beside a node that runs. Raises: what opening the ledger raises."""
    identity = Identity.load(node.settings.name, node.key)
    with opened(node) as journal, Records.view(node, identity, journal) as records:
        yield records


def patients_of(
    records: Records, plan: Plan, patients: int | None = None, images: ImagesFolder | None = None
) -> Patients:
    """The images folder's patients, and the number that is declared.

    Args:
        patients, images: as for :func:`approve_plan`.
    Raises: PlanRefused.
    """
    study = plan.study
    cohort = records.frozen((images or ImagesFolder()).reading(study, records.reading))
    records.check_asked(plan, cohort)
    used, moved = records.of_one_hospital(plan, cohort), 0
    elsewhere = len(cohort.patients) - len(used.patients)
    if study.privacy.kind != "none":
        used, moved = records.ledger.usable(study, used)
        if not used.count(Split.TRAIN):
            raise PlanRefused(
                reason="the images folder holds no patient whom it could train on",
                remedy="Run 'medveil node check --study' with the study's file, then approve again.",
            )
    part = records.plans.part(plan.lineage)
    proposed = declared_patients(used.count(Split.TRAIN), study.secure_aggregation.max_weight)
    return Patients(cohort, moved, elsewhere, part, _declared(plan, part, patients, proposed))


def approve_plan(
    node: Node, plan: Plan, *, patients: int | None = None, images: ImagesFolder | None = None
) -> Part | None:
    """Check a plan against this hospital's policy and budget, freeze its patients, sign it and keep it.

    The node hands it in.

    Args:
        patients: the number of patients to declare, for the plan's life; what is proposed if left out.
        images: as the command has shown it; read now if left out.
    Returns: what was frozen; None for a plan without privacy if nobody is there yet.
    Raises: what :func:`allowed` raises; PlanRefused if the number cannot be declared.
    """
    identity = Identity.load(node.settings.name, node.key)
    check_terms(plan, node.settings, identity)
    with viewed(node) as records, opened(node) as journal:
        check_amendment(plan, journal)
        found = _affordable(node, records, plan, patients, images)
        check_start(plan, journal)
        part = found.part
        if part is None and found.cohort.count(Split.TRAIN):
            part = records.take(plan, found.cohort, found.declared)
        journal.approve(plan, sign_approval(plan, identity), by=local_user())
        Orders(journal).approved(plan.id)
    return part


def _declared(plan: Plan, known: Part | None, patients: int | None, proposed: int) -> int:
    """The number of patients that is declared: once, for the plan's life."""
    if patients is None:
        return proposed if known is None else known.declared
    if known is not None and patients != known.declared:
        raise PlanRefused(
            reason=f"{known.declared} patients were declared for it, and that stands for the plan's life",
            remedy="Approve it without --patients.",
        )
    masked = plan.study.secure_aggregation
    least = 1 if masked.weights == "equal" else min(LEAST_DECLARED, masked.max_weight)
    largest = masked.max_weight
    if not least <= patients <= largest:
        raise PlanRefused(
            reason=f"it counts {least} to {largest} patients of a hospital, "
            f"and {patients} were to be declared",
            remedy=f"Declare {least} to {largest}, or ask for a study with a larger max_weight.",
        )
    return patients


@dataclass(frozen=True)
class Frozen:
    """The cohort of an approved plan, and how the images folder differs from it."""

    plan: Plan
    part: Part | None
    cohort: Cohort | None
    now: Reading
    changes: Changes | None
    """None if no cohort was frozen, or its file is gone or altered."""


def frozen_plans(
    node: Node, typed: Sequence[str] | None = None, *, images: ImagesFolder | None = None
) -> list[Frozen]:
    """Every approved plan that is not over, or the one of this fingerprint.

    Raises: NoSuchPlan, NotAFingerprint, what opening the ledger raises.
    """
    with viewed(node) as records, opened(node) as journal:
        plans = [p for p, _ in journal.approved() if journal.progress(p.id) is not None]
        if typed:
            plans = [p for p in plans if means(typed, p.hash)]
            if not plans:
                raise NoSuchPlan()
        images = images or ImagesFolder()
        return [frozen(records, plan, images) for plan in plans]


def frozen(records: Records, plan: Plan, images: ImagesFolder) -> Frozen:
    """What was frozen for a plan, and how the images folder differs from it."""
    now, part = images.reading(plan.study, records.reading), records.plans.part(plan.lineage)
    if part is None:
        return Frozen(plan, None, None, now, None)
    try:
        cohort = records.cohort(part)
    except CohortDamaged:
        return Frozen(plan, part, None, now, None)
    return Frozen(plan, part, cohort, now, cohort.changes(now.patients))


@dataclass(frozen=True)
class Lost:
    """What going on from older files would mean."""

    rows: int
    """Rows that are here."""
    seen: int
    """Rows that the aggregator has seen; 0 if it has seen none, or was not asked."""
    promised: tuple[Plan, ...]
    """Private plans that this hospital has signed: they end here, and count as spent."""


def what_is_lost(node: Node, *, ask: bool = True) -> tuple[Lost, LedgerEnd | None]:
    """What is known of newer files than these.

    Args:
        ask: the aggregator, too, for where the ledger ended and what this hospital has signed.
    Raises: what asking raises.
    """
    identity = Identity.load(node.settings.name, node.key)
    answer = asyncio.run(_answer(node)) if ask else PlanOffers(offers=())
    with opened(node) as journal:
        plans = {plan.id: plan for plan, _ in journal.approved()}
        pinned = AuditWitness(journal).key
    for sent in answer.offers:
        with suppress(Error):
            offer = well_formed(sent)
            plan = read_offer(offer, pinned)
            signature = offer.approvals.get(node.settings.name, b"")
            verify(identity.public_key, signature, "approve-plan", plan.hash)
            plans[plan.id] = plan
    private = tuple(plan for plan in plans.values() if plan.study.privacy.kind != "none")
    rows = node.ledger.read_bytes().count(b"\n") if node.ledger.exists() else 0
    return Lost(rows, answer.ledger.number if answer.ledger else 0, private), answer.ledger


def go_on(node: Node, lost: Lost, seen: LedgerEnd | None) -> None:
    """The operator's word to go on from older files (:meth:`hospital_node.records.Records.go_on`).

    Raises: LedgerBusy if a node runs; LedgerDamaged.
    """
    identity = Identity.load(node.settings.name, node.key)
    with opened(node) as journal, closing(Records.open(node, identity, journal, trusting=True)) as records:
        records.go_on(seen, lost.promised)


def take_cohort(
    node: Node, plan: Plan, *, patients: int | None = None, images: ImagesFolder | None = None
) -> Part:
    """The operator's word: the plan goes on with the patients who are in the images folder now.

    Who has left pays nothing more; who has joined pays for what is still to come.

    Args:
        patients: the number to declare, if none was declared with an earlier version.
        images: as the command has shown it; read now if left out.
    Raises: what :func:`allowed` raises. Nothing is changed then.
    """
    with viewed(node) as records:
        found = patients_of(records, plan, patients, images)
        records.admit(plan, found.cohort, found.declared)
        return records.take(plan, found.cohort, found.declared)
