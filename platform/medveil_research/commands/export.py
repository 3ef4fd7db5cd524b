"""``medveil research export`` and ``verify``: hand a model on, and check one that was handed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medveil.errors import BadOption
from medveil.shown import Screen, good, plain, warn
from medveil_research.commands.common import Folder
from medveil_research.options import FOLDER

if TYPE_CHECKING:
    from medveil.identity import Identity
    from medveil_research.hand_on import Exported


def export(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, help="As 'fetch' writes it: study.toml, model.safetensors."
        ),
    ],
    form: Annotated[str, typer.Option("--format", help="weights, bundle (MONAI) or onnx.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
    key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Another key than the enrolled one, to sign with."),
    ] = None,
    name: Annotated[str, typer.Option(help="The name that goes with --key.")] = "researcher",
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Nobody stands behind it.")] = False,
    result: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The study's result.json, for figures.")
    ] = None,
    enrolled: Folder = FOLDER,
) -> None:
    """Write a model for others, with a signed manifest of where it comes from and what it has cost."""
    from medveil_research.hand_on import finished_model, hand_on

    identity = None if unsigned else _identity(key, name, enrolled)
    done = hand_on(form, finished_model(folder, result), output, identity)
    screen = Screen()
    for file, facts in done.manifest.files.items():
        screen.say(f"written  {plain(output / file)}  {facts.bytes:,} bytes")
    show(screen, done)


def verify(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What 'export' has written.")],
    key: Annotated[
        str, typer.Option(help="The public key (64 hex digits) that must have signed it, from its owner.")
    ] = "",
) -> None:
    """Check that a model is, file for file, what somebody has exported and signed."""
    from medveil_research.hand_on import read_handed

    show(Screen(), read_handed(folder, key=public_key(key)))


def public_key(text: str) -> bytes | None:
    """A public key as people hand it over; None if there is none. Raises: BadOption."""
    if not text:
        return None
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise BadOption(problem="--key: a public key has 64 hex digits")
    return value


def show(screen: Screen, done: Exported) -> None:
    """What its manifest says, and who says so."""
    told = done.manifest
    rounds = "" if told.rounds is None else f", {told.rounds} rounds"
    screen.say(f"study    {plain(told.study)}, plan {(told.plan or 'not known')[:16]}{rounds}")
    screen.say(f"version  {told.version}")
    paid = told.privacy
    spent = (
        "no differential privacy"
        if paid.epsilon is None or paid.delta is None
        else f"epsilon {paid.epsilon:.4g} at delta {paid.delta:g} for a patient of every round"
    )
    screen.say(f"privacy  {spent}")
    kept = len(done.study.model.personal)
    if kept:
        screen.say(
            warn("lacks   "), f"{kept} tensors that stay in the hospitals; initial values are in their place"
        )
    if done.signed.signature is None:
        screen.say(warn("unsigned"), "nobody stands behind it; the hashes show damage only")
    else:
        signer = done.signed.signature
        screen.say(good("signed  "), f"{plain(signer.name)}, key {signer.public_key}")


def _identity(key: Path | None, name: str, enrolled: Path) -> Identity:
    """Who signs. Raises: NotEnrolled, BadOption, BadFile."""
    from medveil.handed import read_whole
    from medveil.identity import Identity
    from medveil.ids import NAME
    from medveil_research.enrolment import Enrolment

    if key is None:
        return Enrolment.load(enrolled).identity()
    if not NAME.fullmatch(name):
        raise BadOption(problem="--name: lower case letters, digits and inner hyphens")
    if len(read_whole(key, 32)) != 32:
        raise BadOption(problem="--key: it is not a key of 32 bytes")
    return Identity.load(name, key)
