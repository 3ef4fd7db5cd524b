"""``medveil research evaluate``: how good a model is on patients one may see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medveil.errors import BadOption
from medveil.shown import Screen, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from medveil.study import Study
    from medveil.tensors import Float32
    from medveil_imaging.sources.site import SiteData
    from medveil_research.evaluate import SiteReport

Split = Literal["train", "val", "test"]


SHOWN = 20
"""Most problems with files that are listed."""


def evaluate(
    model: Annotated[
        Path, typer.Option(exists=True, help="A folder of 'fetch', or a model as a .safetensors file.")
    ],
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="One hospital's folder.")],
    study: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The model's study.toml; the one beside it without."),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which patients to judge by.")] = "test",
    adapt: Annotated[
        int, typer.Option(min=0, help="First train on for so many steps on this hospital's patients.")
    ] = 0,
    on_top: Annotated[
        bool, typer.Option("--on-top", help="Put a U-Net of this hospital's own on the model and adapt both.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Save the adapted model here (a folder with --on-top); it must not leave the hospital."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures as JSON.")] = None,
) -> None:
    """Judge a model on one hospital's own patients, with a 95 % interval. Nothing leaves this machine."""
    from medveil_research.evaluate import evaluate_site
    from medveil_research.fetching import TargetExists
    from medveil_research.programs import check_whole

    for option, given in (("--keep", keep is not None), ("--on-top", on_top)):
        if given and not adapt:
            raise BadOption(problem=f"{option} is for an adapted model (--adapt STEPS)")
    if keep is not None and keep.exists():
        raise TargetExists(path=keep)
    read, vector = _model(model, study)
    if not adapt:
        check_whole(read)
    judged, start, change = _changes(read, vector, steps=adapt, on_top=on_top, keep=keep)
    with Screen(stderr=True).waiting():
        found = evaluate_site(data, judged, start, split, change=change)
    _show_figures(found)
    if json_file:
        json_file.write_text(json.dumps(found.as_dict(), indent=2) + "\n", encoding="utf-8")


def _changes(
    study: Study, vector: Float32, *, steps: int, on_top: bool, keep: Path | None
) -> tuple[Study, Float32, Callable[[SiteData, Float32], Float32]]:
    """What is judged: a study, the weights before this hospital has done anything, and what it does."""
    from medveil.files import replace_durably
    from medveil.tensors import to_safetensors
    from medveil_research.adapting import adapted, on_top_of, trained_on_top
    from medveil_research.own_model import write_model

    if not steps:
        return study, vector, lambda _, weights: weights
    if not on_top:

        def alone(site: SiteData, weights: Float32) -> Float32:
            mine = adapted(study, weights, site, steps=steps)
            if keep is not None:
                replace_durably(keep, to_safetensors(mine, study.model.tensors), private=True)
            return mine

        return study, vector, alone
    house = on_top_of(study, vector)

    def above(site: SiteData, _: Float32) -> Float32:
        mine = trained_on_top(house, site, steps=steps)
        if keep is not None:
            write_model(house.study, mine, keep)
        return mine

    return house.study, house.weights, above


def _model(model: Path, study: Path | None) -> tuple[Study, Float32]:
    """The study and the model, float32 (d,). Raises: BadOption, BadFile, BadModelFile."""
    from medveil.handed import read_whole
    from medveil.parent import STUDY, WEIGHTS
    from medveil.study import read_study
    from medveil.tensors import from_safetensors, largest_file

    weights = model / WEIGHTS if model.is_dir() else model
    beside = study or weights.with_name(STUDY)
    if not beside.is_file():
        raise BadOption(problem=f"--study: there is no {STUDY} beside the model, so name the model's own")
    read = read_study(beside)
    spec = read.model.tensors
    return read, from_safetensors(read_whole(weights, largest_file(spec)), spec)


def _show_figures(found: SiteReport) -> None:
    from medveil.readings import is_figure, main_words, with_unit
    from medveil_research.words import is_count

    rows = []
    for name in filter(is_figure, found.figures):
        unit, reading = found.units[name], found.reading(name)
        value = found.figures[name]
        shown = f"{value:.0f}" if is_count(name) else with_unit(value, unit)
        interval = main_words(reading, unit) if reading and reading.interval else ""
        rows.append((plain(name), plain(interval), plain(shown)))
    screen = Screen()
    title = plain(f"{found.site}, {found.split} patients")
    screen.table(("figure", "95 % interval", "value"), rows, title=title, right=(1, 2))
    if found.headline not in found.figures:
        screen.say(f"No {found.headline}: there are too few cases of one kind.")
    screen.say(f"files rejected while reading: {found.rejected}")
    _show_problems(screen, found)


def _show_problems(screen: Screen, found: SiteReport) -> None:
    if found.problems:
        rows = [
            ("" if p.row is None else str(p.row), plain(p.file), plain(p.reason), plain(p.remedy), p.code)
            for p in found.problems[:SHOWN]
        ]
        screen.table(("row", "file", "what is wrong", "what to do", "code"), rows)
        if len(found.problems) > SHOWN:
            screen.say(f"and {len(found.problems) - SHOWN} more; 'medveil node check' lists all of a node's.")
