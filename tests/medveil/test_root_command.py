"""``medveil`` knows every command without loading it, and Ctrl-C while it starts leaves the screen empty."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from medveil import cli
from medveil.errors import Error

INTERRUPTED_IN = """
import os, signal, sys

signal.signal(signal.SIGINT, HANDLER)  # a shell turns it off for what runs in the background

class Interrupt:
    module = sys.argv.pop(1)

    def find_spec(self, name, path=None, target=None):
        if name == self.module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from medveil.cli import main
main()
"""
"""A person presses Ctrl-C when this module is about to be imported."""


def help_of(app: typer.Typer) -> str:
    shown = CliRunner().invoke(app, ["--help"], prog_name="medveil")
    assert shown.exit_code == 0
    return shown.stdout


@pytest.mark.parametrize("name", ["aggregator", "node", "study"])
def test_the_list_says_of_each_command_what_its_room_says(name: str) -> None:
    """Its room is loaded here, all others are not: neither changes a line of the list."""
    lines = [set(help_of(cli.root_app(words)).splitlines()) for words in ([], [name])]
    assert lines[0] == lines[1]


def test_every_command_of_every_room_is_in_the_list() -> None:
    def commands(words: list[str]) -> set[str]:
        app = cli.root_app(words)
        names = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
        return {name for name in names if name}

    assert commands([]) == set(cli.LINES)
    for room in set(cli.ROOM_OF.values()):
        of_room = {name for name, its in cli.ROOM_OF.items() if its == room}
        assert commands([min(of_room)]) == set(cli.LINES), room


def groups_of(command: Any, *words: str) -> Iterator[tuple[str, ...]]:
    if hasattr(command, "commands"):
        yield words
        for name, inner in command.commands.items():
            yield from groups_of(inner, *words, name)


@pytest.mark.parametrize("room", sorted(set(cli.ROOM_OF.values())))
def test_a_group_without_a_command_lists_its_commands_or_does_its_own_work(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no node is
    app = cli.root_app([min(name for name, its in cli.ROOM_OF.items() if its == room)])
    for words in groups_of(typer.main.get_command(app)):
        shown = CliRunner().invoke(app, list(words))
        assert "Missing command" not in shown.output, words
        assert "Commands" in shown.output or isinstance(shown.exception, Error), words


def test_a_command_that_is_mistyped_is_named() -> None:
    refused = CliRunner().invoke(cli.root_app(["nod"]), ["nod"])
    assert refused.exit_code == 2
    assert "Did you mean 'node'?" in refused.stderr


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("evaluate", "'medveil research evaluate'"),
        ("init", "'medveil aggregator init' or 'medveil node init'"),
    ],
)
def test_who_leaves_out_the_group_of_a_command_is_told_the_whole_of_it(word: str, meant: str) -> None:
    refused = CliRunner().invoke(cli.root_app([word]), [word], terminal_width=200)
    assert refused.exit_code == 2
    assert meant in " ".join(refused.stderr.replace("│", " ").split())


MODULES = [
    "medveil.errors",
    "hospital_node.cli",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("medveil.log", "rich.console", "importlib.metadata", "typer", "pydantic")
    ),
]


def node_check(folder: Path, program: str, module: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", program, module, "node", "check"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def test_nothing_that_takes_time_is_imported_before_ctrl_c_is_caught() -> None:
    program = (
        "import re, sys; before = set(sys.modules); import medveil.cli; print(*set(sys.modules) - before)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(ended.stdout.split()) <= {"medveil", "medveil.cli", "__future__", "gc", "signal", "_signal"}


@pytest.mark.parametrize("module", MODULES)
def test_ctrl_c_while_a_command_starts_says_nothing(module: str, tmp_path: Path) -> None:
    program = INTERRUPTED_IN.replace("HANDLER", "signal.default_int_handler")
    assert node_check(tmp_path, program, module) == (130, "", "")


@pytest.mark.slow
def test_who_starts_a_command_with_ctrl_c_turned_off_keeps_it_off(tmp_path: Path) -> None:
    program = INTERRUPTED_IN.replace("HANDLER", "signal.SIG_IGN")
    code, _, said = node_check(tmp_path, program, "typer")
    assert (code, "no-node" in said) == (1, True)


LOADED = """
import sys
from medveil.cli import main
try:
    main()
except SystemExit:
    names = {name.split(".")[0] for name, module in sys.modules.items() if module is not None}
    names -= {name for name in names if name.startswith("_")} | set(sys.stdlib_module_names)
    print(" ".join(sorted(names)), file=sys.stderr)
"""
"""Prints the packages that a command has loaded by its end, ours and those of others."""
HELP = {
    "annotated_doc",
    "attr",
    "markdown_it",
    "mdurl",
    "medveil",
    "pygments",
    "rich",
    "shellingham",
    "typer",
}
"""Typer, and what it draws its help with."""
VALUES = {"annotated_types", "cbor2", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"}


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("--help", HELP),
        ("node run", HELP | VALUES | {"hospital_node"}),
        *(
            pytest.param(f"node {command}", HELP | VALUES | {"hospital_node"}, marks=pytest.mark.slow)
            for command in (
                "--help",
                "approve",
                "init --name a --aggregator https://here --authority ca.pem --data .",
                "enroll token",
                "certificate",
                "check",
                "cohort",
                "lineage",
                "heads",
                "ledger",
                "ledger verify",
                "ledger go-on",
            )
        ),
        *(
            pytest.param(f"{room} --help", HELP | VALUES | {package}, marks=pytest.mark.slow)
            for room, package in (
                ("aggregator", "aggregator"),
                ("research", "medveil_research"),
                ("study", "medveil_research"),
            )
        ),
    ],
)
def test_a_command_starts_without_what_others_need(words: str, allowed: set[str], tmp_path: Path) -> None:
    """In an empty folder, up to its first error: nothing that reckons, reads images, stores or connects."""
    command = [sys.executable, "-c", LOADED, *words.split()]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert ended.returncode == 0
    loaded = set(ended.stderr.splitlines()[-1].split())
    assert "medveil" in loaded
    assert loaded <= allowed
