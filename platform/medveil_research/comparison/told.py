"""What a comparison found, in words: the same in a terminal and on its page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medveil.readings import Reading, cell_words
from medveil_research.comparison.arms import Arm
from medveil_research.comparison.result import ArmFacts, ComparisonResult, Difference, Federation
from medveil_research.levels import Measured

NAMES: dict[Arm, str] = {
    "alone": "each site alone, mean",
    "federated": "federated, no noise",
    "local": "federated, local noise",
    "joint": "federated, joint noise",
    "central": "in one place",
}
SHORT: dict[Arm, str] = {
    "alone": "alone",
    "federated": "federated",
    "local": "local noise",
    "joint": "joint noise",
    "central": "in one place",
}
UNKNOWN = "not determined"


def name_of(one: ArmFacts) -> str:
    """An arm as people call it."""
    if one.site:
        return f"{one.site} alone"
    return NAMES[one.arm] + (f", ε {one.epsilon:g}" if one.epsilon is not None else "")


def models_of(result: ComparisonResult) -> str:
    """Every model with its weights; of several with the trainings that have it."""
    return _by_arm(
        (one.arm, f"{one.model}, {one.parameters:,} weights") for one in result.arms if not one.site
    )


def federations_of(result: ComparisonResult) -> str:
    """How hospitals train together; of several ways with the trainings that have it. Empty if none do."""
    return _by_arm((one.arm, _together(one.federation)) for one in result.arms if one.federation is not None)


def _together(given: Federation) -> str:
    options = ", ".join(f"{name} {value:g}" for name, value in given.options.items())
    sent = f"{given.uploaded:,} numbers a round" if given.compression else ""
    stays = f"{given.personal} of the model's tensors in each hospital its own"
    parts = [given.strategy + f" ({options})" * bool(options)]
    parts += [f"uploads {given.compression}, {sent}"] * bool(sent) + [stays] * bool(given.personal)
    return ", ".join(parts)


def _by_arm(told: Iterable[tuple[Arm, str]]) -> str:
    """What all arms share once; else each with the arms that have it."""
    found: dict[str, list[str]] = {}
    for arm, words in told:
        found.setdefault(words, []).append(SHORT[arm])
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{words} ({', '.join(names)})" for words, names in found.items())


def value_of(result: ComparisonResult, one: ArmFacts) -> str:
    """Interval first, best guess behind it."""
    if one.value is None:
        return UNKNOWN
    reading = Reading(one.value, one.patients)
    return cell_words(reading, result.unit) if one.patients else result.written(one.value)


def names_of(one: Difference) -> tuple[str, str]:
    """What is held against what."""
    return SHORT[one.first], f"{one.site} alone" if one.site else SHORT[one.second]


def difference_row(result: ComparisonResult, one: Difference) -> tuple[str, str, str, str]:
    """Names, value, and both intervals, with signs."""
    first, second = names_of(one)
    return (
        f"{first} less {second}",
        signed(result, one.value),
        between(result, one.patients),
        between(result, one.seeds),
    )


def level_rows(
    result: ComparisonResult, measured: Measured
) -> tuple[tuple[str, ...], Sequence[Sequence[str]]]:
    """Heads and rows of the figure over epsilon, the largest first."""
    rows = [
        (
            f"{SHORT[noise]}, ε {one.epsilon:g}",
            cell_words(Reading(one.value, one.patients), result.unit),
            "—" if one.less is None else signed(result, one.less),
            between(result, one.less_patients),
            between(result, one.less_seeds),
        )
        for noise in ("local", "joint")
        for one in reversed(measured.of(noise))
    ]
    heads = ("over epsilon", f"{measured.figure}, 95 % over patients", "less that without noise")
    return (*heads, "95 % over patients", "95 % over seeds"), rows


def signed(result: ComparisonResult, value: float) -> str:
    """A difference with its sign."""
    shown = result.written(abs(value))
    zero = all(digit in "0." for digit in shown.split()[0])
    return shown if zero else f"{'+' if value > 0 else '−'}{shown}"


def between(result: ComparisonResult, interval: tuple[float, float] | None) -> str:
    """An interval of a difference; what stands there when it is not known."""
    if interval is None:
        return "—"
    return f"{signed(result, interval[0])} to {signed(result, interval[1])}"


def main_differences(result: ComparisonResult) -> tuple[Difference, ...]:
    """Those between arms; of sites alone their mean only."""
    return tuple(one for one in result.differences if not one.site)


def is_clear(one: Difference) -> bool:
    """Whether zero lies outside of the interval over patients, and of that over seeds where there is one."""
    known = [ends for ends in (one.patients, one.seeds) if ends is not None]
    return bool(known) and all(low > 0 or high < 0 for low, high in known)


def verdict(result: ComparisonResult) -> str:
    """One sentence for each question that can be answered."""
    asked: tuple[tuple[Arm, Arm], ...] = (
        ("federated", "central"), ("federated", "alone"), ("joint", "federated"), ("local", "federated"),
    )  # fmt: skip
    found = {(one.first, one.second): one for one in main_differences(result)}
    sentences = [_sentence(result, found[pair]) for pair in asked if pair in found]
    return " ".join(sentences) or "Too little came to an end to compare anything."


def _sentence(result: ComparisonResult, one: Difference) -> str:
    first, second = (WORDS[arm] for arm in (one.first, one.second))
    apart = f"{result.written(abs(one.value))}"
    known = {"patients": one.patients, "seeds": one.seeds}
    if not is_clear(one):  # told with what leaves it open
        known = {name: ends for name, ends in known.items() if ends and ends[0] <= 0 <= ends[1]} or known
    else:
        known.pop("seeds")
    told = "; ".join(f"95 % over {name} {between(result, ends)}" for name, ends in known.items() if ends)
    ends = f" ({told})" if told else ""
    if not is_clear(one):
        return f"{first.capitalize()} and {second} cannot be told apart: {signed(result, one.value)}{ends}."
    better = (one.value > 0) == result.higher_is_better
    return f"{first.capitalize()} is {apart} {'better' if better else 'worse'} than {second}{ends}."


WORDS: dict[Arm, str] = {
    "alone": "training at each site alone",
    "federated": "federated training",
    "local": "federated training with local noise",
    "joint": "federated training with joint noise",
    "central": "training in one place",
}
