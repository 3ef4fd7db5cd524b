"""Shares at a threshold, curves and calibration from two histograms, exact and noised, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medveil.histograms import edges, middles, score_bins
from medveil.tasks.classification import NOISED_BINS, NOISED_EDGES
from medveil_research.report.curves import curves
from medveil_research.report.scores import Scores, calibration


def scores(
    positives: list[float], negatives: list[float], deviation: float = 0.0, images: float = 1.0
) -> Scores:
    """Eight cells, with 0.5 in the middle."""
    return Scores(
        "ill",
        np.array(positives, float),
        np.array(negatives, float),
        edges=edges(8),
        middles=middles(8),
        deviation=deviation,
        images_per_patient=images,
    )


SHARP = scores([0, 0, 1, 5, 10, 20, 30, 34], [40, 30, 20, 5, 3, 1, 1, 0])


def test_a_score_lies_between_the_edges_of_its_bin() -> None:
    log_odds = np.linspace(-40, 40, 1001)
    place = score_bins(log_odds, 16)
    assert (np.searchsorted(edges(16), log_odds, side="right") == place).all()


def test_the_two_by_two_table_at_one_half_holds_each_case_once() -> None:
    table = SHARP.at(SHARP.cell_at(0.5))
    assert table.threshold == 0.5
    assert (table.found, table.missed, table.false, table.clear) == (94, 6, 5, 95)
    assert table.sensitivity is not None
    assert table.sensitivity.value == pytest.approx(0.94)
    assert table.sensitivity.interval == pytest.approx((0.8752, 0.9722), abs=1e-3)  # Wilson, 94 of 100
    assert table.specificity is not None
    assert table.specificity.value == pytest.approx(0.95)
    assert table.precision is not None
    assert table.precision.value == pytest.approx(94 / 99)
    assert table.negative_value is not None
    assert table.negative_value.value == pytest.approx(95 / 101)
    assert table.error == 0


def test_one_half_lies_between_the_tenth_and_eleventh_noised_cell() -> None:
    cells = np.ones(NOISED_BINS)
    noised = Scores("ill", cells, cells, edges=NOISED_EDGES, middles=np.linspace(-8, 8, NOISED_BINS))
    assert noised.cell_at(0.5) == NOISED_BINS // 2
    assert noised.threshold(NOISED_BINS // 2) == pytest.approx(0.5)


def test_images_of_one_patient_widen_the_interval_and_noise_does_too() -> None:
    def width(one: Scores) -> float:
        found = one.at(4).sensitivity
        assert found is not None
        assert found.interval is not None
        return found.interval[1] - found.interval[0]

    plain = width(SHARP)
    copies = Scores(
        "ill",
        SHARP.positives,
        SHARP.negatives,
        edges=SHARP.edges,
        middles=SHARP.middles,
        images_per_patient=4,
    )
    noised = Scores(
        "ill", SHARP.positives, SHARP.negatives, edges=SHARP.edges, middles=SHARP.middles, deviation=3
    )
    assert width(copies) > 1.8 * plain
    assert width(noised) > 1.2 * plain


def test_counts_that_noise_drowns_have_no_share_and_no_group() -> None:
    drowned = Scores(
        "ill",
        SHARP.positives / 20,
        SHARP.negatives / 20,
        edges=SHARP.edges,
        middles=SHARP.middles,
        deviation=30,
    )
    found = drowned.at(4).sensitivity
    assert found is not None
    assert found.value is None
    assert calibration(drowned) == []


def test_without_cases_of_a_kind_there_is_no_share() -> None:
    one_kind = scores([0] * 8, [1] * 8)
    assert one_kind.at(4).sensitivity is None
    assert curves([one_kind], lambda one: 4)[0].title == "Whether its percentages are true"


def test_calibration_groups_have_said_what_their_cells_say_and_hold_what_was_there() -> None:
    probabilities = 1 / (1 + np.exp(-middles(8)))
    true = scores(list(1000 * probabilities), list(1000 * (1 - probabilities)))
    groups = calibration(true)
    assert sum(group.cases for group in groups) == pytest.approx(8000)
    for group in groups:
        assert group.observed.value == pytest.approx(group.said)
        assert group.observed.interval is not None
        assert group.observed.interval[0] < group.said < group.observed.interval[1]


def test_noised_groups_are_put_together_until_their_cases_stand_clear() -> None:
    quiet = Scores(
        "ill", SHARP.positives, SHARP.negatives, edges=SHARP.edges, middles=SHARP.middles, deviation=0.1
    )
    loud = Scores(
        "ill", SHARP.positives, SHARP.negatives, edges=SHARP.edges, middles=SHARP.middles, deviation=8
    )
    assert 0 < len(calibration(loud)) < len(calibration(quiet))


def test_the_drawings_say_in_words_what_they_show_and_mark_the_threshold() -> None:
    drawn = {one.title: str(one.svg) for one in curves([SHARP], lambda one: one.cell_at(0.5))}
    assert list(drawn) == [
        "How well it separates",
        "How many of its calls are right",
        "Whether its percentages are true",
    ]
    assert (
        "threshold 0.50: sensitivity 0.940 at a false alarm rate of 0.050" in drawn["How well it separates"]
    )
    assert "precision 0.949 at sensitivity 0.940" in drawn["How many of its calls are right"]


def test_several_classes_share_one_picture_without_bands_and_too_many_have_none() -> None:
    three = [SHARP, scores([1] * 8, [1] * 8), SHARP]
    (drawn,) = curves(three, lambda one: 4)
    assert drawn.svg.count("<polyline") == 3
    assert len(drawn.legend) == 3
    assert curves([SHARP] * 7, lambda one: 4) == []


def test_a_curve_of_noised_counts_stays_within_its_square() -> None:
    wild = scores([-9, -9, 40, -9, 40, 40, -9, 40], [40, 40, -9, 40, -9, 40, -9, -9], deviation=9.0)
    for one in curves([wild], lambda one: 4):
        for corner in one.svg.split('points="')[1:]:
            for pair in corner.split('"')[0].split():
                x, y = map(float, pair.split(","))
                assert 44 <= x <= 344
                assert 16 <= y <= 316
