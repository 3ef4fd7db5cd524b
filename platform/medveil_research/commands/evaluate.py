"""``medveil research evaluate``: how good a model is on patients one may see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medveil.shown import Screen, plain

if TYPE_CHECKING:
    from medveil_research.evaluate import SiteReport

Split = Literal["train", "val", "test"]


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
