"""``medveil aggregator study watch``, ``study show``, ``hospitals``: what goes on, and why it waits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli_people import DEFAULT, AsJson, Folder
from aggregator.settings import load
from medveil.errors import utc
from medveil.folders import named
from medveil.shown import Screen, Words, fault, good, plain, strong, warn

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.watching.values import Cost, HospitalSeen, Lane, RoundSeen, StudySeen, Timeline
    from aggregator.watching.watch import Watching

screen = Screen()
Study = Annotated[
    str,
    typer.Argument(
        help="The study's name, its words in quotation marks, or 8 digits or more of its hash; the only one "
        "that is not over, if left out."
    ),
]
OneOfAll = Annotated[
    str,
    typer.Argument(
        help="Only this one: the study's name, its words in quotation marks, or 8 digits or more of its hash."
    ),
]
EVERY_S = 1.0
MOST_LANES = 16
"""Hospitals that have a line of their own while a round is watched."""
OVER = ("finished", "ended-early", "stopped", "withdrawn", "amended", "set-aside")
SHORT = ("ended-early", "set-aside")
"""Ends before the last round."""
HEALTHY_CLOCK_S = 5.0


def watch(study: Study = "", folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Follow a study to its end: what each hospital does, and what the round waits for.

    In place at a terminal; elsewhere a line for each change. When another roster takes over, it is followed.
    Exit status 1 if the study ended before its last round.
    """
    with _watching(folder) as found:
        plan = _meant(found, study)
        told, seen_before = None, ""
        with screen.live() as live:
            try:
                while True:
                    seen, timeline = found.study(plan), _timeline(found, plan)
                    told = _say_ended(found, plan, told, as_json=as_json)
                    change = _change(seen, timeline)
                    if as_json and change != seen_before:
                        screen.json(_for_programs(seen, timeline))
                    elif not as_json and not screen.is_terminal and change != seen_before:
                        screen.say(f"{utc(time.time())[11:19]}  {change}")
                    seen_before = change
                    if not as_json:
                        live.show(_rows(seen, timeline))
                    if seen.followed_by is not None:
                        if not as_json:
                            screen.say(seen.sentence)
                        plan, told = seen.followed_by, None
                        continue
                    if seen.state in OVER and (timeline is None or timeline.ended is not None):
                        break
                    time.sleep(EVERY_S)
            except KeyboardInterrupt:
                seen = None
        if seen is None:
            Screen(stderr=True).say("No longer watched; the study goes on.")
            raise typer.Exit(130)
        if not as_json:
            screen.say(strong(seen.name), f"{seen.state}: {seen.sentence}")
        raise typer.Exit(1 if seen.state in SHORT else 0)


def show(study: Study = "", folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Show a study: fingerprint, roster, who has approved or refused, cost so far and to its end."""
    from aggregator.watching.cost import exact

    with _watching(folder) as found:
        seen = found.study(_meant(found, study), account=exact)
    if as_json:
        screen.json(seen.model_dump(mode="json"))
        return
    screen.say(strong(seen.name), f" {seen.state}")
    screen.fields(_fields(seen), width=9, indent=2)
    rows = ((r.hospital, str(r.index), r.key, _stand(r.stand)) for r in seen.roster)
    screen.table(("hospital", "index", "key fingerprint", "stands"), rows)
    for line in seen.roster:
        if line.reason:
            day = "" if line.at is None else f", {utc(line.at)[:10]}"
            screen.say(warn(f"  {line.stand} by"), f"{line.hospital}{day}: {plain(line.reason)}")


def hospitals(folder: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Show each hospital: when it was heard from, its version, clock and certificate, the rounds it took."""
    with _watching(folder) as found:
        seen, live = found.hospitals(), found.fresh()
    if as_json:
        for one in seen:
            screen.json(one.model_dump(mode="json"))
        return
    if not seen:
        screen.say(f"No hospital is enrolled yet. Next: medveil aggregator invite NAME {named(folder)}")
        return
    heads = ("hospital", "heard from", "version", "clock", "cert days", "rounds", "studies")
    screen.table(heads, map(_hospital_row, seen))
    screen.say(
        "  heard from: a node calls while it has approved a study that goes on; else silence says nothing"
    )
    screen.say("  rounds: those of late with its part in the sum, of those that it could have had one in")
    if live is None:
        screen.say(
            warn("  No aggregator runs on this folder, or it does not lead: times are the last known.")
        )


# ---- which study


@contextmanager
def _watching(folder: Path) -> Iterator[Watching]:
    from aggregator.admin import opened
    from aggregator.watching import live
    from aggregator.watching.watch import Watching

    settings = load(folder)
    with opened(settings) as store:
        yield Watching(store, live=lambda: live.read(settings.folder))


def _meant(found: Watching, typed: str) -> str:
    """The plan that was typed; the only one that is not over without. Raises: NoPlan, NotAFingerprint."""
    from aggregator.admin import NoPlan, plan_meant

    if typed:
        return plan_meant(found.store, typed)
    lines = found.studies()
    going = [one for one in lines if one.state not in OVER and one.state != "amendment"] or list(lines[:1])
    if len(going) != 1:
        raise NoPlan(typed="")
    return going[0].plan


def _timeline(found: Watching, plan: str) -> Timeline | None:
    from aggregator.errors import NotFound

    try:
        return found.timeline(plan)
    except NotFound:
        return None


# ---- a round as it goes


def _rows(seen: StudySeen, timeline: Timeline | None) -> Iterator[tuple[str, str]]:
    """The live table."""
    from aggregator.watching.words import amount, duration

    yield seen.name, f"{seen.state}, {_place(seen, timeline)}"
    yield "waits for", seen.sentence
    if timeline is not None and timeline.outcome == "open":
        lanes = sorted(timeline.lanes, key=lambda lane: lane.stand != "asked")
        for lane in lanes[:MOST_LANES]:
            yield f"  {lane.hospital}", _doing(lane, timeline)
        if len(lanes) > MOST_LANES:
            yield "", f"and {len(lanes) - MOST_LANES} more"
    cost = seen.cost
    if cost.joint is not None and cost.joint_at_end is not None:
        yield "epsilon", f"{cost.joint:.2f} of {cost.joint_at_end:.2f} so far"
    if cost.bytes:
        left = f", about {duration(cost.seconds_left)} of rounds left" if cost.seconds_left else ""
        yield "so far", f"{amount(cost.bytes)} in {duration(cost.seconds or 0)} of rounds{left}"
    if seen.figure is not None:
        yield seen.figure.name, f"{seen.figure.words} (round {seen.figure.round})"
    if not seen.waits_for.live_known:
        yield "", "no aggregator runs on this folder, or it does not lead"


def _place(seen: StudySeen, timeline: Timeline | None) -> str:
    if seen.state in ("amendment", "set-aside"):
        return f"roster {seen.epoch}, not begun"
    if timeline is None:
        return f"before round 1 of {seen.rounds}"
    if timeline.outcome != "open":
        return f"{seen.rounds_done} of {seen.rounds} rounds done"
    again = f", attempt {timeline.attempt}" if timeline.attempt > 1 else ""
    kind = "evaluation" if timeline.kind.value == "evaluate" else "training"
    return f"round {timeline.round} of {timeline.rounds} ({kind}){again}"


REACHED = {
    "invited": "invited",
    "keys": "keys are out",
    "training": "trains",
    "ready": "ready",
    "upload": "masked update sent",
    "agreed": "has signed who is in the sum",
    "shares": "has given its shares",
    "gave-up": "has given the attempt up",
}


def _doing(lane: Lane, timeline: Timeline) -> str:
    """What a hospital has reached, and how it is."""
    from aggregator.watching.words import doing, duration

    now, last = timeline.as_of, lane.reached[-1] if lane.reached else None
    parts = []
    if lane.stand == "dropped":
        parts.append(
            "dropped out" + (f" ({doing(lane.dropped_in, timeline.kind)})" if lane.dropped_in else "")
        )
    elif lane.stand == "absent":
        parts.append("not in this attempt")
    elif lane.stand == "left":
        parts.append("has left this attempt")
    elif last is not None:
        since = (
            f", {duration(now - last.at)} ago"
            if last.step != "training"
            else f" for {duration(now - last.at)}"
        )
        words = (
            "scores" if last.step == "training" and timeline.kind.value == "evaluate" else REACHED[last.step]
        )
        parts.append(f"{words}{since}")
    if lane.stand == "asked":
        parts.append("WAITED FOR" if lane.in_reach is not False else "not in reach")
    if lane.last_heard is not None and lane.stand in ("asked", "dropped", "absent"):
        parts.append(f"heard from {duration(now - lane.last_heard)} ago")
    return "; ".join(parts)


WAITS = {
    "phase-end": "waits for the end of the phase",
    "sum": "the sum is opened",
    "trouble": "the sum cannot be published yet",
    "giving-up": "the failed attempt is given up",
    "failures": "is tried again later",
    "next-round": "the next round is about to open",
    "stopping": "ends with this attempt",
    "takeover": "takes over between two attempts",
    "takeover-halted": "takes over when the study goes on",
    "takeover-refused": "cannot take over: too few of its hospitals take part",
    "too-few-left": "too few hospitals take part",
}


def _change(seen: StudySeen, timeline: Timeline | None) -> str:
    """The study in a line, without anything that changes by itself."""
    waits = seen.waits_for
    parts: list[str] = [seen.state]
    if timeline is not None and timeline.outcome == "open" and timeline.phases:
        parts.append(f"round {timeline.round}.{timeline.attempt}")
        if waits.invited:
            answers = f"{waits.answered}/{waits.invited} (needs {waits.need})"
            parts.append(f"{timeline.phases[-1].phase} {answers}")
    if waits.awaited:
        named = ", ".join(one.hospital for one in waits.awaited[:8])
        more = f" and {len(waits.awaited) - 8} more" if len(waits.awaited) > 8 else ""
        parts.append(f"waits for {named}{more}")
    elif waits.why in WAITS:
        parts.append(WAITS[waits.why])
    return "  ".join(parts)


def _say_ended(
    found: Watching, plan: str, told: tuple[int, int] | None, *, as_json: bool
) -> tuple[int, int] | None:
    """A line for each attempt that has ended since; at first for the last few."""
    page = found.rounds(plan, limit=10).rounds
    new = [one for one in page if told is None or (one.round, one.attempt) > told]
    for one in reversed(new[:3] if told is None else new):
        if as_json:
            screen.json({"ended": one.model_dump(mode="json")})
        else:
            screen.say(_ended(one))
    return (page[0].round, page[0].attempt) if page else told or (0, 0)


def _ended(one: RoundSeen) -> str:
    from aggregator.watching.words import amount, duration, failed_by

    kind = " (evaluation)" if one.kind.value == "evaluate" else ""
    parts = [f"round {one.round}.{one.attempt}{kind} {one.outcome}"]
    if one.outcome == "done":
        parts.append(f"{len(one.in_the_sum)} of {len(one.in_the_sum) + len(one.missing)} hospitals")
        if one.missing:
            parts.append(f"without {', '.join(one.missing[:3])}{' …' if len(one.missing) > 3 else ''}")
    else:
        parts.append(failed_by(one.reason) or "why is not known")
    parts += [duration(one.seconds), f"{amount(one.bytes_up)} up"]
    if one.figure is not None:
        parts.append(f"{one.figure.name} {one.figure.words}")
    return plain(", ".join(parts))


def _for_programs(seen: StudySeen, timeline: Timeline | None) -> dict[str, object]:
    return {
        "study": seen.model_dump(mode="json"),
        "timeline": None if timeline is None else timeline.model_dump(mode="json"),
    }


# ---- a study


def _fields(seen: StudySeen) -> Iterator[tuple[str, Words]]:
    yield "words", strong(" ".join(seen.words[:6]))
    yield "", strong(" ".join(seen.words[6:]))
    yield "hash", seen.plan
    yield "now", seen.sentence
    if seen.parent is not None:
        yield "from", plain(seen.parent.words)
    if seen.follows is not None:
        yield "roster", f"{seen.epoch}, after plan {seen.follows[:12]}"
        for label, names in (("joins", seen.joins), ("leaves", seen.leaves)):
            if names:
                yield label, ", ".join(names)
    yield (
        "rounds",
        f"{seen.rounds_done} of {seen.rounds} done, {seen.rounds_left} left; model version {seen.version}",
    )
    yield "approvals", f"{seen.approvals} of {len(seen.roster)} ({seen.approvals_needed} are needed)"
    yield from _cost(seen.cost)
    if seen.figure is not None:
        yield "figure", f"{seen.figure.name} {seen.figure.words}, of round {seen.figure.round}"
    for one in seen.directives[:5]:
        yield "admin", f"{one.order}, {utc(one.at)}: {plain(one.reason)}"


def _cost(cost: Cost) -> Iterator[tuple[str, Words]]:
    from aggregator.watching.words import amount, duration

    if cost.privacy == "none":
        yield (
            "privacy",
            warn("NONE: masks hide each update, nothing limits what the model tells of a patient"),
        )
    elif cost.joint is not None and cost.joint_at_end is not None and cost.delta is not None:
        yield (
            "epsilon",
            f"{cost.joint:.2f} so far, {cost.joint_at_end:.2f} at the end (delta {cost.delta:.0e})",
        )
        if cost.privacy == "joint" and cost.local is not None and cost.local_at_end is not None:
            yield "", f"{cost.local:.2f} and {cost.local_at_end:.2f} counting on no other hospital's noise"
    about = "about " if cost.estimated else ""
    if cost.seconds_per_round is not None:
        left = f", about {duration(cost.seconds_left)} left" if cost.seconds_left else ""
        yield (
            "time",
            f"{duration(cost.seconds_per_round)} a round; {about}{duration(cost.seconds or 0)} so far{left}",
        )
        ups = [one.bytes_up for one in cost.traffic if one.rounds] or [0.0]
        downs = [one.bytes_down for one in cost.traffic if one.rounds] or [0.0]
        a_round = f"{amount(sum(ups) / len(ups))} up, {amount(sum(downs) / len(downs))} down"
        yield "traffic", f"{a_round} a round and hospital"
        more = f", about {amount(cost.bytes_left)} left" if cost.bytes_left else ""
        yield "", f"{about}{amount(cost.bytes or 0)} so far{more}"


def _stand(stand: str) -> Words:
    return good(stand) if stand == "approved" else warn(stand) if stand != "waiting" else stand


# ---- hospitals


def _hospital_row(one: HospitalSeen) -> tuple[Words, ...]:
    from aggregator.watching.words import roughly

    heard: Words = "never" if one.last_heard is None else f"{roughly(one.as_of - one.last_heard)} ago"
    if one.revoked:
        heard = fault("revoked")
    elif one.in_reach is False and one.approved:
        heard = warn(heard)
    clock: Words = "" if one.clock_s is None else f"{round(one.clock_s, 1) + 0.0:+.1f} s"
    if one.clock_s is not None and abs(one.clock_s) > HEALTHY_CLOCK_S:
        clock = warn(clock)
    left = None if one.certificate_until is None else (one.certificate_until - one.as_of) / 86_400
    days: Words = "" if left is None else f"{math.floor(left)}" if left > 0 else fault("expired")
    rounds = f"{one.taken} of {one.taken + one.missed}" if one.taken + one.missed else ""
    return one.hospital, heard, one.version or "", clock, days, rounds, str(len(one.studies) or "")
