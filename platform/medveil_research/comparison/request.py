"""From the options of ``medveil research compare`` to what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medveil.errors import BadOption
from medveil.shown import plain
from medveil_research.comparison.arms import ARMS, TOGETHER
from medveil_research.comparison.whole import Request
from medveil_research.levels import epsilons_of
from medveil_research.options import CompareOptions, option_of
from medveil_research.sites import (
    CLASSES,
    HEART,
    Site,
    find_sites,
    holds_volumes,
    phantom_of,
    typical_patients,
    write_made_up,
)
from medveil_research.strategy_choice import compression_of, options_of
from medveil_research.studies import StudyOptions
from medveil_research.study_words import class_names, edges_of, target_of

NAME = "comparison"


def sites_of(options: CompareOptions, folder: Path) -> list[Site]:
    """The sites that are named, or made-up ones, drawn once. Raises: BadSites, NotMadeUp."""
    if options.data is not None:
        return find_sites(options.data, least=2)
    drawn = folder / "sites"
    if any(drawn.glob("*/manifest.csv")):
        return find_sites(drawn, least=2)
    return write_made_up(drawn, options.task, options.hospitals, options.patients, profile=options.profile)


def request_of(options: CompareOptions, sites: Sequence[Site]) -> Request:
    """The studies' common options. Raises: BadOption."""
    wanted = options.only or ARMS
    for name in wanted:
        if name not in ARMS:
            raise BadOption(problem=f"--only: '{plain(name, 20)}' is none of {', '.join(ARMS)}")
    if _own_federation(options) and not set(wanted) & set(TOGETHER):
        problem = "--strategy, --compression and --personal say how hospitals train together, and --only "
        raise BadOption(problem=f"{problem}names none of {', '.join(TOGETHER)}")
    epsilons = epsilons_of(options.epsilons) or (options.epsilon,)
    if len(epsilons) > 1 and not {"local", "joint"} & set(wanted):
        raise BadOption(problem="--epsilons is for trainings with noise, and --only names none of them")
    target = target_of(options.target_column, options.target_range, options.unit)
    drawn = phantom_of(options.task)
    if target is None and options.data is None and drawn == "regression":
        target = HEART
    base = StudyOptions(
        name=NAME,
        task=options.task,
        profile=options.profile or ("mri" if holds_volumes(sites[0]) else "xray"),
        model=options.model,
        options=dict(option_of(pair) for pair in options.option or ()),
        epsilon=epsilons[0],
        delta=options.delta,
        hospitals=max(3, sum(site.train_patients > 0 for site in sites)),
        rounds=options.rounds,
        size=edges_of(options.size),
        classes=class_names(options.classes) or CLASSES.get(drawn),
        target=target,
        patients_hint=typical_patients([site for site in sites if site.train_patients] or sites),
        strategy=options.strategy,
        strategy_options=options_of(options.strategy_option or []),
        compression=compression_of(options.compression),
        personal=tuple(options.personal or ()),
    )
    return Request(
        base=base,
        arms=tuple(arm for arm in ARMS if arm in wanted),
        seeds=options.seeds,
        figure=options.figure,
        each_round=options.each_round,
        data="phantom" if options.data is None else "real",
        epsilons=epsilons[1:],
    )


def _own_federation(options: CompareOptions) -> bool:
    """Whether hospitals train together otherwise than the recipe has it."""
    return bool(options.strategy or options.strategy_option or options.compression or options.personal)
