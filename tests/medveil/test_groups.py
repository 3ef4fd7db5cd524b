"""Groups of patients: read from a cell, counted beside all patients, hidden where they are small."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medveil.groups import ELSEWHERE, Groups, agreed, told
from medveil.metrics import bounded, empty, layout, noise_scales, released, summarise
from medveil.parts import ALL, columns, in_round, part_of, parts, placed, widening
from medveil.readings import Reading, is_figure, named, read
from medveil.rounds import RoundKind
from medveil.small_cells import patients_in, without_small
from medveil.study import Study
from medveil.tasks import TASKS, Sums, zeros
from privacy.encoding import params_for
from privacy.metric_limits import can_add_up
from subjects import subject_of
from tries import tries
from world import make_study

SEX = {"column": "sex", "values": ("F", "M")}
AGE = {"column": "age", "edges": (0, 40, 65, 120)}
BOTH = {"sex": SEX, "age": AGE}
LOCAL = {
    "kind": "local",
    "clip_norm": 1.0,
    "noise_multiplier": 2.0,
    "evaluation_multiplier": 2.0,
    "epsilon": 5.0,
}
tasks = pytest.mark.parametrize("task", list(TASKS))


def study_of(task: str = "classification", *, private: bool = False, **evaluation: Any) -> Study:
    asked = {"evaluation": {"bins": 16, "images_per_patient": 3, "groups": BOTH} | evaluation}
    return make_study(**(subject_of(task) | asked | ({"privacy": LOCAL} if private else {})))


@pytest.mark.parametrize(
    ("groups", "cell", "group"),
    [
        (SEX, "F", "F"),
        (SEX, " f ", "F"),
        (SEX, "\uff26", "F"),  # as Japanese programs write it
        (SEX, "", None),
        (SEX, "n/a", None),
        (SEX, "Unknown", None),
        (SEX, "female", ELSEWHERE),
        (SEX, "FM", ELSEWHERE),
        ({"column": "s", "values": ("AP", "PA", "unknown")}, "Unknown", "unknown"),
        ({"column": "s", "values": ("Siemens Skyra", "other")}, "SIEMENS_SKYRA", "Siemens Skyra"),
        ({"column": "er", "values": ("ER+", "ER-")}, "er+", "ER+"),
        ({"column": "er", "values": ("ER+", "ER-")}, "er", ELSEWHERE),
        ({"column": "stage", "values": ("1", "2", "10")}, "01", "1"),
        ({"column": "stage", "values": ("1", "2", "10")}, "1.0", "1"),
        ({"column": "stage", "values": ("1", "2", "10")}, "10,0", "10"),
        ({"column": "stage", "values": ("1", "2", "10")}, "1.5", ELSEWHERE),
        (AGE, "39.9", "0 to 40"),
        (AGE, "40", "40 to 65"),
        (AGE, "64,5", "40 to 65"),
        (AGE, "120", "65 to 120"),
        (AGE, "045Y", "40 to 65"),
        (AGE, "121", ELSEWHERE),
        (AGE, "-1", ELSEWHERE),
        (AGE, "forty", ELSEWHERE),
        (AGE, "nan", None),
        ({"column": "volume", "edges": (0, 2, 5000)}, "1,234", ELSEWHERE),  # 1.234 or 1234
        ({"column": "volume", "edges": (0, 5000, 9000)}, "1,234", "0 to 5000"),
        ({"column": "t", "edges": (-10, 0, 10)}, "-3", "-10 to 0"),
        ({"column": "stage", "values": ("1", "2")}, "0" * 60_000 + "x", ELSEWHERE),
        (AGE, "0" * 60_000 + "x", ELSEWHERE),
    ],
)
def test_a_cell_says_its_group_however_a_spreadsheet_has_saved_it(
    groups: dict[str, Any], cell: str, group: str | None
) -> None:
    assert Groups.model_validate(groups).read(cell) == group


def test_a_patient_whose_lines_contradict_each_other_is_in_no_group_and_blank_cells_say_nothing() -> None:
    declared = {name: Groups.model_validate(each) for name, each in BOTH.items()}

    def groups(*lines: dict[str, str]) -> dict[str, str]:
        return agreed([told(declared, line) for line in lines])

    assert groups({"sex": "F", "age": "41"}, {"sex": "", "age": "42"}) == {"sex": "F", "age": "40 to 65"}
    assert groups({"sex": "F", "age": "39"}, {"sex": "M", "age": "40"}) == {}
    assert groups({"sex": "F"}, {"sex": "X"}) == {}
    assert groups({"age": "70"}) == {"age": "65 to 120"}
    assert groups() == groups({}) == {}


@pytest.mark.parametrize(
    ("groups", "complaint"),
    [
        ({"sex": {"column": "sex"}}, "either 'values' or 'edges'"),
        ({"sex": SEX | {"edges": (0, 1, 2)}}, "either 'values' or 'edges'"),
        ({"age": {"column": "age", "edges": (0, 40, 40)}}, "must rise"),
        ({"age": {"column": "age", "edges": (0, 40)}}, "two groups"),
        ({"sex": {"column": "sex", "values": ("F", "f")}}, "the same name"),
        ({"age": {"column": "age", "edges": (0, 1.00000001, 2)}}, "six digits"),
        ({"sex": {"column": "patient_id", "values": ("a", "b")}}, "must be the name of the column"),
        ({"sex": {"column": "sex", "values": ("F@x", "M")}}, "'@'"),
        ({"sex": {"column": "sex", "values": ("F\u202e", "M")}}, "cannot be shown"),
        ({"Sex": SEX}, "pattern"),
        ({f"c{n}": SEX for n in range(7)}, "at most 6"),
    ],
)
def test_groups_that_cannot_be_told_apart_are_refused(groups: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        make_study(evaluation={"groups": groups})


def test_more_counts_than_a_hospital_should_send_and_classes_that_look_like_groups_are_refused() -> None:
    with pytest.raises(ValidationError, match="groups and hospitals times the counts"):
        make_study(evaluation={"bins": 4096, "groups": {f"c{n}": AGE for n in range(6)}})
    with pytest.raises(ValidationError, match="no class may have '@'"):
        make_study(classes=("a@sex=F", "b"), evaluation={"groups": BOTH})


def test_a_study_without_groups_keeps_its_hash_and_the_order_in_a_file_does_not_count() -> None:
    plain = make_study().evaluation.model_dump(mode="json")
    assert plain.keys() == {"bins", "images_per_patient", "every_round"}
    assert "smallest_group" not in study_of().evaluation.model_dump()
    other = study_of(groups=dict(reversed(BOTH.items())))
    assert list(layout(other)) == list(layout(study_of()))
    again = Study.model_validate_json(other.model_dump_json())
    assert again.hash == other.hash == study_of().hash
    assert list(layout(again)) == list(layout(other))


def test_a_training_round_carries_no_groups() -> None:
    study, plain = study_of(), study_of(groups={})
    train, evaluate = (in_round(study, kind) for kind in (RoundKind.TRAIN, RoundKind.EVALUATE))
    assert released(train) == released(plain)
    assert len(released(evaluate)) == 6 * len(released(plain))
    assert params_for(study, RoundKind.TRAIN, 4) == params_for(plain, RoundKind.TRAIN, 4)
    words = params_for(plain, RoundKind.EVALUATE, 4).metrics
    assert params_for(study, RoundKind.EVALUATE, 4).metrics == 6 * words


def counted(study: Study, random: np.random.Generator) -> Sums:
    """Exact sums of a patient by chance, as a task may have counted them."""
    sums = zeros(TASKS[study.task].layout(study))
    sums["patients"][:] = 1
    images = int(random.integers(1, 4))
    if "images" in sums:
        sums["images"][:] = images
    for truth in random.integers(3, size=images if "positives/a" in sums else 0):
        for place, name in enumerate("abc"):
            side = "positives" if place == truth else "negatives"
            sums[f"{side}/{name}"][random.integers(16)] += 1
    for name, values in sums.items():
        if name.startswith("dice/"):
            values[:] = random.random()
            sums[name.replace("dice", "cases")][:] = 1
    if "target" in sums:
        target, predicted = random.random(2)
        sums["target"][:], sums["target_squared"][:], sums["predicted"][:] = target, target**2, predicted
        sums["absolute"][:], sums["squared"][:] = abs(target - predicted), (target - predicted) ** 2
    return sums


CHOICES: list[dict[str, str]] = [
    {name: group for name, group in (("sex", sex), ("age", age)) if group}
    for sex, age in product(("F", "M", ""), ("0 to 40", "65 to 120", ""))
]


@tasks
def test_no_patient_of_any_groups_has_a_share_above_one_and_one_of_all_columns_has_nearly_that(
    task: str,
) -> None:
    study, random, longest = study_of(task, private=True), np.random.default_rng(0), 0.0
    scales, alone = noise_scales(study), noise_scales(study_of(task, private=True, groups={}))
    assert widening(study) == math.sqrt(3)
    assert all(scales[name] == pytest.approx(math.sqrt(3) * scale) for name, scale in alone.items())
    for _ in range(40):
        for groups in CHOICES:
            share = bounded(study, placed(study, counted(study, random), groups))
            length = math.hypot(*(float(np.linalg.norm(v)) / scales[n] for n, v in share.items()))
            assert length <= 1 + 1e-9
            longest = max(longest, length)
    assert longest > 0.6
    assert bounded(study, empty(study)).keys() == released(study).keys()


@tasks
@pytest.mark.parametrize("private", [False, True])
def test_a_groups_figures_are_those_of_its_patients_alone(task: str, private: bool) -> None:
    study, plain = study_of(task, private=private), study_of(task, private=private, groups={})
    random, total = np.random.default_rng(1), zeros(released(study))
    alone = {part: zeros(released(plain)) for part in parts(study)}
    for number in range(36):
        groups = CHOICES[number % len(CHOICES)]
        one = counted(study, random)
        own = bounded(plain, one) if private else one
        share = placed(study, one, groups)
        for name, values in (bounded(study, share) if private else share).items():
            total[name] += values
        for part in (ALL, *(f"@{name}={group}" for name, group in groups.items())):
            for name, values in own.items():
                alone[part][name] += values
    assert can_add_up(study, total, hospitals=3)
    figures = summarise(study, total)
    for part, sums in alone.items():
        assert {n + part: v for n, v in summarise(plain, sums).items()} == {
            n: v for n, v in figures.items() if n.endswith(part) and ("@" in n) == bool(part)
        }
    assert figures["patients"] == 36
    assert figures["unknown@sex"] == figures["unknown@age"] == 12
    assert f"{TASKS[task].headline}@sex=F" in figures


def test_groups_that_are_together_more_than_all_patients_are_nobodys_sum() -> None:
    study, random = study_of(), np.random.default_rng(2)
    total = zeros(released(study))
    for name, values in placed(study, counted(study, random), {"sex": "F"}).items():
        total[name] += values
    assert can_add_up(study, total, hospitals=3)
    twice = total | {n.replace("@sex=F", "@sex=M"): v for n, v in total.items() if n.endswith("@sex=F")}
    assert not can_add_up(study, twice, hospitals=3)


def opened(study: Study, sex: tuple[int, int, int]) -> Sums:
    """An opened sum of so many patients F, M and neither; nobody's age is known."""
    total = zeros(released(study))
    random = np.random.default_rng(3)
    for group, count in zip(("F", "M", ""), sex, strict=True):
        for _ in range(count):
            one = placed(study, counted(study, random), {"sex": group} if group else {})
            for name, values in one.items():
                total[name] += values
    return total


@given(counts=st.lists(st.integers(0, 14), min_size=4, max_size=4), least=st.integers(5, 12))
@settings(max_examples=tries(60), deadline=None)
def test_nothing_that_is_published_shows_fewer_patients_than_a_group_must_have(
    counts: list[int], least: int
) -> None:
    """Neither a group's own sums nor what is left of the total when the shown groups are taken off."""
    study = study_of(groups={"age": AGE}, smallest_group=least)
    total = zeros(released(study))
    total["patients"][:] = sum(counts)
    for part, count in zip(columns(study)["age"], counts, strict=False):
        total[f"patients{part}"][:] = count
    kept = without_small(study, total)
    shown = [part_of(kept, part) for part in columns(study)["age"]]
    assert all(patients_in(study, one) >= least for one in shown if one)
    left = sum(counts) - sum(patients_in(study, one) for one in shown if one)
    assert left == 0 or left >= least or not any(shown)
    assert part_of(kept, ALL).keys() == part_of(total, ALL).keys()
    if all(count >= least for count in counts):
        assert kept.keys() == total.keys()


@pytest.mark.parametrize(
    ("sex", "shown"),
    [
        ((30, 20, 0), "FM"),
        ((30, 20, 12), "FM"),
        ((30, 10, 0), "FM"),
        ((30, 9, 0), ""),  # whoever takes F off the total has the nine
        ((30, 9, 1), "F"),  # ten are left together
        ((30, 20, 3), "F"),  # the three whose sex is unknown would be what is left
        ((30, 0, 0), "F"),  # nobody is left
        ((3, 2, 1), ""),
    ],
)
def test_a_small_group_goes_and_takes_another_one_along_that_it_would_be_found_by(
    sex: tuple[int, int, int], shown: str
) -> None:
    study = study_of()
    figures = summarise(study, without_small(study, opened(study, sex)))
    for group in "FM":
        names = {name for name in figures if name.endswith(f"@sex={group}")}
        assert bool(names) == (group in shown)
        assert (f"patients@sex={group}" in figures) == (group in shown)
    assert ("unknown@sex" in figures) == (shown == "FM")
    assert figures["patients"] == sum(sex)


def test_a_noised_group_is_left_out_by_its_own_noised_count_and_takes_no_other_along() -> None:
    study = study_of(private=True)
    total = zeros(released(study))
    for part, count in ((ALL, 90.0), ("@sex=F", 60.0), ("@sex=M", 9.4)):
        for name in ("a", "b", "c"):
            total[f"positives/{name}{part}"][10:12] = count / 4
            total[f"negatives/{name}{part}"][9:11] = count / 4
    figures = summarise(study, without_small(study, total), noise=0.02)
    assert figures["patients@sex=F"] == 60
    assert not any(name.endswith("@sex=M") for name in figures)
    assert "unknown@sex" not in figures
    found, of_all = (read(figures, name) for name in ("auroc@sex=F", "auroc"))
    assert found is not None
    assert of_all is not None
    assert found.interval is not None
    assert of_all.interval is not None
    assert found.interval[1] - found.interval[0] > of_all.interval[1] - of_all.interval[0]
    drowned = summarise(study, without_small(study, total), noise=1.0)
    assert read(drowned, "auroc@sex=F") == Reading(None)


def test_what_stands_beside_a_figure_of_a_group_is_named_before_the_group() -> None:
    assert named("auroc@sex=F", "low") == "auroc_low@sex=F"
    assert named("auroc/a@scanner=GE/Discovery", "low") == "auroc_low/a@scanner=GE/Discovery"
    assert is_figure("auroc@sex=F")
    assert is_figure("auroc/a@x=the_low")
    assert not is_figure("auroc_low@sex=F")
    assert not is_figure("noise@sex=F")
