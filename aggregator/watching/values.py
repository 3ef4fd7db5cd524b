"""What is seen of studies, rounds and hospitals. Terminal and pages show these and nothing else.

Times are Unix seconds. None means "not known here", never "none": only the process that leads knows who was
heard from lately, and tells it in a :class:`Live`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medveil.parent import Parent
from medveil.reports import Amount, Count, Directive, Finite, Text
from medveil.rounds import Phase, RoundKind
from medveil.values import Frozen, Name, PrivacyKind, Sha256

Short = Annotated[str, Field(max_length=60)]


class Heard(Frozen):
    """What the leading process knows of a hospital by its requests."""

    at: Amount
    """When it was heard from last."""
    version: Short | None = None
    """Of its software, by its own word; older ones do not tell."""
    clock_s: Finite | None = None
    """How far its clock is ahead of the aggregator's; about a tenth of a second too low."""
    certificate_until: Amount | None = None
    """When the client certificate ends that it was given last; None where none are asked for."""


class PlanHeld(Frozen):
    """What the leading process alone knows of a plan that is not over."""

    round: Count = 0
    attempt: Count = 0
    phase: Phase | None = None
    phase_began: Amount | None = None
    phase_ends: Amount | None = None
    """When the present phase is closed at the latest."""
    left: tuple[Name, ...] = ()
    """Hospitals that have left the open attempt, by their own word."""
    away: tuple[Name, ...] = ()
    """Hospitals that join no attempt for now, by their own word."""
    in_reach: tuple[Name, ...] = ()
    """Hospitals that were heard from lately, or may still be, for the process has just begun to lead."""
    ready: tuple[Name, ...] = ()
    """Those that have approved, were heard from lately and join the next attempt."""
    reason: Text = ""
    """Why it does not move, as :class:`medveil.reports.Waiting` has it; empty if it does."""
    next_at: Amount | None = None
    """When the next attempt may open, after some that failed at their beginning."""


class Live(Frozen):
    """What the leading process knows beyond the database, at one moment."""

    written: Amount
    started: Amount
    pid: Count
    stopped: bool = False
    """Whether it has ended as it was asked to."""
    hospitals: dict[Name, Heard] = Field(default_factory=dict)
    plans: dict[Sha256, PlanHeld] = Field(default_factory=dict)


# ---- the timeline of an attempt

Step = Literal["invited", "keys", "training", "ready", "upload", "agreed", "shares", "gave-up"]
"""What a hospital has reached in an attempt, in order. ``keys``: its public keys are out. ``training``: its
shares are dealt, so it trains or scores from here. ``ready``: it has done so. ``upload``: its masked vector
is signed. ``agreed``: it has signed who is in the sum. ``shares``: it has given those that open it."""
Stand = Literal["asked", "answered", "left", "in-the-sum", "dropped", "absent", "ended"]
"""How a hospital is in an attempt. ``asked``: the present phase waits for its answer. ``left``: it has left,
by its own word. ``absent``: it never joined. ``ended``: the attempt had no sum, and not for this hospital."""


class Reached(Frozen):
    """A step, and when its message was on the aggregator's disk."""

    step: Step
    at: Amount


class Lane(Frozen):
    """One hospital in an attempt."""

    hospital: Name
    stand: Stand
    reached: tuple[Reached, ...] = ()
    dropped_in: Phase | None = None
    """The phase that it did not answer."""
    last_heard: Amount | None = None
    in_reach: bool | None = None
    through_relay: bool = False
    """Its masked vector came in its region's sum; the moment is that of the sum."""


class PhaseSpan(Frozen):
    """One phase of an attempt."""

    phase: Phase
    began: Amount
    ended: Amount | None
    """None for the one that is open."""
    ends_by: Amount | None
    """Its deadline, which begins anew when the aggregator restarts; None where there is none."""
    answered: Count
    invited: Count
    need: Count
    """Answers without which it cannot be closed but with the attempt's failure."""


class Timeline(Frozen):
    """One attempt at a round, a lane for each hospital."""

    plan: Sha256
    study: Name
    round: Count
    rounds: Count
    """Of training, and the last evaluation."""
    attempt: Count
    kind: RoundKind
    opened: Amount
    ended: Amount | None
    """None while it is open."""
    outcome: Literal["open", "done", "failed"]
    reason: Text = ""
    """Code of what it failed by."""
    failed_in: Phase | None = None
    quorum: Count
    """Fewest hospitals with which it can have a sum."""
    phases: tuple[PhaseSpan, ...]
    lanes: tuple[Lane, ...]
    times_known: bool = True
    """Whether the audit log tells the moments; a log that was begun later does not."""
    as_of: Amount
    live_as_of: Amount | None = None
    """When the leading process told what is live in it; None if it is not known."""


# ---- what a study waits for

Why = Literal[
    "approvals",
    "hospitals",
    "phase-end",
    "reach",
    "sum",
    "trouble",
    "giving-up",
    "failures",
    "next-round",
    "paused",
    "stopping",
    "stopped",
    "withdrawn",
    "finished",
    "too-few-left",
    "ended-early",
    "roster-approvals",
    "takeover",
    "takeover-reach",
    "takeover-halted",
    "takeover-refused",
    "amended",
    "set-aside",
]
"""``hospitals``: answers of those in ``awaited``. ``phase-end``: everybody in reach has answered.
``sum``: the aggregator opens the sum. ``trouble``: it cannot, ``reason`` says why. ``giving-up``:
hospitals give a failed attempt up. ``failures``: a pause after attempts that failed at their beginning.
``stopping``: it is paused or stopped, and an attempt that has masked vectors comes to its own end first.
``roster-approvals``, ``takeover``: an amendment waits for approvals, or for a moment between two attempts
of the roster before it; ``takeover-reach`` for enough of its hospitals in reach, ``takeover-halted``
because the admin has halted the study; ``takeover-refused``: it cannot, as ``without`` take no part and
an attempt takes ``need``. ``too-few-left``, ``ended-early``: it ended before its last round, as
``without`` take no part and a round takes ``need``, or as the last attempt failed by ``reason``.
``amended``: another roster has taken over. ``set-aside``: this one never did, and never will."""


class Awaited(Frozen):
    """A hospital that is waited for."""

    hospital: Name
    heard_s: Amount | None = None
    """Seconds since it was heard from."""
    in_reach: bool | None = None


class WaitsFor(Frozen):
    """What a study waits for, in parts; :func:`aggregator.watching.words.sentence` says it in English."""

    why: Why
    round: Count = 0
    rounds: Count = 0
    attempt: Count = 0
    kind: RoundKind | None = None
    phase: Phase | None = None
    awaited: tuple[Awaited, ...] = ()
    since: Amount | None = None
    """When the phase began that is open; None without one."""
    left_s: Amount | None = None
    """Until the deadline, or the next try; None if there is none or it is not known."""
    answered: Count = 0
    invited: Count = 0
    need: Count = 0
    """Answers, approvals or hospitals that it takes."""
    without: tuple[Name, ...] = ()
    """Who takes no part, where the study ended for that or a roster cannot take over."""
    reason: Text = ""
    epoch: Count = 0
    """Of an amendment that has not begun its roster's number; of an amended plan that of the next one."""
    other: Sha256 | None = None
    """The plan that works until then, or since."""
    live_known: bool = True
    """Whether the leading process has told lately who was heard from."""


# ---- a study


class RosterLine(Frozen):
    """One hospital of a study."""

    index: Count
    hospital: Name
    key: Short
    """Fingerprint of its key."""
    stand: Literal["waiting", "approved", "refused", "withdrawn"]
    reason: Text = ""
    """The operator's own words."""
    at: Amount | None = None
    away: bool | None = None
    """Whether it joins no attempt for now, by its own word."""
    in_reach: bool | None = None
    last_heard: Amount | None = None


class Traffic(Frozen):
    """What a round of late took one hospital, on average."""

    hospital: Name
    bytes_up: Amount
    bytes_down: Amount
    rounds: Count
    """Out of so many attempts of late in which it had traffic."""


class Cost(Frozen):
    """What a study has cost, and will have cost at its end.

    Epsilon is that of a patient of a hospital that takes part in every round; ``joint`` counts the noise of
    the other honest hospitals, ``local`` does not. None without noise, and where nobody has reckoned it.
    """

    privacy: PrivacyKind
    delta: Amount | None = None
    joint: Amount | None = None
    joint_at_end: Amount | None = None
    local: Amount | None = None
    local_at_end: Amount | None = None
    seconds_per_round: Amount | None = None
    """Of rounds that train, of late; None before the first."""
    seconds: Amount | None = None
    """In attempts so far."""
    seconds_left: Amount | None = None
    """If the rounds that are left take as long as those of late."""
    traffic: tuple[Traffic, ...] = ()
    bytes: Amount | None = None
    """Of all hospitals, both ways, so far."""
    bytes_left: Amount | None = None
    estimated: bool = False
    """Whether ``seconds`` and ``bytes`` were reckoned from the attempts of late: there are more than are
    read."""


class FigureSeen(Frozen):
    """The newest figure of a study."""

    name: Short
    unit: Short = ""
    round: Count
    value: Finite | None
    """None where the noise drowns it."""
    low: Finite | None = None
    high: Finite | None = None
    by_noise_alone: bool = False
    words: Text
    """As people read it."""
    words_zh: Text = ""
    """The same in Chinese."""


State = Literal[
    "approvals",
    "running",
    "paused",
    "stopped",
    "withdrawn",
    "finished",
    "ended-early",
    "amendment",
    "amended",
    "set-aside",
]
"""``amendment``: a change of the roster that has not taken over yet. ``amended``: another roster goes on.
``set-aside``: an amendment that never took over, for another one did, or the study was over."""
OVER: tuple[State, ...] = ("finished", "ended-early", "stopped", "withdrawn", "amended", "set-aside")
"""States in which a plan opens no further round."""


class StudyLine(Frozen):
    """A study in a list."""

    plan: Sha256
    name: Name
    state: State
    round: Count
    """The one that is open, or the last one that was."""
    rounds: Count
    attempts: Count
    """That have ended."""
    created: Amount
    epoch: Count = 1
    """Number of its roster."""
    follows: Sha256 | None = None
    """The plan whose roster it changes."""
    followed_by: Sha256 | None = None
    """The plan with another roster that goes on in its place."""


class StudySeen(StudyLine):
    """A study."""

    words: tuple[Short, ...]
    description: Annotated[str, Field(max_length=2000)] = ""
    task: Short
    roster: tuple[RosterLine, ...]
    joins: tuple[Name, ...] = ()
    leaves: tuple[Name, ...] = ()
    """Of an amendment: who is on its roster, and was not on the one before; and the other way round."""
    approvals: Count
    approvals_needed: Count
    rounds_done: Count
    """Rounds that are over, the last evaluation among them."""
    rounds_left: Count
    version: Count
    """Number of the newest model."""
    model: Sha256
    cost: Cost
    figure: FigureSeen | None = None
    parent: Parent | None = None
    """The published version that it starts from, and what that had cost in its own study."""
    directives: tuple[Directive, ...] = ()
    """What the admin has said of it, the newest first."""
    waits_for: WaitsFor
    sentence: Text
    as_of: Amount


class RoundSeen(Frozen):
    """One attempt that has ended, in a list."""

    round: Count
    attempt: Count
    kind: RoundKind
    outcome: Literal["done", "failed"]
    reason: Text = ""
    failed_in: Phase | None = None
    opened: Amount
    seconds: Amount
    in_the_sum: tuple[Name, ...]
    missing: tuple[Name, ...]
    epsilon: Amount | None = None
    model: Sha256 | None = None
    figure: FigureSeen | None = None
    bytes_up: Count
    bytes_down: Count


class RoundsPage(Frozen):
    """Some attempts, the newest first."""

    rounds: tuple[RoundSeen, ...]
    before: tuple[int, int] | None = None
    """Where the next page begins: round and attempt; None on the last page."""


# ---- a hospital


class HospitalSeen(Frozen):
    """One hospital that is enrolled."""

    hospital: Name
    key: Short
    enrolled: Amount
    revoked: bool
    last_heard: Amount | None = None
    in_reach: bool | None = None
    """Whether it was heard from in the last minute; None if it is not known."""
    version: Short | None = None
    clock_s: Finite | None = None
    certificate_until: Amount | None = None
    studies: tuple[Sha256, ...] = ()
    """Those that name it and are not over."""
    approved: tuple[Sha256, ...] = ()
    """Those of them that it has approved; a node without one calls nobody, and its silence says nothing."""
    taken: Count = 0
    """Rounds of late in whose sum it is."""
    missed: Count = 0
    """Rounds of late that had a sum, of studies that it has approved, in which it is not."""
    as_of: Amount
