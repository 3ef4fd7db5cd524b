"""One Markdown page of measured figures; every benchmark writes its own part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rows import Row, cpu


def put_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks of a section, or behind the page if it has none; the rest stays."""
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    before, mark, rest = page.partition(first)
    after = rest.partition(last)[2] if mark else ""
    head = before.rstrip() + "\n\n" if before.strip() else ""
    path.write_text(f"{head}{first}\n{text.strip()}\n{last}\n{after.lstrip()}", encoding="utf-8")


def table(title: str, command: str, conditions: str, rows: Sequence[Row]) -> str:
    """Rows under a title, with the command that measured them and what else the machine had to do."""
    lines = [
        title,
        "",
        f"Written by `{command}`,",
        f"on {cpu()}; {conditions}.",
        "",
        "| | | target |",
        "|---|---|---|",
    ]
    lines += [f"| {r.name} | {f'{r.value:.4g} {r.unit}'.strip()} | {r.target} |" for r in rows]
    return "\n".join(lines)
