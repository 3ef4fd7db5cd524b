"""``medveil demo``: a whole federated study on this machine, from image files to a report."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from medveil.errors import BadOption, Error
from medveil.private_files import private_folder
from medveil.readings import cell_words, interval_words
from medveil.reports import AttemptReport, Figures, PlanStatus
from medveil.rounds import RoundKind
from medveil.shown import Screen
from medveil.spoken import spoken
from medveil.study import Deadlines, Study
from medveil.tasks import TASKS
from medveil.tensors import Float32, from_safetensors, largest_file
from medveil.values import PrivacyKind
from medveil_imaging.sources.site import SiteData, read_site
from medveil_research.apart import each_apart
from medveil_research.comparison.against_alone import Comparison, Train, compare
from medveil_research.local_consortium import DEADLINES, LocalConsortium
from medveil_research.options import DemoOptions
from medveil_research.outlook import outlook
from medveil_research.processes import Event
from medveil_research.report.page import write_report
from medveil_research.results import Images, Result, Spent, from_status, write_result
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
from medveil_research.studies import StudyOptions, new_study
from medveil_research.study_words import class_names, edges_of, target_of

WATCH_S = 0.5


class BadKill(Error):
    """A kill order that names nobody."""

    code = "bad-kill"

    def __init__(self, *, order: str, names: list[str]) -> None:
        super().__init__(
            what=f"'--kill {order}' cannot be carried out.",
            meaning="Nothing was started.",
            remedy=f"Write HOSPITAL@ROUND; the hospitals are {', '.join(names)}.",
        )


class RoundFailed(Error):
    """The study ended with rounds that made no model."""

    code = "round-failed"

    def __init__(self, *, rounds: list[int]) -> None:
        super().__init__(
            what=f"These rounds made no model: {', '.join(map(str, rounds))}.",
            meaning="The other rounds count; the report says what is there.",
            remedy="Look into the logs folder of this run.",
        )


@dataclass
class Scene:
    """What is shown while the study runs; written by several threads, read by one."""

    plan: str
    doing: dict[str, str]
    rounds: int
    phase: str = "starting"
    kills: dict[tuple[str, int], bool] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)
    figure: str | None = None
    """Said after each round."""
    said: int = 0
    """Attempts whose figure was said."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Ran:
    """What the federated study itself has left."""

    status: PlanStatus
    model: bytes
    """The last version, as safetensors."""
    killed: tuple[str, ...]
    spent: dict[str, Spent]


def demo(options: DemoOptions) -> None:
    """Run the study, print what happened, write report and JSON.

    Raises: what goes wrong, after every process has ended; RoundFailed if a round made no model; OpenFolder
        if real images' results would lie in a folder that others may enter.
    """
    screen = Screen(quiet=options.quiet)
    started = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = options.folder or Path(".medveil") / f"demo-{dt.datetime.now():%Y%m%d-%H%M%S}"
    if options.data is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        private_folder(folder)
    with _stop_on_signals():
        sites = _sites(options, folder, screen)
        study, initial = _study(options, sites)
        kills = _kills(options.kill or (), sites)
        for line in outlook(study, patients=typical_patients(sites), hospitals=len(sites)):
            screen.say(line)
        seconds = {"set up": time.monotonic() - started}
        begun = time.monotonic()
        scene = Scene("", {s.name: "starting" for s in sites}, study.training.rounds, kills=kills)
        scene.figure = options.figure
        ran = _run(study, initial, sites, folder, scene, screen)
        seconds["study"] = time.monotonic() - begun
        if options.alone:
            screen.say("Training at each hospital alone, for comparison …")
        begun = time.monotonic()
        comparison = _compare(study, initial, sites, ran.model, alone=options.alone)
        seconds["comparison"] = time.monotonic() - begun
    seconds["total"] = time.monotonic() - started
    known = from_status(
        study,
        ran.status,
        patients=typical_patients(sites),
        data=_kind(options),
    )
    report = folder / "report.html"
    result = _completed(known, ran, comparison, seconds, report)
    write_report(result, report)
    for path in filter(None, (folder / "result.json", options.json)):
        write_result(result, path)
    _show_result(Screen(), result, folder)
    failed = [r.round for r in result.rounds if r.outcome != "done"]
    if failed:
        raise RoundFailed(rounds=failed)


def _kind(options: DemoOptions) -> Images:
    return "phantom" if options.data is None or options.made_up else "real"


def _sites(options: DemoOptions, folder: Path, screen: Screen) -> list[Site]:
    if options.data is not None:
        return find_sites(options.data)
    screen.say(f"Drawing {options.hospitals} phantom hospitals …")
    return write_made_up(folder / "sites", options.task, options.hospitals, options.patients)


def _study(options: DemoOptions, sites: list[Site]) -> tuple[Study, bytes]:
    outlines = TASKS[options.task].outlines
    if options.data is not None and options.task == "findings" and not options.classes:
        raise BadOption(problem="--classes names the findings, which are columns of every manifest.csv")
    target = target_of(options.target_column, options.target_range, options.unit)
    if target is None and options.data is None and phantom_of(options.task) == "regression":
        target = HEART
    # A network that outlines has a hundred times more weights than so few patients can hide noise in.
    usual: PrivacyKind = "none" if outlines else "local"
    return new_study(
        StudyOptions(
            name=f"demo-{options.task}",
            task=options.task,
            profile="mri" if holds_volumes(sites[0]) else "xray",
            model=options.model,
            privacy=options.privacy or usual,
            epsilon=options.epsilon,
            hospitals=len(sites),
            rounds=options.rounds,
            size=edges_of(options.size),
            classes=class_names(options.classes) or CLASSES.get(phantom_of(options.task)),
            target=target,
            patients_hint=max(s.train_patients for s in sites),
            deadlines=Deadlines(**DEADLINES),
            anyway=True,  # a demonstration spends nobody's privacy; its outlook is printed all the same
        )
    )


def _kills(orders: Sequence[str], sites: list[Site]) -> dict[tuple[str, int], bool]:
    names = [s.name for s in sites]
    kills = {}
    for order in orders:
        match = re.fullmatch(r"(.+)@(\d+)", order)
        if match is None or match[1] not in names or int(match[2]) < 1:
            raise BadKill(order=order, names=names)
        kills[(match[1], int(match[2]))] = False
    return kills


def _run(
    study: Study,
    initial: bytes,
    sites: list[Site],
    folder: Path,
    scene: Scene,
    screen: Screen,
) -> Ran:
    """The federated study itself, by real processes over HTTPS."""
    consortium: LocalConsortium

    def heard(who: str, event: Event) -> None:
        _notice(scene, consortium, who, event)

    with LocalConsortium(folder, sites, heard) as consortium:
        plan = consortium.open(study, initial)
        scene.plan = plan.id
        screen.say(f"plan     {spoken(plan.hash)}")
        screen.say(f"         signed by {len(sites)} hospitals; logs in {folder / 'logs'}")
        status = _watch(consortium, scene, screen)
        limit = largest_file(study.model.tensors)
        model = consortium.client.model(plan.id, status.versions[-1].model, limit=limit)
        (folder / "model.safetensors").write_bytes(model)
        consortium.stop()
        return Ran(status, model, tuple(sorted(set(scene.killed))), consortium.spent(study))


def _notice(scene: Scene, consortium: LocalConsortium, who: str, event: Event) -> None:
    """Turn a process's log line into what its progress line says; carry out kill orders."""
    number = event.get("round", 0)
    words = {
        "images.read": "images read",
        "node.ready": "ready",
        "work.started": f"round {number}: {'testing' if event.get('kind') == 'evaluate' else 'training'}",
        "work.finished": f"round {number}: waiting for the others",
        "update.sent": f"round {number}: masked update sent",
        "attempt.missed": f"round {number}: missed",
        "attempt.refused": f"round {number}: refused ({event.get('code')})",
        "plan.finished": "finished",
    }
    text = words.get(str(event.get("event")))
    with scene.lock:
        if text is not None and who in scene.doing:
            scene.doing[who] = text
        due = event.get("event") == "work.started" and scene.kills.get((who, number)) is False
        if due:
            scene.kills[(who, number)] = True
            scene.killed.append(who)
            scene.doing[who] = f"round {number}: KILLED"
    if due:
        consortium.kill(who)


def _watch(consortium: LocalConsortium, scene: Scene, screen: Screen) -> PlanStatus:
    """Follow the plan to its end; restart killed hospitals once their round is over."""
    restarted: set[tuple[str, int]] = set()
    shown: dict[str, str] = {}
    ended = 0
    with screen.live() as live:
        while True:
            consortium.check()
            status = consortium.client.status(scene.plan)
            current = status.open
            number = current.round if current else len({a.round for a in status.attempts})
            with scene.lock:
                name = "evaluation" if number > scene.rounds else f"round {number} of {scene.rounds}"
                scene.phase = f"{name}: {current.phase}" if current else name
                doing = dict(scene.doing)
                dead = [k for k, done in scene.kills.items() if done and k not in restarted and number > k[1]]
            if screen.is_terminal:
                live.show([("aggregator", scene.phase), *doing.items()])
            else:
                for who, what in doing.items():
                    if shown.get(who) != what:
                        screen.say(f"  {who:<16} {what}")
                shown = doing
                for attempt in status.attempts[ended:]:
                    screen.say(f"  {'aggregator':<16} {_ended(attempt, len(status.hospitals))}")
                ended = len(status.attempts)
            _say_figures(scene, status, screen)
            if status.finished:
                return status
            for who, killed_in in dead:
                restarted.add((who, killed_in))
                consortium.restart(who)
                with scene.lock:
                    scene.doing[who] = "started again"
            time.sleep(WATCH_S)


def _ended(attempt: AttemptReport, hospitals: int) -> str:
    """One line for an attempt that is over."""
    came = (
        f"{len(attempt.survivors)} of {hospitals} hospitals" if attempt.done else attempt.reason or "failed"
    )
    kind = " (evaluation)" if attempt.kind is RoundKind.EVALUATE else ""
    return (
        f"round {attempt.round}{kind} {'done' if attempt.done else 'failed'}: {came}, {attempt.seconds:.1f} s"
    )


def _say_figures(scene: Scene, status: PlanStatus, screen: Screen) -> None:
    """One line for each round that has ended: its figures are of the model that it began with."""
    ended = [] if scene.figure is None else [one for one in status.attempts if one.done]
    for one in ended[scene.said :]:
        value = one.figures.get(scene.figure or "")
        told = "not determined" if value is None else f"{value:.3f}"
        if one.kind is RoundKind.EVALUATE:
            screen.say(f"finished model   {scene.figure} {told} on all hospitals' test patients")
        elif one.round > 1:
            screen.say(f"after round {one.round - 1:<4} {scene.figure} {told} on their validation patients")
    scene.said = len(ended)


def _compare(
    study: Study, initial: bytes, sites: list[Site], model: bytes, *, alone: bool = True
) -> Comparison:
    spec = study.model.tensors
    data = [_named(read_site(s.folder, study), s.name) for s in sites]
    folders = {s.name: s.folder for s in sites}

    def run(train: Train, learners: Sequence[SiteData]) -> Sequence[Float32]:
        # Handing over a patient's tensors takes longer than reading them: each is a file descriptor.
        places = [folders[site.name] for site in learners]
        return each_apart(partial(_train_in, train, study), places)

    start, shared = from_safetensors(initial, spec), from_safetensors(model, spec)
    return compare(study, start, data, shared, run=run, alone=alone)


def _train_in(train: Train, study: Study, folder: Path) -> Float32:
    return train(read_site(folder, study))


def _named(site: SiteData, name: str) -> SiteData:
    return SiteData(name, site.train, site.val, site.test, site.problems)


def _completed(
    known: Result, ran: Ran, comparison: Comparison, seconds: dict[str, float], report: Path
) -> Result:
    """The result with what nobody but the owner of all sites and processes can know."""
    return known.model_copy(
        update={
            "federated": known.federated.model_copy(update={"exact": comparison.exact}),
            "local_only": comparison.alone,
            "local_only_mean": comparison.alone_mean,
            "epsilon": ran.spent,
            "seconds": seconds,
            "killed": ran.killed,
            "report": str(report),
        }
    )


def _show_result(screen: Screen, result: Result, folder: Path) -> None:
    _show_rounds(screen, result)
    screen.say(f"{result.headline_name} on all hospitals' test patients")
    screen.say(f"  trained together        {interval_words(result.reading(), result.unit) or '—'}")
    for one in result.local_only:
        screen.say(f"  {one.hospital:<16} alone  {_figure(result, one.pooled, one.metric)}")
    if result.local_only:
        screen.say(f"  mean of those alone     {_figure(result, {}, result.local_only_mean)}")
    exact = result.federated.exact
    assert exact is not None  # the demo owns every site
    for who, figures in [*exact.sites.items(), *((f"all {k}", v) for k, v in exact.groups.items())]:
        screen.say(f"  together, at {who:<14} {_figure(result, figures)}")
    if result.privacy.kind == "none":
        screen.say("privacy  NONE: masks hide each update, nothing limits what the model tells of a patient")
    for who, cost in result.epsilon.items():
        if cost.local is not None and cost.joint is not None:
            screen.say(f"  {who:<16} epsilon {cost.local:.2f} against everybody, {cost.joint:.2f} jointly")
    if result.killed:
        screen.say(f"killed on purpose: {', '.join(result.killed)}")
    screen.say(f"{result.seconds['total']:.0f} s in all; everything is in {folder}")
    screen.say(f"report   {Path(result.report or '').resolve()}")


def _show_rounds(screen: Screen, result: Result) -> None:
    rows = []
    for r in result.rounds:
        up, down = sum(r.bytes_up.values()) / 1000, sum(r.bytes_down.values()) / 1000
        name = "test" if r.kind is RoundKind.EVALUATE else str(r.round)
        epsilon = "" if r.epsilon is None else f"{r.epsilon:.2f}"
        metric = cell_words(result.reading_of(r.figures, metric=r.metric), result.unit)
        who = f"{len(r.survivors)} of {len(result.hospitals)}" if r.outcome == "done" else "failed"
        rows.append((name, who, f"{r.seconds:.1f}", f"{up:.0f}", f"{down:.0f}", metric, epsilon))
    screen.table(
        ("round", "survivors", "seconds", "kB up", "kB down", f"{result.headline_name}, 95 %", "epsilon"),
        rows,
    )


def _figure(result: Result, figures: Figures, metric: float | None = None) -> str:
    return cell_words(result.reading_of(figures, metric=metric), result.unit) or "—"


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: through the ``with`` blocks, so no process is left."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        Screen(stderr=True).say("Stopped; every process has ended.")
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)
