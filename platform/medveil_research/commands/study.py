"""``medveil study``: write the file that hospitals are asked to approve."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from medveil.errors import BadOption
from medveil.options import from_options
from medveil.shown import Screen, plain
from medveil_research.options import NewStudyOptions, option_of

if TYPE_CHECKING:
    from medveil.study import Slices
    from medveil_imaging.weight_files import WeightFile
    from medveil_research.studies import StudyOptions


def group() -> typer.Typer:
    """The group ``medveil study``."""
    study = typer.Typer(
        no_args_is_help=True, help="Write the file that says what is learned, how, and under which privacy."
    )
    study.command("new")(from_options(study_new))
    study.command("templates")(study_templates)
    return study


def study_templates(
    name: Annotated[str, typer.Argument(help="Show this one: every choice with its reason.")] = "",
) -> None:
    """List the shipped studies that a new one can begin with, or show one of them."""
    from medveil_research.templates import template, templates

    screen = Screen()
    if name:
        for line in template(name).text.splitlines():
            screen.say(line)
        return
    screen.table(("template", "what it learns"), [(one.name, one.about) for one in templates().values()])
    screen.say("Read one: medveil study templates NAME. Take it: medveil study new --template NAME -o study")


def study_new(options: NewStudyOptions) -> None:
    """Write a study with proven settings, its noise fitted to the whole schedule, and say what to expect."""
    from medveil.handed import read_json
    from medveil.persons import Persons
    from medveil_research.model_start import hand_on_frozen, start_lines
    from medveil_research.named_start import weights_named
    from medveil_research.outlook import outlook
    from medveil_research.strategy_choice import strategy_lines
    from medveil_research.studies import new_study
    from medveil_research.study_file import write_study
    from medveil_research.study_words import persons_lines

    options = _complete(options)
    persons = read_json(options.persons, Persons) if options.persons else None
    weights = weights_named(options.start, options.folder) if options.start else None
    wanted = replace(_wanted(options, weights), persons=persons.hash.hex() if persons else None)
    study, initial = new_study(wanted)
    write_study(options.output, study, initial)
    screen = Screen()
    screen.say(f"written  {options.output / 'study.toml'}")
    for line in (*(start_lines(study, weights) if weights else ()), *hand_on_frozen(study, options.output)):
        screen.say(line)
    for line in persons_lines(persons) if persons else ():
        screen.say(line)
    for line in strategy_lines(study) if options.strategy else ():
        screen.say(line)
    for line in outlook(study, patients=wanted.patients_hint, hospitals=wanted.hospitals):
        screen.say(line)


def _complete(options: NewStudyOptions) -> NewStudyOptions:
    """With what the template says where the author has said nothing. Raises: BadOption."""
    from medveil_research.templates import template

    chosen = template(options.template).options if options.template else {}
    options = replace(options, **{key: value for key, value in chosen.items() if not getattr(options, key)})
    needed = ("name", "task", "profile", "hospitals")
    missing = [f"--{key}" for key in needed if not getattr(options, key)]
    if missing:
        problem = f"{' and '.join(missing)} must be given, or a template ('medveil study templates')"
        raise BadOption(problem=problem)
    if options.persons and options.privacy == "none":
        problem = "--persons keeps one budget a person, so it needs noise: --privacy local or joint"
        raise BadOption(problem=problem)
    return replace(options, privacy=options.privacy or "local", epsilon=options.epsilon or 8.0)


def _wanted(options: NewStudyOptions, weights: WeightFile | None) -> StudyOptions:
    from medveil_research.strategy_choice import compression_of, options_of
    from medveil_research.studies import StudyOptions
    from medveil_research.study_words import class_names, edges_of, groups_of, target_of

    assert options.name is not None  # and so on: _complete has seen to it
    assert options.task is not None
    assert options.profile is not None
    assert options.hospitals is not None
    assert options.privacy is not None
    assert options.epsilon is not None
    return StudyOptions(
        name=options.name,
        task=options.task,
        profile=options.profile,
        model=options.model,
        privacy=options.privacy,
        epsilon=options.epsilon,
        delta=options.delta,
        noise=options.noise,
        hospitals=options.hospitals,
        rounds=options.rounds,
        size=edges_of(options.size),
        channels=[part.strip() for part in options.channels.split(",")] if options.channels else (),
        patches=options.patches,
        slices=_slices(options.slices),
        classes=class_names(options.classes),
        target=target_of(options.target_column, options.target_range, options.unit),
        lesions=options.lesions,
        groups=groups_of(options.group or ()),
        smallest_group=options.smallest_group,
        per_site=options.per_site,
        patients_hint=options.patients,
        seed=options.seed,
        start_weights=weights,
        partial_start=options.partial_start,
        options=dict(option_of(pair) for pair in options.option or ()),
        compression=compression_of(options.compression),
        personal=tuple(options.personal or ()),
        mask_graph=options.mask_graph,
        weights=options.weights,
        strategy=options.strategy,
        strategy_options=options_of(options.strategy_option or []),
        colluders=options.colluders,
        matched=options.matched,
        share_figures=options.share_figures,
        patient_use=options.patient_use,
        anyway=options.anyway,
    )


def _slices(text: str | None) -> Slices | None:
    from medveil.study import Slices

    if text is None:
        return None
    try:
        every, low, high = text.split(":")
        return Slices(every=int(every), low=float(low), high=float(high))
    except ValueError as error:
        raise BadOption(problem=f"--slices: '{plain(text, 40)}' is not like 2:0.3:0.7") from error
