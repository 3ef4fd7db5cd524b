"""A figure is read with its interval first, and a bare 1.000 is never shown where an interval is known."""

from __future__ import annotations

import pytest

from medveil.readings import Reading, cell_words, explained, interval_words, is_figure, named, read


@pytest.mark.parametrize(
    ("reading", "unit", "words", "cell"),
    [
        (
            Reading(0.939, (0.883, 0.979), (0.9, 0.97), 0.939),
            "",
            "0.883 to 0.979 (best guess 0.939)",
            "0.883 to 0.979 (0.939)",
        ),
        (Reading(1.0, (0.8804, 1.0), (0.93, 1.0), 1.02), "", "above 0.880", "above 0.880"),
        (Reading(1.0, (0.9996, 1.0)), "", "above 0.999", "above 0.999"),
        (Reading(0.0, (0.0, 3.21), (0.0, 3.0), -0.4), "years", "below 3.21 years", "below 3.21 years"),
        (
            Reading(0.84, None, (0.8, 0.88), 0.84),
            "",
            "0.800 to 0.880, by the noise alone (best guess 0.840)",
            "0.800 to 0.880 (0.840)",
        ),
        (
            Reading(7.0, (6.1, 7.9)),
            "years",
            "6.10 to 7.90 years (best guess 7.00 years)",
            "6.10 to 7.90 years (7.00)",
        ),
        (Reading(0.84), "", "0.840", "0.840"),
        (Reading(0.97, (0.9, 0.96)), "", "0.900 to 0.960 (best guess 0.970)", "0.900 to 0.960 (0.970)"),
        (Reading(None), "", "not determined: too few patients for this noise", "not determined"),
        (None, "", "", ""),
    ],
)
def test_the_interval_stands_first_and_the_best_guess_behind(
    reading: Reading | None, unit: str, words: str, cell: str
) -> None:
    assert interval_words(reading, unit) == words
    assert cell_words(reading, unit) == cell


def test_what_stands_beside_a_figure_is_found_by_its_name_and_is_no_figure() -> None:
    figures = {"auroc/a_low": 0.9, "noise": 0.01, "patients": 3.0}
    for ending, value in (("low", 0.8), ("high", 0.97), ("noise_low", 0.85), ("noise_high", 0.95)):
        figures[named("auroc/a_low", ending)] = value
    figures |= {"auroc_uncut/a_low": 0.9, "auroc_undetermined/b": 1.0}
    assert "auroc_low/a_low" in figures
    assert [name for name in figures if is_figure(name)] == ["auroc/a_low", "patients"]
    assert read(figures, "auroc/a_low") == Reading(0.9, (0.8, 0.97), (0.85, 0.95), 0.9)
    assert read(figures, "auroc/b") == Reading(None)
    assert read(figures, "auroc/c") is None


def test_a_table_says_under_it_what_its_intervals_mean_and_what_is_missing() -> None:
    both, alone = Reading(0.9, (0.8, 1.0), (0.85, 0.95)), Reading(0.9, None, (0.85, 0.95))
    assert explained([None], noised=True) == []
    assert explained([both], noised=True) == [
        "95 % interval by the noise and the choice of test patients; in brackets the best guess"
    ]
    assert explained([both], noised=False)[0].startswith("95 % interval by the choice of test patients")
    assert explained([alone, Reading(None)], noised=True)[-1].startswith("not determined")


def test_a_bootstrap_whose_draws_are_alike_takes_no_interval_away() -> None:
    known = Reading(1.0, (0.96, 1.0))
    assert known.over_patients((1.0, 1.0)) == known.over_patients(None) == known
    assert known.over_patients((0.98, 1.0)) == Reading(1.0, (0.98, 1.0))
