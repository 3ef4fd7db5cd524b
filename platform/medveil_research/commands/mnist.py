"""``medveil research mnist``: the plain example of federated averaging."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medveil.shown import Screen


def mnist(
    source: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder with the four IDX files.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Gets a folder for each hospital.")],
    hospitals: Annotated[int, typer.Option(min=3, max=128, help="How many share the pictures.")] = 5,
    by_label: Annotated[
        bool, typer.Option("--by-label", help="Each hospital sees about two digits, else all of them.")
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=100, help="Only the first so many training pictures.")
    ] = None,
) -> None:
    """Cut the MNIST digits, or a set like them, among hospitals: each picture counts as a patient."""
    from medveil_research.mnist import write_mnist_sites

    cuts = write_mnist_sites(source, output, hospitals=hospitals, by_label=by_label, images=images)
    screen = Screen()
    rows = [
        (cut.folder.name, str(cut.train), str(cut.val), str(cut.test), ", ".join(map(str, cut.labels)))
        for cut in cuts
    ]
    screen.table(("hospital", "train", "val", "test", "labels in train"), rows, right=(1, 2, 3))
