"""``medveil node train-job``: one rank of a training job. People do not type it; nodes and clusters do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def train_job(
    folder: Annotated[Path, typer.Argument(help="The folder that the node has written for this job.")],
) -> None:
    """Compute one rank's part of a training job. The node or the cluster starts it, nobody by hand."""
    from hospital_node.ranks.place import folder_in, place_in
    from hospital_node.ranks.standing import standing

    place, job = place_in(os.environ), folder_in(folder, os.environ)
    with standing(job, place) as order:
        from medveil.lean import loading

        with loading():
            from hospital_node.training.rank import serve

        serve(job, place, order)
    os._exit(0)  # libraries of cards and networks may wait for each other at an ordinary end
