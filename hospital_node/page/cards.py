"""A plan on offer as its operator reads it, and how it differs from the one that was approved last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hospital_node.demand import demand_of
from hospital_node.operator import Standing
from hospital_node.page.values import Card, ChangedRoster, Difference, Trouble
from hospital_node.roster_changes import Change
from hospital_node.settings import NodeSettings
from hospital_node.views import plan_rows
from medveil.ids import fingerprint
from medveil.plan import Member, Plan
from medveil.shown import Words, plain
from medveil.spoken import words_of
from medveil.study import Study
from privacy.dp.policy import Split, cost
from privacy.secagg.rosters import smallest_sum

DESCRIPTION = 2000
"""Most characters of what a study's author says."""


def card_of(one: Standing, settings: NodeSettings, change: Change | None = None) -> Card:
    """A plan and where it stands, for its operator; of an amended one also what it changes."""
    plan, study = one.plan, one.plan.study
    privacy, asked, before = study.privacy, demand_of(plan, settings), one.before
    private, found = privacy.kind != "none", one.patients
    return Card(
        plan=plan.id,
        words=words_of(plan.hash),
        study=study.name,
        description=plain(study.description, DESCRIPTION) if study.description else "",
        task=study.task,
        classes=tuple(plain(name, 60) for name in study.classes),
        profile=study.transforms.profile,
        model=plain(study.model.name),
        parameters=study.trained_weights,
        rounds=study.training.rounds,
        hospitals=tuple(plain(member.name) for member in plan.roster),
        smallest_sum=study.cohort.min_hospitals,
        resisted=study.secure_aggregation.colluders,
        privacy=privacy.kind,
        discrete=privacy.kind != "none" and privacy.noise == "discrete",
        epsilon=privacy.epsilon if privacy.kind != "none" else 0.0,
        alone=cost(study).epsilon_local if privacy.counts_on_others else 0.0,
        delta=privacy.delta if privacy.kind != "none" else 0.0,
        cap=settings.policy.epsilon_cap if private else 0.0,
        upload_bytes=asked.upload_bytes,
        evaluation_bytes=asked.evaluation_bytes,
        longest_hours=asked.longest_hours,
        memory_bytes=asked.memory_bytes,
        own_figures=study.evaluation.per_site,
        squared=study.secure_aggregation.weights == "squared",
        matched=privacy.kind != "none" and privacy.matched,
        filtered=privacy.kind != "none" and privacy.patient_mu is not None,
        starts_from="" if study.model.parent is None else plain(study.model.parent.words),
        patients={} if found is None else {split.value: found.cohort.count(split) for split in Split},
        left_out=0 if found is None else found.moved,
        elsewhere=0 if found is None else found.elsewhere,
        declared=0 if found is None else found.declared,
        stands=one.stands.value,
        approvals=one.approvals,
        approvals_needed=plan.approvals_needed,
        word="" if one.word is None else plain(one.word.reason),
        refusal=None if one.refusal is None else Trouble.of(one.refusal),
        since="" if before is None else before.study.name,
        differences=() if before is None else tuple(differences(before, plan)),
        roster=None if change is None else changed_roster(change),
        terms=tuple((_text(a), _text(b)) for a, b in plan_rows(plan, settings, known=one.parent_known)),
    )


def changed_roster(change: Change) -> ChangedRoster:
    """Who joins and leaves by an amended plan, and what that costs whom."""
    plan, before, roster, paid = change.plan, change.plan.before, change.roster, change.paid
    assert before is not None  # a change has one

    def named(members: Iterable[Member]) -> tuple[tuple[str, str], ...]:
        return tuple((plain(one.name), fingerprint(one.key)) for one in members)

    return ChangedRoster(
        epoch=plan.epoch,
        first_round=change.first_round if not roster.stays else plan.first_round,
        joins=named(roster.joined),
        leaves=named(roster.left),
        stay=len(plan.roster) - len(roster.joined),
        hospitals=len(plan.roster),
        hospitals_before=len(before.roster),
        smallest_sum=smallest_sum(plan),
        smallest_sum_before=smallest_sum(before),
        stays=roster.stays,
        spent=None if paid is None else (paid.so_far, paid.at_the_end),
        alone=None if paid is None else (paid.so_far_alone, paid.at_the_end_alone),
    )


def _private(study: Study) -> tuple[str, str]:
    privacy = study.privacy
    return ("—", "—") if privacy.kind == "none" else (f"{privacy.epsilon:g}", f"{privacy.delta:g}")


ITEMS: dict[str, Callable[[Plan], str]] = {
    "rounds": lambda p: f"{p.study.training.rounds:,}",
    "noise": lambda p: p.study.privacy.kind,
    "epsilon": lambda p: _private(p.study)[0],
    "delta": lambda p: _private(p.study)[1],
    "hospitals": lambda p: ", ".join(plain(member.name) for member in p.roster),
    "smallest-sum": lambda p: str(p.study.cohort.min_hospitals),
    "colluders": lambda p: str(p.study.secure_aggregation.colluders),
    "task": lambda p: p.study.task,
    "classes": lambda p: ", ".join(plain(name, 60) for name in p.study.classes),
    "model": lambda p: f"{plain(p.study.model.name)}, {p.study.trained_weights:,}",
    "images": lambda p: f"{p.study.transforms.profile}, {' × '.join(map(str, p.study.transforms.size))}",
    "work": lambda p: _work(p.study),
    "own-figures": lambda p: "✓" if p.study.evaluation.per_site else "—",
}
"""What is compared: key of the catalogue → the item in a plan's own words."""


def differences(before: Plan, now: Plan) -> Iterator[Difference]:
    """What a person would ask about; every other term is in the fold below, whole."""
    for item, told in ITEMS.items():
        if told(before) != told(now):
            yield Difference(item, told(before), told(now))


def _work(study: Study) -> str:
    training = study.training
    steps = training.local_steps or 0
    unit = f"{steps:,} ×" if steps else f"{training.local_epochs or 0} ×"
    return f"{unit} {training.batch_images:,}, {training.optimizer} {training.learning_rate:g}"


def _text(words: Words) -> str:
    return words if isinstance(words, str) else words.plain
