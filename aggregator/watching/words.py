"""What a study waits for as one plain English sentence, and amounts as people read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aggregator.watching.values import Awaited, WaitsFor
from medveil.catalogue import Speaker
from medveil.catalogue.dashboard import DASHBOARD
from medveil.rounds import EARLY, Phase, RoundKind
from medveil.shown import plain

DOING = {
    Phase.ADVERTISE: "keys",
    Phase.SHARE: "shares for the others",
    Phase.COMMIT: "training",
    Phase.UPLOAD: "masked upload",
    Phase.AGREE: "signing who is in the sum",
    Phase.UNMASK: "shares that open the sum",
    Phase.ABORT: "giving the attempt up",
}
"""What a hospital is at work on while a phase waits for it."""
_ENGLISH = Speaker(DASHBOARD, "en")
NAMED = 3
"""Hospitals that a sentence names; the others are counted."""


def doing(phase: Phase | None, kind: RoundKind | None) -> str:
    """What a hospital is at work on."""
    if phase is Phase.COMMIT and kind is RoundKind.EVALUATE:
        return "scoring"
    return "" if phase is None else DOING.get(phase, "")


def failed_by(code: str) -> str:
    """Why an attempt had no sum: in words where there are some, and always with the code."""
    key = f"failed.{code}"
    return f"{_ENGLISH(key)} ({code})" if _ENGLISH.knows(key) else code


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 days``."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if whole < 2 * 86_400:
        hours, rest = divmod(whole // 60, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{whole / 86_400:.0f} days"


def roughly(seconds: float) -> str:
    """The same in one unit: ``12 s``, ``3 min``, ``2 h``, ``3 days``."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def amount(count: float) -> str:
    """Bytes: ``640 B``, ``12 kB``, ``3.4 MB``, ``1.2 GB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.0f} {unit}" if count >= 10 * size else f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def sentence(found: WaitsFor) -> str:
    """What a study waits for, in one line."""
    return plain(_SENTENCES.get(found.why, _open)(found), 600)


def _open(found: WaitsFor) -> str:
    """An attempt is open and hospitals are asked."""
    parts = [f"{_named_round(found)} waits for {_names(found.awaited, doing(found.phase, found.kind))}"]
    if not found.awaited:
        task = doing(found.phase, found.kind) or "its hospitals"
        parts = [f"{_named_round(found)} waits for the end of a phase ({task}): nobody in reach is missing"]
    if found.left_s is not None:
        parts.append(f"deadline in {duration(found.left_s)}")
    parts.append(_answers(found))
    if not found.live_known:
        parts.append(UNKNOWN)
    return "; ".join(parts) + "."


UNKNOWN = "who is in reach is not known, for the server does not tell it here"


def _answers(found: WaitsFor) -> str:
    reached = found.answered >= found.need
    return (
        f"{found.answered} of {found.invited} answered, "
        f"quorum {found.need} {'reached' if reached else 'not reached'}"
    )


def _names(awaited: Sequence[Awaited], task: str) -> str:
    """``st-marys (training; last heard 12 s ago)``; the others are counted."""
    shown = []
    for one in awaited[:NAMED]:
        known = [task] if task and one is awaited[0] else []
        known += [f"last heard {duration(one.heard_s)} ago"] if one.heard_s is not None else []
        shown.append(one.hospital + (f" ({'; '.join(known)})" if known else ""))
    more = len(awaited) - len(shown)
    if more:
        shown.append(f"{more} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nobody"


def _named_round(found: WaitsFor) -> str:
    again = f", attempt {found.attempt}," if found.attempt > 1 else ""
    if found.kind is RoundKind.EVALUATE:
        return f"The last round (evaluation){again}"
    return f"Round {found.round}{again}"


def _more_approvals(found: WaitsFor) -> str:
    more = max(0, found.need - found.answered)
    return (
        f"{more} more approval{'' if more == 1 else 's'} "
        f"({found.answered} of {found.invited} have approved, {found.need} are needed); "
        f"not yet: {_names(found.awaited, '')}"
    )


def _missing(found: WaitsFor) -> str:
    return f"; missing: {_names(found.awaited, '')}" if found.awaited else ""


def _approvals(found: WaitsFor) -> str:
    return f"The study waits for {_more_approvals(found)}."


def _reach(found: WaitsFor) -> str:
    return (
        f"{_named_round(found)} waits for hospitals: {found.answered} that have approved are in reach, "
        f"{found.need} are needed{_missing(found)}."
    )


def _giving_up(found: WaitsFor) -> str:
    parts = [f"{_named_round(found)} has failed and waits for hospitals to give it up"]
    if found.awaited:
        parts.append(f"missing: {_names(found.awaited, '')}")
    parts.append(f"{found.answered} have, {found.need} are needed")
    return "; ".join(parts) + "."


def _failures(found: WaitsFor) -> str:
    left = "" if found.left_s is None else f" in {duration(found.left_s)}"
    return f"{_named_round(found)} is tried again{left}, for the last attempts failed at their beginning."


def _next(found: WaitsFor) -> str:
    ending = "" if found.live_known else f"; {UNKNOWN}"
    return f"{_named_round(found)} is about to open{ending}."


def _stopping(found: WaitsFor) -> str:
    if found.phase in EARLY:
        return f"The admin has halted the study ({found.reason}); the attempt that is open ends."
    return (
        f"The admin has halted the study ({found.reason}); {_named_round(found).lower()} has masked vectors "
        f"and comes to its own end first: {_answers(found)}."
    )


def _sum(found: WaitsFor) -> str:
    return f"{_named_round(found)} waits for the aggregator, which opens the sum."


def _trouble(found: WaitsFor) -> str:
    return f"{_named_round(found)} waits: its sum cannot be published yet ({found.reason})."


def _halted(found: WaitsFor) -> str:
    word = {"paused": "is paused", "stopped": "was stopped"}.get(found.why, "was withdrawn")
    return f"The study {word} by the admin: {found.reason}"


def _working(found: WaitsFor) -> str:
    return f"plan {'' if found.other is None else found.other[:12]}"


def _change_approvals(found: WaitsFor) -> str:
    return (
        f"Roster {found.epoch} waits for {_more_approvals(found)}; "
        f"until then the roster before it works ({_working(found)})."
    )


def _takeover(found: WaitsFor) -> str:
    ending = "" if found.live_known else f"; {UNKNOWN}"
    return (
        f"Roster {found.epoch} is approved and takes over between two attempts of the one before it "
        f"({_working(found)}){ending}."
    )


def _takeover_reach(found: WaitsFor) -> str:
    return (
        f"Roster {found.epoch} is approved and takes over when {found.need} of its hospitals are in reach, "
        f"now {found.answered}{_missing(found)}; until then the roster before it works ({_working(found)})."
    )


def _takeover_halted(found: WaitsFor) -> str:
    return (
        f"Roster {found.epoch} is approved and takes over when the study goes on; the admin has halted it "
        f"({_working(found)}): {found.reason}"
    )


def _amended(found: WaitsFor) -> str:
    return (
        f"Roster {found.epoch} has taken over and goes on as {_working(found)}; this plan waits for nothing."
    )


def _set_aside(found: WaitsFor) -> str:
    return (
        f"Roster {found.epoch} never took over: another one did, or the study was over ({_working(found)}). "
        "It waits for nothing."
    )


def _no_part(found: WaitsFor) -> str:
    out, names = len(found.without), [Awaited(hospital=name) for name in found.without]
    return (
        f"{out} of {found.invited} hospitals take{'s' if out == 1 else ''} no part ({_names(names, '')}), "
        f"and a round takes {found.need}"
    )


def _too_few_left(found: WaitsFor) -> str:
    return f"The study ended before its last round: {_no_part(found)}."


def _takeover_refused(found: WaitsFor) -> str:
    return (
        f"Roster {found.epoch} cannot take over: {_no_part(found)}; the roster before it works "
        f"({_working(found)})."
    )


def _ended_early(found: WaitsFor) -> str:
    cause = f": {failed_by(found.reason)}" if found.reason else ""
    return f"The study ended before its last round, after round {found.round}{cause}."


def _finished(found: WaitsFor) -> str:
    return "The study is over and waits for nothing."


_SENTENCES: dict[str, Callable[[WaitsFor], str]] = {
    "approvals": _approvals,
    "reach": _reach,
    "sum": _sum,
    "trouble": _trouble,
    "giving-up": _giving_up,
    "failures": _failures,
    "next-round": _next,
    "stopping": _stopping,
    "paused": _halted,
    "stopped": _halted,
    "withdrawn": _halted,
    "finished": _finished,
    "too-few-left": _too_few_left,
    "ended-early": _ended_early,
    "roster-approvals": _change_approvals,
    "takeover": _takeover,
    "takeover-reach": _takeover_reach,
    "takeover-halted": _takeover_halted,
    "takeover-refused": _takeover_refused,
    "amended": _amended,
    "set-aside": _set_aside,
}
