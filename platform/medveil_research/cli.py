"""The researcher's commands. Heavy libraries are loaded when a command runs, so that help is immediate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medveil.errors import BadOption
from medveil.shown import Screen, fault, good, plain
from medveil_research.cli_audit import audit

if TYPE_CHECKING:
    from medveil_research.evaluate import SiteReport

Task = Literal["classification", "segmentation"]
Profile = Literal["xray", "mri"]
PrivacyKind = Literal["none", "local", "joint"]
NoiseKind = Literal["local", "joint"]
MaskGraph = Literal["complete", "hidden"]
Weights = Literal["declared", "equal"]
Split = Literal["train", "val", "test"]


def register(app: typer.Typer) -> None:
    """Add ``demo``, ``study``, ``privacy``, ``audit``, ``evaluate``, ``report``, ``doctor`` to the root."""
    app.command("demo")(demo)
    study = typer.Typer(help="Write the file that says what is learned, how, and under which privacy.")
    study.callback()(_study)
    study.command("new")(study_new)
    app.add_typer(study, name="study")
    privacy = typer.Typer(help="What a schedule costs each patient, and what it leaves to learn.")
    privacy.callback()(_privacy)
    privacy.command("plan")(privacy_plan)
    app.add_typer(privacy, name="privacy")
    app.command("audit")(audit)
    app.command("evaluate")(evaluate)
    app.command("report")(report)
    app.command("doctor")(doctor)


def _study() -> None:
    """Make a group of it although it has one command."""


def _privacy() -> None:
    """Make a group of it although it has one command."""


def demo(
    task: Annotated[Task, typer.Option(help="What the demo's model learns.")] = "classification",
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder with one folder a hospital. Made-up images without it."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model of MedVeil; the task's default without it.")
    ] = None,
    privacy: Annotated[
        PrivacyKind | None,
        typer.Option(help="'local': noise protects each patient. 'none': masks only, no patient guarantee."),
    ] = None,
    epsilon: Annotated[
        float,
        typer.Option(
            min=0.01, help="Privacy price of the whole study for each patient; smaller is stricter."
        ),
    ] = 8.0,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Training rounds; the recipe's number without it.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option(min=10, help="Made-up patients per hospital (made-up images only).")
    ] = None,
    hospitals: Annotated[
        int, typer.Option(min=3, max=128, help="Number of hospitals (made-up images only).")
    ] = 4,
    kill: Annotated[
        list[str] | None,
        typer.Option(
            help="Stop a hospital in a round, e.g. hospital-3@2, to see the study go on. Repeatable."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep everything (report, models, logs) in this folder.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False,
) -> None:
    """Run a whole federated study on this machine: aggregator, hospitals, masked rounds, report."""
    from medveil_research.demo import DemoOptions
    from medveil_research.demo import demo as run

    run(
        DemoOptions(
            task=task,
            data=data,
            model=model,
            privacy=privacy,
            epsilon=epsilon,
            rounds=rounds,
            patients=patients,
            hospitals=hospitals,
            kill=tuple(kill or ()),
            json=json_file,
            folder=keep,
            quiet=quiet,
        )
    )


def study_new(
    name: Annotated[str, typer.Option(help="Lower case letters, digits and hyphens, e.g. chest-films.")],
    task: Annotated[Task, typer.Option(help="Classify whole images, or outline structures (mri only).")],
    profile: Annotated[Profile, typer.Option(help="Kind of image; decides how it becomes a tensor.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for study.toml and initial.safetensors.")
    ],
    hospitals: Annotated[int, typer.Option(min=3, max=2000, help="How many hospitals take part.")],
    model: Annotated[str | None, typer.Option(help="A model of MedVeil; the recipe's without it.")] = None,
    privacy: Annotated[
        PrivacyKind,
        typer.Option(
            help="'local': each hospital's noise protects its patients. 'joint': the noise of several adds "
            "up; more accurate, and rests on them. 'none': masks only, no patient guarantee."
        ),
    ] = "local",
    epsilon: Annotated[
        float,
        typer.Option(
            min=0.01, help="Privacy price of the whole study for each patient; smaller is stricter."
        ),
    ] = 8.0,
    delta: Annotated[
        float | None, typer.Option(help="Chance left out of the promise; min(1e-5, 1/(10 n)) without it.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Training rounds; the recipe's number without it.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Edges of the tensor, e.g. 64x64 or 40x48x40.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Meaning of the labels 0, 1, 2 …, separated by commas.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option(min=1, help="Training patients a typical hospital has; to judge the noise.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the model, e.g. width=16. Repeatable.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Decides the model's initial weights, nothing else. Fresh ones without it: two plans never "
            "start from one model.",
        ),
    ] = None,
    mask_graph: Annotated[
        MaskGraph, typer.Option(help="Who masks with whom; more than 128 hospitals need 'hidden'.")
    ] = "complete",
    weights: Annotated[
        Weights,
        typer.Option(help="What a hospital counts: the patients it declares, or as much as any other."),
    ] = "declared",
    colluders: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2000,
            help="Hospitals assumed to pool what they know with the aggregator; joint noise does without "
            "theirs. 1 for joint without it, else 0.",
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Do not refuse more noise than signal; hospitals are told.")
    ] = False,
) -> None:
    """Write a study with proven settings, its noise fitted to the whole schedule, and say what to expect."""
    from medveil_research import studies

    study, initial = studies.new_study(
        name=name,
        task=task,
        profile=profile,
        model=model,
        privacy=privacy,
        epsilon=epsilon,
        delta=delta,
        hospitals=hospitals,
        rounds=rounds,
        size=_edges(size),
        classes=tuple(part.strip() for part in classes.split(",")) if classes else None,
        patients_hint=patients,
        seed=seed,
        options=dict(_option(pair) for pair in option or ()),
        mask_graph=mask_graph,
        weights=weights,
        colluders=colluders,
        anyway=anyway,
    )
    studies.write_study(output, study, initial)
    screen = Screen()
    screen.say(f"written  {output / 'study.toml'}")
    for line in studies.outlook(study, patients=patients, hospitals=hospitals):
        screen.say(line)


def privacy_plan(
    patients: Annotated[int, typer.Option(min=1, help="Training patients a typical hospital has.")],
    hospitals: Annotated[int, typer.Option(min=1, help="How many hospitals take part.")],
    epsilon: Annotated[
        float | None, typer.Option(help="Privacy price of the whole study for each patient.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Instead of --epsilon: noise in units of the clipping norm.")
    ] = None,
    privacy: Annotated[
        NoiseKind,
        typer.Option(help="'local': own noise only. 'joint': the noise of several hospitals adds up."),
    ] = "local",
    honest: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Hospitals that joint noise counts on; without it four of five, less one that is curious.",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; the recipe's number without it.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in a round; the recipe's number without it.")
    ] = None,
    sample_rate: Annotated[
        float, typer.Option(help="Chance with which a patient enters a step; 1 is everybody.")
    ] = 1.0,
    delta: Annotated[
        float | None, typer.Option(help="Chance left out of the promise; min(1e-5, 1/(10 n)) without it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model of MedVeil; the task's default without it.")
    ] = None,
    task: Annotated[Task, typer.Option(help="What the model learns.")] = "classification",
    profile: Annotated[
        Profile | None, typer.Option(help="Kind of image; the task's usual one without it.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Classes, the background included.")] = 2,
    size: Annotated[str | None, typer.Option(help="Edges of the tensor, e.g. 64x64 or 40x48x40.")] = None,
    centred: Annotated[
        bool | None,
        typer.Option(
            "--centred/--not-centred",
            help="Whether round 1 releases the mean of the features; as a new study would without it.",
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Do not refuse a plan with more noise than signal.")
    ] = False,
) -> None:
    """Print noise, steps, both epsilons and the noise over the signal; refuse what cannot be learned."""
    from medveil_research import privacy_plan as desk
    from medveil_research.studies import check_hope

    kind = profile or ("mri" if task == "segmentation" else "xray")
    usual = desk.shipped(
        task=task,
        profile=kind,
        model=model,
        classes=classes,
        size=_edges(size),
        privacy=privacy,
        rounds=rounds,
    )
    plan = desk.plan_privacy(
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        rounds=usual.rounds,
        steps=steps or usual.steps,
        patients=patients,
        hospitals=hospitals,
        parameters=usual.parameters,
        delta=delta,
        sample_rate=sample_rate,
        privacy=privacy,
        honest=honest,
        centred=bool(centred),
    )
    if centred is None and usual.centred and plan.mean_is_clear:
        plan = replace(plan, mean_rounds=1)
    screen = Screen()
    for line in plan.lines():
        screen.say(line)
    check_hope(plan.noise_to_signal, anyway=anyway)


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
    found = evaluate_site(data, read, from_safetensors(read_whole(model, largest_file(spec)), spec), split)
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
    rows = []
    for name, value in found.figures.items():
        shown = f"{value:.0f}" if name in ("patients", "images") else f"{value:.3f}"
        interval = found.interval if name == found.headline else None
        rows.append((plain(name), shown, f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""))
    screen = Screen()
    title = plain(f"{found.site}, {found.split} patients")
    screen.table(("figure", "value", "95 % interval"), rows, title=title, right=(1, 2))
    if found.headline not in found.figures:
        screen.say(f"No {found.headline}: there are too few cases of one kind.")
    screen.say(f"files rejected while reading: {found.rejected}")


def _edges(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise BadOption(problem=f"--size: '{plain(text, 40)}' is not like 64x64 or 40x48x40") from error


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
