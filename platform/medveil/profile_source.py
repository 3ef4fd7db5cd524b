"""What a profile's file says, as a hash that hospitals compare: the same file, the same way into a tensor."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import tokenize
from pathlib import Path


def profile_hash(name: str) -> str:
    """SHA-256 in hex of the code of ``medveil/profiles/<name>.py``.

    Comments, docstrings, blank lines, ends of lines and the system's line ends do not count: a better
    explanation is no other profile, and a copy that passed through Windows is none either. Python's version
    does not matter, for the text is hashed and not what Python makes of it.

    Raises: FileNotFoundError: the profile is not a file of its own.
    """
    found = importlib.util.find_spec(f"medveil.profiles.{name}")
    if found is None or found.origin is None:
        raise FileNotFoundError(name)
    return hashlib.sha256(code_of(Path(found.origin).read_text(encoding="utf-8")).encode()).hexdigest()


def code_of(source: str) -> str:
    """The lines of a Python file that do something, without their comments."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = isinstance(node.value.value, str)
            for row in range(node.lineno, (node.end_lineno or node.lineno) + 1) if text else ():
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())
