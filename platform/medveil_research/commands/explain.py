"""``medveil research explain``: what in one's own images a model's answers rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medveil.errors import BadOption
from medveil.shown import Screen, plain, warn


def explain(
    model: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="A model's folder, from 'fetch', or 'weights'."),
    ],
    images: Annotated[
        list[Path],
        typer.Argument(help="Your own images; for outlines one folder with a manifest and label maps."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path(
        "explanation.html"
    ),
    method: Annotated[
        Literal["gradcam", "gradcampp", "occlusion"] | None,
        typer.Option(help="Left out: gradcam where the network has convolutions, else occlusion."),
    ] = None,
    answer: Annotated[
        str, typer.Option(help="Class or finding; left out: the one that is most probable.")
    ] = "",
    most: Annotated[int, typer.Option(min=1, max=200, help="Images on the page.")] = 24,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Of the processor.")] = 2,
) -> None:
    """Make a page of maps over images, or of the best, median and worst outlines. Local folders only: a
    hospital's images are explained by its own operator, on its own machine."""
    from medveil.private_files import keep_private
    from medveil.tasks import TASKS
    from medveil_research.explanation.gallery import Asked, explained, outlined
    from medveil_research.explanation.page import render
    from medveil_research.fetching import TargetExists
    from medveil_research.prediction.cases import cases_in
    from medveil_research.prediction.networks import in_torch
    from medveil_research.report.base import write_page

    keep_private()  # the page holds patients' images
    if output.exists():
        raise TargetExists(path=output)
    study, network, version = in_torch(model, threads=threads)
    with Screen(stderr=True).waiting():
        if TASKS[study.task].outlines:
            if len(images) != 1 or method is not None or answer:
                raise BadOption(problem="for outlines name one folder, and neither --method nor --answer")
            gallery = outlined(study, network, images[0])
        else:
            gallery = explained(study, network, cases_in(images, study)[:most], Asked(method, answer))
    write_page(render(study, version, gallery), output)
    screen = Screen()
    screen.say(f"{gallery.method}, {gallery.images} images, {len(gallery.refused)} left out")
    for number, why in gallery.refused[:20]:
        screen.say(warn("left out"), f"number {number}: {plain(why)}")
    screen.say(f"written  {plain(output)}: it holds patients' images, keep it as you keep them")
