"""``medveil research predict``: a finished model on images of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medveil.shown import Screen, plain, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medveil_research.prediction.run import Predicted

MOST_TOLD = 20


def predict(
    model: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="A model's folder, from 'fetch' or 'export'."),
    ],
    images: Annotated[list[Path], typer.Argument(help="Folders and files: PNG, JPEG, NIfTI, DICOM.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability from which on a finding is there.")
    ] = 0.5,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also DICOM SEG or SR; these name the patient, as the image does.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Of the processor, for each image.")] = 2,
    key: Annotated[str, typer.Option(help="The public key that must have signed the model's manifest.")] = "",
) -> None:
    """Say what a model makes of images, for research only. Nothing leaves this machine."""
    from medveil.private_files import keep_private
    from medveil_research.commands.export import public_key
    from medveil_research.prediction.cases import cases_in
    from medveil_research.prediction.networks import judging
    from medveil_research.prediction.run import Wish
    from medveil_research.prediction.run import predict as run

    keep_private()
    held = judging(model, threads=threads, key=public_key(key))
    cases = cases_in(images, held.study)
    with Screen(stderr=True).waiting():
        done = run(held, cases, output, Wish(threshold, dicom))
    _show(done, output)


def _show(done: Sequence[Predicted], output: Path) -> None:
    screen = Screen()
    refused = [one for one in done if one.problem is not None]
    without = [one for one in done if one.missing]
    screen.say(f"judged   {len(done) - len(refused)} of {len(done)} images, for research only")
    screen.say(f"written  {plain(output / 'predictions.csv')} and .json")
    for one in refused[:MOST_TOLD]:
        if one.problem is not None:
            screen.say(
                warn("left out"), f"number {one.case.number}: {plain(one.problem.what)} [{one.problem.code}]"
            )
    for one in without[:MOST_TOLD]:
        screen.say(warn("no DICOM"), f"number {one.case.number}: {plain(one.missing[0])}")
    more = max(0, len(refused) - MOST_TOLD) + max(0, len(without) - MOST_TOLD)
    if more:
        screen.say(f"         {more} more of these; predictions.csv has all of them")
    if len(refused) == len(done):
        raise typer.Exit(1)
