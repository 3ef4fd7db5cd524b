"""``medveil research own-model``: a hospital takes its own model of a study out of its node's folder."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from medveil.shown import plain, warn
from medveil_research.commands.common import screen


def own_model(
    plan: Annotated[str, typer.Argument(help="The study's name, or the first digits of the plan's hash.")],
    node: Annotated[Path, typer.Option("--node", exists=True, file_okay=False, help="The node's folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
) -> None:
    """Take this hospital's own model out of its node: the shared weights with those that stay here."""
    from hospital_node.settings import Node
    from medveil_research.own_model import own_model, write_own

    found = own_model(Node.load(node), plan)
    write_own(found, output)
    screen.say(f"written  {plain(output)}: own weights of round {found.round}")
    if found.study.privacy.kind == "none":
        screen.say(
            warn("keep it  "), "it was trained without noise and may remember patients of this hospital"
        )
    screen.say(f"Next: medveil research predict IMAGES --model {quote(str(output))} -o FOLDER")
