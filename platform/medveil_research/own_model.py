"""A hospital's own model of a study with personal weights, out of its node's folder, for its own use."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from hospital_node.journal import Journal
from hospital_node.lineage import load_version, version_path
from hospital_node.personal import LABEL, PersonalWeights
from hospital_node.settings import Node
from medveil.errors import Error
from medveil.files import replace_durably
from medveil.identity import Identity
from medveil.parent import STUDY, WEIGHTS
from medveil.plan import Plan
from medveil.study import Study
from medveil.tensors import Float32, to_safetensors
from medveil_research.fetching import TargetExists
from medveil_research.study_file import to_toml


class NoOwnModel(Error):
    """A node's folder holds no model of the hospital's own that was asked for."""

    code = "no-own-model"

    def __init__(self, *, problem: str) -> None:
        super().__init__(
            what=f"There is no model of this hospital's own: {problem}.",
            meaning="Nothing was written.",
            remedy="'medveil node lineage' lists the plans of this node and how far each has come.",
        )


@dataclass(frozen=True)
class OwnModel:
    """The newest version that a node has made, with its own weights."""

    study: Study
    """Without personal weights: nothing is missing from this model."""
    weights: Float32 = field(repr=False)
    round: int
    """The last whose sum has this hospital: its own weights are from there."""


def own_model(node: Node, wanted: str) -> OwnModel:
    """What this hospital has of a plan.

    Args: wanted: the study's name, or the first digits (8 or more) of the plan's hash.
    Raises: NoOwnModel.
    """
    with closing(Journal(node.journal)) as journal:
        approved = [plan for plan, _ in journal.approved()]
    plan = _chosen([p for p in approved if p.study.model.personal], wanted)
    version = load_version(version_path(node.models, plan), plan.study)
    if version is None or version.summed == 0:
        raise NoOwnModel(problem="no sum of this plan has its update so far")
    identity = Identity.load(node.settings.name, node.key)
    kept = PersonalWeights(node.models, plan, identity.secret_for(LABEL))
    weights = kept.whole(version.vector, version.summed)
    if weights is version.vector:
        raise NoOwnModel(problem="its own weights are not on its disk, or are damaged")
    model = plan.study.model.model_copy(update={"personal": ()})
    return OwnModel(plan.study.model_copy(update={"model": model}), weights, version.summed)


def _chosen(plans: list[Plan], wanted: str) -> Plan:
    found = [p for p in plans if p.study.name == wanted or (len(wanted) >= 8 and p.id.startswith(wanted))]
    if not found:
        raise NoOwnModel(problem="no approved plan of that name or hash has weights that stay here")
    if len({p.lineage for p in found}) > 1:
        raise NoOwnModel(problem="several plans have that name; say the first digits of the plan's hash")
    return max(found, key=lambda p: p.epoch)


def write_own(found: OwnModel, target: Path) -> None:
    """Write ``study.toml`` and ``model.safetensors``, for this user alone. Raises: TargetExists."""
    write_model(found.study, found.weights, target)


def write_model(study: Study, weights: Float32, target: Path) -> None:
    """As :func:`write_own`, of any model that stays in the house. Raises: TargetExists."""
    if target.exists() or target.is_symlink():
        raise TargetExists(path=target)
    target.mkdir(mode=0o700, parents=True)
    content = to_safetensors(weights, study.model.tensors)
    replace_durably(target / WEIGHTS, content, private=True)
    replace_durably(target / STUDY, to_toml(study).encode(), private=True)
