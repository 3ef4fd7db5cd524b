"""A comparison holds trainings together on the same patients, with the same work, and says what it lacks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hospital_node.training import Diverged, evaluate
from medveil.compression import Compression
from medveil.errors import BadOption, Error
from medveil.metrics import layout, summarise
from medveil.readings import is_figure
from medveil.strategies import BadStrategy
from medveil_imaging.patients import PatientImages
from medveil_imaging.sources.site import SiteData
from medveil_research.comparison import arms, engine, paired, told, whole
from medveil_research.comparison.request import request_of
from medveil_research.comparison.result import ComparisonResult, Problem, read_comparison, write_comparison
from medveil_research.comparison.whole import NothingMade, Request, compare_read
from medveil_research.evaluate import patient_sums
from medveil_research.levels import read_measured
from medveil_research.options import CompareOptions
from medveil_research.report.comparison import render_comparison
from medveil_research.sites import HEART, Site
from medveil_research.studies import StudyOptions, new_study

EDGE = 16
BASE = StudyOptions(
    name="comparison",
    task="classification",
    profile="xray",
    model="small_cnn",
    options={"width": 4},
    hospitals=3,
    rounds=2,
    size=(EDGE, EDGE),
    patients_hint=12,
)
REQUEST = Request(base=BASE, arms=("alone", "federated", "central"), seeds=2, draws=40)


def patients(count: int, seed: int, labels: Sequence[int] = (0, 1)) -> tuple[PatientImages, ...]:
    """Patients of label 1 have a bright square."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        label = labels[number % len(labels)]
        images = torch.randn(1 + number % 2, 1, EDGE, EDGE, generator=draw)
        images[:, :, 4:10, 4:10] += 1.2 * label
        found.append(PatientImages(f"p{seed}-{number}", images, torch.full((len(images),), label)))
    return tuple(found)


def site(name: str, seed: int, train: int = 10, **test: Any) -> SiteData:
    tests = patients(8, seed + 200, **test)
    return SiteData(name, patients(train, seed), patients(4, seed + 100), tests, ())


SITES = [site("a", 1, train=10), site("b", 2, train=13), site("c", 3, train=40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def result(folder: Path) -> ComparisonResult:
    return compare_read(REQUEST, SITES, folder)


def test_every_training_is_made_for_every_seed_and_judged_on_the_patients_of_all_sites(
    result: ComparisonResult,
) -> None:
    made = sorted((one.arm, one.site, one.seed) for one in result.runs)
    once = [("alone", "a"), ("alone", "b"), ("alone", "c"), ("central", ""), ("federated", "")]
    assert made == sorted((*arm, seed) for arm in once for seed in (0, 1))
    assert {one.pooled["patients"] for one in result.runs} == {24.0}
    assert all(set(one.sites) == {"a", "b", "c"} for one in result.runs)
    assert {len(one.curve) for one in result.runs} == {2}
    assert {one.curve[0]["patients"] for one in result.runs} == {12.0}
    assert result.problems == ()


def test_whoever_trains_in_one_place_makes_as_many_steps_as_all_hospitals_together() -> None:
    made, missing = arms.studies(BASE, arms.ARMS, 0)
    assert [one.arm for one in missing] == ["joint"]  # this network has no recipe for it
    planned, _ = arms.trainings({arm: made[arm] for arm in REQUEST.arms}, SITES, 0)
    by_arm = {(one.arm, one.site): one for one in planned}
    together = by_arm["federated", ""]
    assert {one.steps for one in planned} == {together.steps}
    images = [engine.images_of(one) for one in SITES]
    batch = together.study.training.batch_images
    assert together.steps == 2 * sum(-(-count // batch) for count in images)
    assert together.passes == pytest.approx(2.0)
    assert by_arm["alone", "a"].passes > by_arm["alone", "c"].passes > 2.0
    rates = {(one.study.training.rounds, one.study.training.learning_rate) for one in planned}
    assert len(rates) == 1


def test_where_a_recipe_counts_passes_the_centralised_one_passes_as_often_as_the_federation() -> None:
    even = [site(name, seed, train=64) for seed, name in enumerate("abc")]
    made, _ = arms.studies(BASE, ("federated", "central"), 0)
    federated, central = arms.trainings(made, even, 0)[0]
    assert central.passes == pytest.approx(federated.passes)
    assert central.steps == federated.steps


def test_steps_that_are_counted_are_steps_that_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = arms.studies(BASE, REQUEST.arms, 0)
    steps: list[int] = []
    real = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *a, **k: (steps.append(1), real(*a, **k))[1])
    for one in arms.trainings(made, SITES, 0)[0]:
        steps.clear()
        engine.run_federated(one.study, one.initial, one.learners)
        assert len(steps) == one.steps, one.label


def test_finished_trainings_are_not_made_again_and_the_others_are(
    result: ComparisonResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = whole._made
    monkeypatch.setattr(whole, "_made", lambda t, *rest: (made.append(t.label), real(t, *rest))[1])
    lost = sorted((folder / "runs").glob("*.json"))[0]
    lost.write_text("{")
    again = compare_read(REQUEST, SITES, folder)
    assert len(made) == 1
    assert again.sites == result.sites
    made.clear()
    assert compare_read(REQUEST, SITES, folder) == again
    assert made == []
    more = compare_read(replace(REQUEST, seeds=3, arms=("federated",)), SITES, folder)
    assert made == ["federated, seed 2"]
    assert len(more.runs) == 3


@pytest.mark.parametrize("changed", ["image", "label", "split", "name"])
def test_patients_that_have_changed_are_trained_on_again(changed: str) -> None:
    first = SITES[0].train[0]
    images, labels = first.images.clone(), first.labels.clone()
    images[0, 0, 3, 3] += 1e-6 * (changed == "image")
    labels[0] += int(changed == "label")
    other = [replace(SITES[0], train=(PatientImages(first.patient, images, labels), *SITES[0].train[1:]))]
    if changed == "split":
        other = [replace(SITES[0], train=SITES[0].train[1:], val=(first, *SITES[0].val))]
    if changed == "name":
        other = [replace(SITES[0], name="z")]
    assert whole.fingerprint(other) != whole.fingerprint(SITES[:1])
    assert whole.fingerprint([replace(SITES[0])]) == whole.fingerprint(SITES[:1])


def test_the_result_is_read_back_as_it_was_written(result: ComparisonResult, tmp_path: Path) -> None:
    write_comparison(result, tmp_path / "comparison.json")
    assert read_comparison(tmp_path / "comparison.json") == result


# ---- statistics ----


def test_differences_are_those_of_the_same_patients_and_seeds(result: ComparisonResult) -> None:
    one = next(d for d in result.differences if (d.first, d.second) == ("federated", "central"))
    runs = {(r.arm, r.seed): r.pooled["auroc"] for r in result.runs if not r.site}
    each = [runs["federated", seed] - runs["central", seed] for seed in (0, 1)]
    assert one.values == pytest.approx(each)
    assert one.value == pytest.approx(np.mean(each))
    half = 12.706 * np.std(each, ddof=1) / np.sqrt(2)
    assert one.seeds == pytest.approx((np.mean(each) - half, np.mean(each) + half), abs=1e-3)


def test_the_mean_of_those_alone_is_the_mean_of_their_figures(result: ComparisonResult) -> None:
    alone = result.arm("alone")
    assert alone is not None
    single = [result.arm("alone", name) for name in "abc"]
    assert alone.value == pytest.approx(np.mean([one.value for one in single if one and one.value]))


def plain(figures: dict[str, float]) -> dict[str, float]:
    """Without the intervals."""
    return {name: value for name, value in figures.items() if is_figure(name)}


def test_sums_of_patients_give_the_figures_that_the_product_gives() -> None:
    study, vector = arms.studies(BASE, ("federated",), 0)[0]["federated"]
    judged = paired.gathered(study, [patient_sums(study, vector, one.test) for one in SITES])
    everybody = [patient for one in SITES for patient in one.test]
    exact = plain(summarise(study, evaluate(study, vector, everybody, device=torch.device("cpu"))))
    assert paired.figures(study, judged) == pytest.approx(exact)
    ones = np.ones((1, len(everybody)))
    assert paired.drawn(study, judged, ones, "auroc") == pytest.approx([exact["auroc"]])
    own = plain(summarise(study, evaluate(study, vector, SITES[1].test, device=torch.device("cpu"))))
    assert paired.figures(study, judged, 1) == pytest.approx(own)


def test_a_model_held_against_itself_differs_by_nothing_in_every_draw() -> None:
    study, vector = arms.studies(BASE, ("federated",), 0)[0]["federated"]
    judged = paired.gathered(study, [patient_sums(study, vector, one.test) for one in SITES])
    weights = paired.draws(24, number=100)
    draws = [paired.drawn(study, judged, weights, "auroc") for _ in range(2)]
    assert paired.over_patients(draws[0] - draws[1]) == (0.0, 0.0)
    low, high = paired.over_patients(draws[0]) or (0.0, 0.0)
    assert high > low


@pytest.mark.slow
def test_paired_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    """Two raters of right and wrong, much alike; the difference of their accuracies is known."""
    study = arms.studies(BASE, ("federated",), 0)[0]["federated"][0]
    names, random = list(layout(study)), np.random.default_rng(7)
    width = sum(layout(study).values())
    place = {name: sum(layout(study)[n] for n in names[: names.index(name)]) for name in names}
    held, tries, count = 0, 200, 150
    for _ in range(tries):
        hard = random.random(count)
        judged = []
        for skill in (0.85, 0.80):
            table = np.zeros((count, width))
            table[:, [place["images"], place["patients"]]] = 1
            table[:, place["correct"]] = hard < skill
            judged.append(paired.Judged(paired.scipy.sparse.csr_matrix(table), (count,)))
        weights = paired.draws(count, number=200, seed=int(random.integers(1 << 30)))
        a, b = (paired.drawn(study, one, weights, "accuracy") for one in judged)
        low, high = paired.over_patients(a - b) or (1.0, 0.0)
        held += low <= 0.05 <= high
    assert 0.88 <= held / tries <= 1.0


def test_one_seed_has_no_interval_over_seeds() -> None:
    assert paired.over_seeds([0.3]) is None


# ---- what is lacking is named, and the rest is there ----


def small(sites: Sequence[SiteData], tmp_path: Path, **changes: Any) -> ComparisonResult:
    return compare_read(replace(REQUEST, **{"seeds": 1, **changes}), sites, tmp_path)


@pytest.mark.slow
def test_a_site_without_training_patients_is_judged_only(tmp_path: Path) -> None:
    found = small([*SITES, replace(site("judge", 9), train=())], tmp_path)
    assert {one.site for one in found.runs} == {"", "a", "b", "c"}
    assert all("judge" in one.sites for one in found.runs)
    assert [one.code for one in found.problems] == ["no-training-patients"]


def test_two_sites_are_compared_without_a_federation_which_is_named(tmp_path: Path) -> None:
    found = small(SITES[:2], tmp_path)
    assert {one.arm for one in found.runs} == {"alone", "central"}
    assert [one.code for one in found.problems] == ["too-few-hospitals"]
    assert {(d.first, d.second) for d in found.differences} == {("central", "alone")}


def test_test_patients_of_one_class_leave_the_other_figures(tmp_path: Path) -> None:
    healthy = [replace(one, test=patients(6, 50 + k, labels=(0,))) for k, one in enumerate(SITES)]
    found = small(healthy, tmp_path, arms=("federated", "central"))
    assert [one.code for one in found.problems] == ["no-figure"]
    assert all(one.value is None and "accuracy" in one.figures for one in found.arms)
    assert found.differences == ()
    by_hits = small(healthy, tmp_path, arms=("federated", "central"), figure="accuracy")
    assert by_hits.problems == ()
    assert len(by_hits.differences) == 1


def test_one_site_of_one_class_is_named_and_counts_in_the_whole(tmp_path: Path) -> None:
    found = small([site("a", 1, labels=(1,)), *SITES[1:]], tmp_path, arms=("federated",))
    assert ["at a:" in one.what for one in found.problems] == [True]
    assert set(found.arms[0].sites) == {"b", "c"}


@pytest.mark.slow
def test_a_training_that_diverges_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine.train

    def train(given: Any) -> Any:
        if len(given.patients) == 13:
            raise Diverged()
        return real(given)

    monkeypatch.setattr(engine, "train", train)
    found = small(SITES, tmp_path)
    assert {(one.arm, one.site) for one in found.runs} == {("alone", "a"), ("alone", "c"), ("central", "")}
    assert [one.code for one in found.problems] == ["training-diverged"] * 2
    monkeypatch.setattr(engine, "train", real)
    assert len(small(SITES, tmp_path).runs) == 5


def test_nothing_at_all_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(NothingMade, match="federation needs 3"):
        small(SITES[:2], tmp_path, arms=("federated",))
    with pytest.raises(engine.NobodyTrains):
        small([replace(one, train=()) for one in SITES], tmp_path)


def test_the_page_tells_everything_and_obeys_nothing(result: ComparisonResult) -> None:
    odd = Problem(what="<b onclick=x>a</b>", meaning="{{ 7 * 7 }}", remedy="", code="odd")
    told_of = result.model_copy(update={"problems": (odd,), "classes": ("<i>", "b")})
    page = render_comparison(told_of)
    for words in ("in one place", "federated less in one place", "each site alone, mean", "small_cnn"):
        assert words in page
    assert "<b onclick" not in page
    assert "{{ 7 * 7 }}" in page
    assert not re.search(r"<script|style=|https?://", page)
    assert page == render_comparison(told_of)
    for one in result.runs:
        assert f"{one.pooled['auroc']:.3f}" in page


def test_a_page_without_the_figure_or_a_second_training_says_so(tmp_path: Path) -> None:
    healthy = [replace(one, test=patients(4, 50 + k, labels=(0,))) for k, one in enumerate(SITES)]
    page = render_comparison(small(healthy, tmp_path, arms=("federated",)))
    assert "no difference to tell" in page
    assert "too few cases" in page


def test_words_say_better_and_worse_the_right_way_round(result: ComparisonResult) -> None:
    one = result.differences[0].model_copy(update={"value": 0.2, "patients": (0.1, 0.3), "seeds": None})
    good = result.model_copy(update={"differences": (one,)})
    assert "0.200 better than training in one place" in told.verdict(good)
    number = good.model_copy(
        update={"task": "regression", "figure": "mae", "target": HEART, "arms": result.arms[:1]}
    )
    assert told.value_of(number, number.arms[0]).count("mm") == 1
    assert "0.20 mm worse than training in one place" in told.verdict(number)
    unsure = one.model_copy(update={"patients": (-0.1, 0.3)})
    assert "cannot be told apart" in told.verdict(result.model_copy(update={"differences": (unsure,)}))
    by_seeds = good.differences[0].model_copy(update={"patients": (0.1, 0.3), "seeds": (-0.1, 0.5)})
    words = told.verdict(result.model_copy(update={"differences": (by_seeds,)}))
    assert "cannot be told apart: +0.200 (95 % over seeds −0.100 to +0.500)" in words


# ---- a federation of another kind than the recipe's ----

CHOSEN: dict[str, Any] = {
    "strategy": "fedyogi",
    "strategy_options": {"rate": 0.1},
    "compression": Compression(kind="sparse", share=0.5),
}


def test_the_words_of_study_new_say_what_the_federation_is() -> None:
    typed = CompareOptions(
        strategy="fedyogi",
        strategy_option=["rate=0.1"],
        compression="sparse:0.5",
        personal=["norm", "head"],
    )
    base = request_of(typed, [Site("a", Path("a"), 9)]).base
    found = {name: getattr(base, name) for name in (*CHOSEN, "personal")}
    assert found == CHOSEN | {"personal": ("norm", "head")}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"compression": "zip"}, "--compression: 'zip'"),
        ({"strategy_option": ["rate"]}, "--strategy-option: 'rate'"),
        ({"strategy": "fedyogi", "only": ["alone", "central"]}, "--only names none of federated"),
    ],
)
def test_words_that_say_nothing_are_refused_before_anything_is_trained(
    typed: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadOption, match=words):
        request_of(CompareOptions(**typed), [Site("a", Path("a"), 9)])


def test_only_hospitals_that_train_together_have_the_chosen_federation() -> None:
    by_recipe, _ = arms.studies(BASE, REQUEST.arms, 0)
    chosen, _ = arms.studies(replace(BASE, **CHOSEN), REQUEST.arms, 0)
    assert [chosen[arm][0] for arm in ("alone", "central")] == [
        by_recipe[arm][0] for arm in ("alone", "central")
    ]
    wanted = new_study(replace(BASE, **CHOSEN, privacy="none", seed=0, anyway=True))[0]
    assert chosen["federated"][0] == wanted


def test_what_no_federation_bears_is_refused_and_what_one_does_not_is_named() -> None:
    drawn_back = replace(BASE, **CHOSEN | {"strategy": "fedprox", "strategy_options": {}})
    with pytest.raises(BadStrategy, match="compression cannot bear"):
        arms.studies(drawn_back, REQUEST.arms, 0)
    with pytest.raises(BadOption, match="means no trained tensor"):
        arms.studies(replace(BASE, personal=("fc*",)), REQUEST.arms, 0)
    heads = replace(BASE, model="wavelet_head", options={"scales": 1, "grid": 4}, personal=("head",))
    found, missing = arms.studies(replace(BASE, personal=("head",)), ("federated", "local"), 0)
    assert (set(found), missing) == ({"federated", "local"}, [])
    with pytest.raises(Error, match="to share"):  # its head is all that it trains
        arms.studies(heads, ("federated", "central"), 0)
    sparse = replace(heads, personal=(), compression=CHOSEN["compression"])
    found, missing = arms.studies(sparse, ("federated", "joint"), 0)
    assert (set(found), [one.arm for one in missing]) == ({"federated"}, ["joint"])
    assert "not for joint noise" in missing[0].error.what


def test_a_chosen_federation_is_trained_and_told_and_the_others_are_not_made_again(
    result: ComparisonResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = whole._made
    monkeypatch.setattr(whole, "_made", lambda t, *rest: (made.append(t.label), real(t, *rest))[1])
    one = replace(REQUEST, seeds=1, base=replace(BASE, **CHOSEN))
    found = compare_read(one, SITES, folder)
    assert made == ["federated, seed 0"]
    arm, before = found.arm("federated"), result.arm("federated")
    assert arm is not None
    assert before is not None
    assert arm.federation is not None
    assert arm.federation.strategy == "fedyogi"
    assert arm.federation.uploaded < arm.parameters
    assert arm.curve != before.curve
    assert found.arm("central").federation is None  # type: ignore[union-attr]
    words = told.federations_of(found)
    assert words == f"fedyogi (rate 0.1), uploads sparse:0.5, {arm.federation.uploaded:,} numbers a round"
    assert words in render_comparison(found)
    assert told.federations_of(result) == "fedavg"


def test_weights_that_stay_and_another_count_of_steps_are_told(tmp_path: Path) -> None:
    judge = replace(site("judge", 9), train=())
    base = replace(BASE, personal=("norm",), strategy="fedsgd")
    found = small([*SITES, judge], tmp_path, base=base, arms=("federated", "central"))
    assert [one.code for one in found.problems] == ["no-training-patients", "other-steps"]
    assert "those that the study began with" in found.problems[0].meaning
    assert "6 optimiser steps" in found.problems[1].what
    assert "of the model's tensors in each hospital its own" in told.federations_of(found)
    assert "as that site has it" in render_comparison(found)


@pytest.mark.slow
def test_at_several_epsilons_each_is_held_against_the_same_training_without_noise(tmp_path: Path) -> None:
    request = replace(REQUEST, arms=("federated", "local"), base=replace(BASE, rounds=1), epsilons=(0.5,))
    result = compare_read(request, SITES, tmp_path)
    assert result.measured is not None
    levels = result.measured.of("local")
    assert [one.epsilon for one in levels] == [0.5, 8.0]
    runs = {(r.arm, r.seed): r.pooled["auroc"] for r in result.runs}
    plain, noised = ([runs[arm, seed] for seed in (0, 1)] for arm in ("federated", "local"))
    assert levels[1].values == pytest.approx(noised)
    assert levels[1].less == pytest.approx(np.mean(noised) - np.mean(plain))
    own = next(d for d in result.differences if (d.first, d.second) == ("local", "federated"))
    assert levels[1].less_patients == pytest.approx(own.patients)
    assert levels[1].less_seeds == pytest.approx(own.seeds)
    assert levels[0].values != levels[1].values
    assert (levels[0].noise_to_signal or 0) > (levels[1].noise_to_signal or 0) > 0
    write_comparison(result, tmp_path / "comparison.json")
    assert read_measured(tmp_path / "comparison.json") == result.measured
    assert "What privacy costs" in render_comparison(result)
