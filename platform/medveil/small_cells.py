"""Groups that are too small to be shown, and what else must not be shown lest they be found by subtraction.

Applied where a sum is opened, before anything of it is stored. Without noise the sums are exact: a group of
three patients shows what the model says of three people, so nothing of it is kept. The column's other groups
and the total are shown, and whoever subtracts them has the sums of all that is left: the groups that are
hidden and the patients who are in none, together. So as many groups are hidden with a small one as it takes
until those left are as many patients as a group must have, or nobody.

Single hospitals, where a study shows them, are treated as the groups of one more column.

With noise nothing has to be hidden for privacy: the noise protects each patient in every sum and difference.
A group whose noised count is small is left out all the same, for its figures would be noise; no other is.

Source: primary and complementary suppression as in Hundepool et al., Statistical Disclosure Control, 2012.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from medveil.parts import ALL, columns, part_of, slots
from medveil.study import Study
from medveil.tasks import TASKS, Sums


def without_small(study: Study, sums: Sums) -> Sums:
    """What may be stored and published of an opened sum: without the groups that are too small.

    Args:
        sums: as :func:`medveil.metrics.released` lists them.
    Guarantees: without noise, of each column, what is hidden and who is in no group are together nobody, or
        ``smallest_group`` patients or more. The total is never touched.
    """
    each = [*columns(study).values(), slots(sums)]
    hidden = {part for groups in each for part in _hidden(study, sums, groups)}
    return {name: values for name, values in sums.items() if not any(name.endswith(part) for part in hidden)}


def _hidden(study: Study, sums: Sums, groups: tuple[str, ...]) -> set[str]:
    least = study.evaluation.smallest_group
    counts = {part: patients_in(study, part_of(sums, part)) for part in groups}
    small = {part for part, count in counts.items() if count < least}
    if study.privacy.kind != "none":
        return small
    left = patients_in(study, part_of(sums, ALL)) - sum(n for part, n in counts.items() if part not in small)
    for part in sorted(counts.keys() - small, key=lambda one: (counts[one], groups.index(one))):
        if left == 0 or left >= least:
            break
        small.add(part)
        left += counts[part]
    return small


def patients_in(study: Study, of: Mapping[str, NDArray[Any]]) -> float:
    """Patients in one part of an opened sum; by their noised count where there is noise."""
    if "patients" in of:
        return float(of["patients"][0])
    return TASKS[study.task].noised_counts(study, of, 0.0)["patients"]
