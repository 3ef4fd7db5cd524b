"""``medveil research enroll``: a researcher becomes known to a consortium."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from medveil.shown import plain
from medveil_research.commands.common import Folder, progress, screen
from medveil_research.options import FOLDER

if TYPE_CHECKING:
    from medveil_research.consortium import Consortium


def enroll(
    token: Annotated[str, typer.Argument(help="The one-time token that the admin gave you.")],
    name: Annotated[str, typer.Option(help="Your name, as the token was made for it, e.g. anna.")],
    aggregator: Annotated[
        str, typer.Option(help="Address of the aggregator, e.g. https://fl.example.org:8443")
    ],
    authority: Annotated[Path, typer.Option(help="The aggregator's ca.pem, as its admin handed it out.")],
    folder: Folder = FOLDER,
) -> None:
    """Make your key and let the consortium know it. Everything is checked before the token is used."""
    from medveil.ids import fingerprint
    from medveil_research.consortium import Consortium
    from medveil_research.enrolment import enrol

    with progress.waiting():
        made = enrol(folder, name=name, aggregator=aggregator, authority=authority, token=token)
    screen.say(f"{plain(name)} is enrolled at {plain(made.settings.aggregator)}.")
    screen.say(f"  Your key's fingerprint:  {fingerprint(made.identity().public_key)}  (in {plain(folder)})")
    with Consortium(folder) as consortium:
        show_open(consortium)
    other = "" if folder == FOLDER else f" --folder {quote(str(folder))}"
    screen.say(f"Next: medveil research studies{other}")


def show_open(consortium: Consortium) -> bool:
    """How many studies are open to a researcher, or what is missing; whether there is one."""
    from medveil_research.consortium import grant_line

    lines = consortium.lines()
    if lines:
        screen.say(f"Open to {plain(consortium.name)}: {', '.join(sorted({line.name for line in lines}))}")
        return True
    screen.say(f"No study is open to {plain(consortium.name)} yet: the admin opens each one, by this line:")
    screen.say(f"  {grant_line(consortium.name, 'STUDY')}")
    screen.say(
        "STUDY is its name, its plan's twelve words in quotation marks, or the first 8 digits of its hash."
    )
    return False
