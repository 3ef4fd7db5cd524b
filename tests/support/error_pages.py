"""Writes docs/errors.md from the code: every stable code with what it says, what it means and what to do.

Run it as ``python tests/support/error_pages.py`` after adding or changing an error.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rooms import FOLDERS, ROOT

PAGE = ROOT / "docs" / "errors.md"
BASES = ("error", "unusable")
"""Codes of base classes: nobody ever meets them."""

HEAD = """# Error codes

Every problem that MedVeil reports has three sentences (what happened, what it means, what to do) and a code
that never changes. Look the code up here. A part in `<angle brackets>` is filled in when it happens.

The aggregator answers a request that it refuses with the same code as `problem+json`
([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)), and writes it into its log.

`tests/support/error_pages.py` writes this page from the code; a test keeps the two equal.

## Codes of the programs

"""
MIDDLE = """
## Codes of `medveil node check`

These are about one line of `manifest.csv` or one file. **refused**: the item is not used, the rest is;
`half-manifest`: nothing is.
**warning**: the item is used, but somebody should look at it.

| code | | what is wrong | what to do |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Described:
    """One error class and the sentences it prints; empty where they arrive as arguments."""

    code: str
    name: str
    module: str
    summary: str
    what: str
    meaning: str
    remedy: str


@dataclass(frozen=True, order=True)
class Finding:
    """One way in which an image or a line of the manifest is not usable."""

    code: str
    severity: str
    reason: str
    remedy: str


def sources(pattern: str, *packages: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of these packages in which this is found, as (path from the root, syntax tree)."""
    for package in packages:
        for path in sorted((ROOT / FOLDERS[package]).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if re.search(pattern, text):
                yield str(path.relative_to(ROOT)), ast.parse(text)


def errors() -> list[Described]:
    """Every class with a stable ``code``, in the order of the codes."""
    found = []
    for module, tree in sources(r"(?m)^ +code = ", *FOLDERS):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and (code := _code(node)) and code not in BASES:
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                said = _sentences(node)
                found.append(Described(code, node.name, module, summary, *said))
    return sorted(found, key=lambda e: (e.code, e.module))


def findings() -> list[Finding]:
    """Every ``Unusable``, ``Note`` and ``Problem`` that the image sources make."""
    found = set()
    for _, tree in sources(r"Unusable|Unreadable|Note|Problem", "medveil_imaging"):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            kind = node.func.id
            given = [_text(argument) for argument in node.args]
            if kind in ("Unusable", "Unreadable", "Note") and len(given) in (3, 4):
                severity = "warning" if kind == "Note" else "refused"
                found.add(Finding(given[0], severity, given[1], given[2]))
            elif kind == "Problem" and len(given) >= 5 and isinstance(node.args[2], ast.Constant):
                severity = "warning" if given[5:] == ["warning"] else "refused"
                found.add(Finding(given[2], severity, given[3], given[4]))
    return sorted(found)


def page() -> str:
    """The whole page."""
    parts, known = [HEAD], errors()
    for code in sorted({error.code for error in known}):
        parts.append(f"### {code}\n\n")
        for error in (e for e in known if e.code == code):
            parts.append(f"{_shown(error.summary)}\n\n")
            rows = (("says", error.what), ("means", error.meaning), ("remedy", error.remedy))
            parts += [f"* **{label}** {_shown(text)}\n" for label, text in rows if text]
            parts.append(f"* **where** `{error.module}`, `{error.name}`\n\n")
    table = [f"| `{f.code}` | {f.severity} | {_shown(f.reason)} | {_shown(f.remedy)} |" for f in findings()]
    return "".join(parts).rstrip("\n") + "\n" + MIDDLE + "\n".join(table) + "\n"


def _code(node: ast.ClassDef) -> str:
    for line in node.body:
        if isinstance(line, ast.Assign) and [ast.unparse(t) for t in line.targets] == ["code"]:
            return _text(line.value)
    return ""


def _sentences(node: ast.ClassDef) -> tuple[str, str, str]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
            given = {k.arg: _text(k.value) for k in call.keywords if k.arg}
            if given:
                return given.get("what", ""), given.get("meaning", ""), given.get("remedy", "")
    return "", "", ""


def _text(node: ast.expr) -> str:
    """A string as it is written in the code, with <names> where values are filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
        return _text(node.args[0])
    if isinstance(node, ast.Name):
        return f"<{node.id.lower()}>"
    return f"<{node.attr.lower()}>" if isinstance(node, ast.Attribute) else "<…>"


def _shown(text: str) -> str:
    """Safe inside a Markdown table."""
    one_line = " ".join(text.replace("``", "`").split())
    return one_line.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
