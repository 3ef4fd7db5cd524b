"""What an audit measures of the shipped recipes, and of four of them with a fault planted.

``--write FILE`` puts the figures into the section "What an audit measures" of docs/dp-benchmarks.md; the rest
of that page is by dp.py, which leaves this section as it is.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import pytest
import torch

from hospital_node.training import checks, optimizer, run
from hospital_node.training.safety import NotSafe
from medveil.study import Study
from medveil_imaging.models import build_model
from medveil_research import audit
from medveil_research.audit_bounds import Finding
from medveil_research.studies import StudyOptions, new_study
from planting import plant
from privacy.dp.noise import NoiseSource
from rows import Row, arguments, publish

TITLE = "## What an audit measures"
CLOSE = 1.1
"""Fitted epsilon over the stated one, at most."""
FILMS = {"task": "classification", "profile": "xray", "patients_hint": 200}
VOLUMES = {"task": "segmentation", "profile": "mri", "patients_hint": 200}
RECIPES: dict[str, dict[str, Any]] = {
    "films, local, epsilon 8": {**FILMS, "privacy": "local", "epsilon": 8.0, "hospitals": 5},
    "films, local, epsilon 1": {**FILMS, "privacy": "local", "epsilon": 1.0, "hospitals": 5},
    "films, joint, epsilon 3": {**FILMS, "privacy": "joint", "epsilon": 3.0, "hospitals": 5},
    "volumes, local, epsilon 8": {**VOLUMES, "privacy": "local", "epsilon": 8.0, "hospitals": 5},
}
GIVEN = "self._noise.gaussian(len(piece), scale)"
LOOP = "taken(chosen, seen, most_bytes=piece)"
DRAW = "draw(patients, policy, noise)"
IMAGES = f"([Drawn(i[None], one.labels[:1]) for one in p for i in one.images] for p in {LOOP})"
FAULTS: dict[str, tuple[Any, str, str, str]] = {
    "noise / sqrt 2": (optimizer.PatientOptimizer, "add_noise", GIVEN, f"{GIVEN} / 2**0.5"),
    "every image a patient": (run, "_train_private", LOOP, IMAGES),
    "keys from a counter": (
        NoiseSource,
        "fresh",
        "secrets.token_bytes(KEY_BYTES)",
        "globals().__setitem__('N', globals().get('N', 0) + 1) or N.to_bytes(32)",
    ),
    "coins once a round": (run, "_train_private", DRAW, f"(once if step else (once := {DRAW}))"),
}
CANARIES = 8192


@dataclass(frozen=True)
class Measured:
    """One audit of one study."""

    name: str
    findings: tuple[Finding, ...]
    seconds: float
    checked: str = ""
    """What the self-check says of the fault."""


def study_of(name: str) -> Study:
    """The recipe's whole schedule."""
    return new_study(StudyOptions(name="audited", anyway=True, **RECIPES[name]))[0]


def measured(name: str, study: Study, canaries: int | None = None, checked: str = "") -> Measured:
    """An audit with its wall time, the self-check within."""
    begun = time.perf_counter()
    findings = audit.audit(study, canaries=canaries)
    return Measured(name, findings, time.perf_counter() - begun, checked)


def with_fault(name: str) -> Measured:
    """The self-check's word on a fault, and what an audit measures if it is not asked."""
    study = study_of("films, local, epsilon 8")
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, *FAULTS[name])
        word = "passes"
        try:
            checks.self_check(study, build_model(study))
        except NotSafe as refusal:
            word = f"refuses (`{refusal.check}`)"
        patch.setattr(audit, "require_safe", lambda *_: None)
        return measured(name, study, CANARIES, word)


def check_seconds() -> dict[str, float]:
    """What the self-check costs for a study of each kind."""
    found: dict[str, float] = {}
    options: dict[str, dict[str, Any]] = {
        "wavelet_head 64x64": FILMS,
        "small_cnn 64x64": {**FILMS, "model": "small_cnn"},
        "densenet121 64x64": {**FILMS, "model": "densenet121"},
        "position_head 48x64x48": VOLUMES,
        "unet3d 48x64x48": {**VOLUMES, "model": "unet3d"},
        "segresnet3d 48x64x48": {**VOLUMES, "model": "segresnet3d"},
    }
    for name, wanted in options.items():
        study, _ = new_study(
            StudyOptions(name="checked", privacy="local", hospitals=5, anyway=True, **wanted)
        )
        module, begun = build_model(study), time.perf_counter()
        checks.self_check(study, module)
        found[name] = time.perf_counter() - begun
    return found


def section(recipes: list[Measured], faults: list[Measured], seconds: dict[str, float]) -> str:
    """The section in Markdown."""
    lines = [
        TITLE,
        "",
        "Written by `python tests/benchmarks/privacy_audit.py --write docs/dp-benchmarks.md`, one thread.",
        "`fitted`: two Gaussians, with 3 standard errors to either side; the two bounds hold together with",
        "95 %. Seconds are of the wall, on a shared machine, for both rows of a recipe.",
        "Where the learning rate falls, the update of the last round weighs its steps unequally and shows a",
        "little less than all steps would: 1.5 % of mu with ten rounds.",
        "",
        "| recipe | patients of | stated | fitted | likely | one run | threshold | mu | by the noise "
        "| canaries | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row for one in recipes for row in _rows(one)]
    lines += [
        "",
        f"With a fault planted in the product's own source (films, local, epsilon 8; {CANARIES:,} canaries),",
        "what the self-check says, and what an audit that does not ask it measures in training:",
        "",
        "| fault | self-check | fitted | likely | at least | verdict of the audit |",
        "|---|---|---|---|---|---|",
    ]
    for one in faults:
        train = one.findings[0]
        verdict = "violated" if train.violated else "not seen"
        likely = f"{train.fit.low:.2f} – {train.fit.high:.2f}"
        found = f"{train.fit.epsilon:.2f} | {likely} | {train.bound:.2f}"
        lines.append(f"| {one.name} | {one.checked} | {found} | {verdict} |")
    lines += [
        "",
        "An audit cannot see that a key is a counter, nor, where everybody is in every step, when coins are",
        "tossed.",
        "",
        "What the whole self-check costs once for a study (network as it is shipped, volumes cut down):",
        "",
        "| network | s |",
        "|---|---|",
        *(f"| {name} | {spent:.1f} |" for name, spent in seconds.items()),
        "",
    ]
    return "\n".join(lines)


def _rows(one: Measured) -> list[str]:
    return [
        f"| {one.name} | {f.split} | {f.claim:g} | {f.fit.epsilon:.2f} | {f.fit.low:.2f} – {f.fit.high:.2f} "
        f"| {f.one_run:.2f} | {f.threshold:.2f} | {f.fit.mu:.3f} ± {f.fit.error:.3f} | {f.theory:.3f} "
        f"| {f.canaries:,} | {one.seconds:.0f} |"
        for f in one.findings
    ]


def put(file: Path, text: str) -> None:
    """Replace the section, or add it at the end."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(before.partition(TITLE)[0].rstrip("\n") + "\n\n" + text, encoding="utf-8")


def main() -> None:
    """Run, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--write", type=Path, help="put the section into this Markdown file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds = check_seconds()
    recipes = [measured(name, study_of(name)) for name in RECIPES]
    faults = [with_fault(name) for name in FAULTS]
    rows = [
        Row(f"{one.name}, {f.split}: fitted over stated", f.fit.epsilon / f.claim, "x", f"<= {CLOSE}")
        for one in recipes
        for f in one.findings
    ]
    rows += [
        Row(f"{one.name}: caught", float("refuses" in one.checked or one.findings[0].violated), "", ">= 1")
        for one in faults
    ]
    rows += [Row(f"self-check, {name}", spent, "s") for name, spent in seconds.items()]
    publish(rows, given.json)
    if given.write is not None:
        put(given.write, section(recipes, faults, seconds))


if __name__ == "__main__":
    main()
