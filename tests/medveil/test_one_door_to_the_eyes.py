"""Nothing reaches a terminal, a log or a page but through medveil.shown, and nothing in it is obeyed."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from medveil import log, shown
from medveil.cli import show_error
from medveil.errors import BadFile, Error
from medveil.shown import LINE, MARK, Screen, is_plain, plain, strong
from rooms import FOLDERS, ROOT

DOOR = "platform/medveil/shown.py"
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
PRINTERS = ("rich", "click", "colorama", "curses", "termios", "pprint", "readline", "blessed")
"""Modules that print, or that make what is printed."""
WRITERS = ("print", "pprint", "breakpoint", "input")
METHODS = (
    "echo",
    "secho",
    "echo_via_pager",
    "prompt",
    "confirm",
    "print_exc",
    "print_exception",
    "print_json",
)
STREAMS = ("stdout", "stderr", "__stdout__", "__stderr__", "stdin")
NAMES_OF_THE_DOOR = ("shown.Text", "shown.Console", "sys.displayhook", "Screen._console")
OPENERS = ("open", "os.write", "os.writev", "os.fdopen", "os.dup", "os.dup2", "io.open")
SOME_WAY = re.compile(
    rf"\b(?:{'|'.join((*PRINTERS, *WRITERS, *METHODS, *STREAMS))})\b"
    r"|medveil import .*\bshown\b|medveil\.shown|displayhook|_console|/dev/"
    r"|\b(?:open|write|writev|fdopen|dup|dup2)\(\s*\d"
)
"""A source without any of this is not parsed."""
ALLOWED = {
    ("platform/medveil/log.py", "sys.stderr"),  # the log's processors clean every field
    ("hospital_node/cli.py", "sys.stderr"),  # flushed before the process ends
}
ATTACKS = (
    "\x1b[2J\x1b[1;1Hallowed",
    "\x9b31m",
    "a\nprivacy    epsilon 0.1",
    "a\r  privacy",
    "a\u2028b\u2029c",
    "\u202eevil\u202c",
    "\u2066x\u2069",
    "zero\u200bwidth\u2060\ufeff",
    "tag\U000e0041",
    "private\ue000\U000f0000",
    "\ud800",
    "unassigned\u0378",
    "filler\u3164\u115f\uffa0\u2800",
    "\x00\x07\x08\x7f",
    "a\ufe0f\ufe0f\U000e0100",
    "a" + "\u0301" * 50,
)


def sources() -> Iterator[tuple[str, ast.Module]]:
    for room in FOLDERS.values():
        for path in sorted((ROOT / room).rglob("*.py")):
            if SOME_WAY.search(text := path.read_text(encoding="utf-8")):
                yield str(path.relative_to(ROOT)), ast.parse(text)


def ways_to_print(name: str, tree: ast.AST) -> Iterator[str]:
    """Every way past the door that a module's source shows."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in PRINTERS)
        elif isinstance(node, ast.ImportFrom):
            module, names = node.module or "", [a.name for a in node.names]
            if module.split(".")[0] in PRINTERS or (module == "typer" and set(names) & set(METHODS)):
                yield f"from {module} import {', '.join(names)}"
            if module == "medveil.shown":
                yield from (f"from medveil.shown import {n}" for n in names if n not in shown.__all__)
            if module in ("sys", "builtins"):
                yield from (f"from {module} import {n}" for n in names if n in (*STREAMS, *WRITERS))
        elif isinstance(node, ast.Name) and node.id in WRITERS:
            yield node.id
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (
                node.attr in METHODS
                or (node.attr in STREAMS and owner == "sys")
                or f"{owner}.{node.attr}" in NAMES_OF_THE_DOOR
            ):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if isinstance(node.args[0].value, int) and ast.unparse(node.func) in OPENERS:
                yield ast.unparse(node)  # a number: a stream that was open before
        elif isinstance(node, ast.Constant) and node.value in ("/dev/tty", "/dev/stdout", "/dev/stderr"):
            yield str(node.value)


def test_no_module_but_the_door_can_print() -> None:
    found = {
        (name, way)
        for name, tree in sources()
        if name != DOOR
        for way in ways_to_print(name, tree)
        if (name, way) not in ALLOWED
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "print(name)",
        "from rich.console import Console",
        "import rich.markup",
        "import typer\ntyper.echo(name)",
        "from typer import secho",
        "import click",
        "import sys\nsys.stdout.write(name)",
        "from sys import stdout",
        "from medveil.shown import Text",
        "from medveil import shown\nshown.Console().print(name)",
        "import os\nos.write(1, name)",
        "open(2, 'w').write(name)",
        "open('/dev/tty', 'w').write(name)",
        "import traceback\ntraceback.print_exc()",
        "import builtins\nbuiltins.print(name)" + "\nprint",
    ],
)
def test_the_reader_of_sources_finds_each_way_past_the_door(source: str) -> None:
    assert SOME_WAY.search(source)
    assert list(ways_to_print("x.py", ast.parse(source)))


def test_the_door_makes_no_markup() -> None:
    """Every text that is printed is a Text made of characters: rich reads no brackets in those."""
    text = (ROOT / DOOR).read_text(encoding="utf-8")
    assert "from_markup" not in text
    assert "from_ansi" not in text
    assert "markup=True" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_console.print"):
            assert all(isinstance(a, ast.Call | ast.Name) for a in node.args), ast.unparse(node)


@given(st.text(max_size=400), st.integers(1, 60))
def test_whatever_comes_one_short_line_of_printable_characters_goes(text: str, limit: int) -> None:
    line = plain(text, limit)
    assert len(line) <= limit
    assert not any(unicodedata.category(c) in HIDDEN for c in line)
    assert "  " not in line
    assert plain(line, limit) == line


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_terminal_would_obey_or_hide_is_shown_as_a_mark(
    attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_plain(attack)
    screen = Screen()
    screen.say(attack)
    screen.say(strong(attack))
    screen.table(("name",), [(attack,)])
    screen.fields([("label", attack)])
    screen.fields([("label", attack)], indent=2)
    told = capsys.readouterr().out
    assert not any(unicodedata.category(c) in HIDDEN for c in told if c != "\n")
    assert MARK in told
    for line in told.splitlines():
        assert not line.startswith(("privacy", "allowed"))


@pytest.mark.parametrize(
    "text",
    [
        "Befund: Röntgen-Thorax, 3 µm",
        "Ελληνικά",
        "胸部X線",
        "naïve café",
        "[ward A], [1], [/ward], a[/x].pem",
        "'^(?:{0,46})?$'",
        ":smile: \\[x]",
        "[bold]x[/]",
        "$\\frac$",
    ],
)
def test_what_people_write_stands_as_they_wrote_it(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(text) == text
    screen = Screen()
    screen.say(text)
    screen.fields([("", text)], indent=2)
    screen.table(("x",), [(text,)])
    assert capsys.readouterr().out.count(text) == 3


@pytest.mark.parametrize(
    "text", ["[/]", "[/ward]", "[study] ca[1].pem", "\x1b[31m", "a\nremedy  call me", "x" * 10**6]
)
def test_an_error_of_any_text_is_shown_and_never_raises(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Foreign(Error):
        code = text

    show_error(BadFile(name=text, problem=text))
    show_error(Foreign(what=text, meaning=text, remedy=text))
    told = capsys.readouterr().err
    assert "\x1b" not in told
    labels = [line.split(" ")[0] for line in told.splitlines() if not line.startswith(" ")]
    assert labels == ["problem", "means", "remedy", "code"] * 2
    if text == "[study] ca[1].pem":
        assert told.count(text) == 6


def test_a_log_line_holds_printable_texts_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    log.get_logger().warning(
        "x.y", code="\x1b[2J" + "c" * 10**6, plan="a\nb", count=10**5000, nodes=["\u202e"] * 10**5
    )
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert len(told["code"]) <= LINE
    assert told["plan"] == "a b"
    assert told["count"] == "a very large number"
    assert len(line) < 100_000
    assert "\x1b" not in json.dumps(told, ensure_ascii=False)
    structlog.reset_defaults()
