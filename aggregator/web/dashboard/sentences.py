"""What a study or a round waits for, as a sentence in the reader's language, with moments that go on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from markupsafe import Markup, escape

from aggregator.watching.alarms import Alarm
from aggregator.watching.convergence import Figure
from aggregator.watching.values import Awaited, FigureSeen, Lane, Timeline, WaitsFor
from aggregator.web.dashboard.parts import moment
from medveil.catalogue import Speaker
from medveil.rounds import Phase, RoundKind
from medveil.shown import plain

NAMED = 3
"""Hospitals that a sentence names; the others are counted."""
LIVE = ("hospitals", "phase-end", "next-round", "approvals", "takeover")
"""Sentences that would say more if it were known who is in reach."""
PLAN_DIGITS = 12
"""Of the hash of another plan that a sentence names."""
FITS = 20
"""Letters of a heading in one line of a phone."""
TONES = {
    "approvals": "waiting",
    "hospitals": "working",
    "phase-end": "working",
    "reach": "late",
    "sum": "working",
    "trouble": "late",
    "giving-up": "late",
    "failures": "late",
    "next-round": "waiting",
    "paused": "waiting",
    "stopping": "waiting",
    "stopped": "dropped",
    "withdrawn": "refused",
    "finished": "done",
    "too-few-left": "late",
    "ended-early": "late",
    "roster-approvals": "waiting",
    "takeover": "waiting",
    "takeover-reach": "late",
    "takeover-halted": "waiting",
    "takeover-refused": "refused",
    "amended": "done",
    "set-aside": "dropped",
}
"""Why a study waits → how that looks."""
STATES = {
    "approvals": "waiting",
    "running": "working",
    "paused": "waiting",
    "stopped": "dropped",
    "withdrawn": "refused",
    "finished": "done",
    "ended-early": "late",
    "amendment": "waiting",
    "amended": "done",
    "set-aside": "dropped",
}
"""Where a study stands → how that looks."""
SEVERITIES = {"critical": "refused", "warning": "late", "info": "waiting"}
"""How urgent an alarm is → how that looks."""
STANDS = {"waiting": "waiting", "approved": "done", "refused": "refused", "withdrawn": "refused"}
"""What a hospital has said of a plan → how that looks."""


def marked(t: Speaker, key: str, /, **values: object) -> Markup:
    """A text with values that may be markup; everything else in it is escaped."""
    held = {name: value if isinstance(value, int) else "{" + name + "}" for name, value in values.items()}
    texts = {name: value for name, value in values.items() if not isinstance(value, int)}
    return escape(t(key, **held)).format(**texts)


def which(t: Speaker, found: WaitsFor | Timeline) -> str:
    """The round, as a sentence names it."""
    key = "waits.evaluation" if found.kind is RoundKind.EVALUATE else "waits.round"
    text = t(key, round=found.round, rounds=found.rounds)
    return t("waits.attempt", which=text, attempt=found.attempt) if found.attempt > 1 else text


def doing(t: Speaker, phase: Phase | None, kind: RoundKind | None) -> str:
    """What a hospital is at work on while a phase waits for it."""
    if phase is Phase.COMMIT and kind is RoundKind.EVALUATE:
        return t("doing.score")
    return t(f"doing.{phase}") if phase is not None and t.knows(f"doing.{phase}") else ""


def names(t: Speaker, awaited: Sequence[Awaited | Lane]) -> Markup:
    """Hospitals, the first few by name."""
    shown = [_name(one.hospital) for one in awaited[:NAMED]]
    if len(awaited) > len(shown):
        shown.append(escape(t("waits.more", count=len(awaited) - len(shown))))
    if len(shown) < 2:
        return shown[0] if shown else Markup()
    return marked(t, "waits.and", first=Markup(t("waits.comma")).join(shown[:-1]), last=shown[-1])


def reading(t: Speaker, one: FigureSeen | Figure) -> str:
    """A figure with its interval, in the reader's language."""
    return one.words_zh or one.words if t.language == "zh" else one.words


def failed(t: Speaker, code: str) -> Markup:
    """Why an attempt had no sum: in words where there are some, and always with the code."""
    shown = marked_code(code)
    key = f"failed.{code}"
    return Markup("{} ({})").format(t(key), shown) if t.knows(key) else shown


def marked_code(code: str) -> Markup:
    """A code of an error, as it stands in logs and pages of errors."""
    return Markup("<code>{}</code>").format(plain(code))


def _name(hospital: str) -> Markup:
    """A name stays in one piece, unless it is longer than a phone is wide."""
    return Markup('<b class="{}">{}</b>').format("w" if len(hospital) <= FITS else "long", plain(hospital))


def waits(t: Speaker, found: WaitsFor, as_of: float) -> Markup:
    """What a study waits for, as one sentence."""
    why: str = found.why
    if why in ("hospitals", "giving-up") and not found.awaited:
        why = "phase-end" if why == "hospitals" else "giving-up-all"
    shown, count = found.awaited, max(0, found.need - found.answered)
    reason = Markup(escape(plain(found.reason)))
    if why in ("too-few-left", "takeover-refused"):
        shown, count = tuple(Awaited(hospital=name) for name in found.without), len(found.without)
    elif why == "ended-early":
        why, reason = why if found.reason else "ended-early-why", failed(t, found.reason)
    said = marked(
        t,
        f"waits.{why}",
        which=which(t, found),
        round=found.round,
        names=names(t, shown),
        doing=doing(t, found.phase, found.kind),
        reason=reason,
        answered=found.answered,
        invited=found.invited,
        need=found.need,
        count=count,
        epoch=found.epoch,
        plan="" if found.other is None else found.other[:PLAN_DIGITS],
    )
    if found.left_s is not None and why in ("hospitals", "phase-end", "failures"):
        key = "waits.again" if why == "failures" else "waits.deadline"
        said += marked(t, key, left=moment("left", as_of + found.left_s))
    return said


def beside(t: Speaker, found: WaitsFor, as_of: float) -> Markup:
    """What else is known of it: how many have answered, and when who is missing was heard from."""
    parts: list[Markup] = []
    if found.why in ("hospitals", "phase-end", "stopping") and found.invited:
        key = "waits.quorum" if found.answered >= found.need else "waits.no-quorum"
        parts.append(marked(t, key, answered=found.answered, invited=found.invited, need=found.need))
    if found.awaited and found.awaited[0].heard_s is not None:
        one = found.awaited[0]
        at = moment("ago", as_of - (one.heard_s or 0.0))
        parts.append(marked(t, "waits.heard", name=plain(one.hospital), ago=at))
    if not found.live_known and found.why in LIVE:
        parts.append(escape(t("waits.unknown")))
    return Markup(" ").join(parts)


def alarm(t: Speaker, one: Alarm) -> Markup:
    """What is alarming, in a sentence."""
    key = f"alarm.{one.alarm}"
    if one.since is None and t.knows(f"{key}.never"):
        key = f"{key}.never"
    kind = "left" if one.alarm == "MedVeilCertificateEnds" else "since"
    return marked(
        t,
        key,
        hospital="" if one.hospital is None else plain(one.hospital),
        time=Markup() if one.since is None else moment(kind, one.since),
        count=int(one.count),
        size=t.bytes(one.count),
    )


def stand(t: Speaker, lane: Lane, line: Timeline) -> tuple[str, str]:
    """How a lane's hospital stands: a state of the look, and its word."""
    last = lane.reached[-1].step if lane.reached else "invited"
    phase = line.phases[-1].phase if line.phases else Phase.ADVERTISE
    if lane.stand == "asked":
        if lane.in_reach is False:
            return "late", t("lane.silent")
        busy = phase in (Phase.COMMIT, Phase.UPLOAD)
        scores = phase is Phase.COMMIT and line.kind is RoundKind.EVALUATE
        return "working" if busy else "waiting", t("lane.asked.score" if scores else f"lane.asked.{phase}")
    if lane.stand == "answered":
        tones = {"upload": "sent", "agreed": "sent", "shares": "done", "gave-up": "dropped"}
        return tones.get(last, "waiting"), t(f"lane.reached.{last}")
    tones = {"in-the-sum": "done", "left": "dropped", "dropped": "dropped", "absent": "dropped"}
    return tones.get(lane.stand, "waiting"), t(f"lane.{lane.stand}")


def note(t: Speaker, lane: Lane, line: Timeline) -> Markup:
    """Two short lines beside a lane: what it does since when, and what is known beside that."""
    last = lane.reached[-1] if lane.reached else None
    _, words = stand(t, lane, line)
    first, second = Markup("<b>{}</b>").format(words), Markup()
    if lane.stand == "asked" and line.ended is None and line.phases:
        began = max(line.phases[-1].began, last.at if last is not None else 0.0)
        if lane.in_reach is False and lane.last_heard is not None:
            began = lane.last_heard
        first = marked(t, "lane.for", what=first, time=moment("since", began))
        if lane.in_reach is False:
            second = escape(t("lane.not-waited"))
        elif lane.last_heard is not None:
            second = marked(t, "lane.heard", ago=moment("ago", lane.last_heard))
    elif lane.dropped_in is not None:
        second = escape(t("lane.dropped-in", phase=t(f"phase.{lane.dropped_in}")))
    elif last is not None and last.step != "invited":
        first = Markup("<b>{}</b>").format(t(f"lane.reached.{last.step}"))
        first = marked(t, "lane.at", what=first, time=_clock(last.at))
        second = escape(
            t("lane.relay" if lane.through_relay else "lane.in-all", took=t.duration(last.at - line.opened))
        )
    return first + Markup("<br>") + second if second else first


def _clock(at: float) -> str:
    return f"{dt.datetime.fromtimestamp(at, dt.UTC):%H:%M:%S}"
