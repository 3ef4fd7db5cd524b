"""What a study has cost, and what it will have cost at its end, from its attempts of late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from aggregator.watching.values import Cost, Traffic
from medveil.bounds import STORED
from medveil.plan import Plan
from medveil.reports import AttemptReport
from medveil.rounds import RoundKind
from medveil.study import Study


@dataclass(frozen=True)
class Epsilons:
    """What rounds cost each patient."""

    local: float
    joint: float


Account = Callable[[Study, int | None], Epsilons]
"""What the first so many training rounds of a study cost, or all of it with the evaluation (None)."""


def exact(study: Study, rounds: int | None) -> Epsilons:
    """By the accountant, which takes some 70 MB and, for a new schedule, a second or two."""
    return _reckoned(study.model_dump_json(), rounds)


@lru_cache(256)
def _reckoned(study: str, rounds: int | None) -> Epsilons:
    from privacy.dp.policy import cost

    found = cost(Study.model_validate_json(study, context=STORED), rounds=rounds)
    return Epsilons(local=found.epsilon_local, joint=found.epsilon_joint)


def cost_of(
    plan: Plan,
    reports: Sequence[AttemptReport],
    *,
    ended: int,
    trained: int,
    evaluated: bool,
    account: Account | None,
    over: bool = False,
) -> Cost:
    """What a study has cost.

    Args:
        reports: its newest attempts. ended: how many attempts have.
        trained: training rounds that made a version. evaluated: whether the last evaluation has its sum.
        account: None where no accountant may run.
        over: whether no round comes any more, whatever was planned.
    """
    rounds = plan.study.training.rounds
    train = [r for r in reports if r.done and r.kind is RoundKind.TRAIN]
    a_round = sum(r.seconds for r in train) / len(train) if train else None
    left = 0 if over else max(0, rounds - trained) + (0 if evaluated else 1)
    up, down = Counter[str](), Counter[str]()
    for report in reports:
        up.update(report.bytes_up)
        down.update(report.bytes_down)
    scale = ended / len(reports) if reports else 0.0
    moved = sum(up.values()) + sum(down.values())
    spent = _spent(plan.study, reports, trained, evaluated, account)
    if over:
        spent |= {f"{kind}_at_end": spent[kind] for kind in ("joint", "local") if kind in spent}
    return Cost(
        privacy=plan.study.privacy.kind,
        seconds_per_round=a_round,
        seconds=sum(r.seconds for r in reports) * scale,
        seconds_left=None if a_round is None else a_round * left,
        traffic=tuple(_traffic(name, reports) for name in plan.names),
        bytes=moved * scale,
        bytes_left=None if not train else left * sum(map(_moved, train)) / len(train),
        estimated=ended > len(reports),
        **spent,
    )


def _moved(report: AttemptReport) -> int:
    return sum(report.bytes_up.values()) + sum(report.bytes_down.values())


def _traffic(name: str, reports: Sequence[AttemptReport]) -> Traffic:
    mine = [r for r in reports if name in r.bytes_up or name in r.bytes_down]
    count = max(1, len(mine))
    return Traffic(
        hospital=name,
        bytes_up=sum(r.bytes_up.get(name, 0) for r in mine) / count,
        bytes_down=sum(r.bytes_down.get(name, 0) for r in mine) / count,
        rounds=len(mine),
    )


def _spent(
    study: Study, reports: Sequence[AttemptReport], trained: int, evaluated: bool, account: Account | None
) -> dict[str, float | None]:
    privacy = study.privacy
    if privacy.kind == "none":
        return {}
    told: dict[str, float | None] = {"delta": privacy.delta, "joint_at_end": privacy.epsilon}
    if account is not None:
        end = account(study, None)
        so_far = end if evaluated else account(study, trained) if trained else Epsilons(0.0, 0.0)
        return told | {
            "joint": so_far.joint,
            "joint_at_end": end.joint,
            "local": so_far.local,
            "local_at_end": end.local,
        }
    spent = next((r.epsilon for r in reports if r.epsilon is not None), None if trained else 0.0)
    told["joint"] = privacy.epsilon if evaluated else spent
    if not privacy.counts_on_others:  # so both are the same
        told |= {"local": told["joint"], "local_at_end": privacy.epsilon}
    return told
