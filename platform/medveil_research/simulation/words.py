"""What a simulation has found, in words: the same in a terminal and on its page."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from medveil_research.simulation.result import RoundFacts, SimulationResult
from medveil_research.words import in_bytes, in_seconds

if TYPE_CHECKING:
    from medveil_research.simulation.run import Request

MOMENTS = {
    "advertise": "before the keys",
    "share": "before the shares",
    "commit": "not ready by the deadline",
    "upload": "between commit and upload",
    "agree": "before they agreed",
    "unmask": "before unmasking",
}
RANDOM = "drawn at random: the protocol alone is measured, nobody trains"
TRAINED = "trained on the patients of each hospital"
MASKED = "real keys, shares and masks"
PLAIN = "none: the same vectors are summed in the open, and the protocol is not played"


def updates_words(kind: str) -> str:
    """Where updates come from."""
    return TRAINED if kind == "train" else RANDOM


def masks_words(masks: bool) -> str:
    """Whether the secure sum is played."""
    return MASKED if masks else PLAIN


def beginning(request: Request, folder: Path) -> list[tuple[str, str]]:
    """What is simulated."""
    data = "" if request.data is None else f" from {request.data.name}, dealt {request.split}"
    return [
        (
            "study",
            f"{request.study.name}, {request.study.model.tensors.size:,} parameters, {request.last} rounds",
        ),
        ("hospitals", f"{request.hospitals:,}{data}"),
        ("updates", updates_words(request.updates)),
        ("masks", masks_words(request.masks)),
        ("folder", str(folder)),
    ]


def attempt_line(result: SimulationResult, facts: RoundFacts, *, left_s: float) -> str:
    """One attempt in one line."""
    name = f"round {facts.round} of {result.rounds_planned}"
    name += f", attempt {facts.attempt}" if facts.attempt > 1 else ""
    parts = [name, outcome(result, facts)]
    figure = facts.figures.get(result.headline)
    parts += [f"{result.headline_name} {figure:.3f}"] if figure is not None else []
    parts += [f"epsilon {facts.epsilon:.3g}"] if facts.epsilon is not None else []
    parts.append(in_seconds(facts.seconds) + (f", {in_seconds(left_s)} left" if left_s > 0 else ""))
    return "; ".join(parts)


def outcome(result: SimulationResult, facts: RoundFacts) -> str:
    """What became of an attempt."""
    if facts.outcome == "failed":
        closed = {True: ", given up by enough", False: ", not given up by enough", None: ""}[facts.closed]
        return f"no sum: {facts.reason} in phase {facts.phase}{closed} ({absent_words(facts)})"
    told = f"sum over {facts.survivors:,} of {result.hospitals:,}"
    if facts.wrong_words is not None:
        told = ("exact " if facts.wrong_words == 0 else f"WRONG in {facts.wrong_words:,} words ") + told
    return told + (f" ({absent_words(facts)})" if facts.absent else "")


def absent_words(facts: RoundFacts) -> str:
    """Who was missing, and when."""
    return (
        ", ".join(f"{count:,} {MOMENTS[phase]}" for phase, count in facts.absent.items()) or "nobody missing"
    )


def ending(result: SimulationResult) -> list[tuple[str, str]]:
    """What the rounds so far show, beside the theory."""
    rows = [("rounds", rounds_words(result))]
    if result.masks and result.done:
        rows.append(("sums", sums_words(result)))
    last = result.done[-1] if result.done else None
    if last is not None and last.theory is not None:
        rows += [
            ("bytes", f"{bytes_words(last)} for each hospital"),
            ("neighbours", f"{last.neighbours or 0:.1f}; {last.theory.neighbours:.1f} by the graph"),
        ]
    if last is not None:
        rows.append(
            (
                "cost",
                f"{last.costs.cpu:.3g} s of a core for each hospital, {in_bytes(last.peak_bytes)} resident",
            )
        )
    if result.dealt.train:
        rows.append(("patients", patients_words(result)))
    return rows


def bytes_words(facts: RoundFacts) -> str:
    """A hospital's bytes, beside what the messages' formula says."""
    assert facts.theory is not None
    return (
        f"vector {in_bytes(facts.costs.vector)} ({in_bytes(facts.theory.vector_bytes)}), "
        f"messages {in_bytes(facts.costs.messages)} ({in_bytes(facts.theory.message_bytes)} by the formula)"
    )


def rounds_words(result: SimulationResult) -> str:
    """How many gave a sum."""
    rounds = len({one.round for one in result.done})
    told = f"{rounds} of {result.rounds_planned} gave a sum"
    failed = len(result.failed)
    return told + (f"; {failed} attempt{'s' * (failed != 1)} failed" if failed else "")


def sums_words(result: SimulationResult) -> str:
    """Whether the sums were exact."""
    wrong = sum(one.wrong_words or 0 for one in result.done)
    largest = max((one.error or 0.0) for one in result.done)
    bound = max((one.theory.rounding if one.theory else 0.0) for one in result.done)
    if wrong:
        return f"{wrong:,} words differ from what hospitals encoded"
    return f"exact, error 0; the mean is off by {largest:.2g} at most for its rounding (bound {bound:.2g})"


def patients_words(result: SimulationResult) -> str:
    """How many patients hospitals have."""
    counts = result.dealt.train
    return (
        f"{sum(counts):,} to train on; {min(counts)} to {max(counts)} in a hospital, "
        f"{median(counts):g} in the middle; "
        f"{result.dealt.test:,} to test on"
    )
