"""A table fits its terminal, and no word, number or key in it is cut in two."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from medveil.shown import Screen, good, strong

HEADS = ("time (UTC)", "what", "study", "bytes", "key fingerprint", "what is in it")
KEY = "C3E6-6A23-DF24-EF89-AE5A-A4A3-B3E1-3D9E"
ROWS = [
    ("2026-12-01 13:46:01", "enrolment", "", "57", KEY, "this node's name and public key, with its token"),
    (strong("2026-12-01 14:00:00"), "masked-vector", "pneumothorax", "4,004,112", "", good("taken")),
]
WORDS = {word for row in ROWS for cell in row for word in str(cell).split()}


def shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, **more: object
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    Screen().table(HEADS, ROWS, **more)  # type: ignore[arg-type]
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [45, 60, 80, 100, 119, 120, 121, 140, 160, 190, 250])
def test_every_word_is_there_in_one_piece_and_no_line_is_too_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    text = shown(capsys, monkeypatch, width, right=(3,))
    assert max(map(cell_len, text.splitlines())) <= width
    assert set(re.split(r"[\s,│]+", text)) >= {part for word in WORDS for part in word.split(",") if part}
    for whole in (KEY, "4,004,112", "2026-12-01"):
        assert whole in text
    assert ("│" in text) == (width >= 119)


def test_where_a_table_does_not_fit_a_row_names_what_it_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(capsys, monkeypatch, 60, title="Sent")
    assert text.splitlines()[:2] == ["Sent", "2026-12-01 13:46:01"]
    rest = " ".join(text.split())
    assert f"what enrolment, bytes 57, key fingerprint {KEY}, what is in it this node's name" in rest
    assert "what masked-vector, study pneumothorax, bytes 4,004,112, what is in it taken" in rest


def test_a_long_text_gives_way_before_a_short_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    Screen().table(("key", "words"), [(KEY, "one " * 30)])
    text = capsys.readouterr().out
    assert KEY in text
    assert "│" in text


def test_between_chinese_characters_a_line_may_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Screen().table(("a", "b"), [("x", "此地址没有内容" * 8)])
    text = capsys.readouterr().out
    assert "│" in text
    assert max(map(cell_len, text.splitlines())) <= 40


def test_a_table_without_rows_has_its_heads(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().table(("one", "two"), [])
    assert "one" in capsys.readouterr().out
