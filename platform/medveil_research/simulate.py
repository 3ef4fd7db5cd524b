"""``medveil simulate``: play the rounds, show each, write the page and the JSON."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path

from medveil.errors import BadFile, Error
from medveil.files import replace_lightly
from medveil.handed import read_whole
from medveil.shown import Screen, fault, good
from medveil.study import Study, read_study
from medveil.tensors import Float32, from_safetensors, largest_file, model_hash
from medveil_research.report.simulation import write_simulation_page
from medveil_research.simulation import words
from medveil_research.simulation.options import SimulateOptions
from medveil_research.simulation.result import SimulationResult
from medveil_research.simulation.run import Request, check
from medveil_research.simulation.run import simulate as play
from medveil_research.simulation.schedule import scheduled
from medveil_research.simulation.splits import split_of

INITIAL = "initial.safetensors"


class InexactSum(Error):
    """A sum of a simulation is not the sum of what went into it."""

    code = "inexact-sum"

    def __init__(self, *, rounds: int) -> None:
        super().__init__(
            what=f"In {rounds} round(s) the opened sum is not the sum of what the hospitals encoded.",
            meaning="The protocol promises the exact sum or none, so this version has a fault.",
            remedy="Do not run studies with it; report the folder's simulation.json.",
        )


def simulate(options: SimulateOptions) -> SimulationResult:
    """Play what is not over yet.

    Raises: BadFile; what :func:`medveil_research.simulation.run.simulate` raises; InexactSum.
    """
    request = request_of(options)
    check(request)
    folder = options.output or Path(".medveil") / f"simulate-{request.study.name}-{request.hospitals}"
    screen = Screen()
    screen.fields(words.beginning(request, folder), width=10)
    told = _Told(screen, request.last)
    with screen.waiting() if screen.is_terminal else nullcontext():
        result = play(request, folder, heard=told)
    page = write(result, folder)
    screen.fields(words.ending(result), width=10)
    screen.say(f"report     {page.resolve()}")
    wrong = sum(one.wrong_words not in (0, None) or one.check_word is False for one in result.done)
    if wrong:
        raise InexactSum(rounds=wrong)
    return result


def request_of(options: SimulateOptions) -> Request:
    """What the options ask for. Raises: BadFile, BadSplit, BadSchedule."""
    study = read_study(options.study)
    return Request(
        study=study,
        start=_start(study, options.study.parent / INITIAL),
        hospitals=options.hospitals,
        split=split_of(options.split),
        data=options.data,
        updates=options.updates,
        masks=options.masks,
        schedule=scheduled(options.schedule, dropouts=options.dropouts, stragglers=options.stragglers),
        rounds=options.rounds,
        seed=options.seed,
        processes=options.processes,
    )


def write(result: SimulationResult, folder: Path) -> Path:
    """``simulation.json`` and ``simulation.html``. Returns: the page's path."""
    text = json.dumps(result.document(), indent=1)
    replace_lightly(folder / "simulation.json", text.encode(), private=True)
    return write_simulation_page(result, folder / "simulation.html")


def _start(study: Study, path: Path) -> Float32:
    spec = study.model.tensors
    vector = from_safetensors(read_whole(path, largest_file(spec)), spec)
    if model_hash(vector, spec).hex() != study.model.initial_model:
        raise BadFile(name=path.name, problem="it is not the initial model that the study names")
    return vector


class _Told:
    """A line for each attempt, with the time that the rest will take."""

    def __init__(self, screen: Screen, last: int) -> None:
        self._screen, self._last, self._began, self._count = screen, last, time.monotonic(), 0

    def __call__(self, result: SimulationResult) -> None:
        facts = result.attempts[-1]
        self._count += 1
        each = (time.monotonic() - self._began) / self._count
        line = words.attempt_line(result, facts, left_s=each * (self._last - facts.round))
        mark = fault("failed") if facts.outcome == "failed" or facts.wrong_words else good("done")
        self._screen.say(mark, line)
