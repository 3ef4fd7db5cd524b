"""The researcher's commands. Heavy libraries are loaded when a command runs, so that help is immediate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medveil.errors import BadOption
from medveil.options import from_options
from medveil.shown import Screen, fault, good, plain
from medveil_research.cli_audit import audit
from medveil_research.options import DemoOptions, NewStudyOptions, PrivacyPlanOptions

if TYPE_CHECKING:
    from medveil.study import Slices
    from medveil_research.evaluate import SiteReport

Split = Literal["train", "val", "test"]


def register(app: typer.Typer) -> None:
    """Add ``demo``, ``study``, ``privacy``, ``audit``, ``evaluate``, ``report``, ``mnist``, ``doctor`` to the
    root."""
    app.command("demo")(from_options(demo))
    study = typer.Typer(help="Write the file that says what is learned, how, and under which privacy.")
    study.callback()(_study)
    study.command("new")(from_options(study_new))
    app.add_typer(study, name="study")
    privacy = typer.Typer(help="What a schedule costs each patient, and what it leaves to learn.")
    privacy.callback()(_privacy)
    privacy.command("plan")(from_options(privacy_plan))
    app.add_typer(privacy, name="privacy")
    app.command("audit")(audit)
    app.command("evaluate")(evaluate)
    app.command("report")(report)
    app.command("mnist")(mnist)
    app.command("doctor")(doctor)


def _study() -> None:
    """Make a group of it although it has one command."""


def _privacy() -> None:
    """Make a group of it although it has one command."""


def demo(options: DemoOptions) -> None:
    """Run a whole federated study on this machine: aggregator, hospitals, masked rounds, report."""
    from medveil_research.demo import demo as run

    run(options)


def study_new(options: NewStudyOptions) -> None:
    """Write a study with proven settings, its noise fitted to the whole schedule, and say what to expect."""
    from medveil_imaging.weight_files import read_weights
    from medveil_research.model_start import hand_on_frozen, start_lines
    from medveil_research.outlook import outlook
    from medveil_research.studies import StudyOptions, class_names, edges_of, new_study, target_of
    from medveil_research.study_file import write_study

    weights = read_weights(options.start_weights) if options.start_weights else None
    study, initial = new_study(
        StudyOptions(
            name=options.name,
            task=options.task,
            profile=options.profile,
            model=options.model,
            privacy=options.privacy,
            epsilon=options.epsilon,
            delta=options.delta,
            hospitals=options.hospitals,
            rounds=options.rounds,
            size=edges_of(options.size),
            channels=[part.strip() for part in options.channels.split(",")] if options.channels else (),
            patches=options.patches,
            slices=_slices(options.slices),
            classes=class_names(options.classes),
            target=target_of(options.target_column, options.target_range, options.unit),
            lesions=options.lesions,
            patients_hint=options.patients,
            seed=options.seed,
            start_weights=weights,
            partial_start=options.partial_start,
            options=dict(_option(pair) for pair in options.option or ()),
            mask_graph=options.mask_graph,
            weights=options.weights,
            colluders=options.colluders,
            anyway=options.anyway,
        )
    )
    write_study(options.output, study, initial)
    screen = Screen()
    screen.say(f"written  {options.output / 'study.toml'}")
    for line in (*(start_lines(study, weights) if weights else ()), *hand_on_frozen(study, options.output)):
        screen.say(line)
    for line in outlook(study, patients=options.patients, hospitals=options.hospitals):
        screen.say(line)


def privacy_plan(options: PrivacyPlanOptions) -> None:
    """Print noise, steps, both epsilons and the noise over the signal; refuse what cannot be learned."""
    from medveil.tasks import TASKS
    from medveil_research.outlook import check_hope
    from medveil_research.privacy_plan import Schedule, plan_privacy, shipped
    from medveil_research.studies import edges_of

    usual = shipped(
        task=options.task,
        profile=options.profile or TASKS[options.task].profile,
        model=options.model,
        classes=options.classes,
        size=edges_of(options.size),
        privacy=options.privacy,
        rounds=options.rounds,
    )
    plan = plan_privacy(
        Schedule(
            epsilon=options.epsilon,
            noise_multiplier=options.noise_multiplier,
            rounds=usual.rounds,
            steps=options.steps or usual.steps,
            patients=options.patients,
            hospitals=options.hospitals,
            parameters=usual.parameters,
            delta=options.delta,
            sample_rate=options.sample_rate,
            privacy=options.privacy,
            honest=options.honest,
            mean_rounds=max(1, usual.mean_rounds) if options.centred else 0,
        )
    )
    if options.centred is None and usual.mean_rounds and plan.mean_is_clear(usual.mean_rounds):
        plan = replace(plan, mean_rounds=usual.mean_rounds)
    screen = Screen()
    for line in plan.lines():
        screen.say(line)
    check_hope(plan.noise_to_signal, anyway=options.anyway)


def evaluate(
    study: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The study.toml the model belongs to.")
    ],
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The model, a .safetensors file.")],
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="One hospital's folder.")],
    split: Annotated[Split, typer.Option(help="Which patients to judge by.")] = "test",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures as JSON.")] = None,
) -> None:
    """Judge a model on one hospital's own patients, with a 95 % interval. Nothing leaves this machine."""
    from medveil.handed import read_whole
    from medveil.study import read_study
    from medveil.tensors import from_safetensors, largest_file
    from medveil_research.evaluate import evaluate_site

    read = read_study(study)
    spec = read.model.tensors
    vector = from_safetensors(read_whole(model, largest_file(spec)), spec)
    with Screen(stderr=True).waiting():
        found = evaluate_site(data, read, vector, split)
    _show_figures(found)
    if json_file:
        json_file.write_text(json.dumps(found.as_dict(), indent=2) + "\n", encoding="utf-8")


def report(
    result: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Written by 'medveil demo --json'.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Make the evaluation report, one HTML file without script or network, from a result file."""
    from medveil_research.report import write_report
    from medveil_research.results import read_result

    write_report(read_result(result), output)
    Screen().say(f"written  {output}")


def mnist(
    source: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder with the four IDX files.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Gets a folder for each hospital.")],
    hospitals: Annotated[int, typer.Option(min=3, max=128, help="How many share the pictures.")] = 5,
    by_label: Annotated[
        bool, typer.Option("--by-label", help="Each hospital sees about two digits, else all of them.")
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=100, help="Only the first so many training pictures.")
    ] = None,
) -> None:
    """Cut the MNIST digits, or a set like them, among hospitals: each picture counts as a patient."""
    from medveil_research.mnist import write_mnist_sites

    cuts = write_mnist_sites(source, output, hospitals=hospitals, by_label=by_label, images=images)
    screen = Screen()
    rows = [
        (cut.folder.name, str(cut.train), str(cut.val), str(cut.test), ", ".join(map(str, cut.labels)))
        for cut in cuts
    ]
    screen.table(("hospital", "train", "val", "test", "labels in train"), rows, right=(1, 2, 3))


def doctor(
    folder: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Where MedVeil would keep its files.")
    ] = Path(),
) -> None:
    """Look at this machine: Python, memory, disk, torch, SQLite, clock, ports. Exit status 1 on a problem."""
    from medveil_research.doctor import examine

    screen = Screen()
    findings = examine(folder)
    for finding in findings:
        mark = good("PASSED ") if finding.passed else fault("problem")
        screen.say(mark, f"{finding.name:<14}", plain(finding.found))
        if finding.remedy:
            screen.say("        fix           ", plain(finding.remedy))
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


def _show_figures(found: SiteReport) -> None:
    from medveil_research.words import is_count, with_unit

    rows = []
    for name, value in found.figures.items():
        unit = found.units[name]
        shown = f"{value:.0f}" if is_count(name) else with_unit(value, unit)
        interval = [with_unit(end, unit) for end in found.interval or () if name == found.headline]
        rows.append((plain(name), plain(shown), plain(" to ".join(interval))))
    screen = Screen()
    title = plain(f"{found.site}, {found.split} patients")
    screen.table(("figure", "value", "95 % interval"), rows, title=title, right=(1, 2))
    if found.headline not in found.figures:
        screen.say(f"No {found.headline}: there are too few cases of one kind.")
    screen.say(f"files rejected while reading: {found.rejected}")


def _slices(text: str | None) -> Slices | None:
    from medveil.study import Slices

    if text is None:
        return None
    try:
        every, low, high = text.split(":")
        return Slices(every=int(every), low=float(low), high=float(high))
    except ValueError as error:
        raise BadOption(problem=f"--slices: '{plain(text, 40)}' is not like 2:0.3:0.7") from error


def _option(pair: str) -> tuple[str, int | float | str | bool]:
    name, equals, text = pair.partition("=")
    if not equals or not name:
        raise BadOption(problem=f"--option: '{plain(pair, 40)}' is not like width=16")
    if text in ("true", "false"):
        return name, text == "true"
    for kind in (int, float):
        try:
            return name, kind(text)
        except ValueError:
            continue
    return name, text
