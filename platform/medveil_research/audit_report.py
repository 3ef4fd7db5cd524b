"""What an audit found, in a terminal, as JSON and as one HTML page."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medveil.errors import Error
from medveil.shown import Screen, Words, fault, good, strong
from medveil.study import Study
from medveil_research.audit_bounds import CONFIDENCE, DEVIATIONS, Finding, Fit
from medveil_research.report import base
from medveil_research.words import number, plain
from privacy.dp.policy import policy_of

NAMES = {"train": "training", "test": "evaluation"}
PATIENTS = {"train": "Training patients", "test": "Test patients"}


class AuditViolated(Error):
    """An audit measured more than the study promises."""

    code = "audit-violated"

    def __init__(self, *, split: str, found: float, claim: float) -> None:
        super().__init__(
            what=f"The audit of '{split}' measured epsilon {found:.3g} where the study states {claim:g}.",
            meaning="Patients lose more privacy than they were promised; the code does not do what it says.",
            remedy="Do not run the study with this version; report it with the file that --json writes.",
        )


def require_kept(findings: Sequence[Finding]) -> None:
    """Raises: AuditViolated for the first finding that contradicts its claim."""
    for one in findings:
        if one.violated:
            found = max(one.bound, one.fit.low)
            raise AuditViolated(split=one.split, found=found, claim=one.claim)


def show(screen: Screen, study: Study, findings: Sequence[Finding]) -> None:
    """The findings beside the claim."""
    policy = policy_of(study)
    stated = f"epsilon {policy.epsilon:g} at delta {plain(policy.delta)} for each patient"
    told: list[tuple[Words, Words]] = [("stated", stated)]
    if policy.counts_on_others:
        whose = "all" if policy.sharers > 1 else "test"
        told.append(
            ("counted on", f"the noise of {policy.evaluation_sharers} hospitals, for {whose} patients")
        )
    screen.fields(told, width=16)
    for one in findings:
        mark = fault if one.violated else good
        rows: list[tuple[Words, Words]] = [
            (strong(NAMES[one.split]), mark("above what is stated" if one.violated else "not above it")),
            ("  fitted", f"{one.fit.epsilon:.2f}, likely {one.fit.low:.2f} – {one.fit.high:.2f}"),
            ("  at least", f"{one.bound:.2f} with {100 * CONFIDENCE:g} % certainty"),
            ("  bounds", f"one run {one.one_run:.2f}, threshold {one.threshold:.2f}"),
            ("  mu", f"{one.fit.mu:.3f} ± {one.fit.error:.3f}; {one.theory:.3f} by the noise"),
            ("  canaries", f"{one.canaries:,} in {one.runs} run{'s' * (one.runs != 1)}"),
        ]  # fmt: skip
        screen.fields(rows, width=16)


def as_document(study: Study, findings: Sequence[Finding]) -> dict[str, Any]:
    """All figures, for a program; infinite ones as null."""
    policy = policy_of(study)

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(part) for key, part in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "medveil": importlib.metadata.version("medveil"),
        "study": study.name,
        "study_hash": study.hash.hex(),
        "epsilon": policy.epsilon,
        "delta": policy.delta,
        "confidence": CONFIDENCE,
        "kept": not any(one.violated for one in findings),
        "findings": [
            finite(asdict(one)) | {"bound": finite(one.bound), "violated": one.violated} for one in findings
        ],
    }


def write_page(study: Study, findings: Sequence[Finding], path: Path) -> None:
    """One HTML file without script or network, in the look of the evaluation report."""
    base.write_page(render(study, findings), path)


def render(study: Study, findings: Sequence[Finding]) -> str:
    """The page as HTML text; equal findings give equal text."""
    return base.render_page(
        "audit.html.j2",
        study=study,
        policy=policy_of(study),
        findings=findings,
        patients=PATIENTS,
        kept=not any(one.violated for one in findings),
        bars=[bar_of(one, scale=_scale(findings)) for one in findings],
        confidence=CONFIDENCE,
        deviations=DEVIATIONS,
        figure=in_figures,
        likely=likely,
    )


def in_figures(value: float, digits: int = 2) -> str:
    """A figure with a fixed number of digits; one that nothing limits as infinity."""
    return number(value, digits) if math.isfinite(value) else "∞"


def likely(fit: Fit) -> str:
    """Where epsilon likely lies, in figures."""
    ends = dict.fromkeys((in_figures(fit.low), in_figures(fit.high)))
    return " – ".join(ends)


@dataclass(frozen=True)
class Bar:
    """A finding on one line; all places in per cent of its width, from epsilon 0."""

    claim: float
    low: float
    best: float
    high: float
    bound: float


def bar_of(one: Finding, *, scale: float) -> Bar:
    """Args: scale: epsilon at the end of the line; what lies beyond it ends there."""

    def place(value: float) -> float:
        return round(100 * min(value / scale, 1.0), 2)

    return Bar(
        claim=place(one.claim),
        low=place(one.fit.low),
        best=place(one.fit.epsilon),
        high=place(one.fit.high),
        bound=place(one.bound),
    )


def _scale(findings: Sequence[Finding]) -> float:
    """A little more than everything that is finite, the same for all findings."""
    values = [v for one in findings for v in (one.claim, one.fit.epsilon, one.fit.high, one.bound)]
    return 1.1 * max(v for v in values if math.isfinite(v))
