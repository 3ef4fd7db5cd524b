"""The command line parses and shows; what it does stands in modules that pages and scripts use as well."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rooms import FOLDERS, ROOT

SEARCHED = (*FOLDERS.values(), "tests/benchmarks", "tests/soak")


NAMED = r"[\w.]+(?: as \w+)?"
IMPORT = re.compile(rf"^[ \t]*((?:from [\w.]+ )?import (?:\([^)]*\)|{NAMED}(?:, *{NAMED})*))", re.MULTILINE)
"""One statement; to parse whole files takes ten times as long."""


def is_cli(module: str) -> bool:
    """Also a file of a folder of commands."""
    parts = module.split(".")
    return parts[-1] == "cli" or parts[-1].startswith("cli_") or "commands" in parts


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports and names it takes out of them, where command lines could be among them."""
    for said in IMPORT.findall(path.read_text(encoding="utf-8")):
        if "cli" not in said and "commands" not in said:
            continue
        for node in ast.parse(said).body:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or ""
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nobody_but_a_command_line_imports_a_command_line() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for room in SEARCHED
        for path in (ROOT / room).rglob("*.py")
        if not is_cli(".".join(path.with_suffix("").parts))
        for name in imported(path)
        if is_cli(name)
        and name.split(".")[0] in ("medveil", "medveil_research", "hospital_node", "aggregator")
    }
    assert found == {("platform/medveil/__main__.py", "medveil.cli")}
