"""A patient keeps pseudonym and split for life, and neither tells who it is without the hospital's key."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hospital_node.patients_key import FILE, PatientsKeyDamaged, patients_key
from medveil.identity import Secret
from medveil.keyed import keyed_pseudonym, keyed_split
from medveil.pseudonyms import BadPseudonym

KEY, OTHER = Secret(b"k" * 32), Secret(b"o" * 32)


def test_pseudonyms_and_splits_are_what_they_were() -> None:
    assert keyed_pseudonym(KEY, "PA-4711") == "P-ZPFZQTIHOCZ2D4JR"
    assert [keyed_split(KEY, f"sub-{i}") for i in range(6)] == ["test", *["train"] * 5]


def test_one_person_has_one_pseudonym_however_the_number_is_written() -> None:
    assert (
        len({keyed_pseudonym(KEY, text) for text in ("pa-4711", "PA-4711 ", "PA - 4711", "PA-4711\0")}) == 1
    )
    assert keyed_pseudonym(KEY, "0047") == keyed_pseudonym(KEY, "47")
    with pytest.raises(BadPseudonym):
        keyed_pseudonym(KEY, " ")


def test_another_key_gives_other_pseudonyms() -> None:
    assert keyed_pseudonym(OTHER, "PA-4711") != keyed_pseudonym(KEY, "PA-4711")
    assert "4711" not in keyed_pseudonym(KEY, "4711")


def test_about_seventy_ten_and_twenty_per_cent() -> None:
    found = Counter(keyed_split(KEY, f"patient {i}") for i in range(20_000))
    assert all(
        abs(found[split] / 20_000 - share) < 0.02
        for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2))
    )


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    first, made = patients_key(folder)
    assert (made, patients_key(folder)) == (True, (first, False))
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"short")
    with pytest.raises(PatientsKeyDamaged):
        patients_key(tmp_path)
