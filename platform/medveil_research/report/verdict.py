"""The result in plain words: what the figure says, how sure it is, and what it cost."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from medveil.readings import Reading, guess_words, main_words
from medveil_research.results import PrivacyFacts, Result

WRONG_ACCUSATIONS = 0.01
"""False-alarm rate at which the report translates epsilon into an attacker's chance."""
DOING = {
    "tell": "telling",
    "outline": "outlining",
    "estimate": "estimating",
    "find": "finding",
    "say": "saying",
}
"""How a task's aim begins, as a title has it."""


@dataclass(frozen=True)
class Verdict:
    """The result at one glance."""

    figure: str
    """Large: the interval."""
    under: str
    """Small under it: what it is, and the best guess."""
    sentence: str
    details: tuple[str, ...] = ()


def count_words(count: int) -> str:
    """A small number as a sentence begins with it."""
    words = "No One Two Three Four Five Six Seven Eight Nine Ten Eleven Twelve".split()
    return words[count] if count < len(words) else f"{count:,}"


def title(result: Result) -> str:
    """The study's name as words, and what it does."""
    name = " ".join(result.study.replace("-", " ").replace("_", " ").replace(".", " ").split())
    first, _, rest = result.aim.partition(" ")
    doing = f"{DOING[first]} {rest}" if first in DOING else f"learning to {result.aim}"
    return f"{name[:1].upper()}{name[1:]}: {doing}"


def verdict(result: Result) -> Verdict:
    """What the final evaluation says; why it says nothing where it does not."""
    reading, name = result.reading(), result.headline_name
    if reading is None:
        return Verdict("no figure", name, _why_none(result))
    if reading.value is None:
        return Verdict(
            "not determined",
            f"{name}, best guess none",
            "The noise that protects the test patients is larger than what they could show: "
            "with more of them, or a larger epsilon, there would be a figure.",
            (
                result.headline_meaning,
                "Tables and curves of the same counts would show their noise, so none are drawn.",
            ),
        )
    unit = result.unit
    guess = guess_words(reading, unit)
    kind = "95 % interval" if reading.interval else "best guess"
    under = f"{name}, {kind}" + (f" · best guess {guess}" if guess else "")
    return Verdict(main_words(reading, unit), under, _says(result, reading), _details(result, reading))


def _why_none(result: Result) -> str:
    tests = [r for r in result.rounds if r.kind == "evaluate"]
    if not tests:
        return (
            "The study has not been judged on test patients so far; this page says what is known until now."
        )
    if tests[-1].outcome == "failed":
        reason = f" ({tests[-1].reason})" if tests[-1].reason else ""
        return f"The final test on patients of all hospitals failed{reason}: no figure was made."
    return "No figure was computed: there were too few test cases of one kind."


def _says(result: Result, reading: Reading) -> str:
    assert reading.value is not None
    unit = result.unit
    where = "On test patients of all hospitals"
    if result.headline == "auroc":
        cases = "a case with the finding above one without"
        if result.task == "classification" and len(result.scored_classes or result.classes) > 2:
            cases = "a case of a class above one of another, on average over the classes,"
        elif result.task == "findings":
            cases += ", on average over the findings,"
        return f"{where}, the shared model ranks {cases} in {_of_hundred(reading)} of 100 pairs."
    amount = main_words(reading, unit)
    if result.headline == "dice":
        return f"{where}, the model's outline and the expert's cover each other by {amount} on average."
    if result.headline == "mae":
        return f"{where}, the shared model is off by {amount} on average."
    return f"{where}, the shared model reaches: {result.headline_name} {amount}."


def _of_hundred(reading: Reading) -> str:
    assert reading.value is not None
    if reading.interval is None:
        return f"{100 * reading.value:.0f}"
    low, high = (100 * end for end in reading.interval)
    if reading.at_top:
        return f"at least {math.floor(low):.0f}"
    return f"{low:.0f} to {high:.0f}" if round(low) != round(high) else f"{low:.0f}"


def _details(result: Result, reading: Reading) -> tuple[str, ...]:
    if reading.interval is None:
        sure = "How sure that is, is not known: the sums of this study do not tell how patients differ."
    elif reading.by_noise_alone:
        sure = (
            "The interval holds the noise that protects the patients, and not the chance in their choice: "
            "the sums of this study do not tell how patients differ."
        )
    elif result.noised:
        sure = "The interval holds chance in the choice of patients and the noise that protects them."
    else:
        sure = "The interval holds chance in the choice of patients."
    found = [f"{sure} {result.headline_meaning}"]
    if reading.uncut is not None and reading.value is not None and abs(reading.uncut - reading.value) > 5e-7:
        found.append(
            f"It is cut at {result.written(reading.value)}; before the cut the best guess was "
            f"{result.written(reading.uncut)}: noise can lead beyond what a figure can be."
        )
    return tuple(found)


def against_alone(result: Result) -> str:
    """How the shared model compares with the hospitals training alone; empty where nobody compared."""
    compared, mean = result.compared, result.local_only_mean
    shared = None if compared is None else compared.value
    if shared is None or mean is None or not result.local_only:
        return ""
    gain, written = shared - mean, result.written(mean)
    exact = "" if compared == result.reading() else f"Counted without noise, it is {result.written(shared)}. "
    if float(result.digits(gain)) == 0:
        return f"{exact}The hospitals training alone reach the same on average ({written})."
    better = shared.__gt__ if result.higher_is_better else shared.__lt__
    known = [a.metric for a in result.local_only if a.metric is not None]
    beaten = sum(better(metric) for metric in known)
    word = "better" if better(mean) else "worse"
    who = f"{beaten} of the {len(known)} single models"
    if beaten in (0, len(known)):
        who = "every single model" if beaten else "none of the single models"
    return (
        f"{exact}The shared model is {result.written(abs(gain))} {word} than the mean of the hospitals "
        f"training alone ({written}), and better than {who}."
    )


def cost_of_privacy(result: Result) -> str:
    """How much of the interval is the noise's; empty where nothing was noised or nothing is known."""
    reading = result.reading()
    if reading is None or reading.both is None or reading.noise is None:
        return ""
    whole, noise = (ends[1] - ends[0] for ends in (reading.both, reading.noise))
    unit = result.unit
    width = f"{result.written(whole)}" if unit else f"{whole:.3f}"
    alone = f"{result.written(noise)}" if unit else f"{noise:.3f}"
    return (
        f"In the test: the interval is {width} wide; the noise on the counts alone would make it {alone} "
        "wide. More test patients make both narrower."
    )


def attacker_chance(privacy: PrivacyFacts) -> float | None:
    """Largest share of participants that an attacker recognises who wrongly accuses 1 % of the others.

    None without differential privacy. With every patient in every step the study is one Gaussian of
    mu = sqrt(steps) / noise_multiplier, or what a filter lets through, and the bound is tight (Dong, Roth,
    Su, "Gaussian differential privacy", 2022); otherwise it follows from epsilon and delta (Kairouz, Oh,
    Viswanath, ICML 2015).
    """
    if privacy.kind == "none" or privacy.epsilon is None or privacy.delta is None:
        return None
    wrong = WRONG_ACCUSATIONS
    if privacy.sample_rate == 1 and privacy.noise_multiplier and privacy.steps:
        normal = statistics.NormalDist()
        mu = math.sqrt(privacy.steps) / privacy.noise_multiplier
        return normal.cdf(normal.inv_cdf(wrong) + min(mu, privacy.patient_mu or mu))
    first = math.exp(min(privacy.epsilon, 700.0)) * wrong + privacy.delta
    second = 1 - math.exp(-privacy.epsilon) * (1 - privacy.delta - wrong)
    return min(first, second, 1.0)
