"""``medveil research audit``: what a study's own code gives away about a patient, beside what it states."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medveil_research.audit import Progress


def audit(
    study: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The study.toml to measure.")],
    canaries: Annotated[
        int | None, typer.Option(min=64, help="Made-up patients; as many as the epsilon wants without it.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write an HTML page.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures as JSON.")] = None,
) -> None:
    """Measure epsilon on made-up patients through the node's own code. Exit status 1 above what is stated."""
    from medveil.shown import Screen
    from medveil.study import read_study
    from medveil_research import audit as measured
    from medveil_research import audit_report

    read, screen = read_study(study), Screen()
    with screen.live() as live:
        clock = _Clock()
        live.show([("self-check", "the node's own training and evaluation, on made-up patients")])
        findings = measured.audit(read, canaries=canaries, tell=lambda done: live.show(clock.rows(done)))
    audit_report.show(screen, read, findings)
    if json_file:
        text = json.dumps(audit_report.as_document(read, findings), indent=2)
        json_file.write_text(text + "\n", encoding="utf-8")
    if output:
        audit_report.write_page(read, findings, output)
        screen.say(f"written  {output}")
    audit_report.require_kept(findings)


class _Clock:
    """How fast each part goes, and how long it will take."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}

    def rows(self, done: Progress) -> list[tuple[str, str]]:
        from medveil_research.words import in_seconds

        now = time.monotonic()
        begun, before = self._begun.setdefault(done.part, (now, done.done))
        text = f"{done.done:,} of {done.total:,} {done.unit}"
        if done.done > before and now > begun:
            rate = (done.done - before) / (now - begun)
            text += f", {rate:.3g} a second, {in_seconds((done.total - done.done) / rate)} left"
        return [(done.part, text)]
