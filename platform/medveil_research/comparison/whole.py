"""The whole comparison: read the sites once, make each training that is not there yet, hold them together."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hospital_node.training import FeatureCache, choose_device, contributions
from medveil.errors import Error
from medveil.metrics import headline
from medveil.progress import tell
from medveil.reports import Figures
from medveil.shown import plain
from medveil.study import Study
from medveil.tensors import Float32
from medveil_imaging.cache import temporary_cache
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.comparison import arms, paired, sums_up
from medveil_research.comparison.arms import Arm, Missing, Training
from medveil_research.comparison.at_levels import at_levels
from medveil_research.comparison.engine import Heard, NobodyTrains, images_of, run_federated
from medveil_research.comparison.result import ComparisonResult, Problem, RunFacts, SiteFacts
from medveil_research.comparison.runs import Finished, Runs, fingerprint
from medveil_research.results import Images
from medveil_research.sites import Site
from medveil_research.studies import StudyOptions

Said = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be compared."""

    base: StudyOptions
    """Of every arm; ``privacy`` and ``seed`` are the arms' own. Strategy, compression and personal weights
    are of those in which hospitals train together."""
    arms: Sequence[Arm] = arms.ARMS
    seeds: int = 3
    figure: str | None = None
    """None: the task's headline."""
    data: Images = "real"
    each_round: bool = False
    """Whether a line is said after each round, with the figure on validation patients."""
    draws: int = paired.DRAWS
    """Of test patients, for the intervals over patients."""
    epsilons: Sequence[float] = ()
    """More epsilons at which those with noise are trained, for the figure over epsilon."""


@dataclass(frozen=True)
class Studies:
    """What is trained."""

    by_seed: Sequence[Mapping[Arm, tuple[Study, Float32]]]
    """Study and start of each arm, for each seed."""
    missing: Sequence[Missing]
    """Arms that cannot be made."""


class NothingMade(Error):
    """Not one of the trainings came to an end."""

    code = "nothing-compared"

    def __init__(self, *, problems: Sequence[Problem]) -> None:
        first = problems[0].what if problems else "There was nothing to train"
        super().__init__(
            what=f"No training came to an end. The first problem: {plain(first).rstrip('.')}.",
            meaning="There is nothing to compare, so no report was written.",
            remedy=(problems[0].remedy if problems else "") or "Look at the options and the manifests.",
        )


def compare_sites(
    request: Request, folders: Sequence[Site], output: Path, *, said: Said = lambda line: None
) -> ComparisonResult:
    """Read every site, and compare.

    Args:
        folders: one for each site. Else, guarantees and errors: as :func:`compare_read`.
    """
    studies = _studies(request)
    study = next(iter(studies.by_seed[0].values()))[0]
    with temporary_cache() as cache:
        sites = [replace(read_site(one.folder, study, cache=cache), name=one.name) for one in folders]
        return compare_read(request, sites, output, said=said, studies=studies)


def compare_read(
    request: Request,
    sites: Sequence[SiteData],
    output: Path,
    *,
    said: Said = lambda line: None,
    studies: Studies | None = None,
) -> ComparisonResult:
    """Make every training of a request, those of an earlier call excepted, and compare their models.

    Args:
        sites: read as the request's studies want them. output: gets ``runs``, a file for each finished
            training. said: is told a line for each training.
    Guarantees: one training that fails, by diverging or otherwise, is named and keeps no other from being
        made; equal runs give an equal result.
    Raises: NobodyTrains; NothingMade; what the studies raise if not one can be made.
    """
    if not any(site.train for site in sites):
        raise NobodyTrains()
    studies = studies or _studies(request)
    study = next(iter(studies.by_seed[0].values()))[0]
    figure = request.figure or headline(study)
    planned, missing = _planned(studies, sites)
    runs = Runs(output / "runs", fingerprint(sites))
    finished, failed = _all(planned, sites, runs, said, figure * request.each_round)
    problems = [*_of_sites(sites, own=_some_stay(studies)), *_of_steps(planned)]
    problems += [*(_of_error(one.error, of=one.arm) for one in missing), *failed]
    if not finished:
        raise NothingMade(problems=problems)
    problems += sums_up.without_figure(finished, figure, sites)
    more, unmade = _at_more_epsilons(request, sites, runs, said)
    problems += unmade
    return ComparisonResult(
        medveil=importlib.metadata.version("medveil"),
        name=request.base.name,
        task=study.task,
        profile=study.transforms.profile,
        classes=study.classes,
        target=study.target,
        figure=figure,
        data=request.data,
        draws=request.draws,
        seeds=request.seeds,
        sites=tuple(_facts(site) for site in sites),
        **sums_up.held_together(finished, figure, request.draws),
        runs=tuple(one.facts for _, one in finished),
        measured=at_levels([*finished, *more], figure, request.data, request.draws) if more else None,
        problems=tuple(dict.fromkeys(problems)),
        seconds=sum(one.facts.seconds for _, one in (*finished, *more)),
    )


def _at_more_epsilons(
    request: Request, sites: Sequence[SiteData], runs: Runs, said: Said
) -> tuple[list[tuple[Training, Finished]], list[Problem]]:
    """Those with noise again, at each further epsilon."""
    finished, problems = list[tuple[Training, Finished]](), list[Problem]()
    noised = [arm for arm in request.arms if arm in ("local", "joint")]
    for epsilon in request.epsilons:
        at = replace(request, base=replace(request.base, epsilon=epsilon), arms=noised)
        try:
            planned, missing = _planned(_studies(at), sites)
        except Error as error:
            problems.append(_of_error(error, of=f"at ε {epsilon:g}"))
            continue
        found, failed = _all([replace(one, one_of_several=True) for one in planned], sites, runs, said, "")
        finished += found
        problems += [_of_error(one.error, of=f"{one.arm} at ε {epsilon:g}") for one in missing] + failed
    return finished, problems


def _studies(request: Request) -> Studies:
    """Raises: what the studies raise if not one can be made."""
    by_seed, missing = [], list[Missing]()
    for seed in range(request.seeds):
        found, more = arms.studies(request.base, request.arms, seed)
        if not found:
            raise more[0].error
        by_seed.append(found)
        missing += more if seed == 0 else []
    return Studies(by_seed, missing)


def _planned(studies: Studies, sites: Sequence[SiteData]) -> tuple[list[Training], list[Missing]]:
    planned, missing = list[Training](), [*studies.missing]
    for seed, made in enumerate(studies.by_seed):
        found, more = arms.trainings(made, sites, seed)
        planned += found
        missing += more if seed == 0 else []
    return planned, missing


def _all(
    planned: Sequence[Training], sites: Sequence[SiteData], runs: Runs, said: Said, figure: str
) -> tuple[list[tuple[Training, Finished]], list[Problem]]:
    finished: list[tuple[Training, Finished]] = []
    failed: list[Problem] = []
    rounds = sum(training.study.training.rounds for training in planned)
    before = 0
    for training in planned:
        known = runs.find(training)
        if known is not None:
            said(f"{training.label}: made before")
            _tell(before, rounds, training.study.training.rounds)
            finished.append((training, known))
        else:
            try:
                heard = partial(_heard, training.label, figure, said, before, rounds)
                made = _made(training, sites, heard)
            except Error as error:
                failed.append(_of_error(error, of=training.label))
                said(f"{training.label}: {error.what}")
            else:
                runs.keep(training, made)
                said(f"{training.label}: {sums_up.in_words(training.study, made.facts)}")
                finished.append((training, made))
        before += training.study.training.rounds
    return finished, failed


def _heard(
    label: str, figure: str, said: Said, before: int, rounds: int, number: int, figures: Figures
) -> None:
    if figure in figures:
        said(f"{label}, round {number}: {figure} {figures[figure]:.3f}")
    _tell(before, rounds, number)


def _tell(before: int, rounds: int, number: int) -> None:
    tell("rounds of all trainings", before + number, rounds)


def _made(training: Training, sites: Sequence[SiteData], heard: Heard) -> Finished:
    """Train, and judge the model on every site's test patients."""
    study, device = training.study, choose_device()
    trained = run_federated(
        study,
        training.initial,
        training.learners,
        watched="val" if study.model.personal else tuple(patient for site in sites for patient in site.val),
        heard=heard,
    )
    judged = paired.gathered(
        study,
        [
            contributions(
                study,
                trained.own.get(site.name, trained.model),
                site.test,
                device=device,
                cache=FeatureCache(),
            )
            for site in sites
        ],
    )
    each = {site.name: paired.figures(study, judged, place) for place, site in enumerate(sites)}
    facts = RunFacts(
        arm=training.arm,
        site=training.site,
        seed=training.seed,
        pooled=paired.figures(study, judged),
        sites={name: found for name, found in each.items() if found.get("patients")},
        curve=trained.curve,
        released=trained.released,
        seconds=trained.seconds,
    )
    return Finished(facts, judged)


def _facts(site: SiteData) -> SiteFacts:
    return SiteFacts(
        name=site.name,
        train=len(site.train),
        val=len(site.val),
        test=len(site.test),
        images=images_of(site),
        rejected=sum(problem.severity == "error" for problem in site.problems),
    )


def _some_stay(studies: Studies) -> bool:
    """Whether hospitals of a federation have weights of their own."""
    return any(study.model.personal for study, _ in studies.by_seed[0].values())


def _of_steps(planned: Sequence[Training]) -> list[Problem]:
    """Where the federation's strategy makes it work more or less than whoever trains by the recipe."""
    steps = {one.arm: one.steps for one in planned if one.arm in ("federated", "central", "alone")}
    together = steps.pop("federated", None)
    other = next((count for count in steps.values() if count != together), together)
    if together is None or other is None or other == together:
        return []
    return [
        Problem(
            what=f"The federation makes {together:,} optimiser steps, whoever trains in one place {other:,}.",
            meaning="What is chosen for the federation asks for another training than the shipped recipe, by "
            "which the others train: the difference is that of both.",
            remedy="Nothing, if that is what you ask; --rounds counts for all.",
            code="other-steps",
        )
    ]


def _of_sites(sites: Sequence[SiteData], *, own: bool) -> list[Problem]:
    """What is lacking at single sites; the others are compared all the same."""
    still = " Where weights stay in the hospitals, it has those that the study began with." if own else ""
    found = []
    for site in sites:
        if not site.train:
            found.append(
                Problem(
                    what=f"{site.name} has no training patients.",
                    meaning=f"It trains nothing; every model is judged on its test patients.{still}",
                    remedy="Nothing, if it is meant for testing; else see the column 'split'.",
                    code="no-training-patients",
                )
            )
        if not site.test:
            found.append(
                Problem(
                    what=f"{site.name} has no test patients.",
                    meaning="No model is judged there.",
                    remedy="Give some of its patients the split 'test'.",
                    code="no-test-patients",
                )
            )
    return found


def _of_error(error: Error, *, of: str) -> Problem:
    what, meaning, remedy = (plain(text, 900) for text in (error.what, error.meaning, error.remedy))
    return Problem(what=f"{of}: {what}", meaning=meaning, remedy=remedy, code=error.code)
