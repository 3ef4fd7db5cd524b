"""The next study, from a version that a study here has published: the same choices, another start.

No file leaves this machine on the way. What a study is about, and its price, are the author's choice: whoever
wants another network, budget or number of rounds writes a study (``medveil study new --from``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aggregator.admin import NoPlan, add_plan, opened, plan_meant
from aggregator.settings import Settings
from aggregator.storage.open import open_blobs
from aggregator.storage.store import Store
from medveil.errors import BadFile, BadOption, Error
from medveil.ids import NAME
from medveil.parent import Parent
from medveil.plan import Plan
from medveil.rounds import ModelVersion
from medveil.shown import plain
from medveil.spoken import NotAFingerprint
from medveil.starts import FRESH_OF_TRAINED, fresh
from medveil.study import Study
from medveil.tensors import from_safetensors, largest_file, model_hash, to_safetensors

LEAST_DIGITS = 8
"""Of a version's hash, by which it may be named."""


class NoVersion(Error):
    """There is no published version to go on from."""

    code = "no-version"

    def __init__(self, *, typed: str, problem: str) -> None:
        super().__init__(
            what=f"A study cannot go on from '{plain(typed, 100)}': {problem}.",
            meaning="No plan was made.",
            remedy="Name a plan that has published a version, or the first digits of a version's hash: "
            "'medveil aggregator study status' shows both.",
        )


def create_next(
    settings: Settings,
    typed: str,
    name: str,
    hospitals: Sequence[str] = (),
    readers: Sequence[str] | None = (),
) -> Plan:
    """A plan for the same study once more, which starts from what it, or another one here, has published.

    Args:
        typed: the first digits of a version's hash, 8 or more; or a plan, as everywhere, for its newest one.
        name: of the new study; empty for the old one's with the next number behind it.
        hospitals: the roster; that of the plan before if empty. readers: as :func:`create_plan` takes them.
    Guarantees: the start is the version with a fresh part too small to matter, so that no hospital sends a
        second sum from one model; every other value but the name is the old study's.
    Raises: NoPlan, NoVersion, BadOption, NoHospitals, AlreadyThere, UnknownPerson, StorageFailed.
    """
    with opened(settings) as store:
        plan, version = _version_meant(store, typed)
        study = plan.study
        with open_blobs(settings.folder, settings.blobs).open_model(version.model) as file:
            vector = from_safetensors(file.read(largest_file(study.model.tensors)), study.model.tensors)
        if model_hash(vector, study.model.tensors).hex() != version.model:
            raise BadFile(name=f"version {version.model[:16]}", problem="it is not what was published")
        start = fresh(study.model.tensors, vector, most=FRESH_OF_TRAINED)
        content = study.model_dump()
        content["name"] = _new_name(store, name, study.name)
        content["model"] |= {
            "initial_model": model_hash(start, study.model.tensors).hex(),
            "parent": _parent(plan, version),
        }
        following = Study.model_validate(content)
        initial = to_safetensors(start, study.model.tensors)
        return add_plan(settings, store, following, initial, hospitals or plan.names, readers)


def _version_meant(store: Store, typed: str) -> tuple[Plan, ModelVersion]:
    """Raises: NoPlan, NoVersion."""
    start, plans = typed.strip().lower(), {plan.id: plan for plan, _, _ in store.plans.all()}
    if re.fullmatch(f"[0-9a-f]{{{LEAST_DIGITS},64}}", start):
        found = [(p, v) for p in plans.values() for v, _ in store.plans.versions(p.id, first=1)]
        found = [(plan, version) for plan, version in found if version.model.startswith(start)]
        if len(found) > 1:
            raise NoVersion(typed=typed, problem=f"{len(found)} versions begin so")
        if found:
            return found[0]
    try:
        plan = plans[plan_meant(store, typed)]
    except (NoPlan, NotAFingerprint) as error:
        raise NoVersion(typed=typed, problem="no plan and no version goes by it, or more than one") from error
    newest = store.plans.newest_version(plan.id)
    if newest is None or newest.number == 0:
        raise NoVersion(typed=typed, problem="this plan has published no version yet")
    return plan, newest


def _new_name(store: Store, name: str, before: str) -> str:
    """Raises: BadOption."""
    taken = {plan.study.name for plan, _, _ in store.plans.all()}
    if name:
        if not NAME.fullmatch(name) or name in taken:
            why = (
                "is taken" if name in taken else "is no name; it takes lower case letters, digits and hyphens"
            )
            raise BadOption(problem=f"--name: '{plain(name, 60)}' {why}")
        return name
    stem, number = re.sub(r"-[0-9]{1,3}$", "", before)[:44], 2
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"


def _parent(plan: Plan, version: ModelVersion) -> Parent:
    privacy = plan.study.privacy
    return Parent(
        study=plan.study.name,
        plan=plan.id,
        number=version.number,
        model=version.model,
        epsilon=version.epsilon,
        delta=None if privacy.kind == "none" else privacy.delta,
    )
