"""What a hospital says of the cards and machines that share its training, in ``node.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from hospital_node.ranks.tree import MOST_RANKS
from medveil.values import Frozen

Words = tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...]
Seconds = Annotated[float, Field(ge=1, le=30 * 86_400, allow_inf_nan=False)]


class RanksSettings(Frozen):
    """``ranks`` in ``node.json``; without it the node trains in its own process."""

    count: Annotated[int, Field(ge=1, le=MOST_RANKS)]
    """Processes that share a step, one for each card."""
    submit: Words = ()
    """The command that hands a job to a cluster, its folder as last argument; it prints the job's name first.
    Empty: the node starts the ranks on this machine."""
    cancel: Words = ()
    """The command that ends a job there, its name as last argument."""
    folder: Path | None = None
    """Where jobs are written, at the same path on every machine of a job; the node's folder if left out."""
    interface: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,15}$")] | None = None
    """The network card by which ranks talk to each other, unencrypted; the loopback if left out."""
    start_s: Seconds = 3600.0
    """How long a job may wait for its cards."""
    step_s: Seconds = 1800.0
    """How long one step may take."""
    silent_s: Seconds = 60.0
    """After how long without a sign of life a rank is given up."""
