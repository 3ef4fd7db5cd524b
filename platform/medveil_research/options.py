"""What the researcher's commands with many options take, as it stands on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medveil.bounds import LEAST_SMALLEST, MOST_COLUMNS, SMALLEST
from medveil.errors import BadOption
from medveil.registry import names_in
from medveil.shown import plain
from medveil.values import Drawn, MaskGraph, NoiseKind, PrivacyKind, Weights

if TYPE_CHECKING:
    Task = str
    Profile = str
    StrategyName = str
else:  # what the folders hold, without loading it
    Task = Literal[names_in("medveil.tasks")]
    Profile = Literal[names_in("medveil.profiles")]
    StrategyName = Literal[names_in("medveil.strategies")]
FOLDER = Path(".medveil/research")
"""Where a researcher's key lies unless another folder is named."""
OwnModel = Annotated[str | None, typer.Option(help="A model of MedVeil; the task's default without it.")]
Epsilon = Annotated[
    float,
    typer.Option(min=0.01, help="Privacy price of the whole study for each patient; smaller is stricter."),
]
Rounds = Annotated[int | None, typer.Option(min=1, help="Training rounds; the recipe's number without it.")]
Delta = Annotated[
    float | None, typer.Option(help="Chance left out of the promise; min(1e-5, 1/(10 n)) without it.")
]
OwnNoise = Annotated[
    Drawn,
    typer.Option(help="How noise is drawn: in floating point, or discrete, as exact whole numbers."),
]
Matched = Annotated[
    bool | None,
    typer.Option(
        "--matched/--equal-noise",
        help="Whether each round has noise of its own, matched to what it counts in the final model, for the "
        "same price; as the recipe does without it.",
    ),
]
PatientUse = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=1.0,
        help="Share of the squared clipping norm that a patient's gradients are expected to need over the "
        "whole study: so much less is the squared noise, for the same epsilon. A filter stops whoever needs "
        "more. Without it every step is paid in full.",
    ),
]
Classes = Annotated[
    str | None, typer.Option(help="Meaning of the labels 0, 1, 2 …, or the findings, separated by commas.")
]
TargetColumn = Annotated[
    str | None, typer.Option(help="Of a regression: the manifest's column with the number, e.g. age.")
]
TargetRange = Annotated[
    str | None,
    typer.Option(help="Between what the number lies, e.g. 18:90. Public; other lines are not used."),
]
Unit = Annotated[str, typer.Option(help="Of the number, as people write it, e.g. years.")]
Size = Annotated[str | None, typer.Option(help="Edges of the tensor, e.g. 64x64 or 40x48x40.")]
OwnStrategy = Annotated[
    StrategyName | None,
    typer.Option(help="How sums become the next model; the recipe's without it."),
]
StrategyOption = Annotated[
    list[str] | None, typer.Option(help="An option of the strategy, e.g. rate=0.1. Repeatable.")
]
Compressed = Annotated[
    str | None,
    typer.Option(
        help="Send a part of each update in a round, e.g. sparse:0.125 (an eighth) or low_rank:4; the "
        "rest stays in the hospital for later rounds."
    ),
]
Personal = Annotated[
    list[str] | None,
    typer.Option(
        help="Weights that stay in each hospital: 'norm' (normalisations), 'head' (the last layer), or a "
        "pattern of tensor names like 'fc*'. Repeatable."
    ),
]
ShareFigures = Annotated[
    bool | None,
    typer.Option(
        "--share-figures/--own-figures",
        help="Of 'local': whether the hospitals share the noise of the figures, which makes them more exact; "
        "as far as hospitals allow it by default without it.",
    ),
]


@dataclass(frozen=True)
class DemoOptions:
    """Of ``medveil demo``."""

    task: Annotated[Task, typer.Option(help="What the demo's model learns.")] = "classification"
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder with one folder a hospital. Made-up images without it."
        ),
    ] = None
    classes: Classes = None
    target_column: TargetColumn = None
    target_range: TargetRange = None
    unit: Unit = ""
    model: OwnModel = None
    size: Size = None
    privacy: Annotated[
        PrivacyKind | None,
        typer.Option(help="'local': noise protects each patient. 'none': masks only, no patient guarantee."),
    ] = None
    epsilon: Epsilon = 8.0
    rounds: Rounds = None
    patients: Annotated[
        int | None, typer.Option(min=10, help="Made-up patients per hospital (made-up images only).")
    ] = None
    hospitals: Annotated[
        int, typer.Option(min=3, max=128, help="Number of hospitals (made-up images only).")
    ] = 4
    kill: Annotated[
        list[str] | None,
        typer.Option(
            help="Stop a hospital in a round, e.g. hospital-3@2, to see the study go on. Repeatable."
        ),
    ] = None
    figure: Annotated[
        str | None, typer.Option(help="Say this figure after each round, e.g. accuracy; without noise only.")
    ] = None
    alone: Annotated[
        bool, typer.Option("--alone/--not-alone", help="Also train at each hospital alone, to compare.")
    ] = True
    made_up: Annotated[
        bool, typer.Option("--made-up", help="The images of --data are made up; the report says so.")
    ] = False
    json: Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON.")] = None
    folder: Annotated[
        Path | None, typer.Option("--keep", help="Keep everything (report, models, logs) in this folder.")
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False


@dataclass(frozen=True)
class CompareOptions:
    """Of ``medveil research compare``."""

    task: Annotated[Task, typer.Option(help="What the models learn.")] = "classification"
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Folder with one folder a site. Made-up images without it."
        ),
    ] = None
    profile: Annotated[
        Profile | None, typer.Option(help="Kind of image; films or volumes, as the files are, without it.")
    ] = None
    classes: Classes = None
    target_column: TargetColumn = None
    target_range: TargetRange = None
    unit: Unit = ""
    model: OwnModel = None
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the model, e.g. width=16. Repeatable.")
    ] = None
    size: Size = None
    epsilon: Epsilon = 8.0
    epsilons: Annotated[
        str | None,
        typer.Option(
            help="Train with noise at each of these, like 8,3,1, for the figure over epsilon; the first is "
            "the one that is compared with the rest, instead of --epsilon."
        ),
    ] = None
    delta: Delta = None
    rounds: Rounds = None
    strategy: OwnStrategy = None
    strategy_option: StrategyOption = None
    compression: Compressed = None
    personal: Personal = None
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each kind, from other starts.")] = 3
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Make only this: alone, federated, local, joint or central. Repeatable; all without it."
        ),
    ] = None
    figure: Annotated[
        str | None, typer.Option(help="Compare by this figure, e.g. accuracy; the task's own without it.")
    ] = None
    each_round: Annotated[
        bool, typer.Option("--each-round", help="Say the figure after each round, on validation patients.")
    ] = False
    patients: Annotated[
        int | None, typer.Option(min=10, help="Made-up patients a hospital (made-up images only).")
    ] = None
    hospitals: Annotated[
        int, typer.Option(min=2, max=128, help="Number of hospitals (made-up images only).")
    ] = 4
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder for report and trainings; a call with the same one goes on there."
        ),
    ] = None


@dataclass(frozen=True)
class NewStudyOptions:
    """Of ``medveil study new``."""

    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for study.toml and initial.safetensors.")
    ]
    template: Annotated[
        str,
        typer.Option(
            help="Begin with the options of a shipped study ('medveil study templates'); what is given "
            "beside it counts more."
        ),
    ] = ""
    name: Annotated[
        str | None, typer.Option(help="Lower case letters, digits and hyphens, e.g. chest-films.")
    ] = None
    task: Annotated[Task | None, typer.Option(help="What the model learns.")] = None
    profile: Annotated[
        Profile | None, typer.Option(help="Kind of image; decides how it becomes a tensor.")
    ] = None
    hospitals: Annotated[int | None, typer.Option(min=3, max=2000, help="How many hospitals take part.")] = (
        None
    )
    model: Annotated[str | None, typer.Option(help="A model of MedVeil; the recipe's without it.")] = None
    privacy: Annotated[
        PrivacyKind | None,
        typer.Option(
            help="'local' (the default): each hospital's noise protects its patients. 'joint': the noise of "
            "several adds up; more accurate, and rests on them. 'none': masks only, no patient guarantee."
        ),
    ] = None
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Privacy price of the whole study for each patient; smaller is stricter. 8 without it.",
        ),
    ] = None
    delta: Delta = None
    rounds: Rounds = None
    size: Size = None
    channels: Annotated[
        str | None,
        typer.Option(help="Sequences that make one volume, separated by commas, e.g. flair,t1,t2."),
    ] = None
    patches: Annotated[
        int,
        typer.Option(
            min=0, help="Train volumes by that many patches of --size a step; 0: they are cropped to --size."
        ),
    ] = 0
    slices: Annotated[
        str | None,
        typer.Option(
            help="Of profile mri_slices: EVERY:LOW:HIGH, e.g. 2:0.3:0.7 for every second slice of the middle."
        ),
    ] = None
    classes: Classes = None
    target_column: TargetColumn = None
    target_range: TargetRange = None
    unit: Unit = ""
    lesions: Annotated[
        bool, typer.Option("--lesions", help="Count connected parts of each structure: found, missed, false.")
    ] = False
    group: Annotated[
        list[str] | None,
        typer.Option(
            help="Figures of test patients by groups: NAME=WORDS or NAME=EDGES of a number, e.g. sex=F,M or "
            "age=0,40,65,120; NAME:COLUMN=… where the column is called otherwise. Repeatable."
        ),
    ] = None
    smallest_group: Annotated[
        int, typer.Option(min=LEAST_SMALLEST, help="A group of fewer patients is not shown.")
    ] = SMALLEST
    per_site: Annotated[
        bool,
        typer.Option("--per-site", help="Show each hospital's own figures; every operator must allow it."),
    ] = False
    patients: Annotated[
        int | None, typer.Option(min=1, help="Training patients a typical hospital has; to judge the noise.")
    ] = None
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the model, e.g. width=16. Repeatable.")
    ] = None
    start: Annotated[
        str,
        typer.Option(
            "--from",
            "--start-weights",
            help="Start from this model: the folder of a fetched version or the digits of its hash, a MONAI "
            "Bundle (folder or zip), or a file of weights.",
        ),
    ] = ""
    folder: Annotated[
        Path,
        typer.Option(
            "--folder", "-f", help="Where 'research enroll' put the key that --from a hash asks with."
        ),
    ] = FOLDER
    partial_start: Annotated[
        bool, typer.Option("--partial-start", help="Take what fits of --from; the rest begins afresh.")
    ] = False
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Decides the model's initial weights, nothing else. Fresh ones without it: two plans never "
            "start from one model.",
        ),
    ] = None
    compression: Compressed = None
    personal: Personal = None
    persons: Annotated[
        Path | None,
        typer.Option(
            help="The consortium's persons.json: nobody is in two hospitals of the study, and each person "
            "has one budget. With noise only; every hospital must use the same file."
        ),
    ] = None
    mask_graph: Annotated[
        MaskGraph, typer.Option(help="Who masks with whom; more than 128 hospitals need 'hidden'.")
    ] = "complete"
    noise: OwnNoise = "gaussian"
    weights: Annotated[
        Weights | None,
        typer.Option(
            help="What a hospital counts: the patients it declares, as much as any other, or the square of "
            "its patients (least local noise); 'declared' where the strategy wants nothing else."
        ),
    ] = None
    strategy: OwnStrategy = None
    strategy_option: StrategyOption = None
    colluders: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2000,
            help="Hospitals assumed to pool what they know with the aggregator; shared noise does without "
            "theirs. 1 where noise is shared without it, else 0.",
        ),
    ] = None
    matched: Matched = None
    share_figures: ShareFigures = None
    patient_use: PatientUse = None
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Do not refuse more noise than signal; hospitals are told.")
    ] = False


@dataclass(frozen=True)
class PrivacyPlanOptions:
    """Of ``medveil privacy plan``."""

    patients: Annotated[int, typer.Option(min=1, help="Training patients a typical hospital has.")]
    hospitals: Annotated[int, typer.Option(min=1, help="How many hospitals take part.")]
    epsilon: Annotated[
        float | None, typer.Option(help="Privacy price of the whole study for each patient.")
    ] = None
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Instead of --epsilon: noise in units of the clipping norm.")
    ] = None
    privacy: Annotated[
        NoiseKind,
        typer.Option(help="'local': own noise only. 'joint': the noise of several hospitals adds up."),
    ] = "local"
    honest: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Hospitals that joint noise counts on; without it four of five, less one that is curious.",
        ),
    ] = None
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; the recipe's number without it.")] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in a round; the recipe's number without it.")
    ] = None
    sample_rate: Annotated[
        float, typer.Option(help="Chance with which a patient enters a step; 1 is everybody.")
    ] = 1.0
    delta: Delta = None
    noise: OwnNoise = "gaussian"
    model: OwnModel = None
    task: Annotated[Task, typer.Option(help="What the model learns.")] = "classification"
    profile: Annotated[
        Profile | None, typer.Option(help="Kind of image; the task's usual one without it.")
    ] = None
    classes: Annotated[int, typer.Option(min=2, help="Classes, the background included.")] = 2
    size: Size = None
    share_figures: ShareFigures = None
    group_columns: Annotated[
        int,
        typer.Option(min=0, max=MOST_COLUMNS, help="Columns by which test patients have figures in groups."),
    ] = 0
    centred: Annotated[
        bool | None,
        typer.Option(
            "--centred/--not-centred",
            help="Whether the first rounds release the mean of the features; else as a new study would.",
        ),
    ] = None
    matched: Matched = None
    patient_use: PatientUse = None
    patients_each: Annotated[
        str | None,
        typer.Option(
            help="Training patients of each hospital, like 300,120,60: shows what their weights do to noise "
            "and mixture."
        ),
    ] = None
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Do not refuse a plan with more noise than signal.")
    ] = False


def option_of(pair: str) -> tuple[str, int | float | str | bool]:
    """An option of a model, written like ``width=16``. Raises: BadOption."""
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
