"""What the seven panels show, as values: the page draws them, and their JSON is the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hospital_node.checked import Checked
from medveil.errors import Error

Kind = Literal["running", "waiting", "paused", "needs", "off"]
Mark = Literal["done", "late", "refused", "needs", "waiting"]
"""A state of the look."""


@dataclass(frozen=True)
class Trouble:
    """An error's three sentences and its code, as the commands would show them."""

    what: str
    meaning: str
    remedy: str
    code: str

    @classmethod
    def of(cls, error: Error) -> Trouble:
        """Of an error."""
        return cls(error.what, error.meaning, error.remedy, error.code)


@dataclass(frozen=True)
class Going:
    """How far a piece of work is."""

    part: str
    """``images``, ``training`` or ``evaluation``."""
    done: int
    total: int
    left_s: float


@dataclass(frozen=True)
class PlanNow:
    """An approved plan that is not over, as the node works on it."""

    study: str
    plan: str
    stand: str
    round: int
    rounds: int
    approvals: int
    approvals_needed: int
    waits_for: str
    code: str
    device: str
    going: Going | None
    leaving: bool


@dataclass(frozen=True)
class Call:
    """Something that stands still until a person acts."""

    kind: str
    """``request``, ``alarm``, ``audit``, ``outdated``, ``off``, ``silent``, ``problem``."""
    count: int = 1
    place: str = ""
    """The panel that tells more."""


@dataclass(frozen=True)
class BigState:
    """The first panel."""

    kind: Kind
    plans: tuple[PlanNow, ...] = ()
    calls: tuple[Call, ...] = ()
    connected: bool = False
    since: float = 0.0
    paused: bool = False
    heard: float = field(default=0.0, compare=False, repr=False)
    """Unix seconds: when the node's process told something last; 0 if never."""


@dataclass(frozen=True)
class Sent:
    """One thing that left this hospital."""

    at: float
    kind: str
    where: str
    """Round and attempt, if it is about one."""
    bytes: int
    masked: bool | None
    to: str
    hash: str
    answer: str = ""


@dataclass(frozen=True)
class Leaves:
    """The second panel."""

    sent: tuple[Sent, ...] = ()
    count: int = 0
    """Of all that the record holds."""
    recorded: bool = False
    """Whether there is a record."""


@dataclass(frozen=True)
class Data:
    """The third panel."""

    source: str
    """``folder`` or ``pacs``."""
    place: str
    checked: tuple[Checked, ...] = ()
    cache_bytes: int = 0


@dataclass(frozen=True)
class Difference:
    """What a plan asks otherwise than the one that was approved last."""

    item: str
    """A key of the catalogue, after ``item.``."""
    before: str
    now: str


@dataclass(frozen=True)
class ChangedRoster:
    """What an amended plan changes, as this hospital sees it; everything else goes on."""

    epoch: int
    """Number of the new roster."""
    first_round: int
    """The first round that the new roster may work on."""
    joins: tuple[tuple[str, str], ...]
    leaves: tuple[tuple[str, str], ...]
    """Name and key fingerprint."""
    stay: int
    hospitals: int
    hospitals_before: int
    smallest_sum: int
    smallest_sum_before: int
    stays: bool
    """Whether this hospital has approved the rest already: then the difference is what it approves."""
    spent: tuple[float, float] | None = None
    """Epsilon of this hospital's patients so far and at the study's end; None without noise."""
    alone: tuple[float, float] | None = None
    """The same without counting on the others' noise."""


@dataclass(frozen=True)
class Card:
    """A plan on offer, in the terms of the person who decides."""

    plan: str
    words: tuple[str, ...]
    study: str
    description: str
    task: str
    classes: tuple[str, ...]
    profile: str
    model: str
    parameters: int
    rounds: int
    hospitals: tuple[str, ...]
    smallest_sum: int
    resisted: int
    """So many other hospitals, with a lying aggregator, still see sums only."""
    privacy: str
    epsilon: float
    delta: float
    cap: float
    upload_bytes: int
    evaluation_bytes: int
    longest_hours: float
    memory_bytes: int
    own_figures: bool
    starts_from: str
    """The model that it goes on from, in words; empty if from none."""
    discrete: bool = False
    """Whether its noise is exact whole numbers."""
    alone: float = 0.0
    """``epsilon`` without counting on the others' noise; 0 where it counts on none."""
    patients: dict[str, int] = field(default_factory=dict)
    """By split, as the images folder is now; empty if refused."""
    left_out: int = 0
    elsewhere: int = 0
    """Patients of another hospital, whom the plan lets be in one only."""
    declared: int = 0
    stands: str = "allowed"
    approvals: int = 0
    approvals_needed: int = 0
    refusal: Trouble | None = None
    word: str = ""
    """Why this hospital takes no part, as its operator has written it."""
    since: str = ""
    """The study of the plan that it is compared with; empty if none was approved."""
    differences: tuple[Difference, ...] = ()
    roster: ChangedRoster | None = None
    """Of an amended plan."""
    squared: bool = False
    """Whether hospitals count by the square of their patients."""
    matched: bool = False
    """Whether the noise of its rounds differs."""
    filtered: bool = False
    """Whether a filter stops each patient at the price."""
    terms: tuple[tuple[str, str], ...] = ()
    """Every term as the terminal shows it, in English."""


@dataclass(frozen=True)
class Requests:
    """The fourth panel."""

    cards: tuple[Card, ...] = ()
    unreadable: tuple[tuple[int, Trouble], ...] = ()
    """Offers that are no plan: place and why."""
    outdated: tuple[tuple[str, str], ...] = ()
    """Plans of an earlier version: words and why they are refused."""
    asked: float = 0.0
    """Unix seconds: when the aggregator was asked last; 0 if never."""
    trouble: Trouble | None = None
    """Why it could not be asked."""

    @property
    def waiting(self) -> tuple[Card, ...]:
        """Those that need a word."""
        return tuple(one for one in self.cards if one.stands == "allowed")


@dataclass(frozen=True)
class Training:
    """The fifth panel."""

    now: PlanNow | None = None
    cpu_share: float | None = None
    """Of all cores of this machine, since the look before."""
    memory_used: int = 0
    memory_total: int = 0
    gpu: tuple[str, float, int, int] | None = None
    """Name, share, bytes in use, bytes."""
    hours: str = ""
    """When this hospital allows work; empty: always."""


@dataclass(frozen=True)
class Spent:
    """What one study has cost the patients of one split."""

    study: str
    plan: str
    split: str
    spent: float
    finished: float
    """If the whole schedule runs."""


@dataclass(frozen=True)
class LedgerShown:
    """The sixth panel."""

    rows: tuple[Spent, ...] = ()
    spent: float = 0.0
    promised: float = 0.0
    """Of the patient who pays most."""
    cap: float = 0.0
    delta: float = 0.0
    room: float = 0.0


@dataclass(frozen=True)
class Finding:
    """One line of the health panel."""

    mark: Mark
    key: str
    """Of the catalogue, after ``health.``."""
    values: dict[str, object] = field(default_factory=dict)
    remedy: str = ""
    """A command or a sentence, in English."""


@dataclass(frozen=True)
class Examined:
    """One thing that the doctor has looked at; ``remedy`` is empty where it is in order."""

    name: str
    found: str
    remedy: str


@dataclass(frozen=True)
class HealthShown:
    """The seventh panel."""

    findings: tuple[Finding, ...] = ()
    version: str = ""
    examined: tuple[Examined, ...] = ()
    """What ``medveil node doctor`` has found when it was asked last."""
    examined_at: float = 0.0
    events: tuple[tuple[float, str, str, str], ...] = ()
    """The newest events of the page: Unix seconds, event, route, code."""
    log: tuple[tuple[float, str], ...] = ()
    """The newest lines of the node's log, the newest first: Unix seconds, words."""


@dataclass(frozen=True)
class Panels:
    """All of it. A panel that cannot be read is its trouble."""

    name: str
    state: BigState
    leaves: Leaves | Trouble
    data: Data | Trouble
    requests: Requests | Trouble
    training: Training | Trouble
    ledger: LedgerShown | Trouble
    health: HealthShown | Trouble
