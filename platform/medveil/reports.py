"""What is told of a plan: each attempt that ended, the open one, how far it has come and what it waits for.

These types are the whole road: the aggregator's row (``attempts.report``), the JSON of the status route, the
researcher's client and the command line. A key that this version does not know is passed over, one that was
not written is not told on: a row of an earlier version opens, and comes out as it went in.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_serializer
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from medveil.rounds import EARLY, ModelVersion, Phase, RoundKind
from medveil.shown import is_plain
from medveil.values import Frozen, Name, Sha256

LARGEST = 1e18
Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**18)]


@lru_cache(1024)  # ten thousand rounds have the same few labels
def _plain(text: str) -> str:
    if not is_plain(text):
        raise ValueError("it holds characters that cannot be shown")
    return text


Text = Annotated[str, Field(max_length=1000), AfterValidator(_plain)]
Label = Annotated[Text, Field(min_length=1, max_length=200)]
Figures = dict[Label, Finite]
"""Named figures as :func:`medveil.metrics.summarise` gives them; a figure that does not exist is absent."""


class _AsWritten(Frozen, extra="ignore"):
    """Keys that nobody here knows are passed over; keys that were never set are not written."""

    @model_serializer(mode="wrap")
    def _only_what_was_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key in self.model_fields_set}


class Damaged(_AsWritten):
    """A stored piece of a masked vector that is not the one its hospital signed."""

    hospital: Name
    segment: Count | None = None


class AttemptReport(_AsWritten):
    """One attempt that ended: with a sum, or without one."""

    round: Count
    attempt: Count
    kind: RoundKind
    outcome: Literal["done", "failed"]
    seconds: Amount = 0.0
    phases: dict[Label, Amount] = Field(default_factory=dict)
    """Seconds by phase; ``aggregate`` is the unmasking."""
    advertised: tuple[Name, ...] = ()
    committed: tuple[Name, ...] = ()
    survivors: tuple[Name, ...] = ()
    """Hospitals whose contribution is in the sum, if there is one."""
    bytes_up: dict[Name, Count] = Field(default_factory=dict)
    bytes_down: dict[Name, Count] = Field(default_factory=dict)
    phase_bytes: dict[Label, tuple[Count, Count]] = Field(default_factory=dict)
    """The same of all hospitals together, by the phase that was open: up, down."""
    wrong_shares: tuple[Name, ...] = ()
    """Who returned other shares than it was dealt."""
    figures: Figures = Field(default_factory=dict)
    """Of validation patients (train) or test patients (evaluate), pooled over all hospitals."""
    metric: Finite | None = None
    """The headline figure out of ``figures``."""
    sums: dict[Label, tuple[Finite, ...]] = Field(default_factory=dict)
    """The summed histograms and counts behind ``figures``; see :func:`medveil.metrics.layout`."""
    model: Sha256 | None = None
    """Hash of the model that this attempt made; None when it made none."""
    update_norm: Amount | None = None
    """Length of the mean update behind that model, with the noise that is in it."""
    epsilon: Amount | None = None
    """Spent by a patient of a hospital that took part in every round so far."""
    sum: Sha256 | None = None
    proof: Sha256 | None = None
    """Names of the kept sum, and of what proves it."""
    reason: Text | None = None
    """Code of what it failed by."""
    failed_in: Phase | None = None
    damaged: Damaged | None = None
    """Written by earlier versions only: by now a damaged piece is waited for, see :class:`Waiting`."""
    spoiled_by: tuple[Name, ...] = ()
    """Who dealt shares that open nothing."""
    certificate: Sha256 | None = None
    """Name of the kept abort certificate: its hospitals have given the attempt up."""

    @property
    def done(self) -> bool:
        """Whether it has a sum."""
        return self.outcome == "done"

    @property
    def failed_early(self) -> bool:
        """Whether it failed before anything masked was sent."""
        return self.failed_in in EARLY

    def stored(self) -> dict[str, Any]:
        """As the column ``attempts.report`` holds it; the columns beside it hold the rest."""
        return self.model_dump(mode="json", exclude={"round", "attempt", "kind", "outcome"})


class OpenAttempt(Frozen, extra="ignore"):
    """The attempt that is being worked on."""

    round: Count
    attempt: Count
    kind: RoundKind
    phase: Phase
    answered: tuple[Name, ...]
    """Who has answered in this phase."""
    invited: tuple[Name, ...]
    """Who may."""


class Waiting(_AsWritten):
    """Why a plan does not move, and what it needs to."""

    reason: Text
    failed_in: Phase | None = None
    """Of a sum that can be opened, and was not: where it failed."""
    damaged: Damaged | None = None
    failed_by: Text | None = None
    """Of an attempt that is being given up: the code of what it failed by."""
    given_up: Count | None = None
    """How many hospitals have given it up."""
    in_reach: Count | None = None
    """Hospitals that have approved and were heard from lately."""
    need: Count | None = None
    """How many of either it takes."""


class HospitalsRefusal(Frozen, extra="ignore"):
    """A hospital that takes no part in a plan, as its operator has said."""

    hospital: Name
    kind: Label
    """``refused``: never approved. ``withdrawn``: the approval was taken back."""
    reason: Text
    """The operator's own words."""
    at: Amount
    """When the aggregator heard of it; Unix seconds."""


Order = Literal["pause", "resume", "stop", "withdraw"]
"""What the admin may say of a plan."""


class Directive(Frozen, extra="ignore"):
    """What the admin has said of a plan, signed with the admin key."""

    order: Order
    number: Count
    """The plan's directives are counted from 1; the last one stands."""
    reason: Text
    """The admin's own words."""
    at: Amount

    @property
    def halts(self) -> bool:
        """Whether no attempt opens as long as it stands."""
        return self.order != "resume"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows it."""
        return self.order in ("stop", "withdraw")


class PlanStatus(Frozen, extra="ignore"):
    """A plan's progress: what it is doing, every attempt that ended, every version of its model."""

    plan: Sha256
    name: Name
    finished: bool
    hospitals: tuple[Name, ...]
    approved: tuple[Name, ...]
    in_reach: tuple[Name, ...] | None
    """Who was heard from lately. Only the process that leads knows; None says that another one answered."""
    refusals: tuple[HospitalsRefusal, ...] = ()
    """Who takes no part, and why."""
    away: tuple[Name, ...] = ()
    """Who has approved and joins no attempt for now, by its own word. Only the process that leads knows."""
    open: OpenAttempt | None
    waiting_for: Waiting | None
    """None if it moves. Only the process that leads knows of hospitals out of reach, and of a failed sum."""
    directive: Directive | None = None
    """The admin's last word on it."""
    attempts: tuple[AttemptReport, ...] = ()
    versions: tuple[ModelVersion, ...] = ()
    followed_by: Sha256 | None = None
    """The plan with another roster that has taken over from it."""


class PlanLine(Frozen, extra="ignore"):
    """One line of the list of plans."""

    plan: Sha256
    name: Name
    finished: bool
    rounds: Count
    """Attempts that have ended."""
    works: bool = True
    """Whether it may still open rounds, or was the last that did: not of a plan that another roster has taken
    over from, and not of an amended one that has not begun."""
