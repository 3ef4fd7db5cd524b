"""Which rank a process is, by what started it: the node, torchrun, Slurm or a Kubernetes Job."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from hospital_node.ranks.folder import KEY, KEY_BYTES, JobFolder
from hospital_node.ranks.problems import NoJob
from medveil.identity import Secret

NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("JOB_COMPLETION_INDEX", "MEDVEIL_RANKS", ""),
)
"""Variables of the rank, the number of ranks and the rank among those of its machine, by who sets them."""


@dataclass(frozen=True)
class Place:
    """One rank of a job."""

    rank: int
    count: int
    local: int
    """Among the ranks of this machine: which card it takes."""


def place_in(environment: Mapping[str, str]) -> Place:
    """Raises: NoJob."""
    for rank, count, local in NAMES:
        if rank in environment and count in environment:
            found = [environment[rank], environment[count], environment.get(local, "0")]
            if not all(text.isascii() and text.isdigit() and len(text) < 6 for text in found):
                raise NoJob(problem=f"{rank}, {count} or {local or 'no local rank'} is no number")
            place = Place(*(int(text) for text in found))
            if place.rank >= place.count:
                raise NoJob(problem=f"rank {place.rank} of {place.count}")
            return place
    raise NoJob(problem="nothing says which rank this is")


def folder_in(path: Path, environment: MutableMapping[str, str]) -> JobFolder:
    """The job's folder, with the key that came with the command; the key is taken away. Raises: NoJob."""
    text = environment.pop(KEY, "")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise NoJob(problem=f"the variable {KEY} has no key")
    if not path.is_dir():
        raise NoJob(problem="its folder is gone, or not mounted here")
    return JobFolder(path.resolve(), Secret(key))
