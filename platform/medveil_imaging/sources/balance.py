"""How patients are spread over splits and classes, and what of that a study could stumble over."""

from __future__ import annotations

from collections.abc import Mapping

from medveil.study import LEAST_DECLARED

FEW = 50
"""Below, sqrt(d) / (mu n) is near one half and more, for the d = 1,217 weights of ``wavelet_head`` and the mu
of about 1.6 that epsilon 8 is at delta 1e-5: the noise of all full-batch steps against the longest signal."""

Patients = Mapping[str, Mapping[str, int]]
"""Split → class → patients with at least one image of it; the class "" where there are none."""


def doubts(patients: Patients, totals: Mapping[str, int]) -> list[str]:
    """What an operator should think about before a study begins, in sentences.

    Args:
        patients: by split and class.
        totals: patients by split; one who has images of two classes counts once.
    """
    found = []
    classes = sorted({name for by_class in patients.values() for name in by_class} - {""})
    for split, meaning in (
        ("train", "nothing can be trained"),
        ("test", "nothing is measured here"),
    ):
        if not totals.get(split):
            found.append(f"No patient is in {split}: {meaning}.")
    if len(classes) == 1:
        found.append(
            f"All patients are of one class, {classes[0]}: this site alone cannot learn the difference."
        )
    for split, meaning in (("train", "learned from no image here"), ("test", "measured on no image here")):
        absent = [name for name in classes if not patients.get(split, {}).get(name)]
        if absent and totals.get(split) and len(classes) > 1:
            found.append(f"No {split} patient is of the class {', '.join(absent)}: it is {meaning}.")
    count = totals.get("train", 0)
    if 0 < count < LEAST_DECLARED:
        found.append(
            f"{_patients(count)} few: a study with noise counts a hospital as {LEAST_DECLARED} at "
            "least, and noise that hides one of so few hides what is learned as well."
        )
    elif 0 < count < FEW:
        found.append(
            f"{_patients(count)} few for a study with this hospital's own noise: below {FEW} "
            "even the smallest network learns more noise than it should. Joint noise, which hospitals share, "
            "is less."
        )
    return found


def _patients(count: int) -> str:
    return "1 training patient is" if count == 1 else f"{count} training patients are"
