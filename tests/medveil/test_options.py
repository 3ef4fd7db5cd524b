"""A command that takes one dataclass is, on the command line, the command with as many parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from medveil.options import from_options

Task = Literal["classification", "segmentation"]
Name = Annotated[str, typer.Argument(help="A name.")]
Place = Annotated[Path, typer.Option("--folder", "-f", help="A folder.")]
Count = Annotated[int | None, typer.Option(min=3, max=9, help="Between 3 and 9.")]
Kind = Annotated[Task, typer.Option(help="What is learned.")]
Kill = Annotated[list[str] | None, typer.Option(help="Repeatable.")]
Names = Annotated[list[str], typer.Option("--dns", help="Repeatable, with a default.")]
Rate = Annotated[float, typer.Option(help="A number.")]
Yes = Annotated[bool, typer.Option("--yes", help="A flag.")]
Both = Annotated[bool | None, typer.Option("--centred/--not-centred", help="Either, or neither.")]
Check = Annotated[bool, typer.Option(help="A flag with its opposite.")]
SEEN: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Shared:
    name: Name
    output: Annotated[Path, typer.Option("-o", "--output", help="It must be given.")]


@dataclass(frozen=True)
class Many(Shared):
    count: Count = None
    task: Kind = "classification"
    kill: Kill = None
    names: Names = field(default_factory=lambda: ["localhost", "127.0.0.1"])
    rate: Rate = 8.0
    yes: Yes = False
    centred: Both = None
    check: Check = True
    folder: Place = Path("here")


def one(many: Many) -> None:
    """Do it with many options."""
    SEEN.append(vars(many))


def plain(
    name: Name,
    output: Annotated[Path, typer.Option("-o", "--output", help="It must be given.")],
    count: Count = None,
    task: Kind = "classification",
    kill: Kill = None,
    names: Names = ["localhost", "127.0.0.1"],  # noqa: B006
    rate: Rate = 8.0,
    yes: Yes = False,
    centred: Both = None,
    check: Check = True,
    folder: Place = Path("here"),
) -> None:
    """Do it with many options."""
    SEEN.append(locals())


def app_of(function: Any) -> typer.Typer:
    app = typer.Typer()
    app.command("one")(function)
    app.command("other")(lambda: None)
    return app


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "",
        "x",
        "-o out",
        "x -o out",
        "x -o out --count 3 --task segmentation --kill a@1 --kill b@2 --rate 1e-3 --yes --folder there",
        "x --output out --dns a --dns b --centred --no-check -f there",
        "x -o out --not-centred --check",
        "x -o out --count 2",
        "x -o out --count many",
        "x -o out --task dancing",
        "x -o out --rate high",
        "x -o out --no-yes",
        "x -o out y",
        "x -o",
        "x -o out --nams a",
    ],
)
def test_help_values_and_errors_are_those_of_a_plain_command(line: str) -> None:
    SEEN.clear()
    runner = CliRunner()
    expected = runner.invoke(app_of(plain), ["one", *line.split()])
    found = runner.invoke(app_of(from_options(one)), ["one", *line.split()])
    assert (found.exit_code, found.stdout, found.stderr) == (
        expected.exit_code,
        expected.stdout,
        expected.stderr,
    )
    assert len(SEEN) == (2 if found.exit_code == 0 and line != "--help" else 0)
    assert SEEN[:1] == SEEN[1:]


def test_a_list_of_one_call_is_not_the_list_of_the_next() -> None:
    SEEN.clear()
    app = app_of(from_options(one))
    for _ in range(2):
        assert CliRunner().invoke(app, ["one", "x", "-o", "out"]).exit_code == 0
        SEEN[-1]["names"].append("planted")
    assert SEEN[1]["names"] == ["localhost", "127.0.0.1", "planted"]


def test_the_function_is_still_called_with_a_value() -> None:
    SEEN.clear()
    one(Many("x", Path("out")))
    assert SEEN[0]["name"] == "x"
    assert from_options(one).__name__ == "one"
    assert from_options(one).__doc__ == "Do it with many options."


def test_a_function_of_two_parameters_is_none_of_these() -> None:
    def two(many: Many, more: Many) -> None: ...

    with pytest.raises(ValueError, match="too many values"):
        from_options(two)  # type: ignore[arg-type]
