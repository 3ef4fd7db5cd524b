"""docs/protocol.md says what the code does."""

from __future__ import annotations

from protocol_tables import PAGE, page_with_tables


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page_with_tables(text) == text, "run: python tests/support/protocol_tables.py"
