"""An attempt that has ended, as the spans of its trace: the whole, its phases, unmasking and publishing."""

from __future__ import annotations

from typing import get_args

from medveil.reports import AttemptReport
from medveil.rounds import AttemptKey
from medveil.tracing import Name, Span

NAMES = frozenset(get_args(Name))


def spans_of(plan: str, report: AttemptReport, *, ended: float) -> list[Span]:
    """The aggregator's spans of one attempt.

    Phases follow each other without a gap; ``publish`` is what is left after the unmasking.

    Args:
        ended: Unix seconds.
    """
    key = AttemptKey(plan, report.round, report.attempt)
    began = at = ended - report.seconds
    told: dict[str, str | int] = {
        "kind": report.kind.value,
        "outcome": report.outcome,
        "advertised": len(report.advertised),
        "committed": len(report.committed),
        "survivors": len(report.survivors),
    }
    reason = "" if report.done else report.reason or "unknown"
    spans = [Span(key, "round", began, ended, told | ({"reason": reason} if reason else {}), failed=reason)]
    for phase, seconds in report.phases.items():
        if phase in NAMES:
            spans.append(Span(key, phase, at, min(ended, at + seconds)))  # type: ignore[arg-type]
            at = min(ended, at + seconds)
    if report.done:
        spans.append(Span(key, "publish", at, ended))
    return spans
