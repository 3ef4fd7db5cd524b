"""What the screens of convergence, privacy and system draw, with words in the reader's language."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from markupsafe import Markup

from aggregator.watching.audit import Audit
from aggregator.watching.convergence import PARTS, Column, Compared, Convergence, Span
from aggregator.watching.privacy import Noise
from aggregator.watching.system import Requests
from medveil.catalogue import Speaker
from medveil.look import charts, svg
from medveil.readings import with_unit

TONES = {"training": "working", "sending": "sent", "rest": "waiting"}
"""Part of a round → its colour."""


def rounds(t: Speaker, one: Column) -> str:
    """Which rounds a column stands for."""
    if one.first == one.last:
        return t("convergence.one-round", round=one.first)
    return t("convergence.some-rounds", first=one.first, last=one.last)


def between(span: Span | None, unit: str = "") -> str:
    """From the least to the largest, or the one value; a dash where there is none."""
    if span is None:
        return "–"
    least, most = with_unit(span.least, unit), with_unit(span.most, unit)
    return most if least == most else f"{least} – {most}"


def figure_words(t: Speaker, one: Column, unit: str) -> str:
    """A column's figure with its interval, never without a word of how sure it is."""
    if one.figure is None:
        return t("convergence.drowned") if one.drowned else "–"
    if one.interval is None:
        return t("convergence.no-interval", figure=between(one.figure, unit))
    return t("convergence.interval", interval=between(one.interval, unit), figure=between(one.figure, unit))


def _marks(t: Speaker, columns: Sequence[Column], unit: str) -> list[charts.Mark]:
    return [
        charts.Mark(
            None if one.figure is None else (one.figure.least, one.figure.most),
            None if one.interval is None else (one.interval.least, one.interval.most),
            f"{rounds(t, one)}: {figure_words(t, one, unit)}",
        )
        for one in columns
    ]


def figure(t: Speaker, v: Convergence) -> Markup:
    """The study's figure by round."""
    level = None
    if v.margin is not None:
        level = (v.margin.gate, t("convergence.gate-line", gate=with_unit(v.margin.gate, v.unit)))
    label = t("convergence.figure-label", name=v.figure_name, rounds=_whole(t, v.columns))
    return charts.figure(label, _marks(t, v.columns, v.unit), _plain, level=level)


def norm(t: Speaker, v: Convergence) -> Markup:
    """The length of the mean update by round."""
    marks = [
        charts.Mark(
            None if one.norm is None else (one.norm.least, one.norm.most),
            title=f"{rounds(t, one)}: {between(one.norm)}",
        )
        for one in v.columns
    ]
    label = t("convergence.norm-label", rounds=_whole(t, v.columns))
    return charts.figure(label, marks, _plain, height=130, limits=(0.0, float("inf")))


def seconds(t: Speaker, v: Convergence) -> Markup:
    """Where the time of a round goes."""
    return _piled(t, v.columns, "seconds", t.duration)


def moved(t: Speaker, v: Convergence) -> Markup:
    """Where the bytes of a round go."""
    return _piled(t, v.columns, "bytes", t.bytes)


def _piled(t: Speaker, columns: Sequence[Column], what: str, written: Callable[[float], str]) -> Markup:
    found = []
    for one in columns:
        values: dict[str, float] = getattr(one, what)
        told = ", ".join(
            f"{t(f'convergence.{part}')} {written(values[part])}" for part in PARTS if values.get(part)
        )
        failed = f" · {t('convergence.failed', count=one.failed)}" if one.failed else ""
        amounts = [values.get(part, 0.0) for part in PARTS]
        found.append(
            charts.Pile(
                amounts,
                f"{rounds(t, one)}: {told or '–'}{failed}",
                failed=one.failed > 0 and one.first == one.last,
            )
        )
    most = max((sum(pile.values) for pile in found), default=0.0)
    label = t(f"convergence.{what}-label", rounds=_whole(t, columns), most=written(most))
    unit = 1.0
    if what == "seconds":
        unit = next((size for size in (86_400.0, 3600.0, 60.0) if most >= 2 * size), 1.0)
    return charts.piles(label, found, [TONES[part] for part in PARTS], written, unit=unit)


def dropped(t: Speaker, v: Convergence) -> Markup:
    """Which share of the hospitals that began was not in the sum."""
    found = [
        charts.Pile(
            [one.dropped / one.began if one.began else 0.0],
            f"{rounds(t, one)}: {t('convergence.dropped-of', dropped=one.dropped, began=one.began)}",
            failed=one.failed > 0 and one.first == one.last,
        )
        for one in v.columns
    ]
    most = max((pile.values[0] for pile in found), default=0.0)
    label = t("convergence.dropped-label", rounds=_whole(t, v.columns), most=f"{most:.0%}")
    return charts.piles(label, found, ["dropped"], _share, height=90, top=max(most, 0.2))


def axis(v: Convergence) -> Markup:
    """The rounds' numbers."""
    return charts.axis([str(one.first) for one in v.columns])


def _whole(t: Speaker, columns: Sequence[Column]) -> str:
    if not columns:
        return ""
    return t("convergence.some-rounds", first=columns[0].first, last=columns[-1].last)


def scale(studies: Sequence[Compared], one: Compared) -> tuple[float, float]:
    """The common scale of all studies with the same figure."""
    same = [other for other in studies if (other.figure_name, other.unit) == (one.figure_name, one.unit)]
    spans = [span for other in same for c in other.recent for span in (c.figure, c.interval) if span]
    return min((s.least for s in spans), default=0.0), max((s.most for s in spans), default=1.0)


def spark(t: Speaker, studies: Sequence[Compared], one: Compared) -> Markup:
    """A study's figure of late, on that scale."""
    if not any(column.figure for column in one.recent):
        return Markup("–")
    label = t("comparison.spark", name=one.figure_name, rounds=_whole(t, one.recent))
    return charts.spark(label, _marks(t, one.recent, one.unit), scale(studies, one))


def budget(t: Speaker, noise: Noise, *, local: bool) -> Markup:
    """Epsilon spent and to come under what the study states."""
    spent, end = (noise.local, noise.local_at_end) if local else (noise.joint, noise.joint_at_end)
    said = {"spent": _epsilon(spent), "end": _epsilon(end), "stated": _epsilon(noise.stated)}
    words = t("privacy.line-local" if local else "privacy.line", **said)
    level = None if local else (noise.stated, t("privacy.stated", stated=said["stated"]))
    return svg.tag("p", words, class_="spent") + charts.budget(t("privacy.bar", **said), spent, end, level)


def odds(epsilon: float) -> str:
    """By what factor odds may be bettered at an epsilon, rounded up to three digits."""
    if epsilon > 13.8:
        return "1,000,000+"
    factor = math.exp(epsilon)
    step = 10.0 ** max(math.floor(math.log10(factor)) - 2, -2)
    text = f"{math.ceil(round(factor / step, 9)) * step:,.{2 if step < 1 else 0}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def small(value: float) -> str:
    """A small number without an exponent."""
    text = f"{value:.12f}".rstrip("0").rstrip(".")
    return text if value >= 1e-9 else f"{value:g}"


def audit_page(v: Audit, before: int) -> str:
    """Another page of the same search."""
    asked = {"actor": v.actor, "action": v.action, "text": v.text, "before": str(before or "")}
    query = urlencode({name: text for name, text in asked.items() if text})
    return f"/audit?{query}" if query else "/audit"


def requests(t: Speaker, v: Requests) -> Markup:
    """Requests by the minute: answered, refused, failed."""
    found = [
        charts.Pile(
            [m.requests - m.refused - m.failed, m.refused, m.failed],
            t("system.minute", time=_time(m.at), requests=m.requests, refused=m.refused, failed=m.failed),
        )
        for m in v.minutes
    ]
    most = max((sum(one.values) for one in found), default=0)
    label = t("system.requests-label", count=len(found), most=round(most))
    return charts.piles(label, found, ["done", "late", "refused"], _count, height=110)


def minutes(v: Requests) -> Markup:
    """The minutes' times."""
    return charts.axis([_time(m.at) for m in v.minutes])


def _time(at: float) -> str:
    return f"{dt.datetime.fromtimestamp(at, dt.UTC):%H:%M}"


def _plain(value: float) -> str:
    return f"{value:.6g}"


def _count(value: float) -> str:
    return f"{value:,.6g}"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _epsilon(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
