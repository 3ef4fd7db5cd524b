"""``medveil privacy``: what a schedule costs, before anything is written."""

from __future__ import annotations

from dataclasses import replace

import typer

from medveil.options import from_options
from medveil.shown import Screen
from medveil_research.options import PrivacyPlanOptions


def group() -> typer.Typer:
    """The group ``medveil privacy``."""
    privacy = typer.Typer(
        no_args_is_help=True, help="What a schedule costs each patient, and what it leaves to learn."
    )
    privacy.callback()(_privacy)
    privacy.command("plan")(from_options(privacy_plan))
    return privacy


def _privacy() -> None:
    """Make a group of it although it has one command."""


def privacy_plan(options: PrivacyPlanOptions) -> None:
    """Print noise, steps, both epsilons and the noise over the signal; refuse what cannot be learned."""
    from medveil.tasks import TASKS
    from medveil_research.mixture import mixture_of
    from medveil_research.outlook import check_hope
    from medveil_research.privacy_plan import Schedule, plan_privacy, shipped
    from medveil_research.study_words import edges_of

    mixture = mixture_of(options.patients_each, options.hospitals) if options.patients_each else None
    usual = shipped(
        task=options.task,
        profile=options.profile or TASKS[options.task].profile,
        model=options.model,
        classes=options.classes,
        size=edges_of(options.size),
        privacy=options.privacy,
        rounds=options.rounds,
    )
    matched = usual.matched if options.matched is None else options.matched
    steps = options.steps or usual.steps
    plan = plan_privacy(
        Schedule(
            epsilon=options.epsilon,
            noise_multiplier=options.noise_multiplier,
            rounds=usual.rounds,
            steps=steps,
            patients=options.patients,
            hospitals=options.hospitals,
            parameters=usual.parameters,
            delta=options.delta,
            noise=options.noise,
            sample_rate=options.sample_rate,
            privacy=options.privacy,
            honest=options.honest,
            group_columns=options.group_columns,
            share_figures=options.share_figures,
            mean_rounds=max(1, usual.mean_rounds) if options.centred else 0,
            course=replace(usual.course, steps=steps) if matched else None,
            patient_use=options.patient_use,
        )
    )
    if options.centred is None and usual.mean_rounds and plan.mean_is_clear(usual.mean_rounds):
        plan = replace(plan, mean_rounds=usual.mean_rounds)
    screen = Screen()
    for line in plan.lines():
        screen.say(line)
    for place, line in enumerate(mixture.lines() if mixture else ()):
        screen.say(f"{'' if place else 'weights':<10}{line}")
    check_hope(plan.noise_to_signal, anyway=options.anyway)
