"""One patient has one pseudonym, whoever typed it and whatever a spreadsheet made of it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medveil.pseudonyms import BadPseudonym, look_alike, one_spelling
from tries import tries

PATIENT = "zoë-17 b"


@pytest.mark.parametrize(
    "written",
    [
        "ZOË-17 B",
        unicodedata.normalize("NFD", PATIENT),
        "\ufeff zoë-17\u00a0 \u2009b\t",
        "zoë\u2013\u200b17 b",
        "zoë \u2212 17 \u3000b",
        "zo\u00adë\u2060-17 b\x00",
        "ｚｏë－１７ ｂ",
        "zoë-١٧ b",
        "'Zoë-17 b",
        '="Zoë-17 b"',
        "zoë-17\ufe0f b",
    ],
)
def test_the_ways_to_write_a_pseudonym_are_one_patient(written: str) -> None:
    assert one_spelling(written) == PATIENT


@pytest.mark.parametrize("written", ["4711", "04711", "4711.0", "4711,00", "'004711", '="4711"', "４７１１"])
def test_what_spreadsheets_make_of_a_number_is_one_patient(written: str) -> None:
    assert one_spelling(written) == "4711"


def test_zero_is_a_pseudonym_and_stays_one() -> None:
    assert {one_spelling(zero) for zero in ("0", "000", "0.0")} == {"0"}


def test_patients_of_ordinary_lists_stay_apart() -> None:
    written = [
        *map(str, range(300)),
        *(f"P{i}" for i in range(300)),
        *(f"{site}-{i}" for site in range(1, 12) for i in range(1, 120)),
        *(f"{site}.{i}" for site in range(1, 12) for i in range(1, 120)),
        *(f"sub-{i:03d}" for i in range(300)),
        "1e3",
        "12E5",
        "1200000",
        "Müller",
        "Muller",
    ]
    assert len({one_spelling(text) for text in written}) == len(written)


@pytest.mark.parametrize("written", ["1.23457E+11", "1,23457e+11", "1E+16", "1.00E+03", "4.2e-5"])
def test_a_number_that_a_spreadsheet_has_rounded_names_nobody(written: str) -> None:
    with pytest.raises(BadPseudonym, match="rounded") as refused:
        one_spelling(written)
    assert refused.value.code == "bad-pseudonym"
    assert written not in str(refused.value)


@pytest.mark.parametrize("written", ["", " \u00a0", "\u200b", "'", '=""', "a" * 4097])
def test_a_text_that_shows_nothing_or_never_ends_names_nobody(written: str) -> None:
    with pytest.raises(BadPseudonym):
        one_spelling(written)


@settings(deadline=None, max_examples=tries(500))
@given(st.text(min_size=1, max_size=30))
def test_the_form_of_a_form_is_that_form_however_it_is_composed(written: str) -> None:
    try:
        form = one_spelling(written)
    except BadPseudonym:
        return
    assert one_spelling(form) == form
    assert one_spelling(f" {written}\u200b\n") == form
    assert one_spelling(unicodedata.normalize("NFD", written)) == form


@pytest.mark.parametrize("other", ["P1", "p01", "P-1", "P_001", "P 1", "Р1", "Ρ1", "PI", "Pl", "Ṕ1"])
def test_what_may_be_the_same_patient_is_found_alike(other: str) -> None:
    assert look_alike(one_spelling(other)) == look_alike("p1")


def test_counted_lists_are_not_alike() -> None:
    forms = [f"{site}-{i}" for site in range(1, 12) for i in range(1, 120)] + [f"p{i}" for i in range(200)]
    assert len({look_alike(form) for form in forms}) == len(forms)
