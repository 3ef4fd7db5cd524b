"""The hospital decides: what a plan must satisfy before this node approves it and works on it."""

from __future__ import annotations

import math

from hospital_node.demand import demand_of, memory_limit
from hospital_node.settings import NodeSettings, Policy
from medveil.errors import Error, UnknownName
from medveil.identity import BadSignature, Identity, verify
from medveil.ids import fingerprint
from medveil.messages import MAX_MESSAGE_BYTES, BadMessage, PlanOffer
from medveil.outside import NotPlain, decode_json
from medveil.plan import BadPlan, Plan, check_approvals, parse_plan
from medveil.profile_source import profile_hash
from medveil.strategies import BadStrategy, strategy_of
from medveil.study import Study, too_much
from privacy.dp.grid import check_grid
from privacy.dp.policy import Cost, check_policy, cost, policy_of, rounded_up
from privacy.joint_steps import adds_up

ROUNDING = 10


class PlanRefused(Error):
    """A plan that this hospital does not take part in."""

    code = "plan-refused"

    def __init__(self, *, reason: str, remedy: str) -> None:
        super().__init__(
            what=f"This hospital refuses the plan: {reason}.",
            meaning="Nothing was approved, and nothing will be trained or sent for it.",
            remedy=remedy,
        )


def well_formed(offer: object) -> PlanOffer:
    """One of the offers of an answer, each of which is judged alone. Raises: BadMessage."""
    if not isinstance(offer, PlanOffer):
        raise BadMessage()
    return offer


def read_offer(offer: PlanOffer, admin_key: bytes | None = None) -> Plan:
    """The plan of an offer, after checking the admin's signature under it.

    Args:
        admin_key: the one that this node has pinned, if it has.
    Raises: BadPlan, PlanRefused.
    """
    if admin_key is not None and offer.admin_key != admin_key:
        raise PlanRefused(
            reason="it is signed with another admin key than this node has pinned",
            remedy="Compare the fingerprint in 'medveil node heads' with the admin's by telephone.",
        )
    try:
        value = decode_json(offer.plan, max_bytes=MAX_MESSAGE_BYTES)
    except NotPlain as error:
        raise BadPlan(problem=str(error)) from error
    plan = parse_plan(value)
    try:
        verify(offer.admin_key, offer.admin_signature, "create-plan", plan.hash)
    except BadSignature as error:
        raise PlanRefused(
            reason="the admin's signature does not match", remedy="Tell the consortium's admin."
        ) from error
    return plan


def check_plan(
    plan: Plan, settings: NodeSettings, identity: Identity, *, declared: int | None = None
) -> Cost | None:
    """Hold a plan against this hospital's own policy: :func:`check_terms`, then :func:`check_price`."""
    check_terms(plan, settings, identity)
    first = plan.since(identity.public_key)
    return check_price(plan, settings.policy, declared=declared, first=first)


def check_terms(plan: Plan, settings: NodeSettings, identity: Identity) -> None:
    """Hold all but the price of a plan against this hospital's own policy.

    Raises: PlanRefused.
    """
    study, policy = plan.study, settings.policy
    member = plan.member(identity.name)
    if member is None or member.key != identity.public_key:
        raise PlanRefused(
            reason="its roster does not name this hospital with its own key",
            remedy="Ask the admin to write the plan again after this node has enrolled.",
        )
    beyond = too_much(study)
    if beyond is not None:  # of a plan that an earlier version has accepted
        raise PlanRefused(reason=beyond, remedy="Ask the admin for a plan within what this version takes.")
    if study.privacy.kind == "none" and not policy.allow_no_privacy:
        raise PlanRefused(
            reason="it has no differential privacy and this hospital's policy does not allow that",
            remedy="Ask for a private study, or set allow_no_privacy in node.json on purpose.",
        )
    if study.evaluation.per_site and not policy.allow_site_figures:
        raise PlanRefused(
            reason="it shows this hospital's own figures, and this hospital's policy does not allow that",
            remedy="Ask for a study without per_site, or set allow_site_figures in node.json on purpose.",
        )
    _one_hospital_each(study, settings)
    _wanted(study, policy)
    _hidden_enough(study, policy)
    _bearable(plan, settings)
    _same_profile(study)
    _frozen_weights_here(study)
    try:
        strategy_of(study)
    except (UnknownName, BadStrategy) as error:
        raise PlanRefused(
            reason="this node cannot make its models, for it does not know the strategy or its options",
            remedy="Ask the admin for a corrected study; node and aggregator must run the same version.",
        ) from error


def _one_hospital_each(study: Study, settings: NodeSettings) -> None:
    """Whether plan and hospital agree by what persons are known whom two hospitals have."""
    asked, own = study.cohort.persons, settings.persons
    if asked is not None and own is None:
        raise PlanRefused(
            reason="it lets nobody be in two hospitals, and this node does not know persons yet",
            remedy="Get persons.json from the consortium's admin: 'medveil node persons use persons.json "
            "--column NAME', then 'medveil node persons claim', then this again.",
        )
    if asked is not None and own is not None and own.hash != asked:
        theirs, ours = (fingerprint(bytes.fromhex(one)) for one in (asked, own.hash))
        raise PlanRefused(
            reason=f"it lets nobody be in two hospitals by the persons file {theirs}; this node uses {ours}",
            remedy="Compare both fingerprints with the consortium's admin. Was yours never claimed with, "
            "'medveil node persons use' takes the right one; else the study must name yours.",
        )
    if asked is None and own is not None and study.privacy.kind != "none":
        raise PlanRefused(
            reason="it does not ask whose a person is, so whoever is in two hospitals would pay in both",
            remedy="Ask for a study that names the persons file ([cohort] persons).",
        )


def _wanted(study: Study, policy: Policy) -> None:
    """Whether this hospital takes part in such studies at all."""
    for what, name, known, setting in (
        ("task", study.task, policy.tasks, "tasks"),
        ("kind of image", study.transforms.profile, policy.profiles, "profiles"),
    ):
        if known is not None and name not in known:
            raise PlanRefused(
                reason=f"its {what} is '{name}'; this hospital's policy allows {', '.join(known)}",
                remedy=f"Ask for another study, or add it to {setting} in node.json on purpose.",
            )


def _same_profile(study: Study) -> None:
    """By its file alone: what it makes of the phantom is seen before the first image is read."""
    name, told = study.transforms.profile, study.transforms.profile_hash
    if told is not None and told != profile_hash(name):
        raise PlanRefused(
            reason=f"its profile '{name}' holds other code here, so images would become other tensors",
            remedy="Install the version of MedVeil and of the profile's file that the study was made with.",
        )


def _frozen_weights_here(study: Study) -> None:
    """By its name alone; that its content has this hash is seen when the model is built."""
    from medveil_imaging.frozen import frozen_file  # an agent without images starts without it

    path = frozen_file(study.model)
    if path is not None and not path.is_file():
        raise PlanRefused(
            reason=f"its file of frozen weights '{path.name}' is not in this machine's folder of encoders",
            remedy="Get it from the study's author and put it there under that name (docs/operator.md).",
        )


def check_price(plan: Plan, policy: Policy, *, declared: int | None = None, first: int = 1) -> Cost | None:
    """What a plan costs each patient, within this hospital's cap; None: no privacy.

    The cost is counted at the study's delta or, where that is larger, at the hospital's own limit.

    Args:
        declared: patients that the hospital declares for it, as far as it is known.
        first: the round from which on this hospital is in the study.
    Raises: PlanRefused; UnderstatedEpsilon if the plan costs more than it says; RingTooSmall if its discrete
        noise does not fit.
    """
    stated = check_policy(plan.study)
    if stated is None:
        return None
    check_grid(plan.study)
    if policy.count_joint_noise and not adds_up(plan.study, hospitals=len(plan.roster)):
        raise PlanRefused(
            reason="the steps of its encoding are too coarse for the hospitals' noise to add up",
            remedy="Ask for lane_bits = 32 or a smaller max_weight, or unset count_joint_noise in node.json.",
        )
    counted = cost(plan.study, delta=min(stated.delta, policy.delta_limit(declared)), first=first)
    _within_cap(plan.study, counted, policy)
    return counted


def _hidden_enough(study: Study, policy: Policy) -> None:
    least, resisted = study.cohort.min_hospitals, study.secure_aggregation.colluders
    if least < policy.min_hospitals:
        raise PlanRefused(
            reason=f"its sums may hold {least} hospitals; {policy.min_hospitals} is the least here",
            remedy="Ask for a larger cohort, or lower min_hospitals in node.json on purpose.",
        )
    if resisted < policy.min_colluders:
        raise PlanRefused(
            reason=f"its sums hide this hospital from the aggregator and {resisted} others together; "
            f"{policy.min_colluders} is the least here",
            remedy="Ask for more 'colluders' in the study, or lower min_colluders in node.json on purpose.",
        )


def _bearable(plan: Plan, settings: NodeSettings) -> None:
    """Whether this machine could do it, and the operator wants it to."""
    study, policy, asked = plan.study, settings.policy, demand_of(plan, settings)
    for what, number, most, setting in (
        ("parameters", study.model.tensors.size, policy.max_parameters, "max_parameters"),
        ("steps of training", asked.steps, policy.max_steps, "max_steps"),
        ("pixels or voxels an image", math.prod(study.transforms.size), policy.max_voxels, "max_voxels"),
    ):
        if number > most:
            raise PlanRefused(
                reason=f"it asks for {number:,} {what}; {most:,} is the most here",
                remedy=f"Ask for a smaller study, or raise {setting} in node.json on purpose.",
            )
    megabytes = max(asked.upload_bytes, asked.evaluation_bytes) / 1e6
    if policy.max_upload_mb is not None and megabytes > policy.max_upload_mb:
        raise PlanRefused(
            reason=f"a round sends {megabytes:,.3g} MB; {policy.max_upload_mb:g} MB is the most here",
            remedy="Ask for a smaller model or a compressed study, or raise max_upload_mb on purpose.",
        )
    limit = memory_limit(policy)
    if asked.memory_bytes > limit:
        raise PlanRefused(
            reason=f"with the {asked.images:,} images here it takes {asked.memory_bytes / 1e9:.1f} GB of "
            f"memory or more; {limit / 1e9:.1f} GB is the most here",
            remedy="Ask for smaller images or batches, take a larger machine, or set memory_gb in node.json.",
        )


def _within_cap(study: Study, price: Cost, policy: Policy) -> None:
    counted = price.epsilon_joint if policy.count_joint_noise else price.epsilon_local
    if counted <= policy.epsilon_cap:
        return
    remedy = "Ask for more noise or fewer rounds, or raise epsilon_cap in node.json on purpose."
    noise = policy_of(study)
    if noise.counts_on_others and not policy.count_joint_noise:
        remedy = (
            f"With the others' noise: {price.epsilon_joint:.2f}. Set count_joint_noise in node.json if "
            f"you trust that {noise.evaluation_sharers} hospitals add theirs. Or raise epsilon_cap."
        )
    raise PlanRefused(
        reason=f"it costs epsilon {rounded_up(counted):g} at delta {price.delta:.3g}; "
        f"the cap here is {policy.epsilon_cap:g}",
        remedy=remedy,
    )


def binding(plan: Plan, offer: PlanOffer) -> None:
    """Whether most data owners have signed exactly this plan. Raises: NotApproved."""
    check_approvals(plan, dict(offer.approvals))


def declared_patients(count: int, largest: int) -> int:
    """What is proposed to the operator as the number of patients: those there are, rounded to tens.

    The operator confirms it or gives another one when approving the plan. From then on it is a public
    constant for the plan's life, whatever becomes of the data: the divisor of the noised sum, and the weight.
    """
    return min(max(ROUNDING, round(count / ROUNDING) * ROUNDING), largest)
