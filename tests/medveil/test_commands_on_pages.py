"""Whatever a page, an alarm or an error tells a person to type is a command that there is, and it parses."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest
import typer
import yaml
from typer._click import Command, Context

from aggregator.web.dashboard.screens import all_screens
from medveil.catalogue.dashboard import DASHBOARD
from medveil.catalogue.entrance import ENTRANCE
from medveil.catalogue.operator import OPERATOR
from rooms import FOLDERS, ROOT

PAGES = (
    "aggregator/web/dashboard/templates",
    "aggregator/web/entrance/templates",
    "hospital_node/page/templates",
)
GIVEN = {"plan": "6cd165e61127", "number": "7", "attempt": "1", "hospital": "lyon"}
WORD = re.compile(r"[a-z][a-z-]*")


@pytest.fixture(scope="module")
def root() -> Command:
    app = typer.Typer()
    for entry in entry_points(group="medveil.commands"):
        room = entry.load()
        app.add_typer(room, name=entry.name) if isinstance(room, typer.Typer) else room(app)
    return typer.main.get_command(app)


def copied() -> Iterator[tuple[str, str]]:
    """Lines that a person copies whole: where each stands, and the line."""
    for screen in all_screens():
        yield f"screen {screen.key}", screen.command.format(**GIVEN)
    for room in PAGES:
        for file in sorted((ROOT / room).rglob("*.j2")):
            for line in re.findall(r'class="command[^"]*"><code>(.*?)</code>', file.read_text()):
                if not re.fullmatch(r"\{\{ command \}\}", line):
                    yield str(file.relative_to(ROOT)), re.sub(r"\{\{.*?\}\}", "value", line)


def named() -> Iterator[tuple[str, str]]:
    """Commands in what a person reads; what they take may be left out."""
    for room in PAGES:
        for file in sorted((ROOT / room).rglob("*.j2")):
            for line in re.findall(r"<code>(medveil [^<]*)</code>", file.read_text()):
                yield str(file.relative_to(ROOT)), re.sub(r"\{\{.*?\}\}", "value", line)
    for texts in (DASHBOARD, ENTRANCE, OPERATOR):
        for key, text in texts.items():
            for said in (text.en, text.zh):
                yield from ((key, line) for line in re.findall(r"(medveil [a-z][^”“：:,.，。]*)", said))
    for rule in yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]:
        for text in rule["annotations"].values():
            yield from ((rule["alert"], line) for line in re.findall(r"'(medveil [^']+)'", text))
    for folder in FOLDERS.values():
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield from ((str(file.relative_to(ROOT)), line) for line in _in_sentences(file.read_text()))


def _in_sentences(source: str) -> Iterator[str]:
    """In single quotes within a text; a value that is put in stands as ``value``."""
    if "'medveil " not in source:
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (one.value if isinstance(one, ast.Constant) else "value" for one in node.values)
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        yield from re.findall(r"'(medveil [a-z][^']*)'", text)


def reached(root: Command, line: str) -> tuple[Command, list[str]]:
    """The command that a line calls, and what is left of the line."""
    command, rest = root, shlex.split(line)[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
    return command, rest


def test_what_a_page_offers_to_copy_is_taken_as_it_stands(root: Command) -> None:
    lines = list(copied())
    assert {where for where, _ in lines} > {f"screen {one.key}" for one in all_screens()}
    assert len(lines) > 20
    for where, line in lines:
        command, rest = reached(root, line)
        assert not hasattr(command, "commands") or command.invoke_without_command, (where, line)
        with Context(command, info_name="medveil") as context:
            command.parse_args(context, rest)  # raises what a person would be told
        assert line.startswith("medveil "), where


def test_every_command_that_a_text_names_exists_with_its_options(root: Command) -> None:
    wrong, count = [], 0
    for where, line in named():
        command, rest = reached(root, line.replace("…", "").replace("\n", " ").strip())
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
        used = {word.partition("=")[0] for word in rest if re.match(r"--[a-z]", word)}
        lost = hasattr(command, "commands") and any(WORD.fullmatch(word) for word in rest[:1])
        lost = lost and rest[0] != "value"
        count += 1
        if lost or used - options:
            wrong.append((where, line))
    assert count > 100
    assert not wrong
