"""The columns that tell patients' groups: what the operator should know of them before a study counts.

A manifest need not have them. Whoever they say nothing of is counted among all patients and in no group, so
nothing here refuses a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medveil.groups import ELSEWHERE, Groups
from medveil.study import Study
from medveil_imaging.sources.findings import Findings
from medveil_imaging.sources.header import Header
from medveil_imaging.sources.raw import Problem

MANIFEST = "manifest.csv"


def find_groups(header: Header, study: Study, places: Mapping[str, int], findings: Findings) -> None:
    """Tell of each column that the study makes groups of and the manifest lacks.

    Args:
        places: the columns that were found.
    """
    for name, groups in sorted(study.evaluation.groups.items()):
        if groups.column not in places:
            problem = Problem(
                MANIFEST,
                None,
                "missing-groups",
                f"There is no column {groups.column}: all patients here count as unknown in the study's "
                f"groups '{name}'. The hospital takes part all the same.{header.meant(groups.column)}",
                f"Add the column, if it is known here: {_wanted(groups)}.",
                "warning",
            )
            findings.add(problem)


def check_groups(told: Sequence[Mapping[str, str]], study: Study, findings: Findings) -> None:
    """Tell of columns whose cells say something that is none of the declared groups."""
    for name, groups in sorted(study.evaluation.groups.items()):
        strange = sum(line.get(name) == ELSEWHERE for line in told)
        if strange:
            problem = Problem(
                MANIFEST,
                None,
                "unknown-groups",
                f"{strange} of {len(told)} line(s) say in the column {groups.column} what is none of the "
                f"study's groups '{name}'; their patients are in none of them.",
                f"Where another group is meant, write it as the study does: {_wanted(groups)}.",
                "warning",
            )
            findings.add(problem)


def _wanted(groups: Groups) -> str:
    if groups.values:
        return ", ".join(groups.values)
    return f"a number from {groups.edges[0]:g} to {groups.edges[-1]:g}"
