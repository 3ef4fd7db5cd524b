"""What an audit measures of shipped recipes, of each mechanism of privacy, and of faults that are planted.

``--write FILE`` puts the figures into the section "What an audit measures" of docs/dp-benchmarks.md; the rest
of that page is by dp.py, which leaves this section as it is. ``--only NAME`` measures one row, and the page
keeps its others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
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
from privacy.dp.policy import Split
from rows import Row, arguments, publish

TITLE = "## What an audit measures"
CLOSE = 1.1
"""Fitted epsilon over the stated one, at most."""
FILMS = {"task": "classification", "profile": "xray", "patients_hint": 200}
VOLUMES = {"task": "segmentation", "profile": "mri", "patients_hint": 200}
HIPPOCAMPUS = {**VOLUMES, "model": "hippocampus_head", "classes": ("background", "anterior", "posterior")}
RECIPES: dict[str, dict[str, Any]] = {
    "films, local, epsilon 8": {**FILMS, "privacy": "local", "epsilon": 8.0, "hospitals": 5},
    "films, local, epsilon 1": {**FILMS, "privacy": "local", "epsilon": 1.0, "hospitals": 5},
    "films, joint, epsilon 3": {**FILMS, "privacy": "joint", "epsilon": 3.0, "hospitals": 5},
    "volumes, local, epsilon 8": {**VOLUMES, "privacy": "local", "epsilon": 8.0, "hospitals": 5},
    "hippocampus, local, epsilon 8": {**HIPPOCAMPUS, "privacy": "local", "epsilon": 8.0, "hospitals": 4},
    "hippocampus, joint, epsilon 3": {**HIPPOCAMPUS, "privacy": "joint", "epsilon": 3.0, "hospitals": 4},
}
LOCAL = {**FILMS, "privacy": "local", "epsilon": 3.0, "hospitals": 5}
JOINT = {**LOCAL, "privacy": "joint"}
ALONE = ", against everybody"
MECHANISMS: dict[str, tuple[dict[str, Any], tuple[Split, ...]]] = {
    "matched noise": ({**LOCAL, "matched": True}, (Split.TRAIN,)),
    "a filter for each patient": ({**LOCAL, "patient_use": 0.3}, (Split.TRAIN,)),
    "squared weights": ({**LOCAL, "weights": "squared"}, (Split.TRAIN,)),
    "discrete noise, local": ({**LOCAL, "noise": "discrete"}, (Split.TRAIN, Split.TEST)),
    "discrete noise, joint": ({**JOINT, "noise": "discrete"}, (Split.TRAIN, Split.TEST)),
    "figures of shared noise": ({**LOCAL, "share_figures": True}, (Split.TEST,)),
    f"figures of shared noise{ALONE}": ({**LOCAL, "share_figures": True}, (Split.TEST,)),
}
"""By name: a study of films at epsilon 3 with it, and whose patients are measured."""
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
CHECK = "self-check"
"""The row of what it costs."""
NETWORKS: dict[str, dict[str, Any]] = {
    "wavelet_head 64x64": FILMS,
    "small_cnn 64x64": {**FILMS, "model": "small_cnn"},
    "densenet121 64x64": {**FILMS, "model": "densenet121"},
    "position_head 48x64x48": VOLUMES,
    "unet3d 48x64x48": {**VOLUMES, "model": "unet3d"},
    "segresnet3d 48x64x48": {**VOLUMES, "model": "segresnet3d"},
}


@dataclass(frozen=True)
class Measured:
    """One audit of one study."""

    name: str
    findings: tuple[Finding, ...]
    seconds: float
    checked: str = ""
    """What the self-check says of the fault."""


def study_of(wanted: Mapping[str, Any]) -> Study:
    """A shipped recipe's whole schedule."""
    return new_study(StudyOptions(name="audited", anyway=True, **wanted))[0]


def recipe_or_mechanism(name: str, canaries: int | None) -> Measured:
    """An audit with its wall time, the self-check within."""
    wanted, splits = MECHANISMS.get(name, (RECIPES.get(name), (Split.TRAIN, Split.TEST)))
    assert wanted is not None
    study, begun = study_of(wanted), time.perf_counter()
    findings = audit.audit(study, canaries=canaries, splits=splits, alone=name.endswith(ALONE))
    return Measured(name, findings, time.perf_counter() - begun)


def with_fault(name: str, canaries: int | None) -> Measured:
    """The self-check's word on a fault, and what an audit measures if it is not asked."""
    study, begun = study_of(RECIPES["films, local, epsilon 8"]), time.perf_counter()
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, *FAULTS[name])
        word = "passes"
        try:
            checks.self_check(study, build_model(study))
        except NotSafe as refusal:
            word = f"refuses (`{refusal.check}`)"
        patch.setattr(audit, "require_safe", lambda *_: None)
        findings = audit.audit(study, canaries=canaries or CANARIES, splits=(Split.TRAIN,))
        return Measured(name, findings, time.perf_counter() - begun, word)


def check_seconds() -> dict[str, float]:
    """What the self-check costs for a study of each kind."""
    found: dict[str, float] = {}
    for name, wanted in NETWORKS.items():
        study, _ = new_study(
            StudyOptions(name="checked", privacy="local", hospitals=5, anyway=True, **wanted)
        )
        module, begun = build_model(study), time.perf_counter()
        checks.self_check(study, module)
        found[name] = time.perf_counter() - begun
    return found


INTRODUCTION = f"""{TITLE}

Written by `python tests/benchmarks/privacy_audit.py --write docs/dp-benchmarks.md`, one thread; one row alone
by `--only NAME`. `fitted`: two Gaussians, with 3 standard errors to either side; `of stated`: fitted over
stated epsilon, at most {CLOSE}. The two bounds hold together with 95 %. Seconds are of the wall, on a shared
machine, for both rows of a study.
Where the learning rate falls, the update of the last round weighs its steps unequally and shows a little less
than all steps would: 1.5 % of mu with ten rounds. What whole steps of a lane hide is not shown either.
Each row stands as it was last measured.
"""
COLUMNS = (
    "| patients of | stated | fitted | likely | of stated | one run | threshold | mu | by the noise "
    "| canaries | s |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)
EACH = """
Each mechanism by itself, in a study of films at epsilon 3 among five hospitals:
"""
PLANTED = f"""
With a fault planted in the product's own source (films, local, epsilon 8; {CANARIES:,} canaries), what the
self-check says, and what an audit that does not ask it measures in training:

| fault | self-check | fitted | likely | at least | verdict of the audit |
|---|---|---|---|---|---|"""
COST = """
An audit cannot see that a key is a counter, nor, where everybody is in every step, when coins are tossed.

What the whole self-check costs once for a study (network as it is shipped, volumes cut down):

| network | s |
|---|---|"""


def section(rows: Mapping[str, list[str]]) -> str:
    """The section in Markdown.

    Args:
        rows: by what they are of; what is missing was not measured.
    """
    lines = [INTRODUCTION, f"| recipe {COLUMNS}"]
    for names, then in ((RECIPES, EACH), (MECHANISMS, PLANTED), (FAULTS, COST), (NETWORKS, "")):
        lines += [line for name in names for line in rows.get(name, [])]
        lines += [then, f"| mechanism {COLUMNS}"] if names is RECIPES else [then]
    return "\n".join(lines)


def lines_of(one: Measured) -> list[str]:
    """Rows of the section."""
    if one.checked:
        train = one.findings[0]
        verdict = "violated" if train.violated else "not seen"
        likely = f"{train.fit.low:.2f} – {train.fit.high:.2f}"
        found = f"{train.fit.epsilon:.2f} | {likely} | {train.bound:.2f}"
        return [f"| {one.name} | {one.checked} | {found} | {verdict} |"]
    return [
        f"| {one.name} | {f.split} | {f.claim:g} | {f.fit.epsilon:.2f} | {f.fit.low:.2f} – {f.fit.high:.2f} "
        f"| {f.fit.epsilon / f.claim:.3f} | {f.one_run:.2f} | {f.threshold:.2f} "
        f"| {f.fit.mu:.3f} ± {f.fit.error:.3f} | {f.theory:.3f} | {f.canaries:,} | {one.seconds:.0f} |"
        for f in one.findings
    ]


def known_rows(page: str) -> dict[str, list[str]]:
    """The rows that a page has, by their first cell."""
    found: dict[str, list[str]] = {}
    for line in page.partition(TITLE)[2].splitlines():
        if line.startswith("| "):
            found.setdefault(line[2:].partition(" |")[0], []).append(line)
    return found


def put(file: Path, rows: Mapping[str, list[str]]) -> None:
    """Write the section, with the rows that it has of what was not measured again."""
    page = file.read_text(encoding="utf-8") if file.exists() else ""
    before = page.partition(TITLE)[0].rstrip("\n")
    file.write_text(before + "\n\n" + section(known_rows(page) | rows), encoding="utf-8")


def figures(one: Measured) -> list[Row]:
    """What must hold of it."""
    if one.checked:
        return [
            Row(
                f"{one.name}: caught", float("refuses" in one.checked or one.findings[0].violated), "", ">= 1"
            )
        ]
    return [
        Row(f"{one.name}, {f.split}: fitted over stated", f.fit.epsilon / f.claim, "x", f"<= {CLOSE}")
        for f in one.findings
    ]


def main() -> None:
    """Run, print, write: row after row, so that what was measured stays if a later one is stopped."""
    parser = arguments(__doc__)
    parser.add_argument("--write", type=Path, help="put the section into this Markdown file")
    parser.add_argument("--only", choices=[*RECIPES, *MECHANISMS, *FAULTS, CHECK], help="one row")
    parser.add_argument("--canaries", type=int, help="fewer or more of them than a row wants")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in [given.only] if given.only else [*RECIPES, *MECHANISMS, *FAULTS, CHECK]:
        if name == CHECK:
            seconds = check_seconds()
            rows += [Row(f"self-check, {network}", spent, "s") for network, spent in seconds.items()]
            lines = {network: [f"| {network} | {spent:.1f} |"] for network, spent in seconds.items()}
        else:
            one = (with_fault if name in FAULTS else recipe_or_mechanism)(name, given.canaries)
            rows += figures(one)
            lines = {name: lines_of(one)}
        print("\n".join(line for of in lines.values() for line in of), file=sys.stderr, flush=True)
        if given.write is not None:
            put(given.write, lines)
    publish(rows, given.json)


if __name__ == "__main__":
    main()
