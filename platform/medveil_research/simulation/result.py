"""What a simulation has found so far: what stands in its JSON, its page and its terminal."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from medveil.reports import Amount, Count, Figures, Text
from medveil.tasks import TASKS
from medveil.values import Frozen, MaskGraph, Name, PrivacyKind, Sha256
from medveil_research.simulation.schedule import Schedule

DIFFERS = (
    "no TLS and no HTTP: messages are the same bytes, handed from process to process",
    "no database and no fsync: neither journals nor the aggregator's store are written",
    "one machine and one clock: seconds are of this machine's processors, not of hospitals over a line",
    "a signature that one hospital has checked counts for all in its process; a real one checks each",
    "hospitals are handed the model; a real node makes it anew from each published sum, and checks the proof",
    "the final evaluation is made here, exactly, on the data set's test patients; no round sums it",
    "epsilon is that of the study's schedule and says nothing of real hospitals; the patients here lie in "
    "one folder, and nothing protects them",
)
"""How a simulation is not a consortium; it stands in every report."""


class Dealt(Frozen):
    """How many patients each hospital got, and of which labels; nothing names a patient."""

    train: tuple[int, ...] = ()
    """Of each hospital: training patients."""
    labels: tuple[dict[str, int], ...] = ()
    """Of each hospital: what the split looked at → training patients."""
    test: int = 0


class Costs(Frozen):
    """Of one hospital that survived, as the mean over all of them."""

    cpu_s: dict[str, Amount] = Field(default_factory=dict)
    """By phase: with training in ``commit`` or ``upload``, whenever it was first asked for."""
    up: dict[str, Amount] = Field(default_factory=dict)
    """Bytes sent, by kind of message; ``vector`` is the masked vector."""
    down: dict[str, Amount] = Field(default_factory=dict)
    """Bytes shown, by phase."""

    @property
    def cpu(self) -> float:
        """Seconds of one core in all."""
        return sum(self.cpu_s.values())

    @property
    def vector(self) -> float:
        """Bytes of the masked vector."""
        return self.up.get("vector", 0.0)

    @property
    def messages(self) -> float:
        """Bytes of everything else, both ways."""
        return sum(self.up.values()) + sum(self.down.values()) - self.vector


class Theory(Frozen):
    """What the protocol says of the same attempt."""

    vector_bytes: Amount
    message_bytes: Amount
    neighbours: Amount
    may_vanish: int
    """Most that may drop out after the keys were sent."""
    disconnected_bits: float | None
    """-log2 of the bound that honest survivors are not connected; None: impossible."""
    rounding: Amount
    """Most that a coordinate of the mean may be off."""
    rounding_rms: Amount


class RoundFacts(Frozen):
    """One attempt at a round."""

    round: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]
    outcome: Literal["done", "failed"]
    reason: str = ""
    """Code of the error with which it failed."""
    phase: str = ""
    """In which it failed."""
    closed: bool | None = None
    """Of one that failed after uploads: whether enough hospitals gave it up, so that the next may begin."""
    absent: dict[str, Count] = Field(default_factory=dict)
    """As scheduled: first phase not answered → hospitals."""
    left: dict[str, Count] = Field(default_factory=dict)
    """Code → hospitals that left for an error of their own."""
    advertised: Count = 0
    committed: Count = 0
    survivors: Count = 0
    unmasked: Count = 0
    masks_removed: Count = 0
    wrong_words: Count | None = None
    """Words of the sum that differ from the sum of what hospitals encoded; the promise is 0."""
    check_word: bool | None = None
    """Whether a hospital found the check word right."""
    error: Amount | None = None
    """Largest distance of a coordinate of the mean to the exact weighted mean, in model units."""
    error_rms: Amount | None = None
    neighbours: Amount | None = None
    masking_s: Amount | None = None
    """CPU seconds that a hospital takes to encode and mask its vector: what the mask graph governs."""
    seconds: Amount
    aggregator_s: Amount = 0.0
    """Seconds of the aggregator's one core."""
    peak_bytes: Count = 0
    """Resident memory of all processes together, at most."""
    costs: Costs = Costs()
    theory: Theory | None = None
    figures: Figures = Field(default_factory=dict)
    epsilon: Amount | None = None


class SimulationResult(Frozen):
    """A simulation, as far as it has come."""

    format: Literal["medveil simulation 1"] = "medveil simulation 1"
    medveil: Text
    study: Name
    study_hash: Sha256
    task: Text
    headline: Text
    hospitals: int
    rounds_planned: int
    parameters: int
    uploaded: int
    lane_bits: int
    mask_graph: MaskGraph
    colluders: int
    threshold: int
    quorum: int
    privacy: PrivacyKind
    stated_epsilon: Amount | None
    masks: bool
    updates: Literal["train", "random"]
    split: Text
    seed: int
    processes: int
    schedule: Schedule
    dealt: Dealt = Dealt()
    attempts: tuple[RoundFacts, ...] = ()
    differs: tuple[str, ...] = DIFFERS

    @property
    def headline_name(self) -> str:
        """The headline figure, for people."""
        return TASKS[self.task].headline_name

    @property
    def done(self) -> list[RoundFacts]:
        """Attempts with a sum."""
        return [one for one in self.attempts if one.outcome == "done"]

    @property
    def failed(self) -> list[RoundFacts]:
        """Attempts without one."""
        return [one for one in self.attempts if one.outcome == "failed"]

    @property
    def exact(self) -> bool:
        """Whether every sum was the integer sum of what the survivors encoded."""
        return all(one.wrong_words == 0 for one in self.done)

    def document(self) -> dict[str, Any]:
        """For a program."""
        return self.model_dump(mode="json")
