"""What the operator's commands show: values of :mod:`hospital_node.operator` and its like in plain words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from hospital_node.settings import NodeSettings, Policy
from medveil.groups import VALUE_NAME
from medveil.ids import fingerprint
from medveil.noise_policies import NoPrivacy
from medveil.parent import Parent
from medveil.plan import Plan
from medveil.shown import Screen, Words, fault, good, plain, strong, warn
from medveil.spoken import spoken, words_of
from medveil.study import Study, Transforms

if TYPE_CHECKING:
    from hospital_node.cohort import Cohort
    from hospital_node.demand import Demand
    from hospital_node.evidence import OwnModel, SeenLog
    from hospital_node.operator import Frozen, Patients, Standing, Unreadable

Row = tuple[Words, Words]
WIDTH = 10
"""Of the labels."""
DESCRIPTION = 2000


def fingerprint_rows(plan: Plan) -> list[Row]:
    """The one name of a plan, wherever it is named: twelve words, and the same as a number."""
    words = words_of(plan.hash)
    half = len(words) // 2
    return [
        ("words", strong(" ".join(words[:half]))),
        ("", strong(" ".join(words[half:]))),
        ("hash", plan.id),
    ]


def show_plan(
    screen: Screen,
    one: Standing,
    settings: NodeSettings,
    *,
    changed: Iterable[Row] = (),
    only_changed: bool = False,
) -> None:
    """A plan in plain words: what, with whom, who could see what, at what price, and where it stands.

    Args:
        changed: of an amended plan: what it changes.
        only_changed: this hospital has approved the rest already.
    """
    plan = one.plan
    screen.say(strong(plan.study.name))
    whole = fingerprint_rows(plan) if only_changed else plan_rows(plan, settings, known=one.parent_known)
    screen.fields([*whole, *changed], width=WIDTH, indent=2)
    if one.before is not None and not only_changed:
        screen.fields(changed_rows(one.before, plan, settings), width=WIDTH, indent=2)
    if one.patients is not None:
        screen.fields(_patients_rows(one.patients, plan.study), width=WIDTH, indent=2)
    screen.fields([_standing_row(one)], width=WIDTH, indent=2)
    screen.say()


def show_unreadable(screen: Screen, one: Unreadable) -> None:
    """An offer that is no plan: which one, and why."""
    screen.say(strong(f"Offer {one.number}"))
    refusal = one.refusal
    screen.fields(
        [(fault("refused"), f"{plain(refusal.what)} (code {plain(refusal.code, 60)})")], width=WIDTH, indent=2
    )
    screen.say()


def show_outdated(screen: Screen, found: dict[str, str]) -> None:
    """Approved plans that this version does not work on any more."""
    for plan, problem in found.items():
        screen.say(strong("Approved with an earlier version, refused by this one"))
        rows: list[Row] = [("words", spoken(bytes.fromhex(plan))), (fault("refused"), plain(problem))]
        screen.fields([*rows, ("", "Ask the admin for a new plan.")], width=WIDTH, indent=2)
        screen.say()


def plan_rows(plan: Plan, settings: NodeSettings, *, known: bool = False) -> Iterator[Row]:
    """Everything that an approval binds this hospital to, a label and a text a row.

    Args:
        known: whether this hospital approved the plan that made the model it starts from.
    """
    from hospital_node.demand import demand_of

    study = plan.study
    yield from fingerprint_rows(plan)
    if study.description:
        yield "its author", f"says: {plain(study.description, DESCRIPTION)}"
    yield from _learning(study)
    yield from _start(study.model.parent, known=known)
    asked = demand_of(plan, settings)
    yield "leaves", _leaving(study, asked)
    yield from _groups(study)
    yield from _persons(study)
    yield from _privacy(study, settings)
    for member in plan.roster:
        own = "  (here)" if member.name == settings.name else ""
        yield "with", f"{plain(member.name)}  key {fingerprint(member.key)}{own}"
    yield from _who_could_see(plan)
    yield from _asking(study, asked, settings)
    yield from _own_limits(settings.policy)


NOT_COMPARED = ("words", "hash")


def changed_rows(before: Plan, now: Plan, settings: NodeSettings) -> Iterator[Row]:
    """What is another in a plan than in the last one of its name that this hospital approved: only that."""
    old, new = _by_label(before, settings), _by_label(now, settings)
    yield "compared", f"with the plan of this name that was approved here last, {spoken(before.hash)}"
    same = True
    for label in dict.fromkeys([*old, *new]):
        gone = [line for line in old.get(label, []) if line not in new.get(label, [])]
        come = [line for line in new.get(label, []) if line not in old.get(label, [])]
        for mark, lines in (("was", gone), ("now", come)):
            same = same and not lines
            for line in lines:
                yield warn(mark), f"{label}: {line}"
    if same:
        yield "", "nothing that an approval binds this hospital to has changed but its initial model"


def _by_label(plan: Plan, settings: NodeSettings) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    label = ""
    for name, words in plan_rows(plan, settings):
        label = str(name) or label
        if label not in NOT_COMPARED:
            found.setdefault(label, []).append(str(words))
    return found


def _learning(study: Study) -> Iterator[Row]:
    training = study.training
    classes = ", ".join(plain(name, 60) for name in study.classes)
    yield (
        "learns",
        f"{study.task} ({classes}) with {plain(study.model.name)}, {study.trained_weights:,} parameters",
    )
    if training.local_steps is not None:
        unit = _counted(training.local_steps, "step")
    else:
        unit = (
            f"{_counted(training.local_epochs or 0, 'epoch')} in batches of {training.batch_images:,} images"
        )
    options = ", ".join(f"{plain(name, 40)} {value:g}" for name, value in study.strategy.options.items())
    kind = plain(study.strategy.name) + (f" ({options})" if options else "")
    yield (
        "work",
        (
            f"{_counted(training.rounds, 'round')} of {unit} and a final evaluation, "
            f"up to {_counted(study.attempts, 'attempt')} each; {training.optimizer}, learning rate "
            f"{training.learning_rate:g}, strategy {kind}"
        ),
    )
    size = " x ".join(str(edge) for edge in study.transforms.size)
    unit = "pixels" if len(study.transforms.size) == 2 else "voxels"
    yield "images", f"{study.transforms.profile}, brought to {size} {unit}{_cut(study.transforms)}"


def _start(parent: Parent | None, *, known: bool) -> Iterator[Row]:
    """What the study goes on from, and what that means for patients who were in it."""
    if parent is None:
        return
    yield (
        "starts",
        f"from {warn(parent.words) if parent.epsilon is None else parent.words} (its author says so)",
    )
    if known:
        yield "", "this hospital was in that study: who was in both pays for both, in this node's ledger"
    else:
        yield "", "this hospital was not in that study; whoever has patients in both counts both"


def _cut(transforms: Transforms) -> str:
    """What else an image is made of."""
    parts = [f"channels {', '.join(transforms.channels)}"] if transforms.channels else []
    if transforms.slices:
        bounds = transforms.slices
        each = "every slice" if bounds.every == 1 else f"one slice in {bounds.every}"
        parts.append(f"{each} from {bounds.low:.0%} to {bounds.high:.0%} of the height")
    return "".join(f"; {part}" for part in parts)


def _leaving(study: Study, asked: Demand) -> str:
    from privacy.dp.grid import largest_number

    noised = "" if study.privacy.kind == "none" else "noised "
    when = "round 1" if study.mean_rounds == 1 else f"rounds 1 to {study.mean_rounds}"
    mean = f", in {when} the {noised}mean of the patients' features" if study.centred else ""
    clip, size = largest_number(study), study.model.tensors.size
    part = ""
    if study.shared is not None:
        part = (
            f"; {size - study.uploaded:,} weights of the model's {size:,} are this hospital's own "
            f"({_names(study.model.personal)}): they stay here, sealed"
        )
    if study.compression is not None:
        part = (
            f"; a round sends {study.uploaded:,} numbers of an update's {size:,}, the rest stays here, "
            "sealed, for later rounds"
        )
    return (
        f"masked sums only: model updates and evaluation counts{mean}; {_bytes(asked.upload_bytes)} a round, "
        f"{_bytes(asked.evaluation_bytes)} for the evaluation; no number of an update larger than {clip:g}"
        f"{part}"
    )


def _names(tensors: tuple[str, ...], most: int = 4) -> str:
    shown = ", ".join(plain(name, 60) for name in tensors[:most])
    return shown if len(tensors) <= most else f"{shown} and {len(tensors) - most} more"


def _groups(study: Study) -> Iterator[Row]:
    """Of whom the final evaluation has figures beside those of all patients."""
    declared = study.evaluation.groups
    for place, (name, groups) in enumerate(sorted(declared.items())):
        label = "" if place else "groups"
        kinds = ", ".join(plain(one, VALUE_NAME) for one in groups.names)
        yield label, f"test patients by {plain(name)}, from the column {plain(groups.column, 60)}: {kinds}"
    if study.evaluation.per_site:
        text = "your hospital's own figures will be visible to all who may read this study"
        yield (
            warn("your own"),
            f"{text}, unless it has fewer than {study.evaluation.smallest_group} test patients",
        )
    if declared:
        least = study.evaluation.smallest_group
        yield "", f"figures of each group over all hospitals together; none of fewer than {least} patients"


def noise_words(multipliers: Sequence[float]) -> str:
    """The noise of a schedule: one number, or from where to where it goes."""
    return " to ".join(dict.fromkeys(f"{one:.4g}" for one in (min(multipliers), max(multipliers))))


def _privacy(study: Study, settings: NodeSettings) -> Iterator[Row]:
    from privacy.dp.policy import cost, study_events

    privacy = study.privacy
    if isinstance(privacy, NoPrivacy):
        yield "privacy", strong("none: the sum of all hospitals is not noised")
        return
    yield (
        "privacy",
        (
            f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g} per patient; "
            f"the cap here is {settings.policy.epsilon_cap:g}"
        ),
    )
    limit = settings.policy.delta_limit()
    if limit < privacy.delta:
        counted = cost(study, delta=limit)
        here = counted.epsilon_joint if settings.policy.count_joint_noise else counted.epsilon_local
        yield (
            "",
            warn(f"that delta is large: at {limit:g}, where this hospital counts, epsilon is {here:.2f}"),
        )
    noises = ", ".join(
        f"{split.value} {noise_words([event.noise_multiplier for event in events])} x "
        f"{sum(event.steps for event in events)}"
        for split, events in study_events(study).items()
    )
    yield "", f"own noise and releases by patients: {noises}"
    if privacy.noise == "discrete":
        yield "", "exact discrete noise: whole numbers, from each patient's share to what leaves"
    if privacy.patient_mu is not None:
        yield "", "each patient pays what its gradients are long, and adds nothing when the price is reached;"
        yield "", "what single patients have paid stays here, and is for nobody's eyes"
    if privacy.matched:
        yield "", "less noise in rounds that count more in the final model, for the same price in all"
    if study.secure_aggregation.weights == "squared":
        yield "", "hospitals count by the square of their declared patients: the large ones for more"
    if privacy.despite_noise:
        yield "", warn("its author insists: the noise exceeds what can be learned")
    if privacy.counts_on_others:
        price = cost(study, sharers=privacy.evaluation_sharers - 1)
        what = "counts" if privacy.kind == "joint" else "the figures of val and test patients count"
        yield (
            "",
            (
                f"{what} on the noise of {privacy.honest_hospitals} hospitals; epsilon "
                f"{price.epsilon_joint:.2f} if one of them does not keep its noise to itself, "
                f"{price.epsilon_local:.2f} if no other hospital adds its own"
            ),
        )


def _who_could_see(plan: Plan) -> Iterator[Row]:
    """From whom this hospital's update is hidden, exactly as far as the protocol proves it.

    Up to ``colluders`` of the others with a lying aggregator get sums over ``min_hospitals`` hospitals only
    (privacy/secagg/keys.py). One more may answer twice, and the thresholds do not count it in. And whoever
    holds all other updates of a sum subtracts them: the smallest sum has min_hospitals - 1 others.
    """
    study = plan.study
    least, resisted, all_of = study.cohort.min_hospitals, study.secure_aggregation.colluders, len(plan.roster)
    yield (
        "sums",
        (
            f"each over {'all' if least == all_of else f'{least} to {all_of}'} of these {all_of} hospitals; "
            f"the plan starts when {plan.approvals_needed} have approved"
        ),
    )
    friends = (
        "alone, even if it lies,"
        if resisted == 0
        else (f"and any {resisted} of the others together, even if they lie,")
    )
    yield (
        "hidden",
        (
            f"the aggregator {friends} cannot see this hospital's update: "
            f"only sums of {least} hospitals or more"
        ),
    )
    held = {
        "none": "as it is",
        "local": "with this hospital's noise on it",
        "joint": "with this hospital's share of the noise on it",
    }[study.privacy.kind]
    text = f"any {least - 1} of the others together can see it, {held}, after a sum of {least}"
    if resisted + 1 < least - 1:
        text += f"; any {resisted + 1} may, if the aggregator lies and works with them"
    yield warn("not hidden"), text


def _asking(study: Study, asked: Demand, settings: NodeSettings) -> Iterator[Row]:
    from hospital_node.demand import memory_limit

    times, limit = study.deadlines, memory_limit(settings.policy)
    yield (
        "memory",
        (
            f"{asked.memory_bytes / 1e9:.1f} GB or more with the {asked.images:,} images here; "
            f"the limit here is {limit / 1e9:.1f} GB; what a small network keeps of a batch (about "
            f"{_bytes(asked.network_bytes)}) comes on top, on the GPU if there is one"
        ),
    )
    yield (
        "time",
        (
            f"{asked.steps:,} steps in all, at this machine's speed; {asked.longest_hours:,.1f} hours at the "
            f"longest: in a round {_hours(times.train_s)} to train, {_hours(times.upload_s)} to send, "
            f"{_hours(times.advertise_s)}, {_hours(times.share_s)}, {_hours(times.agree_s)} and "
            f"{_hours(times.unmask_s)} for the steps between"
        ),
    )


def _own_limits(policy: Policy) -> Iterator[Row]:
    """What this hospital's policy says of when and how it would be done."""
    parts = []
    if policy.hours is not None:
        parts.append(f"joins rounds from {policy.hours[:5]} to {policy.hours[6:]} only")
    if policy.upload_bytes_per_s is not None:
        parts.append(f"sends at most {_bytes(policy.upload_bytes_per_s)} a second")
    if not policy.gpu:
        parts.append("uses no GPU")
    elif policy.gpu_memory_share is not None:
        parts.append(f"takes {policy.gpu_memory_share:.0%} of the GPU's memory")
    if parts:
        yield "here", f"this hospital {'; '.join(parts)} (medveil node policy)"


def _persons(study: Study) -> Iterator[Row]:
    """Whether somebody may be in two hospitals of it."""
    if study.cohort.persons is not None:
        file = fingerprint(bytes.fromhex(study.cohort.persons))
        yield (
            "persons",
            f"each in one hospital only, by the persons file {file}: who is in another one as well, or not "
            "known to be here alone, is left out here (medveil node persons)",
        )


def _patients_rows(found: Patients, study: Study) -> Iterator[Row]:
    """Whom an approval freezes, and the number that it declares."""
    yield "patients", f"in the images folder: {_by_split(found.cohort)}"
    if found.moved:
        yield "", warn(f"{found.moved} of them are left out: an earlier study met them in another split")
    if found.elsewhere:
        yield "", warn(f"{found.elsewhere} of them are left out: not known to be this hospital's alone")
    for_life = "the divisor of the noised sum" if study.privacy.kind != "none" else "nothing is divided by it"
    yield (
        "declares",
        (
            f"{found.declared} training patients, as a constant for the plan's life: {for_life}, and the "
            "weight in plans that weigh by it. Another number: --patients N"
        ),
    )


def _by_split(cohort: Cohort) -> str:
    from privacy.dp.policy import Split

    return ", ".join(f"{cohort.count(split)} {split.value}" for split in Split)


def cohort_rows(one: Frozen) -> Iterator[Row]:
    """What was frozen for a plan, and what has changed."""
    yield from fingerprint_rows(one.plan)
    if one.cohort is None or one.part is None:
        why = (
            "nothing: approved with an earlier version" if one.part is None else "its file is gone or altered"
        )
        yield "frozen", fault(why)
        return
    yield "frozen", _by_split(one.cohort)
    yield "declared", str(one.part.declared)
    yield "folder", warn(one.changes) if one.changes else good("unchanged")


def _standing_row(one: Standing) -> Row:
    from hospital_node.operator import Stands

    plan, missing = one.plan, max(0, one.plan.approvals_needed - one.approvals)
    rounds = plan.study.training.rounds + 1
    if one.word is not None and one.refusal is None:
        day = time.strftime("%Y-%m-%d", time.localtime(one.word.at))
        return (
            warn(one.word.kind),
            f"by this hospital on {day}: {plain(one.word.reason)} It sends nothing for it. To take part "
            "after all: medveil node approve WORDS",
        )
    if one.refusal is not None:
        return fault("refused"), f"{plain(one.refusal.what)} {plain(one.refusal.remedy)}"
    if one.stands is Stands.ALLOWED:
        return good("allowed"), "approve with: medveil node approve WORDS"
    if one.stands is Stands.FINISHED:
        return "finished", "approved here; the study is over"
    if one.stands is Stands.RUNNING:
        return "running", f"approved here; this node has come to round {one.round} of {rounds}"
    waits = f"waits for {missing} more" if missing else "enough have approved"
    return (
        "approved",
        f"by this hospital; {waits}. A running node ('medveil node run') hands it in and works on it",
    )


def show_own_model(screen: Screen, one: OwnModel) -> None:
    """How far this node's own copy of a plan's model has come, and what it has refused."""
    own = "none yet" if one.version is None else f"version {one.version}, {one.model}"
    rows = [*fingerprint_rows(one.plan), ("own model", own)]
    if one.alarm is not None:
        rows += [
            (fault("ALARM"), f"{plain(one.alarm.reason)} (code {one.alarm.code})"),
            ("", f"own version {one.alarm.version}  {one.alarm.computed}"),
            ("", f"named model    {one.alarm.claimed}"),
        ]
    told = "its masked vector is out, and its sum neither published nor given up"
    rows += [("waits for", f"attempt {attempt}: {told}") for attempt in one.waits_for]
    screen.say(strong(one.plan.study.name))
    screen.fields(rows, width=WIDTH, indent=2)


def show_seen_log(screen: Screen, seen: SeenLog) -> None:
    """What this node has seen of the aggregator's audit log, and whether it was ever contradicted."""
    newest, alarm = seen.newest, seen.alarm
    if newest is None:
        screen.say("No head of the aggregator's audit log has been seen yet.")
    else:
        screen.say(f"newest head  {newest.number}:{newest.hash.hex()}   ({seen.kept} kept)")
        pinned = fingerprint(newest.key) if newest.key else f"{newest.about}   (accepted, not seen yet)"
        screen.say(f"admin key    fingerprint {pinned}")
    for when, words in seen.key_history:
        screen.say(f"             {time.strftime('%Y-%m-%d', time.localtime(when))}  {words}")
    if alarm is not None:
        screen.say(fault("ALARM"), f"       {alarm.about}")
        if alarm.hash:
            screen.say(f"             shown  {alarm.number}:{alarm.hash.hex()}")
            screen.say(f"             signed with a key of fingerprint {fingerprint(alarm.key)}")


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} bytes"


def _hours(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.3g} s"
