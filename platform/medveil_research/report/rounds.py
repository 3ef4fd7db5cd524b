"""Charts over rounds: the figure, who was in each sum, where the time went, how much privacy was spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medveil.look import svg
from medveil.readings import Reading, interval_words
from medveil_research.report.rows import scale
from medveil_research.results import Result, RoundFacts
from medveil_research.words import in_seconds

MOST_LANES = 14
"""More hospitals than this are shown as a count per round instead of a lane each."""
FIRST, LAST, END = 0.11, 0.90, 0.96
"""Where the first round begins, the last one ends, and the finished model stands."""
PARTS = (
    ("training", "working", ("commit",)),
    ("sending", "sent", ("upload",)),
    ("the other steps of the masked sum", "waiting", ("advertise", "share", "agree", "unmask", "aggregate")),
)
"""What a person tells apart, with its colour and the phases it is made of."""


@dataclass(frozen=True)
class Strip:
    """One chart over the rounds, with its name."""

    name: str
    small: str
    drawn: Markup


def strips(result: Result) -> list[Strip]:
    """What is known round by round, in reading order."""
    rounds = [r for r in result.rounds if r.kind == "train"]
    if not rounds:
        return []
    across = _Across(rounds)
    found = [_figure(result, rounds, across), *_in_the_sum(result, rounds, across), _seconds(rounds, across)]
    kept = [strip for strip in found if strip is not None]
    ended = found[0] is not None and result.metric is not None
    return [*kept, Strip("", "", across.axis(ended=ended))]


def spending(result: Result) -> Strip | None:
    """Epsilon over the rounds under the study's cap; None where no round says what it cost."""
    rounds = [r for r in result.rounds if r.kind == "train"]
    spent = [(r, r.epsilon) for r in rounds if r.epsilon is not None]
    cap = result.privacy.epsilon
    if not spent or cap is None:
        return None
    across, height = _Across(rounds), 150
    top = 1.12 * max(cap, *(value for _, value in spent))

    def y(value: float) -> float:
        return 8 + (height - 16) * (1 - value / top)

    steps, before = [(FIRST * 1000, y(0.0))], 0.0
    for facts, value in spent:
        x = across.begins(facts) * 1000
        steps += [(x, y(before)), (x, y(value))]
        before = value
    steps.append((LAST * 1000, y(before)))
    area = [*steps, (LAST * 1000, y(0.0))]
    layer = svg.stretched(
        1000,
        height,
        svg.tag("polygon", class_="accent-soft", points=svg.path(area)),
        svg.tag("polyline", class_="accent-line", vector_effect="non-scaling-stroke", points=svg.path(steps)),
    )
    begin, end = svg.percent(FIRST), svg.percent(LAST)
    inside = [
        *(_hairline(value, y(value)) for value in svg.ticks(0, top, 4)[:-1]),
        layer,
        svg.tag("line", class_="deadline", stroke_dasharray="6 4", x1=begin, x2=end, y1=y(cap), y2=y(cap)),
        svg.text(f"cap {cap:g}", "deadline-word", x=end, y=y(cap) - 5, text_anchor="end"),
        svg.text(f"{before:.2f}", "strong", x=svg.percent(LAST + 0.01), y=y(before) + 12),
    ]
    words = f"Epsilon spent: {before:.2f} after round {spent[-1][0].round}, of {cap:g}"
    return Strip(
        "ε spent so far",
        "by a patient of a hospital that was in every round",
        svg.drawing(words, height, *inside),
    )


def axis_of(result: Result) -> Markup:
    """The rounds' numbers, to stand under a chart."""
    return _Across([r for r in result.rounds if r.kind == "train"]).axis(ended=False)


class _Across:
    """Where a round lies."""

    def __init__(self, rounds: Sequence[RoundFacts]) -> None:
        self.rounds = rounds
        self.places = {facts.round: place for place, facts in enumerate(rounds)}
        self.width = (LAST - FIRST) / len(rounds)
        self.thickness = (900 if len(rounds) <= 60 else 1000) * self.width
        """Of a bar, in thousandths of the whole."""

    def begins(self, facts: RoundFacts) -> float:
        return FIRST + self.places[facts.round] * self.width

    def middle(self, facts: RoundFacts) -> float:
        return self.begins(facts) + self.width / 2

    def axis(self, *, ended: bool) -> Markup:
        step = max(1, -(-len(self.rounds) // 10))
        step = next(k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if k >= step)
        shown = [r for r in self.rounds if r.round == self.rounds[0].round or r.round % step == 0]
        gap = self.width * len(self.rounds)
        marks = []
        for place, facts in enumerate(shown):
            near = place == 1 and (facts.round - shown[0].round) * self.width < gap / 16
            if not near:
                x = svg.percent(self.middle(facts))
                marks.append(
                    svg.text(
                        str(facts.round), "minor" if place % 2 else None, x=x, y=12, text_anchor="middle"
                    )
                )
        if ended:
            marks.append(svg.text("test", "strong", x=svg.percent(END), y=12, text_anchor="middle"))
        return svg.drawing(f"rounds {self.rounds[0].round} to {self.rounds[-1].round}", 18, *marks)

    def runs(self, wanted: Callable[[RoundFacts], bool]) -> list[tuple[float, float]]:
        """Begin and width of each run of rounds that are wanted."""
        found: list[tuple[float, float]] = []
        for facts in self.rounds:
            begin = self.begins(facts)
            if not wanted(facts):
                continue
            if found and abs(found[-1][0] + found[-1][1] - begin) < 1e-9:
                found[-1] = (found[-1][0], found[-1][1] + self.width)
            else:
                found.append((begin, self.width))
        return found


def _figure(result: Result, rounds: Sequence[RoundFacts], across: _Across) -> Strip | None:
    """The figure of each round's first model on validation patients, and of the last one on test patients."""
    known = [
        (facts, found)
        for facts in rounds
        if (found := result.reading_of(facts.figures, metric=facts.metric)) is not None
        and found.value is not None
    ]
    if not known:
        return None
    final, height = result.reading(), 190
    limits = (0.0, 1.0) if result.higher_is_better else (0.0, float("inf"))
    low, high = scale([*(found for _, found in known), final], limits, None)

    def y(value: float) -> float:
        return 12 + (height - 24) * (1 - (value - low) / (high - low))

    points = [(1000 * across.middle(facts), y(found.value or 0.0)) for facts, found in known]
    upper = [(1000 * across.middle(f), y(r.interval[1])) for f, r in known if r.interval]
    lower = [(1000 * across.middle(f), y(r.interval[0])) for f, r in known if r.interval]
    layer = [
        svg.tag("polyline", class_="accent-line", vector_effect="non-scaling-stroke", points=svg.path(points))
    ]
    if len(upper) > 1:
        layer.insert(0, svg.tag("polygon", class_="accent-soft", points=svg.path([*upper, *lower[::-1]])))
    inside = [_hairline(value, y(value)) for value in svg.ticks(low, high, 5)]
    inside += [
        svg.tag("line", class_="thread", x1=x, x2=x, y1=8, y2=height - 8)
        for x in (svg.percent(across.middle(facts)) for facts in rounds if facts.outcome == "failed")
    ]
    inside = [svg.tag("g", *inside, class_="dropped"), svg.stretched(1000, height, *layer)]
    if len(known) <= 40:
        inside += [
            svg.tag("circle", class_="accent", cx=svg.percent(x / 1000), cy=place, r=3.5)
            for x, place in points
        ]
    if final is not None and final.value is not None:
        inside += _test(final, y)
    small = f"{_whose(result)}; the ringed dot is the finished model on test patients"
    return Strip(result.headline_label, small, svg.drawing(_in_words(result, known, final), height, *inside))


def _whose(result: Result) -> str:
    return "of the model each round began with, on validation patients"


def _test(final: Reading, y: Callable[[float], float]) -> list[Markup]:
    x, drawn = svg.percent(END), []
    if final.interval:
        ends = [y(end) for end in final.interval]
        drawn.append(svg.tag("line", class_="accent-line", x1=x, x2=x, y1=ends[0], y2=ends[1]))
    assert final.value is not None
    drawn.append(svg.tag("circle", class_="halo", cx=x, cy=y(final.value), r=8))
    drawn.append(svg.tag("circle", class_="accent", cx=x, cy=y(final.value), r=5.5))
    return drawn


def _in_words(result: Result, known: Sequence[tuple[RoundFacts, Reading]], final: Reading | None) -> str:
    first, last = known[0], known[-1]
    words = f"{result.headline_name} at the start of round {first[0].round}: {_value(result, first[1])}"
    if last is not first:
        words += f"; of round {last[0].round}: {_value(result, last[1])}"
    if final is not None and final.value is not None:
        words += f"; finished model on test patients: {interval_words(final)}"
    return words


def _value(result: Result, found: Reading) -> str:
    return "" if found.value is None else result.written(found.value)


def _in_the_sum(result: Result, rounds: Sequence[RoundFacts], across: _Across) -> list[Strip]:
    """A lane for each hospital, or bars of how many there were."""
    if len(result.hospitals) <= MOST_LANES:
        return [_lane(name, rounds, across) for name in result.hospitals]
    height, most = 70, len(result.hospitals)
    bars = "".join(
        f"M{1000 * across.begins(r):.2f} {height}v-{len(r.survivors) / most * (height - 10):.2f}"
        f"h{across.thickness:.2f}V{height}z"
        for r in rounds
        if r.survivors
    )
    counts = [len(r.survivors) for r in rounds]
    words = f"Between {min(counts)} and {max(counts)} of {most} hospitals were in a sum"
    inside = [_hairline(most, 10.0), svg.stretched(1000, height, svg.tag("path", class_="tone", d=bars))]
    return [
        Strip(
            "hospitals in the sum",
            f"of {most}",
            svg.drawing(words, height, svg.tag("g", *inside, class_="done")),
        )
    ]


def _lane(name: str, rounds: Sequence[RoundFacts], across: _Across) -> Strip:
    """Solid where its contribution is in the sum, dotted where it began and was gone at the end."""
    inside = [
        svg.tag("rect", class_="tone", x=svg.percent(begin), width=svg.percent(width), y=4, height=10, rx=3)
        for begin, width in across.runs(lambda r: name in r.survivors)
    ]
    gone = [
        svg.tag("line", class_="thread", x1=svg.percent(begin), x2=svg.percent(begin + width), y1=9, y2=9)
        for begin, width in across.runs(
            lambda r: name not in r.survivors and name in (*r.advertised, *r.committed)
        )
    ]
    number = sum(name in r.survivors for r in rounds)
    words = f"{name}: in {number} of {len(rounds)} sums"
    parts = [svg.tag("g", *inside, class_="done"), svg.tag("g", *gone, class_="dropped")]
    return Strip(
        name, "" if number == len(rounds) else f"in {number} of {len(rounds)}", svg.drawing(words, 18, *parts)
    )


def _seconds(rounds: Sequence[RoundFacts], across: _Across) -> Strip | None:
    """Where each round's time went, as bars on top of each other."""
    if not any(r.phases for r in rounds):
        return None
    height = 110
    totals = [sum(r.phases.get(phase, 0.0) for _, _, phases in PARTS for phase in phases) for r in rounds]
    top = max(totals) or 1.0
    under, layers = [0.0] * len(rounds), []
    for _, tone, phases in PARTS:
        corners = []
        for place, facts in enumerate(rounds):
            own = sum(facts.phases.get(phase, 0.0) for phase in phases)
            y = height - under[place] / top * (height - 14)
            tall = own / top * (height - 14)
            if tall > 0:
                x = 1000 * across.begins(facts)
                corners.append(f"M{x:.2f} {y:.2f}v-{tall:.2f}h{across.thickness:.2f}v{tall:.2f}z")
            under[place] += own
        layers.append(svg.tag("g", svg.tag("path", class_="tone", d="".join(corners)), class_=tone))
    marks = [
        _hairline(
            value, height - value / top * (height - 14), f"{value:g} s" if value < 120 else in_seconds(value)
        )
        for value in svg.ticks(0, top, 3)
        if value > 0
    ]
    usual = sorted(totals)[len(totals) // 2]
    words = f"half of the rounds took {in_seconds(usual)} or less, the longest {in_seconds(top)}"
    if len(rounds) < 3:
        words = f"the longest round took {in_seconds(top)}"
    return Strip("seconds", words, svg.drawing(words, height, *marks, svg.stretched(1000, height, *layers)))


def _hairline(value: float, y: float, words: str | None = None) -> Markup:
    """A level across the chart with its number at the left."""
    line = svg.tag("line", class_="hair", x1=svg.percent(FIRST), x2="100%", y1=y, y2=y)
    place = svg.percent(FIRST - 0.012)
    return svg.tag("g", line, svg.text(words or f"{value:.6g}", x=place, y=y + 4, text_anchor="end"))
