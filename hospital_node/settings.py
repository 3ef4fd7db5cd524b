"""One hospital's node: its folder, its data, its aggregator, and what its operator allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hospital_node.ranks.settings import RanksSettings
from medveil.bounds import (
    LARGEST_DELTA,
    MOST_HOSPITALS,
    MOST_PARAMETERS,
    MOST_STEPS,
    MOST_VOXELS,
    default_delta,
)
from medveil.errors import Error
from medveil.files import replace_durably
from medveil.folders import settings_in
from medveil.handed import parsed, written
from medveil.registry import names_in
from medveil.shown import plain
from medveil.trace_target import TraceTarget
from medveil.values import Frozen, Name, Sha256

FILE = "node.json"


LEAST_BYTES_PER_S = 32_768
"""An aggregator cuts off whoever sends at less than half of it."""
HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def minutes_of(hours: str) -> tuple[int, int]:
    """Start and end of hours ("19:00-07:00") in minutes of the day. Raises: ValueError."""
    found = HOURS.fullmatch(hours)
    if found is None:
        raise ValueError('hours are written as "19:00-07:00"')
    hour, minute, to_hour, to_minute = map(int, found.groups())
    start, end = 60 * hour + minute, 60 * to_hour + to_minute
    if start == end:
        raise ValueError("its hours begin when they end; leave them out to train at any time")
    return start, end


def _hours(text: str) -> str:
    minutes_of(text)
    return text


def _known(package: str, kind: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in names_in(package):
            known = ", ".join(names_in(package))
            raise ValueError(f"there is no {kind} called '{plain(name, 40)}'; there are {known}")
        return name

    return check


Hours = Annotated[str, AfterValidator(_hours)]
TaskName = Annotated[str, AfterValidator(_known("medveil.tasks", "task"))]
ProfileName = Annotated[str, AfterValidator(_known("medveil.profiles", "profile"))]


class Policy(Frozen):
    """What this hospital allows, whatever a plan says."""

    allow_no_privacy: bool = False
    """Whether to take part in studies without differential privacy."""
    epsilon_cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    """Most that any patient of this data set may ever spend, over all studies, at :meth:`delta_limit`."""
    delta_cap: Annotated[float, Field(gt=0, le=LARGEST_DELTA)] | None = None
    """Largest delta at which the epsilon of studies and ledger is counted here, whatever a study names.

    Epsilon says nothing without it: the same noise is 9.3 at delta .0099 and 14.7 at 1e-5. Without it
    min(1e-5, 1 / (10 n)), where n is the number of patients that the hospital declares.
    """
    count_joint_noise: bool = False
    """Whether studies with joint noise are held against the cap with the other hospitals' share of the noise.

    That trusts as many hospitals as the plan says to add their noise and keep it secret. Otherwise a study
    is charged what this hospital's own noise protects, whatever the others do.
    """
    allow_site_figures: bool = False
    """Whether to take part in studies that show this hospital's own figures to all who may read the study."""
    min_hospitals: Annotated[int, Field(ge=3, le=MOST_HOSPITALS)] = 3
    """Fewest hospitals in a sum that this one takes part in."""
    min_colluders: Annotated[int, Field(ge=0, le=MOST_HOSPITALS)] = 0
    """Fewest other hospitals that, together with a lying aggregator, must still see nothing but sums."""
    max_parameters: Annotated[int, Field(ge=1, le=MOST_PARAMETERS)] = MOST_PARAMETERS
    """Most parameters of a model."""
    max_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = MOST_STEPS
    """Most optimiser steps of a whole study at this hospital."""
    max_voxels: Annotated[int, Field(ge=64, le=MOST_VOXELS)] = MOST_VOXELS
    """Most pixels or voxels of an image as the model sees it."""
    memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most memory that a plan may ask for, in GB; nine tenths of the machine's without it."""
    burned_in: Literal["warn", "refuse", "blank"] = "warn"
    """What becomes of a film that seems to show writing: used with a warning, or not used; ``blank``: the
    rectangles of ``rectangles.toml`` in the node's folder are black; what shows writing then is not used."""
    faces: Literal["warn", "refuse", "allow"] = "warn"
    """What becomes of a volume that seems to show a face; ``allow``: used, and nothing is said."""

    tasks: Annotated[tuple[TaskName, ...], Field(min_length=1)] | None = None
    """What may be learned here; anything without it."""
    profiles: Annotated[tuple[ProfileName, ...], Field(min_length=1)] | None = None
    """Kinds of images that may be used; any without it."""
    max_upload_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most that a round may send, in MB."""
    upload_bytes_per_s: Annotated[int, Field(ge=LEAST_BYTES_PER_S)] | None = None
    """Fastest that masked vectors are sent, over all studies."""
    hours: Hours | None = None
    """Local time in which attempts are joined, "19:00-07:00". One that began goes on."""
    gpu: bool = True
    """Whether the GPU may be used."""
    gpu_device: Annotated[int, Field(ge=0, le=63)] | None = None
    """Which, counted from 0; the first without it."""
    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of its memory."""

    def delta_limit(self, declared: int | None = None) -> float:
        """The delta at which this hospital counts, unless a study names a smaller one.

        Args:
            declared: patients that the hospital declares; None: not yet known.
        """
        if self.delta_cap is not None:
            return self.delta_cap
        return default_delta(1 if declared is None else max(1, declared))


class RelaySettings(Frozen):
    """The relay of this hospital's region; the authority that it is known by lies in ``relay-ca.pem``."""

    address: Annotated[str, Field(pattern=r"^https://[^/]+$")]


class AuditSyslog(Frozen):
    """The hospital's audit archive: DICOM audit messages go there by syslog over TLS (RFC 5425)."""

    address: Annotated[
        str, Field(pattern=r"^[^\s/:]+:[0-9]{1,5}$|^\[[0-9a-fA-F:]+\]:[0-9]{1,5}$", max_length=300)
    ]
    """``host:port``; 6514 is usual."""
    authority: Path
    """That signed the archive's certificate (PEM)."""
    certificate: Path | None = None
    """This node's own for it, with its key (PEM), where the archive asks for one."""
    site: Annotated[str, Field(max_length=60)] = ""
    """How the archive calls this hospital (AuditEnterpriseSiteID)."""

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


class PersonsSettings(Frozen):
    """By what the consortium's persons are known here (docs/decisions/0068-a-patient-in-two-hospitals.md)."""

    hash: Sha256
    """Of the consortium's persons file, which is kept as ``persons.json``; for life."""
    columns: Annotated[tuple[str, ...], Field(max_length=5)] = ()
    """That identify a person together; without any, PatientID and its issuer in the DICOM files do."""
    table: Path | None = None
    """The operator's list with ``patient_id`` and these columns; ``manifest.csv`` if left out."""


class NodeSettings(Frozen):
    """Kept in ``node.json``; the folder beside it holds the key, the pinned authority, journal and ledger."""

    name: Name
    aggregator: Annotated[str, Field(pattern=r"^https://[^/]+$")]
    data: Path
    dataset: Annotated[str, Field(min_length=1, max_length=100)]
    """A name of this set of patients. Version 0.1 kept budgets under it."""
    policy: Policy = Policy()
    cache_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    """Most disk, in GB, for sealed copies of images that are too many for memory; 0: all are in memory."""
    proxy: Annotated[str, Field(max_length=500, repr=False)] = ""
    """The proxy on the way to the aggregator, maybe with a password; ``none``: go without one. If empty, the
    environment says (HTTPS_PROXY, NO_PROXY)."""
    relay: RelaySettings | None = None
    """By way of which masked vectors go to the aggregator, if there is one."""
    audit_syslog: AuditSyslog | None = None
    """Where the record of transmissions is sent as well, if anywhere."""
    persons: PersonsSettings | None = None
    """By what persons are known whom another hospital may have as well; they are not, if left out."""
    ranks: RanksSettings | None = None
    """Cards or machines that share the steps of training; this process alone if left out."""
    traces: TraceTarget | None = None
    """The hospital's own collector that is told how long steps took; nobody if left out."""


class NoNode(Error):
    """The folder holds no node."""

    code = "no-node"

    def __init__(self, *, folder: Path) -> None:
        super().__init__(
            what=f"There is no node in the folder '{folder}'.",
            meaning="Nothing was done.",
            remedy="Name the node's folder with --folder, or make one with 'medveil node join'.",
        )


class Node:
    """The node's folder and what lies where in it."""

    def __init__(self, folder: Path, settings: NodeSettings) -> None:
        self.folder, self.settings = folder, settings
        self.key = folder / "identity.key"
        self.authority = folder / "ca.pem"
        self.relay_authority = folder / "relay-ca.pem"
        self.journal = folder / "journal.db"
        self.ledger = folder / "ledger.jsonl"
        self.splits = folder / "splits.json"
        self.cohorts = folder / "cohorts"
        self.use = folder / "use"
        self.unsent = folder / "unsent.sealed"
        self.models = folder / "models"
        self.cache = folder / "images"
        self.jobs = folder / "jobs"
        self.persons = folder / "persons.json"
        self.known_persons = folder / "persons.sealed"

    @classmethod
    def load(cls, folder: Path) -> Node:
        """Read the folder that ``medveil node init`` made. Raises: NoNode, FolderOfAnother, BadFile."""
        data = settings_in(folder, FILE, NoNode)
        return cls(folder, parsed(NodeSettings, data, name=str(folder / FILE)))

    def save(self) -> None:
        """Write ``node.json``, whole or not at all."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_durably(self.folder / FILE, written(self.settings), private=True)
