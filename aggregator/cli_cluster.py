"""``medveil aggregator cluster``, ``scheduler`` and ``worker``: large sums on several machines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from aggregator.cli_people import DEFAULT, Folder
from aggregator.settings import Settings, load
from medveil.errors import BadOption
from medveil.folders import named
from medveil.shown import Screen, plain

screen = Screen()


def cluster(
    address: Annotated[
        str, typer.Argument(help="Where the scheduler will listen, e.g. tls://10.0.0.1:8786.")
    ],
    folder: Folder = DEFAULT,
    hand_out: Annotated[
        Path | None,
        typer.Option(help="A new folder: all that its machines need, to be carried there. No key of yours."),
    ] = None,
) -> None:
    """Have large sums computed by other machines: make their certificates and note the address."""
    from aggregator import admin

    made = admin.set_up_cluster(load(folder), address)
    screen.say(f"Large sums go to the workers of {plain(address, 200)} from the next start on.")
    if made:
        screen.say(f"  New certificates for all its processes are in {folder / 'cluster'}.")
    if hand_out is not None:
        admin.hand_out_cluster(load(folder), hand_out)
        screen.say(f"  {hand_out} holds what its machines need. Whoever has it is one of them.")
    where = named(hand_out or folder)
    screen.say(f"On the machine of that address:  medveil aggregator scheduler {where}")
    screen.say(f"On each machine that computes:   medveil aggregator worker {where}")
    screen.say("  Each needs a copy of that folder (--hand-out makes it) and the same uploads: a shared")
    screen.say("  folder, or the bucket. None needs admin.key or the database.")
    screen.say(f"Then start the aggregator again: medveil aggregator serve {named(folder)}")


def scheduler(
    folder: Folder = DEFAULT,
    host: Annotated[
        str,
        typer.Option(help="Where to listen, if not on that address itself: 0.0.0.0 in a container."),
    ] = "",
) -> None:
    """Deal out sums to workers until told to stop. One for each consortium."""
    from aggregator.work.open import run_scheduler
    from medveil.log import set_up

    set_up()
    settings = _with_cluster(folder)
    run_scheduler(folder, settings.cluster, host)


def worker(
    folder: Folder = DEFAULT,
    processes: Annotated[
        int, typer.Option(help="How many, each on one core. 0: one for each core.", min=0)
    ] = 0,
) -> None:
    """Compute sums for the aggregator until told to stop. It waits for a scheduler that is away."""
    from aggregator.work.open import run_workers
    from medveil.log import set_up

    set_up()
    settings = _with_cluster(folder)
    run_workers(folder, settings.cluster, processes or len(os.sched_getaffinity(0)))


def _with_cluster(folder: Folder) -> Settings:
    settings = load(folder)
    if not settings.cluster:
        raise BadOption(
            problem="this folder names no cluster; run 'medveil aggregator cluster ADDRESS' first"
        )
    return settings
