"""What an audit found, in a terminal, as JSON and as one HTML page."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medveil.errors import Error
from medveil.files import replace_durably
from medveil.shown import Screen, Words, fault, good, strong
from medveil.study import Study
from medveil_research.audit_bounds import CONFIDENCE, DEVIATIONS, Finding
from medveil_research.drawing import ACCENT, INK, MUTED, SECOND, Drawing, canvas, to_svg
from medveil_research.words import number, plain
from privacy.dp.policy import policy_of

NAMES = {"train": "training", "test": "evaluation"}


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
    screen.fields([("stated", stated)], width=16)
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
    page = render(study, findings)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, page.encode())


def render(study: Study, findings: Sequence[Finding]) -> str:
    """The page as HTML text; equal findings give equal text."""
    environment = Environment(
        loader=PackageLoader("medveil_research"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "plain": plain}
    return environment.get_template("audit.html.j2").render(
        study=study,
        policy=policy_of(study),
        findings=findings,
        names=NAMES,
        kept=not any(one.violated for one in findings),
        drawing=draw(findings),
        confidence=CONFIDENCE,
        deviations=DEVIATIONS,
        version=importlib.metadata.version("medveil"),
    )


def draw(findings: Sequence[Finding]) -> Drawing:
    """Claim, fit and lower bounds of each finding on one line."""
    title = "Stated and measured"
    text = "; ".join(
        f"{one.split}: stated {one.claim:g}, fitted {one.fit.epsilon:.2f} ({one.fit.low:.2f} to "
        f"{one.fit.high:.2f}), at least {one.bound:.2f}"
        for one in findings
    )
    with canvas(1.1 + 0.75 * len(findings)) as figure:
        axes = figure.subplots()
        for row, one in enumerate(findings):
            seen = [v for v in (one.fit.low, one.fit.high) if math.isfinite(v)]
            axes.plot([0, one.bound], [row, row], "-", color=MUTED, linewidth=5, alpha=0.5)
            axes.plot([one.bound], [row], "|", color=INK, markersize=14)
            axes.plot(seen, [row] * len(seen), "-", color=SECOND if one.violated else ACCENT, linewidth=2.5)
            axes.plot([one.fit.epsilon], [row], "o", color=SECOND if one.violated else ACCENT)
            axes.plot([one.claim, one.claim], [row - 0.35, row + 0.35], "--", color=INK, linewidth=1.6)
            axes.annotate(
                f"stated {one.claim:g}", (one.claim, row - 0.38), ha="center", va="bottom", fontsize=9
            )
        axes.set_yticks(range(len(findings)), [one.split for one in findings])
        axes.set_ylim(len(findings) - 0.5, -0.8)
        axes.set_xlim(left=0)
        axes.set_xlabel("epsilon")
        axes.grid(axis="y", visible=False)
        return Drawing(
            title=title,
            how_to_read=(
                "The dashed line is what the study states. The dot is the estimate from the canaries, the "
                "line through it where the truth likely lies. The grey bar ends at what an attacker reached "
                "for certain: it may lie far below, never above the dashed line."
            ),
            description=text,
            svg=to_svg(figure, "audit", title, text),
        )
