"""``medveil aggregator study convergence | compare | privacy``, ``audit search`` and ``system``."""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli_people import DEFAULT, Folder
from aggregator.settings import load
from medveil.folders import named
from medveil.shown import Screen, strong, warn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from aggregator.storage.store import Store
    from aggregator.watching.convergence import Column, Figure, Span
    from aggregator.watching.measures import Measures
    from aggregator.watching.privacy import StudyPrivacy

screen = Screen()
MEGA, DAY_S = 1e6, 86_400.0
Plan = Annotated[str, typer.Argument(help="The study: its name, its words or the beginning of its hash.")]


def _say_none(folder: Folder) -> None:
    screen.say(f"There is no such study yet. Next: medveil aggregator study create {named(folder)}")


def _opened(folder: Folder) -> AbstractContextManager[tuple[Store, Measures]]:
    """The store, and what is measured of it."""
    from contextlib import contextmanager

    from aggregator import admin
    from aggregator.watching.cost import exact
    from aggregator.watching.measures import Measures
    from aggregator.watching.privacy import by

    @contextmanager
    def opened() -> Iterator[tuple[Store, Measures]]:
        settings = load(folder)
        with admin.opened(settings) as store:
            yield store, Measures(store, settings, reckon=by(exact))

    return opened()


def convergence(
    plan: Plan,
    folder: Folder = DEFAULT,
    gate: Annotated[float | None, typer.Option(help="A value that the figure is to reach.")] = None,
) -> None:
    """How a study's figure, updates, time, traffic and drop-outs went over its rounds."""
    from aggregator import admin
    from aggregator.watching.words import amount

    with _opened(folder) as (store, measures):
        which = admin.plan_meant(store, plan)
        v = measures.convergence(which, gate=gate)
        while not v.all_read:
            v = measures.convergence(which, gate=gate)
    screen.say(
        strong(v.study), f"  {v.attempts} attempts at rounds have ended; {v.rounds} rounds are planned."
    )
    newest = v.final or v.last
    if newest is not None:
        where = "of the finished model" if v.final else f"at the start of round {v.last_round}"
        screen.say(f"  {v.figure_name} {where}: {_words(newest)}")
    if v.margin is not None:
        margin = "" if v.margin.margin is None else f", by {v.margin.margin:+.3f} at the worse end"
        screen.say(f"  gate of {v.margin.gate:g}: {v.margin.verdict}{margin}")
    rows = [
        (
            str(one.first) if one.first == one.last else f"{one.first}-{one.last}",
            _range(one.figure),
            _interval(one),
            _range(one.norm),
            f"{sum(one.seconds.values()):.1f}",
            amount(sum(one.bytes.values())),
            f"{one.dropped} of {one.began}",
            str(one.failed or ""),
        )
        for one in v.columns
    ]
    if rows:
        head = ("round", v.figure_name, "95 % interval", "update", "seconds", "moved", "drop-outs", "failed")
        screen.table(head, rows)
    if v.each > 1:
        screen.say(f"  A line stands for {v.each} rounds: the least and the largest of what is in them.")


def compare(
    folder: Folder = DEFAULT,
    task: Annotated[str, typer.Option(help="Only studies of this task.")] = "",
) -> None:
    """The newest studies side by side."""
    with _opened(folder) as (_, measures):
        v = measures.comparison(task=task)
    if not v.studies:
        _say_none(folder)
        return
    rows = [
        (
            one.study,
            f"{min(one.round, one.rounds)} of {one.rounds}",
            "" if one.figure is None else f"{one.figure_name} {_words(one.figure)}",
            "no noise" if one.stated is None else f"{_or_dash(one.epsilon)} of {one.stated:.2f}",
            _a_round(one.seconds_per_round, one.bytes_per_round),
            f"{one.dropped} of {one.began}",
        )
        for one in v.studies
    ]
    screen.table(("study", "round", "newest figure", "epsilon", "a round takes", "drop-outs"), rows)
    if v.left_out:
        screen.say(f"  {v.left_out} older ones are not shown.")


def _a_round(seconds: float | None, moved: float | None) -> str:
    from aggregator.watching.words import amount, duration

    parts = [] if seconds is None else [duration(seconds)]
    return ", ".join(parts if moved is None else [*parts, amount(moved)])


def privacy(
    folder: Folder = DEFAULT,
    study: Annotated[str, typer.Option(help="Only studies of this name.")] = "",
) -> None:
    """What each study costs a patient: so far and at its end, against others and against everybody."""
    with _opened(folder) as (_, measures):
        v = measures.privacy(study=study)
    if not v.studies:
        _say_none(folder)
    for one in v.studies:
        _show_privacy(one)
    if v.left_out:
        screen.say(f"  {v.left_out} older ones are not shown.")


def _show_privacy(one: StudyPrivacy) -> None:
    noise = one.noise
    screen.say(strong(one.study), f"  {one.least_in_sum} of {one.hospitals} hospitals in each sum")
    if noise is None:
        screen.say(
            warn("  no noise:"), "masks hide each hospital's update, nothing limits what the model reveals."
        )
        return
    screen.say(f"  unit     a patient with all images, delta {noise.delta:g}")
    screen.say(f"  rounds   {noise.trained} of {noise.rounds}{', evaluated' if noise.evaluated else ''}")
    held = "by its own noise"
    if noise.honest_hospitals > 1:
        where = "" if one.kind == "joint" else " in the figures"
        held = f"counting on {noise.honest_hospitals} honest hospitals{where}"
    screen.say(
        f"  epsilon  {_or_dash(noise.joint)} so far, {noise.joint_at_end:.2f} at the end, "
        f"{noise.stated:.2f} stated; {held}"
    )
    screen.say(
        f"           {_or_dash(noise.local)} so far, {_or_dash(noise.local_at_end)} at the end, even if all "
        "others pool what they know"
    )
    screen.say(
        f"  by       {noise.mechanism}, noise {noise.noise_multiplier:g} times the clip {noise.clip_norm:g}"
    )
    screen.say(f"  counted  {noise.accountant}")


def search(
    folder: Folder = DEFAULT,
    actor: Annotated[str, typer.Option(help="Who: a name, 'admin' or 'aggregator'.")] = "",
    action: Annotated[str, typer.Option(help="What: 'plan.created', or 'plan' for all of its kind.")] = "",
    text: Annotated[str, typer.Option(help="A part of what it is about.")] = "",
    before: Annotated[int, typer.Option(help="Only entries before this number.", min=0)] = 0,
) -> None:
    """Look for entries of the audit log, the newest first."""
    from aggregator.storage.past import Wanted

    with _opened(folder) as (_, measures):
        v = measures.audit(Wanted(actor=actor, action=action, text=text), before=before)
    rows = [
        (
            str(one.number),
            f"{dt.datetime.fromtimestamp(one.at, dt.UTC):%Y-%m-%d %H:%M:%S}",
            one.actor,
            one.action,
            one.short,
        )
        for one in v.entries
    ]
    screen.table(("number", "time (UTC)", "who", "what", "of what"), rows)
    screen.say(f"Looked at entries {v.first} to {v.last} of {v.head}.")
    if v.older:
        screen.say(f"  Older ones: --before {v.older}")


def system(folder: Folder = DEFAULT) -> None:
    """Database, disk, backup, certificates and packages. What only the process knows stands on its page."""
    with _opened(folder) as (_, measures):
        v = measures.system()
    screen.say(
        f"database      {v.database}, {v.database_bytes / MEGA:.1f} MB, {v.audit_entries} entries of the log"
    )
    screen.say(f"disk          {v.disk_free / 1e9:.1f} GB free of {v.disk_size / 1e9:.1f} GB")
    ago = (
        "none was made on this machine"
        if v.backup_at is None
        else f"{(time.time() - v.backup_at) / DAY_S:.1f} days ago"
    )
    screen.say(f"last backup   {ago}")
    for one in v.certificates:
        mark = "" if one.mark == "done" else "  LOOK AT THIS"
        screen.say(f"certificate   {one.file}: {math.floor(one.days)} days left{mark}")
    screen.say("packages      " + ", ".join(f"{one.name} {one.version}" for one in v.packages))


def _words(figure: Figure) -> str:
    unknown = figure.low is None and figure.value is not None
    return f"{figure.words}{' (no interval known)' if unknown else ''}"


def _range(span: Span | None) -> str:
    from medveil.readings import with_unit

    if span is None:
        return ""
    low, high = with_unit(span.least, ""), with_unit(span.most, "")
    return low if low == high else f"{low} - {high}"


def _interval(column: Column) -> str:
    return "not known" if column.figure is not None and column.interval is None else _range(column.interval)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
